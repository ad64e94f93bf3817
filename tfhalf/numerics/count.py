"""Numbers counted by exponent within a compiled step: nothing but counts leaves the device."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfhalf.numerics.histogram import BINS, HIGH, LOW

_INFINITY = 0x7F800000


def bins(x: Any) -> Any:
    """The bin of `tfhalf.numerics.histogram` for each number of ``x``, a float tensor: int32, of its shape.

    From the bits, since no logarithm is exact at the edges: half an ulp of 11 bits is added, and what carries into the
    exponent field counts as the next exponent.
    """
    bits = tf.bitwise.bitwise_and(tf.bitcast(tf.cast(x, tf.float32), tf.int32), 0x7FFFFFFF)
    exponents = tf.bitwise.right_shift(tf.minimum(bits, _INFINITY) + 0x1000, 23) - 127
    ordinary = tf.clip_by_value(exponents, LOW, HIGH) - (LOW - 1)
    return tf.where(bits == 0, 0, tf.where(bits >= _INFINITY, BINS - 1, ordinary))


def histogram(x: Any, xla: bool) -> Any:
    """Counts of the numbers of ``x`` (any shape, fewer than 2^31), int64 [BINS].

    Args:
        xla: whether XLA compiles this. It makes a scatter of a bincount, whose additions to so few places wait for each
            other; comparing every number with every bin is one pass that reads ``x`` only.
    """
    return (_compared if xla else _counted)(_flat(x))


def largest(x: Any) -> Any:
    """The largest finite magnitude in ``x``, a float32 scalar; 0 where there is none."""
    return _largest(_flat(x))


def lost_updates(before: Any, after: Any) -> Any:
    """How many weights moved, and how many of those would not have in float16 and in bfloat16: int64 [3].

    With the weight w and its update u: u is lost where w, rounded to the format, plus u, rounded again, is w rounded.

    Args:
        before, after: the float32 weights, of one shape.
    """
    return _lost_updates(_flat(before), _flat(after))


# --- traced once for all tensors of a net, which took most of the time until a first step was measured ----------------

_NUMBERS = tf.TensorSpec([None], tf.float32)


def _flat(x: Any) -> Any:
    return tf.reshape(tf.cast(x, tf.float32), [-1])


@tf.function(input_signature=[_NUMBERS], autograph=False)
def _compared(x: Any) -> Any:
    return tf.cast(tf.reduce_sum(tf.cast(tf.range(BINS)[:, None] == bins(x)[None, :], tf.int32), 1), tf.int64)


@tf.function(input_signature=[_NUMBERS], autograph=False)
def _counted(x: Any) -> Any:
    return tf.cast(tf.math.bincount(bins(x), minlength=BINS, maxlength=BINS), tf.int64)


@tf.function(input_signature=[_NUMBERS], autograph=False)
def _largest(x: Any) -> Any:
    return tf.maximum(tf.reduce_max(tf.where(tf.math.is_finite(x), tf.abs(x), 0.0)), 0.0)


@tf.function(input_signature=[_NUMBERS, _NUMBERS], autograph=False)
def _lost_updates(before: Any, after: Any) -> Any:
    update = after - before
    moved = update != 0
    counts = [moved]
    for dtype in (tf.float16, tf.bfloat16):
        stored = tf.cast(before, dtype)
        changed = tf.cast(tf.cast(stored, tf.float32) + update, dtype)
        counts.append(moved & (changed == stored))
    return tf.stack([tf.reduce_sum(tf.cast(count, tf.int64)) for count in counts])
