"""A picture of a run's epochs: loss, a metric and learning rate, of training and validation, by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf.tasks import Metric
from tfhalf.train.record.history import Epoch

PICTURE = "curves.png"

# P. Tol's bright scheme, told apart by colour-blind readers too; markers say it once more.
_TRAINING = {"color": "#4477aa", "marker": "o", "label": "training"}
_VALIDATION = {"color": "#ee6677", "marker": "s", "label": "validation"}
_WIDE = 5.0  # from this ratio of the largest to the least on, an axis is logarithmic


def draw(rows: Sequence[Epoch], path: Path, name: str, metric: Metric) -> None:
    """Write the picture of ``rows`` to ``path``, a PNG file: loss, ``metric`` and learning rate.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # without pyplot: no display, no global state
    from matplotlib.ticker import MaxNLocator

    figure = Figure((9, 4.8), layout="constrained")
    panels = figure.subplot_mosaic([["loss", "accuracy"], ["rate", "rate"]], height_ratios=[3, 1])
    epochs = np.array([row.epoch for row in rows])
    size = 4.0 if len(rows) <= 40 else 0.0
    losses = _pair(panels["loss"], epochs, rows, ("loss", "val_loss"), 1.0, size)
    log_axis(panels["loss"], losses)
    panels["loss"].set_ylabel("loss" if len(losses) else "no loss is finite")
    _pair(panels["accuracy"], epochs, rows, (metric.name, f"val_{metric.name}"), 100.0 if metric.share else 1.0, size)
    panels["accuracy"].set_ylabel(f"{metric.name}{', %' * metric.share}")
    rates = np.array([row.learning_rate for row in rows], float)
    panels["rate"].plot(epochs, rates, color="#228833", marker=".", markersize=size)
    panels["rate"].set_ylabel("learning rate", fontsize=8)
    panels["rate"].tick_params(labelsize=8)
    panels["rate"].set_xlabel("epoch")
    for axes in panels.values():
        axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
        if len(rows) == 1:
            axes.set_xlim(0.5, 1.5)
        tidy(axes)
    handles, labels = panels["accuracy"].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.suptitle(f"{name}: {len(rows):,} epoch{'s' * (len(rows) != 1)}", fontsize=11, parse_math=False)
    figure.savefig(path, dpi=130)


def _pair(axes: Any, epochs: np.ndarray, rows: Sequence[Epoch], names: tuple[str, str], by: float, size: float) -> Any:
    """A line of training and, where there is one, of validation; all their finite values."""
    known = []
    tables = [row.to_dict() for row in rows]
    for name, style in zip(names, (_TRAINING, _VALIDATION), strict=True):
        values = np.array([np.nan if facts.get(name) is None else facts[name] for facts in tables], float) * by
        values = np.where(np.isfinite(values), values, np.nan)
        if not np.isnan(values).all():
            axes.plot(epochs, values, linewidth=1.4, markersize=size, **style)
            known.append(values[~np.isnan(values)])
    return np.concatenate(known) if known else np.zeros(0)


def log_axis(axes: Any, values: np.ndarray) -> bool:
    """Have the y axis logarithmic, where the finite ``values`` are above 0 and far apart; whether it is."""
    if not len(values) or values.min() <= 0 or values.max() < _WIDE * values.min():
        return False
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    decades = np.log10(values.max() / values.min())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    return True


def tidy(axes: Any) -> None:
    """No frame above and at the right, and light lines to read values at."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
