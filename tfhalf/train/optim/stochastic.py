"""Rounding by chance, by which steps too small for float16 add up: TensorFlow alone has the bits of a number."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

_DROPPED = 13  # of a float32 mantissa's 23 bits; float16 has 10
_LEAST_NORMAL = 2.0**-14
_SALTS = 2**20  # variables that each have draws of their own


def rounded_by_chance(value: Any, seed: int, step: Any, salt: int) -> Any:
    """``value`` rounded to one of the two float16 numbers beside it, the nearer it the likelier, so that its mean is
    ``value``; a float16 number stays as it is.

    Of many updates below half of a last digit so many take effect as their sum says. S. Gupta, A. Agrawal,
    K. Gopalakrishnan and P. Narayanan, "Deep Learning with Limited Numerical Precision", arXiv:1502.02551, section 3;
    M. Croci et al., "Stochastic rounding: implementation, error analysis and applications", doi:10.1098/rsos.211631.

    Args:
        value: float32 of any shape.
        seed, salt: of the draws, beside ``step``: an integer scalar.

    Returns:
        Float32 of the same shape, numbers that float16 has.
    """
    value = tf.convert_to_tensor(value)
    key = tf.stack([tf.constant(seed, tf.int64), tf.cast(step, tf.int64) * _SALTS + salt])
    bits = tf.random.stateless_uniform(tf.shape(value), key, None, None, tf.uint32, alg="philox")
    drawn = tf.bitwise.right_shift(bits, tf.constant(32 - _DROPPED, tf.uint32))
    size = tf.abs(value)
    # Below float16's normal numbers the last digit no longer follows the size: there it is that of this addend.
    addend = tf.where(size < _LEAST_NORMAL, _LEAST_NORMAL, 0.0)
    pattern = tf.bitcast(size + addend, tf.uint32) + drawn
    kept = tf.bitwise.bitwise_and(pattern, tf.constant(2**32 - 2**_DROPPED, tf.uint32))
    return tf.where(tf.math.is_finite(value), tf.sign(value) * (tf.bitcast(kept, tf.float32) - addend), value)
