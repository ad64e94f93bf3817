"""A picture of a benchmark, by matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfhalf.bench.results import InferenceBench, Training, TrainingBench
from tfhalf.bench.runtimes import RUNTIMES
from tfhalf.bench.tables import inputs_of, number, share
from tfhalf.system import plotting

_BLUE, _INK, _GREY = "#4477aa", "#222222", "#888888"
# P. Tol's bright scheme: distinct to colour-blind readers too; markers say it once more.
_LINES = (("#4477aa", "o"), ("#ee6677", "s"), ("#228833", "^"), ("#ccbb44", "D"))


def draw(bench: TrainingBench | InferenceBench, path: Path | None) -> None:
    """Write the picture of ``bench`` to ``path``, PNG or SVG by its suffix; none without a ``path``."""
    if path is None:
        return
    figure = _training(bench) if isinstance(bench, TrainingBench) else _inference(bench)
    plotting.save(figure, path, 150)


def _training(bench: TrainingBench) -> Any:
    """A bar per policy: its median, whiskers from the slowest repeat to the fastest; beside it feed and step alone,
    where they were measured."""
    rows = bench.rows
    figure = plotting.figure(max(6.4, 1.6 + (2.4 if bench.apart else 1.7) * len(rows)), 4.8)
    axes = figure.add_subplot()
    medians = [row.images_per_s for row in rows]
    below = [row.images_per_s - min(row.samples) for row in rows]
    above = [max(row.samples) - row.images_per_s for row in rows]
    positions = range(len(rows))
    style = {"width": 0.28 if bench.apart else 0.6, "yerr": [below, above], "capsize": 8, "ecolor": _INK}
    axes.bar(positions, medians, color=_BLUE, **style)
    labels = [f"{row.policy}\nbatch {row.batch_size:,}" if bench.batches else row.policy for row in rows]
    axes.set_xticks(positions, labels)
    if bench.apart:
        _apart(axes, bench)
    for bar, row in enumerate(rows):
        axes.annotate(
            _words(row, bench.ratio(row)), (bar, max(row.samples)), (0, 6), textcoords="offset points", ha="center",
            va="bottom", fontsize=9, color=_INK,
        )  # fmt: skip
    alone = [rate for row in rows for rate in (row.feed_alone_per_s, row.step_alone_per_s) if rate]
    axes.set_ylim(0, max(*(max(row.samples) for row in rows), *alone, 0) * 1.3)
    axes.set_ylabel(f"{rows[0].noun} per second")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    _tidy(axes)
    title = f"{bench.pipeline}: training throughput" + ("" if bench.batches else f", batch {rows[0].batch_size}")
    axes.set_title(f"{title}\n{_short(rows[0].device)}", fontsize=11)
    figure.supxlabel(
        "bars: median of the repeats; whiskers: slowest, fastest; MFU: share of the measured rate of matrix products",
        fontsize=7.5,
        color=_GREY,
    )
    return figure


def _apart(axes: Any, bench: TrainingBench) -> None:
    """Bars of the feed alone, to the left, and of the step alone, to the right."""
    for side, name, colour in ((-0.3, "feed", _GREY), (0.3, "step", "#ccbb44")):
        rates = [getattr(row, f"{name}_alone_per_s") for row in bench.rows]
        bars = [(i, rate) for i, rate in enumerate(rates) if rate is not None]
        positions = [i + side for i, _ in bars]
        axes.bar(positions, [rate for _, rate in bars], width=0.28, color=colour, label=f"{name} alone")
    axes.legend(frameon=False, fontsize=8)


def _words(row: Training, ratio: float | None) -> str:
    lines = [f"{number(row.images_per_s)} {row.noun}/s"]
    if ratio is not None and row.policy != "float32":
        lines.append(f"{ratio:.2f} x float32")
    if row.step_alone_per_s is not None:
        lines.append(f"waited {share(row.waited)}")
    return "\n".join([*lines, f"MFU {share(row.mfu)}"])


def _inference(bench: InferenceBench) -> Any:
    """Latency and throughput over the batch size, a line per runtime."""
    from matplotlib.ticker import LogLocator

    rows = [row for row in bench.rows if row.cells]
    figure = plotting.figure(11, 4.8)
    latency, throughput = figure.subplots(1, 2)
    for row, (colour, marker) in zip(rows, _LINES, strict=False):
        sizes = [cell.batch_size for cell in row.cells]
        style = {"color": colour, "marker": marker, "label": RUNTIMES[row.runtime][0]}
        latency.plot(sizes, [cell.p50_ms for cell in row.cells], **style)
        latency.plot(sizes, [cell.p99_ms for cell in row.cells], color=colour, linestyle=":", marker=".")
        throughput.plot(sizes, [cell.images_per_s for cell in row.cells], **style)
    latency.set_title("Latency of a call; solid: median, dotted: 99th percentile", fontsize=10)
    latency.set_ylabel("milliseconds")
    throughput.set_title("Throughput, one call at a time", fontsize=10)
    throughput.set_ylabel("samples per second")
    sizes = sorted({cell.batch_size for row in rows for cell in row.cells})
    for axes in (latency, throughput):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
        axes.minorticks_off()
        axes.set_xlabel("samples in a call (batch size)")
        _tidy(axes)
    throughput.legend(frameon=False)
    title = f"{bench.version}: float16 export, {inputs_of(bench)}"
    devices = " and ".join(dict.fromkeys(_short(row.device) for row in rows))
    figure.suptitle(f"{title}\n{devices}", fontsize=11)
    return figure


def _tidy(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _short(device: str) -> str:
    """The device's name, and of a CPU the number of its cores too."""
    name, *rest = device.split(", ")
    return f"{name}, {rest[-1]}" if rest and "capability" not in device else name
