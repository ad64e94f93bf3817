"""Binary floating-point formats, computed exactly: a finite value is a `fractions.Fraction`, a pattern is an int.

IEEE 754-2019, section 3.4: a sign bit, a biased exponent, a fraction whose leading 1 is implied in normal numbers.
bfloat16 is float32 without the lower half of its bits. Nothing here goes through a float, so nothing is rounded twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Kind = Literal["zero", "subnormal", "normal", "infinity", "NaN"]


@dataclass(frozen=True)
class Number:
    """A value of no format: an exact rational, an infinity or NaN.

    ``fraction`` is 0 where ``special`` is set. ``negative`` is the sign of a zero and of an infinity too; NaN has none.
    """

    fraction: Fraction = Fraction(0)
    negative: bool = False
    special: Literal["", "infinity", "NaN"] = ""

    @property
    def is_nan(self) -> bool:
        """NaN?"""
        return self.special == "NaN"

    @property
    def is_infinite(self) -> bool:
        """An infinity of either sign?"""
        return self.special == "infinity"

    @property
    def is_finite(self) -> bool:
        """A rational, zero included?"""
        return not self.special

    @property
    def is_zero(self) -> bool:
        """A zero of either sign?"""
        return self.is_finite and not self.fraction

    def __neg__(self) -> Number:
        return self if self.is_nan else Number(-self.fraction, not self.negative, self.special)

    def equals(self, other: Number) -> bool:
        """IEEE equality: NaN equals nothing, the two zeros are equal."""
        if self.is_nan or other.is_nan:
            return False
        if self.is_infinite or other.is_infinite:
            return self == other
        return self.fraction == other.fraction


NAN = Number(special="NaN")


def finite(fraction: Fraction | int, negative_zero: bool = False) -> Number:
    """A rational as a `Number`; ``negative_zero`` gives a zero its sign."""
    fraction = Fraction(fraction)
    return Number(fraction, fraction < 0 or (fraction == 0 and negative_zero))


def infinity(negative: bool = False) -> Number:
    """One of the two infinities."""
    return Number(negative=negative, special="infinity")


def two_to(exponent: int) -> Fraction:
    """2^exponent, exactly."""
    return Fraction(1 << exponent) if exponent >= 0 else Fraction(1, 1 << -exponent)


def exponent_of(value: Fraction) -> int:
    """The e of 2^e <= abs(value) < 2^(e+1); ``value`` is not 0."""
    n, d = abs(value.numerator), value.denominator
    e = n.bit_length() - d.bit_length()  # that, or one less
    below = n << -e < d if e < 0 else n < d << e
    return e - 1 if below else e


@dataclass(frozen=True)
class Format:
    """An IEEE binary interchange format, or one built like it. Patterns are ints below ``1 << bits``."""

    name: str
    exponent_bits: int
    fraction_bits: int

    @property
    def p(self) -> int:
        """Bits of the significand, the implied one included."""
        return self.fraction_bits + 1

    @property
    def bits(self) -> int:
        """Bits of a pattern."""
        return 1 + self.exponent_bits + self.fraction_bits

    @property
    def emax(self) -> int:
        """Exponent of the largest numbers; also the bias."""
        return (1 << (self.exponent_bits - 1)) - 1

    @property
    def emin(self) -> int:
        """Exponent of the smallest normal number."""
        return 1 - self.emax

    @property
    def sign_bit(self) -> int:
        """The pattern of -0."""
        return 1 << (self.bits - 1)

    @property
    def infinity_bits(self) -> int:
        """The pattern of +infinity: exponent all ones, fraction 0."""
        return ((1 << self.exponent_bits) - 1) << self.fraction_bits

    @property
    def nan_bits(self) -> int:
        """The pattern of the quiet NaN that operations give: the fraction's leading bit set, no payload."""
        return self.infinity_bits | 1 << (self.fraction_bits - 1)

    @property
    def largest(self) -> Fraction:
        """The largest finite value: (2 - 2^(1-p)) 2^emax."""
        return (2 - self.epsilon) * two_to(self.emax)

    @property
    def smallest_normal(self) -> Fraction:
        """2^emin."""
        return two_to(self.emin)

    @property
    def smallest_subnormal(self) -> Fraction:
        """2^(emin-p+1), the unit that every finite value is a multiple of."""
        return two_to(self.emin - self.p + 1)

    @property
    def epsilon(self) -> Fraction:
        """From 1 to the next value: 2^(1-p)."""
        return two_to(1 - self.p)

    @property
    def overflows_from(self) -> Fraction:
        """The midpoint above `largest`: it, and what is beyond, rounds to infinity."""
        return self.largest + self.spacing(self.largest) / 2

    @property
    def flushed_up_to(self) -> Fraction:
        """Half of `smallest_subnormal`: it, and what is below, rounds to zero."""
        return self.smallest_subnormal / 2

    def spacing(self, value: Fraction) -> Fraction:
        """The ulp at ``value``: 2^(e-p+1) with its exponent e, which is at least emin.

        Where the format has a value on either side of the same exponent, this is how far apart they are.
        """
        e = exponent_of(value) if value else self.emin
        return two_to(max(e, self.emin) - self.p + 1)

    def encode(self, number: Number) -> int:
        """The pattern of ``number``, rounded once to the nearest value, ties to the even pattern.

        With e the exponent, at least emin, and k = value / 2^(e-p+1) rounded to an integer, the pattern is
        (e - emin) 2^(p-1) + k: the implied bit of k adds 1 to the exponent field, and a k of 2^p carries into it.
        """
        if number.is_nan:
            return self.nan_bits
        sign = self.sign_bit if number.negative else 0
        if number.is_infinite:
            return sign | self.infinity_bits
        if not number.fraction:
            return sign
        e = max(exponent_of(number.fraction), self.emin)
        n, d = abs(number.fraction.numerator), number.fraction.denominator
        shift = e - self.p + 1
        n, d = (n, d << shift) if shift >= 0 else (n << -shift, d)
        k, rest = divmod(n, d)
        if 2 * rest > d or (2 * rest == d and k & 1):
            k += 1
        return sign | min(((e - self.emin) << self.fraction_bits) + k, self.infinity_bits)

    def decode(self, pattern: int) -> Number:
        """The value of a pattern. NaNs lose sign and payload: they are not part of a value."""
        sign, exponent, fraction = self.fields(pattern)
        if exponent == (1 << self.exponent_bits) - 1:
            return NAN if fraction else infinity(bool(sign))
        significand = fraction if exponent == 0 else fraction | 1 << self.fraction_bits
        magnitude = significand * two_to(max(exponent, 1) - self.emax - self.fraction_bits)
        return Number(-magnitude if sign else magnitude, bool(sign))

    def round_to(self, value: Fraction) -> Number:
        """The value of this format nearest to ``value``; an infinity beyond the largest."""
        return self.decode(self.encode(finite(value)))

    def fields(self, pattern: int) -> tuple[int, int, int]:
        """Sign, biased exponent and fraction of a pattern.

        Raises:
            ValueError: the pattern has more bits than the format.
        """
        if not 0 <= pattern < 1 << self.bits:
            raise ValueError(f"{pattern:#x}: {self.name} has patterns of {self.bits} bits")
        exponent = pattern >> self.fraction_bits & ((1 << self.exponent_bits) - 1)
        return pattern >> (self.bits - 1), exponent, pattern & ((1 << self.fraction_bits) - 1)

    def split(self, pattern: int) -> tuple[str, str, str]:
        """The fields as strings of binary digits."""
        sign, exponent, fraction = self.fields(pattern)
        return str(sign), f"{exponent:0{self.exponent_bits}b}", f"{fraction:0{self.fraction_bits}b}"

    def hex(self, pattern: int) -> str:
        """The pattern as ``0x`` and its hexadecimal digits, leading zeros included."""
        return f"0x{pattern:0{self.bits // 4}x}"

    def kind(self, pattern: int) -> Kind:
        """IEEE class of a pattern, without its sign."""
        _, exponent, fraction = self.fields(pattern)
        if exponent == 0:
            return "subnormal" if fraction else "zero"
        if exponent == (1 << self.exponent_bits) - 1:
            return "NaN" if fraction else "infinity"
        return "normal"

    def ulp(self, pattern: int) -> Fraction | None:
        """`spacing` at a pattern; None for infinities and NaN."""
        number = self.decode(pattern)
        return self.spacing(number.fraction) if number.is_finite else None

    def significant_bits(self, pattern: int) -> int:
        """Bits from the leading 1 to the end: p for normal numbers, fewer for subnormals, else 0."""
        kind = self.kind(pattern)
        if kind == "subnormal":
            return self.fields(pattern)[2].bit_length()
        return self.p if kind == "normal" else 0

    def next_up(self, pattern: int) -> int:
        """The next larger value; NaN and +infinity stay. Either zero is followed by the smallest subnormal."""
        if self.kind(pattern) == "NaN" or pattern == self.infinity_bits:
            return pattern
        if pattern == self.sign_bit:
            return 1
        return pattern - 1 if pattern & self.sign_bit else pattern + 1

    def next_down(self, pattern: int) -> int:
        """The next smaller value; NaN and -infinity stay."""
        if self.kind(pattern) == "NaN":
            return pattern
        return self.next_up(pattern ^ self.sign_bit) ^ self.sign_bit


FLOAT16 = Format("float16", 5, 10)
BFLOAT16 = Format("bfloat16", 8, 7)
FLOAT32 = Format("float32", 8, 23)
FLOAT64 = Format("float64", 11, 52)
FORMATS = (FLOAT16, BFLOAT16, FLOAT32)
