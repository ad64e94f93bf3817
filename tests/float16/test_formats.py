"""float16, bfloat16 and float32: every pattern of the small ones, and rounding, against numpy and ml_dtypes."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tfhalf.float16 import text
from tfhalf.float16.formats import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    NAN,
    Format,
    Number,
    exponent_of,
    finite,
    infinity,
    two_to,
)
from tfhalf.precision import cast as limits

PATTERNS = np.arange(1 << 16, dtype=np.uint16)
SIXTEEN: list[tuple[Format, Any]] = [(FLOAT16, np.float16), (BFLOAT16, ml_dtypes.bfloat16)]
TYPES = {FLOAT16: np.float16, BFLOAT16: ml_dtypes.bfloat16, FLOAT32: np.float32, FLOAT64: np.float64}
ids = [fmt.name for fmt, _ in SIXTEEN]


def as_float(number: Number) -> float:
    if number.is_nan:
        return math.nan
    if number.is_infinite or number.is_zero:
        return math.copysign(math.inf if number.is_infinite else 0.0, -1 if number.negative else 1)
    return float(number.fraction)


def as_number(value: float) -> Number:
    if not math.isfinite(value):
        return NAN if math.isnan(value) else infinity(value < 0)
    return finite(Fraction(value), negative_zero=math.copysign(1, value) < 0)


def same(ours: list[float], theirs: Any) -> None:
    """Equal to the bit, signs of zeros included; any NaN equals any."""
    with np.errstate(invalid="ignore"):  # signalling NaNs
        mine, other = np.array(ours, np.float64), np.asarray(theirs).astype(np.float64)
    nan = np.isnan(other)
    np.testing.assert_array_equal(np.isnan(mine), nan)
    np.testing.assert_array_equal(mine[~nan].view(np.uint64), other[~nan].view(np.uint64))


# --- every pattern of 16 bits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fmt", "dtype"), SIXTEEN, ids=ids)
def test_values(fmt: Format, dtype: Any) -> None:
    same([as_float(fmt.decode(bits)) for bits in range(1 << 16)], PATTERNS.view(dtype))


@pytest.mark.parametrize(("fmt", "dtype"), SIXTEEN, ids=ids)
def test_classes(fmt: Format, dtype: Any) -> None:
    with np.errstate(invalid="ignore"):  # signalling NaNs
        values = PATTERNS.view(dtype).astype(np.float64)
    smallest = float(ml_dtypes.finfo(dtype).smallest_normal)
    kinds = np.where(np.isnan(values), "NaN", np.where(np.isinf(values), "infinity", "normal"))
    kinds = np.where(np.abs(values) < smallest, np.where(values == 0, "zero", "subnormal"), kinds)
    assert [fmt.kind(bits) for bits in range(1 << 16)] == kinds.tolist()
    counts = {kind: int((kinds == kind).sum()) for kind in ("zero", "subnormal", "infinity", "NaN")}
    fractions = 1 << fmt.fraction_bits
    assert counts == {"zero": 2, "subnormal": 2 * (fractions - 1), "infinity": 2, "NaN": 2 * (fractions - 1)}


@pytest.mark.parametrize("fmt", [FLOAT16, BFLOAT16], ids=ids)
def test_encoding_a_value_gives_its_pattern_back(fmt: Format) -> None:
    for bits in range(1 << 16):
        number = fmt.decode(bits)
        assert fmt.encode(number) == (fmt.nan_bits if number.is_nan else bits)


@pytest.mark.parametrize(("fmt", "dtype"), SIXTEEN, ids=ids)
def test_neighbours(fmt: Format, dtype: Any) -> None:
    values = PATTERNS.view(dtype)
    for ours, towards in ((fmt.next_up, np.inf), (fmt.next_down, -np.inf)):
        with np.errstate(all="ignore"):
            theirs = np.nextafter(values, np.full_like(values, towards))
        same([as_float(fmt.decode(ours(bits))) for bits in range(1 << 16)], theirs)


def test_ulps() -> None:
    """numpy measures away from zero, so beyond the largest it finds infinity; and at negative powers of two inwards."""
    values = PATTERNS.view(np.float16)
    with np.errstate(all="ignore"):
        spacing = np.abs(np.spacing(values).astype(np.float64))
    ours = np.array([np.nan if (ulp := FLOAT16.ulp(bits)) is None else float(ulp) for bits in range(1 << 16)])
    power_of_two = (PATTERNS & 0x3FF == 0) & (PATTERNS > 0x8400) & (PATTERNS < 0xFC00)
    np.testing.assert_array_equal(spacing[power_of_two], ours[power_of_two] / 2)
    odd = np.isin(PATTERNS, (0x7BFF, 0xFBFF)) | power_of_two
    np.testing.assert_array_equal(ours[~odd], spacing[~odd])
    assert ours[0x7BFF] == ours[0xFBFF] == 32
    np.testing.assert_array_equal(ours[power_of_two], ours[(PATTERNS & 0x7FFF)[power_of_two]])


@pytest.mark.parametrize(("fmt", "dtype"), SIXTEEN, ids=ids)
def test_an_ulp_is_the_way_to_the_next_larger_magnitude(fmt: Format, dtype: Any) -> None:
    magnitudes = PATTERNS[: fmt.infinity_bits].view(dtype).astype(np.float64)
    gaps = np.diff(magnitudes)
    assert [float(fmt.ulp(bits) or 0) for bits in range(fmt.infinity_bits - 1)] == gaps.tolist()


def test_significant_bits() -> None:
    for bits in range(1 << 16):
        kind, magnitude = FLOAT16.kind(bits), bits & 0x7FFF
        wanted = {"normal": 11, "subnormal": math.frexp(magnitude)[1] if magnitude else 0}.get(kind, 0)
        assert FLOAT16.significant_bits(bits) == wanted


def test_fields() -> None:
    for bits in range(1 << 16):
        assert "".join(FLOAT16.split(bits)) == f"{bits:016b}"
    assert FLOAT16.split(0x3C00) == ("0", "01111", "0000000000")
    assert BFLOAT16.split(0xBF80) == ("1", "01111111", "0000000")
    assert [len(part) for part in FLOAT32.split(0)] == [1, 8, 23]
    assert FLOAT32.hex(1) == "0x00000001"
    with pytest.raises(ValueError, match="float16 has patterns of 16 bits"):
        FLOAT16.fields(1 << 16)


# --- rounding ---------------------------------------------------------------------------------------------------------


def test_every_midpoint_goes_to_the_even_pattern() -> None:
    """And the least bit beside it to the nearer one."""
    tiny = Fraction(1, 10**400)
    for bits in range(FLOAT16.infinity_bits):
        low = FLOAT16.decode(bits).fraction
        middle = low + FLOAT16.spacing(low) / 2
        even = bits + (bits & 1)
        assert FLOAT16.encode(finite(middle)) == even
        assert FLOAT16.encode(finite(middle - tiny)) == bits
        assert FLOAT16.encode(finite(-middle - tiny)) == 0x8000 | bits + 1


def random_floats(count: int) -> np.ndarray:
    """Float64: evenly over exponents from 2^-30 to 2^20, and ties of float16 and what is next to them."""
    random = np.random.default_rng(7)
    spread = np.exp2(random.uniform(-30, 20, count)) * random.choice([-1, 1], count)
    ties = (PATTERNS[:0x7C00].view(np.float16).astype(np.float64)[:-1] + np.diff(
        PATTERNS[:0x7C00].view(np.float16).astype(np.float64)) / 2)  # fmt: skip
    beside = [ties, np.nextafter(ties, np.inf), np.nextafter(ties, -np.inf), -ties]
    edges = [65519.999, 65520.0, -65520.0, 2.0**-25, np.nextafter(2.0**-25, 1), -(2.0**-25), 1e300, 5e-324, 0.0, -0.0]
    return np.concatenate([spread, *beside, edges])


def test_rounding_of_float64_to_float16() -> None:
    values = random_floats(100_000)
    with np.errstate(over="ignore", under="ignore"):
        wanted = values.astype(np.float16).view(np.uint16)
    assert [FLOAT16.encode(as_number(value)) for value in values.tolist()] == wanted.tolist()


def test_rounding_of_float32_to_bfloat16() -> None:
    random = np.random.default_rng(8)
    values = random.integers(0, 1 << 32, 100_000, dtype=np.uint32).view(np.float32)
    values = values[np.isfinite(values)]
    wanted = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    assert [BFLOAT16.encode(as_number(value)) for value in values.tolist()] == wanted.tolist()


def test_rounding_of_float64_to_float32() -> None:
    random = np.random.default_rng(9)
    values = np.exp2(random.uniform(-155, 130, 50_000)) * random.choice([-1, 1], 50_000)
    with np.errstate(over="ignore", under="ignore"):
        wanted = values.astype(np.float32).view(np.uint32)
    assert [FLOAT32.encode(as_number(value)) for value in values.tolist()] == wanted.tolist()


def test_rounding_of_decimals_to_float64() -> None:
    """Python reads decimals correctly rounded."""
    random = np.random.default_rng(10)
    for exponent in random.integers(-330, 310, 3_000).tolist():
        written = f"{random.integers(10**18)}{random.integers(10**18)}e{exponent - 36}"
        assert FLOAT64.encode(finite(Fraction(written))) == int(np.float64(written).view(np.uint64))


def test_one_rounding_where_float64_would_make_two() -> None:
    tie = Fraction(2049, 2048)  # between 1 and 1 + 2^-10
    above = tie + Fraction(1, 10**20)
    assert float(above) == float(tie)
    assert FLOAT16.encode(finite(above)) == 0x3C01
    assert FLOAT16.encode(as_number(float(above))) == 0x3C00
    assert FLOAT16.round_to(above) == finite(Fraction(1025, 1024))


def test_rounding_beyond_the_ends() -> None:
    for fmt in TYPES:
        tiny = fmt.smallest_subnormal / 10**9
        assert fmt.encode(finite(fmt.overflows_from)) == fmt.infinity_bits
        assert fmt.round_to(fmt.overflows_from - tiny) == finite(fmt.largest)
        assert fmt.encode(finite(-fmt.flushed_up_to)) == fmt.sign_bit
        assert fmt.round_to(fmt.flushed_up_to + tiny) == finite(fmt.smallest_subnormal)
        assert fmt.encode(infinity(True)) == fmt.sign_bit | fmt.infinity_bits
        assert fmt.encode(-infinity(True)) == fmt.infinity_bits


# --- facts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", TYPES, ids=lambda fmt: fmt.name)
def test_facts(fmt: Format) -> None:
    info = ml_dtypes.finfo(TYPES[fmt])
    assert float(fmt.largest) == float(info.max)
    assert float(fmt.smallest_normal) == float(info.smallest_normal)
    assert float(fmt.smallest_subnormal) == float(info.smallest_subnormal)
    assert float(fmt.epsilon) == float(info.eps)
    assert (fmt.bits, fmt.fraction_bits, fmt.emin) == (info.bits, info.nmant, info.minexp)


def test_facts_of_float16() -> None:
    assert (FLOAT16.exponent_bits, FLOAT16.fraction_bits, FLOAT16.p, FLOAT16.emax, FLOAT16.emin) == (5, 10, 11, 15, -14)
    assert FLOAT16.largest == limits.MAX == 65504
    assert FLOAT16.smallest_normal == limits.SMALLEST_NORMAL
    assert FLOAT16.smallest_subnormal == limits.SMALLEST_SUBNORMAL
    assert FLOAT16.overflows_from == 65520
    assert [FLOAT16.spacing(Fraction(n)) for n in (1024, 2047, 2048, 4095, 4096)] == [1, 1, 2, 2, 4]


def test_integers_are_exact_up_to_2048() -> None:
    assert all(FLOAT16.round_to(Fraction(n)).fraction == n for n in range(-2048, 2049))
    assert FLOAT16.round_to(Fraction(2049)).fraction == 2048


def test_exponents() -> None:
    for e in range(-60, 60):
        assert exponent_of(two_to(e)) == exponent_of(-two_to(e)) == e
        assert exponent_of(two_to(e) * Fraction(10**30 + 1, 10**30)) == e
        assert exponent_of(two_to(e) * Fraction(10**30 - 1, 10**30)) == e - 1


# --- numbers as text --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_shortest_decimals_of_float16() -> None:
    """Against numpy's; those of negative numbers are the same behind a minus."""
    for bits in [*range(0, FLOAT16.infinity_bits, 3), *range(0, FLOAT16.infinity_bits, 1024)]:  # and powers of two
        short = text.shortest(FLOAT16, bits)
        assert float(short) == float(str(PATTERNS[bits].view(np.float16)))
        assert text.shortest(FLOAT16, bits | 0x8000) == f"-{short}"


@pytest.mark.slow
def test_shortest_decimals_of_bfloat16_read_back() -> None:
    for bits in range(0, BFLOAT16.infinity_bits, 3):
        short = text.shortest(BFLOAT16, bits)
        assert BFLOAT16.encode(finite(Fraction(short))) == bits
        assert len(short.replace(".", "").partition("e")[0].strip("0")) <= 4


@pytest.mark.slow
def test_shortest_decimals_of_wider_formats() -> None:
    random = np.random.default_rng(11)
    for bits in random.integers(0, FLOAT64.infinity_bits, 2_000).tolist():
        assert text.shortest(FLOAT64, bits) == repr(float(np.uint64(bits).view(np.float64)))
    for bits in random.integers(0, FLOAT32.infinity_bits, 2_000).tolist():
        assert float(text.shortest(FLOAT32, bits)) == float(str(np.uint32(bits).view(np.float32)))
    assert text.shortest(FLOAT64, int(np.float64(2.0**-44).view(np.uint64))) == "5.684341886080802e-14"


def test_exact_decimals() -> None:
    for fmt, step in ((FLOAT16, 1), (BFLOAT16, 37)):
        for bits in range(0, 1 << 16, step):
            number = fmt.decode(bits)
            if number.is_finite:
                assert Fraction(text.exact(number)) == number.fraction
    assert text.exact(FLOAT16.decode(1)) == "0.000000059604644775390625"
    assert text.exact(FLOAT32.smallest_subnormal) == (
        "1.40129846432481707092372958328991613128026194187651577175706828388979108268586060148663818836212158203125e-45"
    )
    assert [text.exact(n) for n in (finite(0), finite(0, True), infinity(), infinity(True), NAN)] == [
        "0", "-0", "inf", "-inf", "nan"]  # fmt: skip
    assert [text.exact(Fraction(n)) for n in ("1/3", "-7/5", "2000", "1e21", "12e-12")] == [
        "1/3", "-1.4", "2000", "1e+21", "1.2e-11"]  # fmt: skip
    assert text.exact(Fraction(10**5000)) == "~1e+5000"


def test_a_few_digits() -> None:
    shown = [
        text.brief(Fraction(n)) for n in ("0", "0.1", "-2.44140625e-5", "2048", "123456", "1/3", "1e-5000", "-3e9")
    ]
    assert shown == ["0", "0.1", "-2.441e-05", "2048", "123500", "0.3333", "1e-5000", "-3e+09"]
    assert [text.power(two_to(e)) for e in (-14, 0, 5, 100)] == ["2^-14 = 6.104e-05", "1", "32", "2^100 = 1.268e+30"]
    assert text.cut("0.1234567890", 8) == "0.123..."
    assert text.cut("1.234567890e-45", 12) == "1.234...e-45"
