"""The pictures of a run, by matplotlib: its loss and its loss scale over the steps, and the curves of its epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from tfhalf.progress import Progress
from tfhalf.tasks import Metric
from tfhalf.train.record import curves
from tfhalf.train.record import steps as recorded
from tfhalf.train.record.history import Epoch, scale_words

PICTURE = "loss_scale.png"

# P. Tol's bright scheme: told apart by colour-blind readers too.
_BLUE, _RED, _GREEN = "#4477aa", "#ee6677", "#228833"
_SMOOTH = 100  # points that a thick line is the mean over, at most


def draw_run(run: Path, name: str, progress: Progress) -> None:
    """Draw ``run/loss_scale.png`` of what ``run/steps.npz`` holds.

    It takes 0.2 seconds, and 1.5 where matplotlib is not imported yet. A run does not fail for want of a picture:
    ``progress`` is told.
    """
    try:
        with np.load(run / recorded.NAME, allow_pickle=False) as steps:
            missing = draw(dict(steps), run / PICTURE, name)
    except (OSError, ValueError) as error:
        missing = f"{recorded.NAME} cannot be read: {error}"
    if missing:
        progress.line(f"picture    {PICTURE} is left out: {missing}")


def draw_curves(run: Path, name: str, rows: Sequence[Epoch], metric: Metric, progress: Progress) -> None:
    """Draw ``run/curves.png`` of the epochs ``rows`` and their ``metric``, or tell ``progress`` why not."""
    try:
        curves.draw(rows, run / curves.PICTURE, name, metric)
    except ImportError:
        progress.line(f"picture    {curves.PICTURE} is left out: matplotlib is not installed")
    except OSError as error:
        progress.line(f"picture    {curves.PICTURE} is left out: {error}")


def draw_beside(
    run: Path, name: str, rows: Sequence[Epoch], metric: Metric, scaled: bool, progress: Progress
) -> Thread:
    """Draw the pictures of a run, that of its loss scale where it is ``scaled``, in a thread, which is returned."""

    def work() -> None:
        draw_curves(run, name, rows, metric, progress)
        if scaled:
            draw_run(run, name, progress)

    thread = Thread(target=work, name="pictures")
    thread.start()
    return thread


def draw(steps: dict[str, np.ndarray], path: Path, name: str) -> str | None:
    """Write the picture of ``steps`` (`tfhalf.train.record.steps.Steps.arrays`) to ``path``, a PNG file.

    Returns:
        None, or why there is no picture.
    """
    try:
        from matplotlib.figure import Figure  # without pyplot: no display, no global state
    except ImportError:
        return "matplotlib is not installed"
    figure = Figure((9, 4.5), layout="constrained")
    left = figure.add_subplot()
    right = left.twinx()
    _loss(left, steps)
    _scale(right, steps)
    left.set_xlabel("step")
    left.xaxis.set_major_formatter("{x:,.0f}")
    left.set_zorder(right.get_zorder() + 1)  # the loss in front
    left.patch.set_visible(False)
    handles = [line for axes in (left, right) for line in axes.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    done, skipped = int(steps["applied"].sum() + steps["skipped"].sum()), int(steps["skipped"].sum())
    left.set_title(f"{name}: {done:,} steps, {skipped:,} of them skipped", fontsize=11)
    try:
        figure.savefig(path, dpi=130)
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    return None


def _loss(axes: Any, steps: dict[str, np.ndarray]) -> None:
    numbers, loss = steps["step"], steps["loss"]
    known = np.isfinite(loss)
    numbers, loss = numbers[known], loss[known]
    few = len(loss) < 20
    axes.plot(numbers, loss, color=_BLUE, linewidth=0.7, alpha=1 if few else 0.35, label="loss" if few else "_")
    if not few:
        width = max(5, min(_SMOOTH, len(loss) // 50))
        sums = np.cumsum(np.concatenate([[0.0], loss]))
        middle = numbers[width // 2 : width // 2 + len(loss) - width + 1]
        axes.plot(middle, (sums[width:] - sums[:-width]) / width, color=_BLUE, linewidth=1.6, label="loss")
    if not len(loss):
        axes.set_yticks([])
    elif not curves.log_axis(axes, np.quantile(loss, [0.002, 0.999])):
        axes.set_ylim(0, 1.1 * float(np.quantile(loss, 0.999)) or 1)
    axes.set_ylabel("loss" if len(loss) else "no step was applied", color=_BLUE)
    axes.spines["top"].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _scale(axes: Any, steps: dict[str, np.ndarray]) -> None:
    """The scale in steps on a log2 axis, and above it a mark wherever steps were skipped."""
    numbers, scale = steps["step"], steps["scale"]
    width = int(steps["width"])
    if len(scale):
        edges, levels = np.append(numbers, numbers[-1] + width), np.append(scale, scale[-1])
        axes.plot(edges, levels, color=_GREEN, linewidth=1.4, drawstyle="steps-post", label="loss scale")
    axes.set_yscale("log", base=2)
    low, high = (math.floor(math.log2(f(scale))) for f in (np.min, np.max)) if len(scale) else (0, 1)
    # The highest tenth is for the marks.
    axes.set_ylim(2.0 ** (low - 0.6), 2.0 ** (high + 0.6 + 0.12 * (high - low + 1)))
    every = max(1, math.ceil((high - low + 1) / 10))
    ticks = range(low, high + 1, every)
    axes.set_yticks([2.0**n for n in ticks], [scale_words(2.0**n) for n in ticks])
    axes.minorticks_off()
    bad = numbers[steps["skipped"] > 0]
    if len(bad):
        style = {"color": _RED, "markersize": 9, "markeredgewidth": 1.6, "transform": axes.get_xaxis_transform()}
        axes.plot(bad, np.full(len(bad), 0.965), "|", label="skipped", **style)
    axes.set_ylabel("loss scale", color=_GREEN)
    axes.spines["top"].set_visible(False)
