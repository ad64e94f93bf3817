"""Exact numbers as text: the whole decimal, the shortest one that reads back, and a few digits."""

from __future__ import annotations

from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache

from tfhalf.float16.formats import Format, Number, exponent_of, finite, two_to

_MAX_BITS = 14_000  # Python turns integers of up to 4,300 digits, 14,284 bits, into text


def exact(number: Number | Fraction) -> str:
    """Every digit: ``0.0999755859375``; a fraction, ``1/3``, where decimals do not end; ``inf``, ``nan``, ``-0``.

    What would fill pages, such as 1e2000 + 1/7, is rounded to 17 digits: ``~1e+2000``.
    """
    if isinstance(number, Fraction):
        number = finite(number)
    if not number.is_finite:
        return special(number)
    value = number.fraction
    if not value:
        return "-0" if number.negative else "0"
    places = _places(value.denominator)
    count = abs(value.numerator) * 10 ** (places or 0) // (value.denominator if places is not None else 1)
    if max(count.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
        return "~" + brief(value, 17)
    if places is None:
        return str(value)
    digits = str(count)
    return ("-" if value < 0 else "") + _placed(digits, len(digits) - 1 - places)


@lru_cache(maxsize=1 << 12)
def shortest(fmt: Format, pattern: int) -> str:
    """The shortest decimal that rounds to ``pattern``, the nearest of those: ``0.1``, ``6e-08``, ``65500.0``.

    What numpy prints for a float16, and Python for a float64.
    """
    number = fmt.decode(pattern)
    if not number.is_finite:
        return special(number)
    if number.is_zero:
        return "-0.0" if number.negative else "0.0"
    value = abs(number.fraction)
    magnitude = pattern & ~fmt.sign_bit
    e = _exponent10(value)
    for digits in range(1, 20):
        unit = _ten_to(e + 1 - digits)
        low = value // unit
        # Below a power of two the format is denser than above: the nearest decimal may be outside, the other inside.
        for count in sorted((low, low + 1), key=lambda n: (abs(n * unit - value), n % 2)):
            if count and fmt.encode(finite(count * unit)) == magnitude:
                return ("-" if number.negative else "") + repr(float(count * unit))
    raise AssertionError("17 digits tell any two float64 apart")


def special(number: Number) -> str:
    """``inf``, ``-inf`` or ``nan``."""
    return "nan" if number.is_nan else "-inf" if number.negative else "inf"


def brief(value: Fraction, digits: int = 4) -> str:
    """A few significant digits, rounded: ``-2.441e-05``, ``0.5``, ``2048``."""
    quotient = Context(prec=digits).divide(Decimal(value.numerator), Decimal(value.denominator)).normalize()
    if not quotient or -4 <= quotient.adjusted() < 7:
        return f"{quotient:f}"
    mantissa, _, exponent = f"{quotient:e}".partition("e")
    return f"{mantissa}e{int(exponent):+03d}"


def power(value: Fraction) -> str:
    """A power of two as such, and in digits: ``2^-14 = 6.104e-05``; ``4``."""
    e = exponent_of(value)
    assert value == two_to(e)
    digits = exact(value)
    return digits if len(digits) <= 6 else f"2^{e} = {brief(value)}"


def cut(text: str, length: int) -> str:
    """``text``, its middle digits left out where it is longer than ``length``; an exponent stays."""
    if len(text) <= length:
        return text
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa[: length - 3 - len(e + exponent)]}...{e}{exponent}"


def _places(denominator: int) -> int | None:
    """Decimal places of a fraction with this denominator; None where they do not end."""
    twos = (denominator & -denominator).bit_length() - 1
    rest, fives = denominator >> twos, 0
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    return max(twos, fives) if rest == 1 else None


def _placed(digits: str, e: int) -> str:
    """Digits with their point; ``e`` is the exponent of the first. Far from 1, in scientific notation."""
    if not -9 <= e < 21:
        kept = digits.rstrip("0")
        return f"{kept[0]}{'.' if kept[1:] else ''}{kept[1:]}e{e:+03d}"
    if e < 0:
        return "0." + "0" * (-e - 1) + digits
    whole, places = digits[: e + 1], digits[e + 1 :].rstrip("0")
    return f"{whole}.{places}" if places else whole


def _exponent10(value: Fraction) -> int:
    """The e of 10^e <= value < 10^(e+1)."""
    e = int(exponent_of(value) * 0.30103) - 1  # at most, or one or two less
    while _ten_to(e + 1) <= value:
        e += 1
    while _ten_to(e) > value:
        e -= 1
    return e


def _ten_to(exponent: int) -> Fraction:
    return Fraction(10**exponent) if exponent >= 0 else Fraction(1, 10**-exponent)
