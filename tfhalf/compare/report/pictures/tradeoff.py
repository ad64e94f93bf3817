"""What quality costs: the metric against speed and against memory, with the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from tfhalf.compare.records import Comparison, MetricFacts
from tfhalf.compare.report.pictures import axes
from tfhalf.compare.report.pictures.styles import Series, series
from tfhalf.compare.report.pictures.svg import Panel, figure, key
from tfhalf.compare.report.wording import listed

_INFORMATIVE = 1.05  # the largest peak memory over the least, from which on it is worth a panel

_NAMED = 4  # settings of a front, beyond which their rings have to do


@dataclass(frozen=True)
class _Dot:
    """A setting between cost (or speed) and metric, with the standard deviations of both."""

    of: Series
    x: float
    y: float
    dx: float
    dy: float


def tradeoff(comparison: Comparison) -> Element | None:
    """The metric's mean against items per second, and against peak memory where that differs."""
    if not comparison.facts:
        return None
    fact = comparison.facts[0]
    shown = series(comparison)
    speed = _dots(shown, fact)
    if len(speed) < 2:
        return None
    noun = speed[0].of.row.noun
    panels = [_panel("Metric against speed", f"training speed ({noun} per second)", speed, fact, fast=True)]
    caption = (
        "Ringed: no other setting is both better and faster (the Pareto front, grey line)"
        f"{_listed(_front(speed, fact, fast=True))}."
    )
    if any(dot.dx or dot.dy for dot in speed):
        caption += " Whiskers: standard deviation over seeds."
    memory = [
        _Dot(dot.of, dot.of.row.memory_bytes / 1e9, dot.y, 0.0, dot.dy) for dot in speed if dot.of.row.memory_bytes
    ]
    if len(memory) > 1 and max(dot.x for dot in memory) > _INFORMATIVE * min(dot.x for dot in memory):
        unit = "GB" if max(dot.x for dot in memory) >= 1 else "MB"
        if unit == "MB":
            memory = [_Dot(dot.of, dot.x * 1e3, dot.y, 0.0, dot.dy) for dot in memory]
        panels.append(_panel("Metric against memory", f"peak memory ({unit})", memory, fact, fast=False))
        least = _listed(_front(memory, fact, fast=False))
        caption += f" Against memory, ringed: no other setting is both better and smaller{least}."
    title = f"What {fact.name} costs: {'higher' if fact.higher else 'lower'} is better, further right is faster"
    return figure(title, panels, caption, key([dot.of for dot in speed]))


def _dots(shown: Sequence[Series], fact: MetricFacts) -> list[_Dot]:
    by = 100.0 if fact.share else 1.0
    dots = []
    for one in shown:
        metric, rate = one.row.metrics.get(fact.name), one.row.items_per_s
        if metric is None or rate is None:
            continue
        if all(map(math.isfinite, (metric.mean, metric.std, rate.mean, rate.std))):
            dots.append(_Dot(one, rate.mean, metric.mean * by, rate.std, metric.std * by))
    return dots


def _front(dots: Sequence[_Dot], fact: MetricFacts, *, fast: bool) -> list[_Dot]:
    """The dots that none beats in one of both without being worse in the other, from left to right."""

    def gains(dot: _Dot) -> tuple[float, float]:
        return (dot.x if fast else -dot.x), (dot.y if fact.higher else -dot.y)

    def beaten(dot: _Dot) -> bool:
        mine = gains(dot)
        return any(theirs != mine and theirs[0] >= mine[0] and theirs[1] >= mine[1] for theirs in map(gains, dots))

    return sorted((dot for dot in dots if not beaten(dot)), key=lambda dot: dot.x)


def _listed(front: Sequence[_Dot]) -> str:
    return f": {listed([dot.of.name for dot in front])}" if len(front) <= _NAMED else ""


def _panel(title: str, label: str, dots: Sequence[_Dot], fact: MetricFacts, *, fast: bool) -> Panel:
    unit = f" ({fact.suffix})" if fact.suffix else ""
    x = axes.linear(label, [dot.x + side * dot.dx for dot in dots for side in (-1, 1)], margin=0.12)
    y = axes.linear(f"test {fact.name}{unit}", [dot.y + side * dot.dy for dot in dots for side in (-1, 1)], margin=0.12)
    best = f"best: {'top' if fact.higher else 'bottom'} {'right' if fast else 'left'}"
    panel = Panel(f"{title} ({best})", x, y)
    front = _front(dots, fact, fast=fast)
    corners = [f"{panel.x(dot.x):.1f} {panel.y(dot.y):.1f}" for dot in front]
    if len(front) > 1:
        panel.path(f"M{'L'.join(corners)}", "front")
    for dot in dots:
        panel.whiskers(dot.x, dot.y, dot.dx, dot.dy, dot.of.style)
    for dot in dots:
        words = f"{dot.of.name}: {fact.name} {dot.y:.4g}{unit}, {dot.x:,.4g} {label}"
        if dot in front:
            panel.path(_ring(panel.x(dot.x), panel.y(dot.y)), "ring")
        panel.marker(dot.of.style, panel.x(dot.x), panel.y(dot.y), words, r=5.5)
    return panel


def _ring(x: float, y: float) -> str:
    return f"M{x - 10:.1f} {y:.1f}a10 10 0 1 0 20 0a10 10 0 1 0 -20 0z"
