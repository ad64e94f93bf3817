"""Pictures over the epochs: the metric, the loss scale, skipped steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from tfhalf.compare.records import Comparison, MetricFacts
from tfhalf.compare.report.cells import target_words
from tfhalf.compare.report.pictures import axes
from tfhalf.compare.report.pictures.axes import Axis
from tfhalf.compare.report.pictures.styles import Series, series
from tfhalf.compare.report.pictures.svg import Panel, Point, figure, key

_ENLARGED = 6  # epochs, from which on their second half has a panel
_THIN = 6  # settings, beyond which lines of single seeds would hide the means
_FAR = 30.0  # of the largest value to the smallest, from which on an axis is logarithmic

Rows = Sequence[Mapping[str, Any]]
Curves = dict[int, list[list[Point | None]]]  # by index of a series, a line each seed


def learning(comparison: Comparison) -> Element | None:
    """The first metric over epochs and over seconds, a line a seed and a thick one of their mean."""
    shown = series(comparison)
    if not comparison.facts:
        return None
    fact = comparison.facts[0]
    column = _column(shown, fact)
    if column is None:
        return None
    by = 100.0 if fact.share else 1.0
    epochs = _curves(shown, lambda row: (_number(row, "epoch"), _number(row, column) * by))
    used = [one for one in shown if epochs.get(one.index)]
    which = "validation" if column.startswith("val_") else "training"
    unit = f" ({fact.suffix})" if fact.suffix else ""
    label = f"{which} {fact.name}{unit}"
    points = [point for lines in epochs.values() for line in lines for point in line if point]
    y = _spread(label, [point[1] for point in points])
    last = int(max(point[0] for point in points))
    panels = [_panel("By epoch: who learns more from the same data", axes.whole("epoch", last), y, used, epochs)]
    if panel := _by_time(used, y, column, by):
        panels.append(panel)
    if last >= _ENLARGED:
        late: Curves = {
            k: [[p for p in line if p and p[0] >= last / 2] for line in lines] for k, lines in epochs.items()
        }
        values = [point[1] for lines in late.values() for line in lines for point in line if point]
        if values:
            zoom = axes.linear(label, values)
            x = axes.whole("epoch", last, math.ceil(last / 2))
            panels.append(_panel("The second half of the epochs, enlarged", x, zoom, used, late))
    legend = key(used, lines=True, across=_target(panels, comparison, fact, column, by))
    better = "Higher" if fact.higher else "Lower"
    caption = (
        f"{better} is better. {_lines_words(used)} Where lines lie together, the settings "
        "learn alike; in the panel by time, the line further left gets there sooner."
    )
    return figure(f"How {fact.name} develops during training", panels, caption, legend)


def _column(shown: Sequence[Series], fact: MetricFacts) -> str | None:
    """The validation part's metric; the training part's where there is none."""
    rows = [row for one in shown for result in one.row.results.values() for row in result.history]
    for name in (f"val_{fact.name}", fact.name):
        if any(math.isfinite(_number(row, name)) and math.isfinite(_number(row, "epoch")) for row in rows):
            return name
    return None


def _by_time(used: Sequence[Series], y: Axis, column: str, by: float) -> Panel | None:
    curves = _curves(used, lambda row: (_number(row, "elapsed"), _number(row, column) * by))
    times = [point[0] for lines in curves.values() for line in lines for point in line if point]
    if not times:
        return None
    divisor, unit = next((divisor, unit) for limit, divisor, unit in _UNITS if max(times) <= limit)
    scaled: Curves = {
        index: [[(point[0] / divisor, point[1]) if point else None for point in line] for line in lines]
        for index, lines in curves.items()
    }
    x = axes.linear(f"{unit} of training", [time / divisor for time in times], zero=True, margin=0.03)
    return _panel(f"By {unit} of training: who gets there sooner", x, y, used, scaled)


_UNITS = ((600.0, 1.0, "seconds"), (36_000.0, 60.0, "minutes"), (math.inf, 3600.0, "hours"))


def _target(panels: Sequence[Panel], comparison: Comparison, fact: MetricFacts, column: str, by: float) -> str:
    """Draw the target into each panel that has it; its words for the legend, empty where there is none."""
    target = comparison.target
    if target is None or not column.startswith("val_") or target.metric.removeprefix("val_") != fact.name:
        return ""
    for panel in panels:
        panel.across(target.value * by)
    return f"target: {target_words(comparison)}"


def scaling(comparison: Comparison) -> Element | None:
    """The loss scale by epoch, and skipped steps, of the settings that scale."""
    shown = series(comparison)
    scales = _curves(shown, lambda row: (_number(row, "epoch"), _positive(_number(row, "loss_scale"))))
    scaled = [one for one in shown if any(p and p[1] != 1 for line in scales.get(one.index, []) for p in line)]
    if not scaled:
        return None
    points = [p for one in scaled for line in scales[one.index] for p in line if p]
    x = axes.whole("epoch", int(max(point[0] for point in points)))
    y = axes.powers_of_two("loss scale (power of two)", [point[1] for point in points])
    panels = [_panel("Loss scale at the end of each epoch", x, y, scaled, scales, mean=_geometric)]
    skipped = _curves(scaled, lambda row: (_number(row, "epoch"), _number(row, "skipped")))
    sums: Curves = {index: [_summed(line) for line in lines] for index, lines in skipped.items()}
    counts = [p[1] for lines in sums.values() for line in lines for p in line if p]
    if any(counts):
        total = axes.linear("skipped steps since the first epoch", counts, zero=True)
        panels.append(_panel("Steps skipped so far: steep where gradients overflow", x, total, scaled, sums))
    caption = (
        "The scale grows while gradients stay finite and halves at each skipped step. A few skipped steps are how it "
        "finds its size; many, or a scale that keeps falling, say that float16 is too narrow here. "
        + _lines_words(scaled)
        + ("" if any(counts) else " No step was skipped.")
    )
    return figure(
        "Whether float16's range was enough: loss scale and skipped steps", panels, caption, key(scaled, lines=True)
    )


def _lines_words(shown: Sequence[Series]) -> str:
    if max(len(one.row.results) for one in shown) < 2:
        return "Lines: the one seed."
    return "Thick lines: mean over seeds" + ("; thin lines: one seed each." if len(shown) <= _THIN else ".")


def _curves(shown: Sequence[Series], point: Callable[[Mapping[str, Any]], Point]) -> Curves:
    """Of each series a line a seed; what is not a finite number interrupts it, and lines without any are left out."""
    curves: Curves = {}
    for one in shown:
        for result in one.row.results.values():
            pairs = (point(row) for row in result.history)
            line: list[Point | None] = [pair if all(map(math.isfinite, pair)) else None for pair in pairs]
            if any(line):
                curves.setdefault(one.index, []).append(line)
    return curves


def _panel(
    title: str,
    x: Axis,
    y: Axis,
    shown: Sequence[Series],
    curves: Curves,
    *,
    mean: Callable[[Sequence[float]], float] | None = None,
) -> Panel:
    panel = Panel(title, x, y)
    for one in shown:
        for line in curves.get(one.index, []):
            if len(curves[one.index]) > 1 and len(shown) <= _THIN:
                panel.line(line, one.style, thin=True)
    for one in shown:  # above all thin lines
        if lines := curves.get(one.index):
            panel.line(_mean(lines, mean or _arithmetic), one.style)
    return panel


def _mean(lines: Sequence[Sequence[Point | None]], mean: Callable[[Sequence[float]], float]) -> list[Point | None]:
    """Row by row, as far as every seed has one."""
    result: list[Point | None] = []
    for points in zip(*lines, strict=False):
        whole = [point for point in points if point]
        complete = len(whole) == len(points)
        result.append((_arithmetic([p[0] for p in whole]), mean([p[1] for p in whole])) if complete else None)
    return result


def _arithmetic(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _geometric(values: Sequence[float]) -> float:
    return math.exp(_arithmetic([math.log(value) for value in values]))


def _spread(label: str, values: Sequence[float]) -> Axis:
    far = min(values) > 0 and max(values) / min(values) > _FAR and not label.endswith("(%)")
    return axes.logarithmic(f"{label}, logarithmic", values) if far else axes.linear(label, values)


def _summed(line: Sequence[Point | None]) -> list[Point | None]:
    """Steps so far at each epoch."""
    total = 0.0
    result: list[Point | None] = []
    for point in line:
        total += point[1] if point else 0.0
        result.append((point[0], total) if point else None)
    return result


def _positive(value: float) -> float:
    return value if value > 0 else math.nan


def _number(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
