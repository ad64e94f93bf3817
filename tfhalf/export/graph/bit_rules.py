"""Rules of `decompose` for the bits of integers, of which LiteRT has ``^`` and ``>>`` alone, for 32 bits and fewer."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfhalf.export.graph.decompose import Operator

_HALF_WORD = 16


def both(operator: Operator, x: Any, y: Any) -> Any:
    """``x & y``: half of what ``x + y`` has above ``x ^ y``, for 16 bits at a time, whose sum 32 hold."""
    if x.dtype.size > 4:
        return None
    a, b = (tf.cast(v, tf.int32) for v in (x, y))
    (high, low), (high_y, low_y) = _halves(a), _halves(b)
    upper, lower = _common(high, high_y), _common(low, low_y)
    return tf.cast(upper * 2**_HALF_WORD + lower, x.dtype)


def either(operator: Operator, x: Any, y: Any) -> Any:
    """``x | y``: what one of them has, and what both have."""
    if x.dtype.size > 4:
        return None
    a, b = (tf.cast(v, tf.int32) for v in (x, y))
    return tf.cast(tf.bitwise.bitwise_xor(a, b) + both(operator, a, b), x.dtype)


def opposite(operator: Operator, x: Any) -> Any:
    """``~x``."""
    if not x.dtype.is_integer or x.dtype.size > 4:
        return None
    return tf.bitwise.bitwise_xor(x, tf.constant(x.dtype.max if x.dtype.is_unsigned else -1, x.dtype))


def shifted_left(operator: Operator, x: Any, places: Any) -> Any:
    """``x << places``: a product with a power of two; beyond the last bit, TensorFlow's own says nothing."""
    if x.dtype.size > 4:
        return None
    last = 8 * x.dtype.size - 1
    powers = np.left_shift(np.int64(1), np.arange(last + 1)).astype(np.int32)
    shift = tf.clip_by_value(tf.cast(places, tf.int32), 0, last)
    return tf.cast(tf.cast(x, tf.int32) * tf.gather(powers, shift), x.dtype)


def _halves(x: Any) -> tuple[Any, Any]:
    """The upper 16 bits with their sign, and the lower ones without."""
    upper = tf.bitwise.right_shift(x, _HALF_WORD)
    return upper, x - upper * 2**_HALF_WORD


def _common(x: Any, y: Any) -> Any:
    return tf.bitwise.right_shift(x + y - tf.bitwise.bitwise_xor(x, y), 1)
