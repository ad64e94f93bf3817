"""Rules of `decompose` for images: colours, and kinds of resizing."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfhalf.export.decompose import Operator


def rgb_to_hsv(x: Any) -> Any:
    """Hue, saturation and value, each from 0 to 1, of the last axis."""
    red, green, blue = tf.unstack(x, axis=-1)
    value, least = tf.reduce_max(x, -1), tf.reduce_min(x, -1)
    spread = value - least
    some = spread > 0
    safe = tf.where(some, spread, tf.ones_like(spread))
    hue = tf.where(
        tf.equal(red, value),
        (green - blue) / safe,
        tf.where(tf.equal(green, value), 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = tf.where(some, hue / 6, tf.zeros_like(hue))
    hue = tf.where(hue < 0, hue + 1, hue)
    saturation = tf.where(value > 0, spread / tf.where(value > 0, value, tf.ones_like(value)), tf.zeros_like(value))
    return tf.stack([hue, saturation, value], -1)


def hsv_to_rgb(x: Any) -> Any:
    """Red, green and blue of hue, saturation and value in the last axis."""
    hue, saturation, value = tf.unstack(x, axis=-1)
    turn = hue * 6
    parts = [tf.abs(turn - 3) - 1, 2 - tf.abs(turn - 2), 2 - tf.abs(turn - 4)]
    colours = [(1 + saturation * (tf.clip_by_value(part, 0.0, 1.0) - 1)) * value for part in parts]
    return tf.stack(colours, -1)


def as_products(operator: Operator, images: Any, size: Any) -> Any:
    """Resize as a product with one matrix for the rows and one for the columns: each new pixel is a weighted sum.

    The weights are what TensorFlow's own operator makes of the identity matrix. LiteRT has neither operator, and
    onnxruntime makes no image smaller by the cubic one.

    Args:
        images: [N, H, W, C], of a known size.
        size: the new height and width, constant.
    """
    height, width, channels = images.shape[1:]
    target = tf.get_static_value(size)
    if height is None or width is None or target is None:
        return None
    rows, columns = _weights(operator, height, target[0]), _weights(operator, width, target[1])
    wide = tf.reshape(tf.cast(images, tf.float32), [-1, height, width * channels])
    tall = tf.reshape(tf.matmul(rows, wide), [-1, width, channels])
    return tf.reshape(tf.matmul(columns, tall), [-1, len(rows), len(columns), channels])


def _weights(operator: Operator, side: int, target: int) -> np.ndarray:
    """Float32 [target, side]."""
    eye = np.eye(side, dtype=np.float32).reshape(1, side, 1, side)
    size, corners = np.array([target, 1], np.int32), operator.attribute("align_corners").b
    with tf.init_scope():  # at once, not in the function that is traced
        if operator.node.op == "ResizeBicubic":
            centers = operator.attribute("half_pixel_centers").b
            answer = tf.raw_ops.ResizeBicubic(images=eye, size=size, align_corners=corners, half_pixel_centers=centers)
        else:
            answer = tf.raw_ops.ResizeArea(images=eye, size=size, align_corners=corners)
        return np.asarray(answer)[0, :, 0]
