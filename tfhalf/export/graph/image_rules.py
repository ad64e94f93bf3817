"""Rules of `decompose` for images: colours, kinds of resizing, and what turns and bends them."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfhalf.export.graph.decompose import Operator, wide


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


def projective(operator: Operator, images: Any, transforms: Any, size: Any, fill: Any) -> Any:
    """Each new pixel from where a projective transform says, after TensorFlow's ``ProjectiveGenerator``.

    Args:
        images: [N, H, W, C], of a known size.
        transforms: [N, 8] or [1, 8].
        size: the new height and width, of which TensorFlow can tell what they are.
    """
    height, width, channels = images.shape[1:]
    rows, columns = tf.zeros(size).shape  # which knows sizes that are computed of shapes
    if None in (height, width, rows, columns) or not images.dtype.is_floating:
        return None
    y, x = (v.astype(np.float32) for v in np.divmod(np.arange(rows * columns), columns))
    t = [transforms[:, k : k + 1] for k in range(8)]
    scale = t[6] * x + t[7] * y + 1
    safe = tf.where(tf.equal(scale, 0), tf.ones_like(scale), scale)
    bend = _BENDS[operator.attribute("fill_mode").s.decode() or "CONSTANT"]
    across = bend((t[0] * x + t[1] * y + t[2]) / safe, width)
    down = bend((t[3] * x + t[4] * y + t[5]) / safe, height)
    count = tf.shape(images)[0]
    first = tf.range(count)[:, None] * (height * width)
    pixels = tf.reshape(wide(images), [-1, channels])

    def read(row: Any, column: Any) -> Any:
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        index = tf.clip_by_value(row, 0, height - 1) * width + tf.clip_by_value(column, 0, width - 1)
        values = tf.gather(pixels, first + tf.cast(index, tf.int32))
        return tf.where(inside[..., None], values, fill)

    if operator.attribute("interpolation").s == b"NEAREST":
        answer = read(*(tf.sign(v) * tf.floor(tf.abs(v) + 0.5) for v in (down, across)))
    else:
        top, left = tf.floor(down), tf.floor(across)
        dy, dx = (down - top)[..., None], (across - left)[..., None]
        upper = (1 - dx) * read(top, left) + dx * read(top, left + 1)
        lower = (1 - dx) * read(top + 1, left) + dx * read(top + 1, left + 1)
        answer = (1 - dy) * upper + dy * lower
    answer = tf.where(tf.equal(scale, 0)[..., None], fill, answer)
    return tf.cast(tf.reshape(answer, [-1, rows, columns, channels]), images.dtype)


def _reflected(x: Any, side: int) -> Any:
    """``d c b a | a b c d | d c b a``."""
    turn = tf.math.floormod(x, np.float32(2 * side))
    return tf.clip_by_value(tf.where(turn >= side, 2 * side - 1 - turn, turn), 0, side - 1)


def _wrapped(x: Any, side: int) -> Any:
    """``a b c d | a b c d | a b c d``."""
    last = np.float32(max(side - 1, 1))
    below = x + side * (tf.floor(-x / last) + 1)
    above = x - side * tf.floor(x / last)
    return tf.clip_by_value(tf.where(x < 0, below, tf.where(x > side - 1, above, x)), 0, side - 1)


_BENDS = {
    "CONSTANT": lambda x, side: x,
    "NEAREST": lambda x, side: tf.clip_by_value(x, 0, side - 1),
    "REFLECT": _reflected,
    "WRAP": _wrapped,
}
"""What becomes of places outside of an image."""
