"""Arithmetic in float16: against numpy on random and special patterns, fma and sums against exact rationals."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from tfhalf.float16 import arithmetic
from tfhalf.float16.formats import FLOAT16, FLOAT32, NAN, Number, finite, infinity

DECODED = [FLOAT16.decode(bits) for bits in range(1 << 16)]
SPECIAL = (
    0x0000,
    0x8000,
    0x0001,
    0x8001,
    0x03FF,
    0x0400,
    0x8400,
    0x3C00,
    0xBC00,
    0x3C01,
    0x7BFF,
    0xFBFF,
    0x7C00,
    0xFC00,
)
SPECIAL += (0x7E00, 0xFE00, 0x7C01, 0x3555, 0x6800, 0x1000)
NUMPY: dict[str, Callable[..., Any]] = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}


def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Patterns: any with any, any with one of similar size (cancellation, ties), and every special with every other."""
    random = np.random.default_rng(1)
    a = random.integers(0, 1 << 16, 70_000)
    b = random.integers(0, 1 << 16, 70_000)
    near = (a[:40_000] ^ random.choice([0, 0x8000], 40_000)) + random.integers(-3000, 3000, 40_000)
    some = np.array(list(itertools.product(SPECIAL, repeat=2)))
    first = np.concatenate([a, a[:40_000], some[:, 0]])
    second = np.concatenate([b, near % (1 << 16), some[:, 1]])
    return first.astype(np.uint16), second.astype(np.uint16)


@pytest.mark.parametrize("op", NUMPY)
def test_two_operands_against_numpy(op: str) -> None:
    """numpy computes in float32 and rounds to float16, and that is right although it rounds twice.

    24 bits are at least 2 * 11 + 2, so no float32 result lies on a midpoint of float16 unless the exact one does
    (Figueroa 1995, "When is double rounding innocuous?"). That counts 11 bits; fewer, in subnormals, do no harm:
    sums and products of float16 that are subnormal are exact in float32, and a quotient a/b keeps 2^-22 or more away
    from a midpoint of up to 11 bits, relative to it, where float32 rounds by 2^-24.
    """
    first, second = pairs()
    with np.errstate(all="ignore"):
        wanted = NUMPY[op](first.view(np.float16), second.view(np.float16))
    exact = arithmetic.OPERATIONS[op]
    got = [FLOAT16.encode(exact(DECODED[a], DECODED[b])) for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    ours, nan = np.array(got, np.uint16), np.isnan(wanted)
    np.testing.assert_array_equal(np.isnan(ours.view(np.float16)), nan)
    np.testing.assert_array_equal(ours[~nan], wanted.view(np.uint16)[~nan])
    assert set(ours[nan].tolist()) == {FLOAT16.nan_bits}
    assert nan.sum() > 1000


def test_products_in_float32_against_numpy() -> None:
    """A product of two float16 has 22 bits: float32 holds it."""
    random = np.random.default_rng(2)
    a, b = random.integers(0, 0x7C00, (2, 20_000)).astype(np.uint16)
    wanted = a.view(np.float16).astype(np.float32) * b.view(np.float16).astype(np.float32)
    got = [
        FLOAT32.encode(arithmetic.multiply(DECODED[x], DECODED[y])) for x, y in zip(a.tolist(), b.tolist(), strict=True)
    ]
    np.testing.assert_array_equal(np.array(got, np.uint32), wanted.view(np.uint32))


def nearest(value: Fraction) -> set[int]:
    """Patterns of float16 nearest to a value within its range, found among its neighbours rather than by rounding."""
    guess = int(np.float64(float(value)).astype(np.float16).view(np.uint16))
    around = {guess, FLOAT16.next_up(guess), FLOAT16.next_down(guess)}
    distances = {bits: abs(DECODED[bits].fraction - value) for bits in around if DECODED[bits].is_finite}
    least = min(distances.values())
    found = {bits for bits, distance in distances.items() if distance == least}
    even = {bits for bits in found if not bits & 1}
    return even if len(found) > 1 and even else found


def test_fused_multiply_add_against_exact_rationals() -> None:
    random = np.random.default_rng(3)
    a, b = random.integers(0x2C00, 0x4C00, (2, 30_000)) | random.choice([0, 0x8000], (2, 30_000))
    with np.errstate(all="ignore"):
        product = a.astype(np.uint16).view(np.float16) * b.astype(np.uint16).view(np.float16)
    c = np.where(random.random(30_000) < 0.5, (-product).view(np.uint16), random.integers(0, 0x7400, 30_000))
    twice = 0
    for x, y, z in zip(a.tolist(), b.tolist(), c.tolist(), strict=True):
        value = DECODED[x].fraction * DECODED[y].fraction + DECODED[z].fraction
        got = FLOAT16.encode(arithmetic.multiply_add(DECODED[x], DECODED[y], DECODED[z]))
        if value:
            assert got in nearest(value), (x, y, z)
        rounded = FLOAT16.decode(FLOAT16.encode(arithmetic.multiply(DECODED[x], DECODED[y])))
        twice += got != FLOAT16.encode(arithmetic.add(rounded, DECODED[z]))
    assert twice > 5000  # the products' errors are what -product leaves


ONE, ZERO, INF = finite(1), finite(0), infinity()


@pytest.mark.parametrize(
    ("op", "operands", "wanted"),
    [
        ("add", (INF, -INF), NAN),
        ("sub", (INF, INF), NAN),
        ("add", (INF, ONE), INF),
        ("sub", (ONE, INF), -INF),
        ("add", (-ZERO, -ZERO), -ZERO),
        ("add", (-ZERO, ZERO), ZERO),
        ("sub", (ONE, ONE), ZERO),
        ("sub", (-ZERO, ZERO), -ZERO),
        ("mul", (ZERO, -INF), NAN),
        ("mul", (-ONE, ZERO), -ZERO),
        ("mul", (-INF, -ONE), INF),
        ("div", (ZERO, ZERO), NAN),
        ("div", (INF, INF), NAN),
        ("div", (-ONE, ZERO), -INF),
        ("div", (ONE, -ZERO), -INF),
        ("div", (ONE, -INF), -ZERO),
        ("div", (INF, ZERO), INF),
        ("div", (INF, -ONE), -INF),
        ("fma", (INF, ZERO, ONE), NAN),
        ("fma", (INF, ONE, -INF), NAN),
        ("fma", (ONE, -ONE, ONE), ZERO),
        ("fma", (-ONE, ZERO, -ZERO), -ZERO),
        ("fma", (-ONE, ZERO, ZERO), ZERO),
        ("fma", (ONE, ONE, INF), INF),
        *((op, (NAN, ONE), NAN) for op in NUMPY),
        *((op, (ONE, NAN), NAN) for op in NUMPY),
        ("fma", (ONE, ONE, NAN), NAN),
        ("fma", (NAN, ONE, ONE), NAN),
    ],
)
def test_special_cases_of_ieee_754(op: str, operands: tuple[Number, ...], wanted: Number) -> None:
    assert arithmetic.OPERATIONS[op](*operands) == wanted


def test_a_result_that_underflows_keeps_its_sign() -> None:
    tiny = FLOAT16.decode(0x8001)
    assert FLOAT16.encode(arithmetic.multiply(tiny, FLOAT16.decode(1))) == 0x8000


def test_comparison() -> None:
    assert ZERO.equals(-ZERO)
    assert INF.equals(INF)
    assert not INF.equals(-INF)
    assert not INF.equals(ONE)
    assert not NAN.equals(NAN)
    assert (-NAN) == NAN


# --- sums -------------------------------------------------------------------------------------------------------------


def test_running_sums_against_numpy() -> None:
    random = np.random.default_rng(4)
    for size in (1, 2, 7, 500):
        terms = random.normal(size=size).astype(np.float16)
        bits = terms.view(np.uint16).tolist()
        assert arithmetic.running_sums(bits) == np.add.accumulate(terms).view(np.uint16).tolist()
        wide = np.add.accumulate(terms.astype(np.float32))[-1]
        assert arithmetic.float32_sum(bits) == int(wide.view(np.uint32))
        assert arithmetic.exact_sum([DECODED[b] for b in bits]).fraction == sum(Fraction(float(t)) for t in terms)


def test_pairwise_sums() -> None:
    random = np.random.default_rng(5)
    terms = random.random(256).astype(np.float16)
    level = terms
    while len(level) > 1:
        level = level[::2] + level[1::2]
    assert arithmetic.pairwise_sum(terms.view(np.uint16).tolist()) == int(level[0].view(np.uint16))
    odd = [FLOAT16.encode(finite(n)) for n in (2048, 1, 1, 1, 1)]  # (2048 + 1) + (1 + (1 + 1)) = 2048 + 3 = 2052
    assert DECODED[arithmetic.pairwise_sum(odd)] == finite(2052)


def test_ones_stop_at_2048() -> None:
    sums = arithmetic.running_sums([0x3C00] * 3000)
    assert DECODED[sums[-1]] == finite(2048)
    assert sums.index(sums[-1]) == 2047
    assert FLOAT32.decode(arithmetic.float32_sum([0x3C00] * 3000)) == finite(3000)
