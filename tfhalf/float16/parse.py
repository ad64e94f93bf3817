"""What a person types for a number, read without rounding."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from tfhalf.errors import InputError
from tfhalf.float16.formats import FLOAT16, NAN, Number, exponent_of, finite, infinity, two_to

ACCEPTED = "a decimal (0.1, -1e-8), a fraction (1/3), a power (2^-24), inf, nan, a hex float (0x1.8p3), or a pattern"
MAX_CHARACTERS = 300
MAX_EXPONENT = 1000  # decimal; the exact arithmetic behind would take minutes over 1e999999999

_UNSIGNED = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_DECIMAL = re.compile(rf"{_UNSIGNED}\Z", re.ASCII)
_FRACTION = re.compile(rf"({_UNSIGNED})/({_UNSIGNED})\Z", re.ASCII)
_POWER = re.compile(rf"({_UNSIGNED})(?:\^|\*\*)\(?([+-]?\d+)\)?\Z", re.ASCII)
_HEX_FLOAT = re.compile(r"0x([0-9a-f]*)\.?([0-9a-f]*)p([+-]?\d+)\Z", re.ASCII | re.IGNORECASE)
_PATTERN = re.compile(r"0(?:x([0-9a-f_]+)|b([01_]+))\Z", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Parsed:
    """A number as it was typed. ``pattern`` is set where it was typed as float16 bits."""

    text: str
    form: str
    number: Number
    pattern: int | None = None

    @property
    def float16(self) -> int:
        """Its float16 pattern: the one typed, or the value rounded once."""
        return FLOAT16.encode(self.number) if self.pattern is None else self.pattern


def parse(text: str) -> Parsed:
    """Read one number, exactly.

    ``0x`` or ``0b`` without a ``p`` is a bit pattern of float16; with one, ``0x1.8p3``, it is a hex float.

    Raises:
        InputError: it is none of the forms, or beyond 1e1000 or below 1e-1000.
    """
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"{text[:20]!r}...: {len(text)} characters; a number may have {MAX_CHARACTERS}")
    negative, body = text.startswith("-"), text[1:] if text[:1] in ("-", "+") else text
    if match := _PATTERN.match(body):
        return _pattern(text, match)
    if body.lower() in ("inf", "infinity"):
        return Parsed(text, "infinity", infinity(negative))
    if body.lower() == "nan":
        return Parsed(text, "NaN", NAN)
    form, value = _magnitude(text, body)
    return Parsed(text, form, finite(-value if negative else value, negative_zero=negative))


def _magnitude(text: str, body: str) -> tuple[str, Fraction]:
    if _DECIMAL.match(body):
        return "decimal", _decimal(text, body)
    if match := _FRACTION.match(body):
        above, below = (_decimal(text, part) for part in match.groups())
        if not below:
            raise InputError(f"{text}: divides by zero; write inf or nan, or try --op div {match[1]} 0")
        return "fraction", _bounded(text, above / below)
    if match := _POWER.match(body):
        return "power", _power(text, _decimal(text, match[1]), int(match[2]))
    match = _HEX_FLOAT.match(body)
    if match and match[1] + match[2]:
        exponent = int(match[3]) - 4 * len(match[2])
        return "hex float", _power(text, Fraction(2), exponent) * int(match[1] + match[2], 16)
    if text.startswith("--"):
        raise InputError(f"{text!r}: no such option, and no number; accepted is {ACCEPTED}")
    raise InputError(f"{text!r}: is not a number; accepted is {ACCEPTED} of float16 (0x3c00, 0b0011110000000000)")


def _pattern(text: str, match: re.Match[str]) -> Parsed:
    if text[0] in "+-":
        raise InputError(
            f"{text}: a bit pattern has its sign inside; drop the {text[0]!r}, or write a hex float: -0x1p3"
        )
    digits, base = (match[1], 16) if match[1] else (match[2], 2)
    digits = digits.replace("_", "")
    if not digits or len(digits) > (4 if base == 16 else 16):
        raise InputError(f"{text}: a float16 pattern has 1 to 4 hex or 16 binary digits; a hex float has a p: 0x1.8p3")
    pattern = int(digits, base)
    return Parsed(text, "bit pattern of float16", FLOAT16.decode(pattern), pattern)


def _decimal(text: str, digits: str) -> Fraction:
    exponent = re.search(r"[eE]([+-]?\d+)", digits)
    if exponent and abs(int(exponent[1])) > MAX_EXPONENT + MAX_CHARACTERS:
        raise _too_far(text)
    return _bounded(text, Fraction(digits))


def _power(text: str, base: Fraction, exponent: int) -> Fraction:
    """``base ** exponent``, its size estimated before it is computed."""
    if not base:
        if exponent < 0:
            raise InputError(f"{text}: divides by zero; write inf")
        return Fraction(0 if exponent else 1)
    size = max(base.numerator.bit_length(), base.denominator.bit_length(), 1)
    if base != 1 and abs(exponent) * max(size - 1, 1) > 4 * MAX_EXPONENT + 4 * MAX_CHARACTERS:
        raise _too_far(text)
    return _bounded(text, two_to(exponent) if base == 2 else base ** (exponent if base != 1 else 1))


def _bounded(text: str, value: Fraction) -> Fraction:
    if value and abs(exponent_of(value)) > MAX_EXPONENT * 3.3219:
        raise _too_far(text)
    return value


def _too_far(text: str) -> InputError:
    return InputError(f"{text}: numbers from 1e-{MAX_EXPONENT} to 1e{MAX_EXPONENT} are accepted")
