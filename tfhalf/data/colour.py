"""Colours of a batch of images changed at random, on whatever device the batch lies."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfhalf.config import Colour
from tfhalf.data.augment import Draws

LARGEST = 255.0
# Of red, green and blue in a pixel's gray, ITU-R BT.601, as Pillow and torchvision have them.
_LUMA = np.asarray([0.299, 0.587, 0.114], np.float32)
_SALT = 18
_STEPS = 2**16


def colour(x_NHWC: Any, draws: Draws, config: Colour | None) -> Any:
    """Change brightness, contrast, saturation and hue of each image by factors of its own.

    The first three are affine in the pixels, and the gray mean that contrast pulls toward is the same before and after
    saturation: but for clipping in between they give the same in any order. They are one expression here, clipped once;
    torchvision, which ColorJitter is of, clips after each and draws the order.

    Args:
        x_NHWC: uint8, or floats in 0..255, [N, H, W, C]; hue and saturation change images of three channels alone.

    Returns:
        Float32 in 0..255, not rounded; ``x_NHWC`` where ``config`` is None.
    """
    if config is None:
        return x_NHWC
    drawn = tf.cast(draws.integers(_SALT, 0, _STEPS + 1, 4), tf.float32)[:, :, None, None, None] / _STEPS
    x = tf.cast(x_NHWC, tf.float32)
    of_three = x.shape[-1] == 3
    if config.saturation and of_three:
        x = blend(x, gray(x), _factor(config.saturation, drawn[:, 0]))
    if config.contrast:
        x = blend(x, gray_mean(x), _factor(config.contrast, drawn[:, 1]))
    if config.brightness:
        x *= _factor(config.brightness, drawn[:, 2])
    x = tf.clip_by_value(x, 0.0, LARGEST)
    return turned(x, (2 * drawn[:, 3] - 1) * config.hue) if config.hue and of_three else x


def _factor(spread: float, drawn: Any) -> Any:
    """In [max(0, 1 - spread), 1 + spread], for ``drawn`` in 0..1."""
    least = max(0.0, 1.0 - spread)
    return least + drawn * (1.0 + spread - least)


def blend(x: Any, other: Any, factor: Any) -> Any:
    """``factor`` of ``x`` and the rest of ``other``: 0 is ``other``, 1 is ``x``, and more leads away from ``other``."""
    return other + factor * (x - other)


def gray(x_NHWC: Any) -> Any:
    """Float32 [N, H, W, C] as gray, [N, H, W, 1]."""
    if x_NHWC.shape[-1] != 3:
        return tf.reduce_mean(x_NHWC, -1, keepdims=True)
    return tf.reduce_sum(x_NHWC * _LUMA, -1, keepdims=True)


def gray_mean(x_NHWC: Any) -> Any:
    """The mean gray of each image, float32 [N, 1, 1, 1]."""
    return tf.reduce_mean(gray(x_NHWC), [1, 2], keepdims=True)


def turned(x_NHWC: Any, share: Any) -> Any:
    """Float32 RGB in 0..255 with its hue turned by ``share`` of the circle, [N, 1, 1, 1]; value and saturation stay
    (A. R. Smith, "Color Gamut Transform Pairs", SIGGRAPH 1978)."""
    red, green, blue = tf.split(x_NHWC, 3, -1)
    value = tf.reduce_max(x_NHWC, -1, keepdims=True)
    spread = value - tf.reduce_min(x_NHWC, -1, keepdims=True)
    by = tf.where(spread > 0, spread, tf.ones_like(spread))
    sixths = tf.where(
        value == red,
        (green - blue) / by,
        tf.where(value == green, 2 + (blue - red) / by, 4 + (red - green) / by),
    )
    # A channel falls from `value` by `spread` as far as the hue is from that channel's sector of the circle.
    distance = tf.math.floormod(sixths + 6 * share + np.asarray([5, 3, 1], np.float32), 6.0)
    return value - spread * tf.clip_by_value(tf.minimum(distance, 4 - distance), 0.0, 1.0)
