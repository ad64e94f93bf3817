"""Differences by class, and between what was trained on and what was not."""

from __future__ import annotations

import math
import statistics
from xml.etree.ElementTree import Element

from tfhalf.compare.records import Comparison, Row
from tfhalf.compare.report.cells import base_name, reference
from tfhalf.compare.report.pictures import axes
from tfhalf.compare.report.pictures.styles import Series, series
from tfhalf.compare.report.pictures.svg import Lines, figure, key
from tfhalf.text import printable

_CLASSES = 10
_DRAWN = 60  # markers, of all settings
_BETWEEN = 10.0  # pixels between the settings of a class

Summaries = dict[str, tuple[float, float]]  # by class: mean and standard deviation, in points


def by_class(comparison: Comparison) -> Element | None:
    """The ten classes whose share differs most from the reference's, of any setting."""
    shown = series(comparison)
    others = [one for one in shown if not one.row.reference]
    differences: dict[int, Summaries] = {}
    for one in others:
        first = reference(comparison, one.row)
        differences[one.index] = _differences(one.row, first) if first else {}
    used = [one for one in others if differences[one.index]]
    sizes: dict[str, float] = {}
    for one in used:
        for name, (mean, _) in differences[one.index].items():
            sizes[name] = max(sizes.get(name, 0.0), abs(mean))
    count = min(_CLASSES, max(3, _DRAWN // max(1, len(used))))
    chosen = sorted(sizes, key=lambda name: (-sizes[name], name))[:count]
    if not chosen or not any(sizes.values()):
        return None
    ends = [
        mean + side * std
        for one in used
        for name, (mean, std) in differences[one.index].items()
        if name in chosen
        for side in (-1, 1)
    ]
    x = axes.linear("difference to the reference (percentage points)", [0.0, *ends])
    panel = Lines(
        "Left of 0: recognised less often than by the reference",
        [printable(name, 26) or "?" for name in chosen],
        x,
        heads={},
        step=_BETWEEN * len(used) + 10,
        end=14,
    )
    zero = panel.x(0)
    panel.path(f"M{zero:.1f} {panel.tops[0] - 14:.1f}V{panel.bottom:.1f}", "zero")
    for i, name in enumerate(chosen):
        if i and len(used) > 1:
            above = (panel.tops[i - 1] + panel.tops[i]) / 2
            panel.path(f"M2 {above:.1f}H{panel.right:.1f}", "grid")
        for k, one in enumerate(used):
            if name in differences[one.index]:
                mean, std = differences[one.index][name]
                y = panel.tops[i] + _BETWEEN * (k - (len(used) - 1) / 2)
                if std:
                    d = f"M{panel.x(mean - std):.1f} {y:.1f}H{panel.x(mean + std):.1f}"
                    panel.path(d, one.style.classes("whisker"))
                panel.marker(one.style, panel.x(mean), y, f"{one.name}, {name}: {mean:+.2f} points", r=3.8)
    of = f"The {len(chosen)} of {len(sizes):,} classes that differ most" if len(sizes) > len(chosen) else "Every class"
    caption = (
        f"{of}, the largest difference to {base_name(comparison)} first. Markers: mean over seeds; whiskers: "
        "standard deviation over seeds. Where a whisker crosses 0 the difference may well be chance, and so may one "
        "large difference among many classes."
    )
    return figure("Which classes are recognised more or less often", [panel], caption, key(used))


def _differences(row: Row, first: Row) -> Summaries:
    """Seed by seed where both have it; else of the means, without a standard deviation."""
    mine = {seed: one.classes for seed, one in row.results.items() if one.classes}
    theirs = {seed: one.classes for seed, one in first.results.items() if one.classes}
    both = [seed for seed in mine if seed in theirs]
    names = dict.fromkeys(name for classes in mine.values() for name in classes)
    result = {}
    for name in names:
        if both:
            values = [100 * (mine[s][name] - theirs[s][name]) for s in both if name in mine[s] and name in theirs[s]]
        else:
            means = [[classes[name] for classes in side.values() if name in classes] for side in (mine, theirs)]
            values = [100 * (statistics.fmean(means[0]) - statistics.fmean(means[1]))] if all(means) else []
        values = [value for value in values if math.isfinite(value)]
        if values:
            result[name] = (statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)
    return result


def generalisation(comparison: Comparison) -> Element | None:
    """The first metric on the training part and on the test set, side by side."""
    if not comparison.facts:
        return None
    fact = comparison.facts[0]
    by = 100.0 if fact.share else 1.0
    dots: list[tuple[Series, float, float]] = []
    for one in series(comparison):
        summary, gap = one.row.metrics.get(fact.name), one.row.gap.get(fact.name)
        if summary is not None and gap is not None and math.isfinite(gap) and math.isfinite(summary.mean):
            dots.append((one, (summary.mean + gap) * by, summary.mean * by))
    if not dots:
        return None
    unit = f" ({fact.suffix})" if fact.suffix else ""
    x = axes.linear(f"{fact.name}{unit}", [value for dot in dots for value in dot[1:]], count=4)
    title = "Hollow: training. Filled: test. Number: the gap"
    panel = Lines(title, [one.name for one, *_ in dots], x, heads={}, step=26, end=96)
    gap_unit = " points" if fact.share else f" {fact.unit}".rstrip()
    for i, (one, train, test) in enumerate(dots):
        y = panel.tops[i]
        panel.path(f"M{panel.x(train):.1f} {y:.1f}H{panel.x(test):.1f}", one.style.classes("whisker"))
        panel.marker(one.style, panel.x(train), y, f"{one.name}, training: {train:.4g}{unit}", hollow=True, r=5)
        panel.marker(one.style, panel.x(test), y, f"{one.name}, test: {test:.4g}{unit}", r=5)
        panel.text(f"{_gap(train - test, fact.share)}{gap_unit}", panel.right + 12, y + 4, "value")
    caption = (
        "Means over seeds. The longer the line, the better a setting does on items that it was trained on than on new "
        "ones: overfitting. Lines of the same length: half precision changes nothing about it."
    )
    return figure(f"Whether it generalises alike: {fact.name} in training and in the test", [panel], caption)


def _gap(value: float, share: bool) -> str:
    return f"{abs(value):.2f}" if share else f"{abs(value):.3g}"
