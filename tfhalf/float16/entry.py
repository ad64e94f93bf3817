"""A number in every format, and the formats themselves: what `tfhalf.float16.show` prints, as values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

from tfhalf.float16 import losses, text
from tfhalf.float16.formats import FLOAT16, FLOAT32, FLOAT64, FORMATS, Format, Number, two_to
from tfhalf.float16.losses import Loss
from tfhalf.float16.parse import Parsed

RANGES = tuple((two_to(e), two_to(e + 1)) for e in (-14, -1, 0, 10, 11, 15))


@dataclass(frozen=True)
class Error:
    """A rounded value minus the exact one: absolute, relative to the exact one (None for 0), and in ulps of it."""

    absolute: Fraction
    relative: Fraction | None
    ulps: Fraction

    @classmethod
    def of(cls, fmt: Format, exact: Number, pattern: int) -> Error | None:
        """None where either is not finite."""
        value = fmt.decode(pattern)
        if not (exact.is_finite and value.is_finite):
            return None
        error = value.fraction - exact.fraction
        relative = error / abs(exact.fraction) if exact.fraction else None
        return cls(error, relative, error / fmt.spacing(exact.fraction))

    def to_dict(self) -> dict[str, Any]:
        """The absolute error exact, as a string; the others as numbers, or as strings beyond float64."""
        relative = None if self.relative is None else _number(self.relative)
        return {"absolute": text.exact(self.absolute), "relative": relative, "ulps": _number(self.ulps)}


def _number(value: Fraction) -> float | str:
    try:
        return float(value)
    except OverflowError:
        return text.brief(value)


@dataclass(frozen=True)
class Entry:
    """``exact`` as the pattern ``bits`` of ``fmt`` that it is rounded to."""

    fmt: Format
    exact: Number
    bits: int

    @cached_property
    def value(self) -> Number:
        """What the pattern stands for."""
        return self.fmt.decode(self.bits)

    @cached_property
    def error(self) -> Error | None:
        """What rounding changed."""
        return Error.of(self.fmt, self.exact, self.bits)

    @cached_property
    def loss(self) -> Loss | None:
        """Overflow, flush to zero or missing bits."""
        return losses.of_rounding(self.fmt, self.exact, self.bits)

    @property
    def hex(self) -> str:
        """The pattern in hexadecimal digits."""
        return self.fmt.hex(self.bits)

    @property
    def is_exact(self) -> bool:
        """Nothing changed in rounding."""
        return self.value.equals(self.exact) or (self.value.is_nan and self.exact.is_nan)

    def neighbours(self) -> tuple[int, int] | None:
        """Patterns of the next value below and above; None for NaN."""
        return None if self.value.is_nan else (self.fmt.next_down(self.bits), self.fmt.next_up(self.bits))

    def to_dict(self) -> dict[str, Any]:
        """For JSON: exact values as strings."""
        around = self.neighbours()
        ulp = self.fmt.ulp(self.bits)
        below, above = (None, None) if around is None else (point(self.fmt, bits) for bits in around)
        sign, exponent, fraction = self.fmt.split(self.bits)
        return {
            **point(self.fmt, self.bits),
            "sign": sign,
            "exponent": exponent,
            "fraction": fraction,
            "class": self.fmt.kind(self.bits),
            "significant_bits": self.fmt.significant_bits(self.bits),
            "ulp": None if ulp is None else text.exact(ulp),
            "below": below,
            "above": above,
            "error": as_dict(self.error),
            "loss": as_dict(self.loss),
        }


def as_dict(part: Error | Loss | Entry | None) -> dict[str, Any] | None:
    """Its ``to_dict``, where there is something."""
    return part.to_dict() if part is not None else None


def point(fmt: Format, bits: int) -> dict[str, str]:
    """A pattern, its exact value and the shortest decimal that reads back as it, for JSON."""
    return {"pattern": fmt.hex(bits), "value": text.exact(fmt.decode(bits)), "repr": text.shortest(fmt, bits)}


@dataclass(frozen=True)
class Value:
    """One number in the three formats."""

    parsed: Parsed

    @cached_property
    def entries(self) -> list[Entry]:
        """float16 first, then bfloat16 and float32."""
        number = self.parsed.number
        first = Entry(FLOAT16, number, self.parsed.float16)  # a NaN keeps the payload that was typed
        return [first, *(Entry(fmt, number, fmt.encode(number)) for fmt in FORMATS[1:])]

    @cached_property
    def float64(self) -> Entry:
        """The number in float64, which most programs read it into."""
        return Entry(FLOAT64, self.parsed.number, FLOAT64.encode(self.parsed.number))

    def rounded_twice(self) -> list[tuple[Format, int]]:
        """The formats through which float16 would come out otherwise, each with the pattern that it would be."""
        if not self.parsed.number.is_finite:
            return []
        firsts = ((fmt, fmt.decode(fmt.encode(self.parsed.number))) for fmt in (FLOAT32, FLOAT64))
        ways = [(fmt, FLOAT16.encode(first)) for fmt, first in firsts]
        return [way for way in ways if way[1] != self.parsed.float16]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        facts: dict[str, Any] = {"given": self.parsed.text, "form": self.parsed.form}
        facts["float64"] = {**point(FLOAT64, self.float64.bits), "error": as_dict(self.float64.error)}
        facts |= {entry.fmt.name: entry.to_dict() for entry in self.entries}
        facts["rounded_twice"] = {fmt.name: point(FLOAT16, bits) for fmt, bits in self.rounded_twice()}
        return facts


def facts(fmt: Format) -> dict[str, Any]:
    """What a format can hold: numbers as exact strings, counts as ints, decimal digits as a float."""
    return {
        "bits": fmt.bits,
        "exponent_bits": fmt.exponent_bits,
        "fraction_bits": fmt.fraction_bits,
        "significand_bits": fmt.p,
        "decimal_digits": fmt.p * math.log10(2),
        "bias": fmt.emax,
        "largest": text.exact(fmt.largest),
        "infinity_from": text.exact(fmt.overflows_from),
        "smallest_normal": text.exact(fmt.smallest_normal),
        "smallest_subnormal": text.exact(fmt.smallest_subnormal),
        "zero_up_to": text.exact(fmt.flushed_up_to),
        "epsilon": text.exact(fmt.epsilon),
        "integers_exact_to": 1 << fmt.p,
        "spacing": [
            {"from": text.exact(low), "to": text.exact(high), "spacing": text.exact(fmt.spacing(low))}
            for low, high in RANGES
        ],
    }
