"""Axes: ranges, round ticks, and the words beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_WHOLE_STEPS = (1.0, 2.0, 5.0, 10.0)
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Kind = Literal["linear", "log", "log2"]


@dataclass(frozen=True)
class Axis:
    """A range with its label; ``ticks`` with their words."""

    label: str
    low: float
    high: float
    kind: Kind = "linear"
    ticks: tuple[tuple[float, str], ...] = ()

    def share(self, value: float) -> float:
        """Where ``value`` lies, 0 at the low end and 1 at the high one."""
        if self.kind == "linear":
            return (value - self.low) / (self.high - self.low)
        return math.log(value / self.low) / math.log(self.high / self.low)


def linear(label: str, values: Iterable[float], *, zero: bool = False, margin: float = 0.06, count: int = 5) -> Axis:
    """An axis that holds ``values``, from 0 on if ``zero``, else with a ``margin`` at both ends."""
    numbers = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(numbers), max(numbers)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        extra = max(abs(high) * 0.05, 1e-6)
        low, high = (0.0, high or 1.0) if zero else (low - extra, high + extra)
    extra = (high - low) * margin
    high += extra
    low -= 0.0 if zero and low == 0 else extra
    return Axis(label, low, high, "linear", tuple(_ticks(low, high, count)))


def whole(label: str, last: int, first: int = 1) -> Axis:
    """An axis of counted things, as epochs."""
    high = float(max(last, first + 1))
    step = max(1.0, _step((high - first) / 6, _WHOLE_STEPS))
    low = first - 0.03 * (high - first)
    start = math.ceil(first / step) * step
    ticks = [start + i * step for i in range(int((high - start) / step + 1e-6) + 1)]
    if first not in ticks and (not ticks or ticks[0] - first > 0.6 * step):
        ticks.insert(0, float(first))
    return Axis(label, low, high + 0.03 * (high - first), "linear", tuple((tick, f"{tick:,.0f}") for tick in ticks))


def logarithmic(label: str, values: Iterable[float]) -> Axis:
    """Of positive ``values``; ticks at 1, 2 and 5 times powers of ten."""
    numbers = list(values)
    low, high = min(numbers) / 1.15, max(numbers) * 1.15
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 1e3 else (1,)
    ticks = [factor * 10.0**k for k in exponents for factor in factors if low <= factor * 10.0**k <= high]
    return Axis(label, low, high, "log", tuple((tick, f"{tick:,.4g}") for tick in ticks))


def powers_of_two(label: str, values: Iterable[float]) -> Axis:
    """Of positive ``values``; ticks at powers of two."""
    numbers = list(values)
    low, high = math.floor(math.log2(min(numbers))), math.ceil(math.log2(max(numbers)))
    if high - low < 4:
        low, high = low - 1, high + 1
    step = max(1, math.ceil((high - low) / 6))
    ticks = [(2.0**k, f"2{str(k).translate(_RAISED)}") for k in range(low, high + 1, step)]
    return Axis(label, 2.0 ** (low - 0.3), 2.0 ** (high + 0.3), "log2", tuple(ticks))


def powers_of_ten(label: str, values: Iterable[float]) -> Axis:
    """Of positive ``values`` that may lie far apart; ticks at powers of ten."""
    exponents = [math.log10(value) for value in values]
    low, high = math.floor(min(exponents) - 0.2), math.ceil(max(exponents) + 0.2)
    step = max(1, math.ceil((high - low) / 6))
    ticks = [(10.0**k, f"10{str(k).translate(_RAISED)}") for k in range(low, high + 1, step)]
    return Axis(label, 10.0**low, 10.0**high, "log", tuple(ticks))


def _step(rough: float, steps: Sequence[float] = _STEPS) -> float:
    """The least round step of at least ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    return next(step * power for step in steps if step * power >= rough * (1 - 1e-9))


def _ticks(low: float, high: float, count: int) -> Iterable[tuple[float, str]]:
    step = _step((high - low) / count)
    first = math.ceil(low / step - 1e-9)
    while first * step <= high + 1e-9 * step:
        value = first * step
        yield value, _words(0.0 if abs(value) < step / 2 else value, step)
        first += 1


def _words(value: float, step: float) -> str:
    if max(abs(value), step) >= 1e15 or step < 1e-6:
        return f"{value:.3g}"
    for limit, divisor, unit in ((2e5, 1e6, "M"), (2e4, 1e3, "k")):
        if step >= limit:
            return f"{value / divisor:,.10g} {unit}" if value else "0"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if abs(step * 10**decimals - round(step * 10**decimals)) > 1e-6:  # 2.5 and its like
        decimals += 1
    return f"{value:,.{decimals}f}"
