"""Numbers counted by exponent: against numpy's float16, at every scale, and the loss scale that follows."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfhalf.numerics import count, scale_proposal
from tfhalf.numerics.histogram import BINS, EMPTY, HIGH, LOW, Histogram, together

SPECIAL = np.float32(
    [
        *(0.0, -0.0, np.inf, -np.inf, np.nan),
        *(65504, 65519.996, 65520, 65536, -65520, 1e30),
        *(2.0**-14, np.nextafter(np.float32(2.0**-14), np.float32(0)), 2.0**-24, 2.0**-25, 2.0**-26, 1.5 * 2.0**-25),
        *(1e-30, 1e-45, -1e-40),
    ]
)


def numbers(seed: int = 0, size: int = 5000) -> np.ndarray:
    """Float32 of all magnitudes from 2^-45 to 2^20, with zeros."""
    draw = np.random.default_rng(seed)
    x = draw.choice([-1, 1], size) * np.exp2(draw.uniform(-45, 20, size)) * draw.choice([0, 1], size, p=[0.1, 0.9])
    return np.asarray(x, np.float32)


@pytest.mark.parametrize("xla", [False, True])
def test_in_a_compiled_step_it_counts_as_numpy_does(xla: bool) -> None:
    function = tf.function(lambda x: (count.histogram(x, xla), count.largest(x)), jit_compile=xla)
    for x in (SPECIAL, numbers().reshape(50, 100), np.zeros((3, 0), np.float32)):
        counts, top = function(tf.constant(x))
        expected = Histogram.of(x)
        np.testing.assert_array_equal(counts.numpy(), expected.counts)
        assert float(top) == expected.largest
        assert int(counts.numpy().sum()) == x.size


def test_what_is_special() -> None:
    found = Histogram.of(SPECIAL)
    assert (found.zeros, found.non_finite, found.finite) == (2, 3, len(SPECIAL) - 3)
    assert found.largest == np.float32(1e30)
    assert found.exponents[15 - LOW] == 2  # 65504 and 65519.996, which rounds to it
    assert found.exponents[16 - LOW] == 3  # 65520, which rounds to infinity, and 65536
    assert found.exponents[0] == 3
    assert found.exponents[-1] == 1


@pytest.mark.parametrize("shift", [0, 3, 11, 24])
def test_shares_are_what_float16_makes_of_the_numbers(shift: int) -> None:
    x = np.concatenate([numbers(shift), SPECIAL[5:11]]) * np.float32(1)
    shares = Histogram.of(x).shares(shift)
    scaled = x.astype(np.float64) * 2.0**shift
    with np.errstate(over="ignore"):
        half = np.abs(scaled.astype(np.float32).astype(np.float16).astype(np.float64))
    alive = x != 0
    assert shares.zero == np.mean(~alive)
    assert shares.overflowed == np.mean(np.isinf(half))
    assert shares.flushed == pytest.approx(np.mean(alive & (half == 0)), abs=1e-3)
    assert shares.below == pytest.approx(np.mean(alive & (np.abs(scaled) < 2.0**-24)), abs=1e-3)
    subnormal = np.mean((np.abs(scaled) >= 2.0**-24) & (np.abs(scaled) < 2.0**-14))
    assert shares.subnormal == pytest.approx(subnormal, abs=1e-3)
    assert shares.zero + shares.below + shares.subnormal + shares.normal + shares.overflowed == pytest.approx(1)


@settings(max_examples=30)
@given(st.integers(0, 24), st.integers(0, 2**16))
def test_a_scale_moves_the_counts(shift: int, seed: int) -> None:
    """Counting what was multiplied, and multiplying what was counted, is the same."""
    x = numbers(seed, 200)
    assert Histogram.of(x).shares(shift) == Histogram.of(x * np.float32(2.0**shift)).shares()


def test_together() -> None:
    x, y = numbers(1), 3 * numbers(2)
    both = together([Histogram.of(x), Histogram.of(y)])
    np.testing.assert_array_equal(both.counts, Histogram.of(np.concatenate([x, y])).counts)
    assert both.largest == np.abs(np.concatenate([x, y])).max()
    assert together([]).finite == 0
    assert EMPTY.shares().normal == 0
    assert EMPTY.quantile(0.5) is None


def test_quantiles_are_exponents() -> None:
    found = Histogram.of(np.float32([0, 0, 1, 1.5, 2, 4, 1000]))
    assert [found.quantile(q) for q in (0.01, 0.4, 0.5, 1)] == [0, 0, 1, 9]


def test_counts_have_their_shape() -> None:
    with pytest.raises(ValueError, match=rf"\({BINS},\) are needed, received \(3,\)"):
        Histogram(np.zeros(3))
    assert HIGH - LOW + 3 == BINS


def test_lost_updates_are_those_of_numpy() -> None:
    draw = np.random.default_rng(0)
    before = draw.normal(size=4000).astype(np.float32)
    update = (draw.normal(size=4000) * np.exp2(draw.uniform(-20, 0, 4000))).astype(np.float32)
    update[:100] = 0
    after = before + update
    moved = after != before
    half = before.astype(np.float16)
    same = (half.astype(np.float32) + (after - before)).astype(np.float16) == half
    found = count.lost_updates(tf.constant(before), tf.constant(after)).numpy().tolist()
    assert found[:2] == [moved.sum(), (moved & same).sum()]
    assert found[0] > found[2] > found[1] > 0  # bfloat16 loses more
    # 2048 + 1 is 2048 in float16, and 256 + 1 is 256 in bfloat16.
    one = count.lost_updates(tf.constant([2048.0, 2046.0, 256.0]), tf.constant([2049.0, 2047.0, 257.0]))
    assert one.numpy().tolist() == [3, 1, 3]


# --- the loss scale ---------------------------------------------------------------------------------------------------


def at(**counts: int) -> Histogram:
    """Counts by exponent: ``at(m20=5)`` is five numbers in [2^-20, 2^-19)."""
    made = np.zeros(BINS, np.int64)
    for name, number in counts.items():
        made[int(name.replace("m", "-").removeprefix("p")) - LOW + 1] = number
    return Histogram(made)


def test_the_proposed_scale_keeps_the_headroom() -> None:
    found = scale_proposal.propose([at(m30=100, m20=1000, m5=1)])
    assert found.exponent == 17  # 2^-5 x 2^17 is in [2^12, 2^13): eight times as much is below 2^16
    assert found.losses[17].total == found.losses[17].flushed == 0
    assert found.lowest == 5  # from there on 2^-30 is at least 2^-25
    assert found.losses[0].flushed == pytest.approx(100 / 1101)
    assert found.losses[21].overflowed == pytest.approx(1 / 1101)


def test_kinds_of_gradients_weigh_the_same() -> None:
    few, many = at(m40=1, m10=1), at(m10=10**9)
    assert scale_proposal.loss([few, many], 0).flushed == pytest.approx(0.25)
    assert scale_proposal.loss([EMPTY], 0) == scale_proposal.Loss(0, 0, 0, 0)


def test_zeros_do_not_count() -> None:
    zeros = np.zeros(BINS, np.int64)
    zeros[0] = 1000
    assert scale_proposal.loss([at(m40=1, m10=1) + Histogram(zeros)], 0).flushed == pytest.approx(0.5)


def test_gradients_too_large_for_any_scale_and_none_at_all() -> None:
    assert scale_proposal.propose([at(p15=1, m3=5)]).exponent == 0
    nothing = scale_proposal.propose([])
    assert (nothing.exponent, nothing.lowest) == (24, 0)
