"""RandAugment over a batch of images: each gets operations of its own, all computed at once.

E. Cubuk, B. Zoph, J. Shlens, Q. Le, "RandAugment", arXiv:1909.13719 (2019). Operations and magnitudes are those of
torchvision's ``transforms.RandAugment`` (torchvision/transforms/autoaugment.py), for a share ``m`` of the largest
magnitude, 30:

    identity
    shear x, y          by 0.3 m, about the upper left corner
    translate x, y      by 150 / 331 m of the width, the height; whole pixels
    rotate              by 30 m degrees, about the centre, plus being anticlockwise
    brightness, colour, contrast, sharpness     a factor 1 - 0.9 m or 1 + 0.9 m, 0 being black, gray, the mean, smooth
    posterize           keeps 8 - round(4 m) bits
    solarize            inverts from 255 (1 - m) on
    autocontrast, equalize

Each sign is a coin. The nearest pixel is taken, and what lies outside of an image is black.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfhalf.config import RandAugment
from tfhalf.data.augment import Draws
from tfhalf.data.colour import LARGEST, blend, gray, gray_mean

OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("brightness", "colour", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
LARGEST_MAGNITUDE = 30
_NUMBER = {name: number for number, name in enumerate(OPERATIONS)}
_SALT_OPERATION, _SALT_SIGN = 16, 17
_POINT = 16  # bits behind the point of positions
_EQUALIZED_TOGETHER = (8, 4, 2, 1)  # images


def rand_augment(x_NHWC: Any, draws: Draws, config: RandAugment | None) -> Any:
    """Apply ``config.layers`` operations to each image, drawn for it.

    Args:
        x_NHWC: uint8, or floats in 0..255, which are rounded; [N, H, W, C] of one channel or three, sides up to 4096.

    Returns:
        Uint8 of that shape: a byte a value is read and written between operations; ``x_NHWC`` where ``config`` is None.
    """
    if config is None:
        return x_NHWC
    operations = draws.integers(_SALT_OPERATION, 0, len(OPERATIONS), config.layers)
    signs = draws.integers(_SALT_SIGN, 0, 2, config.layers)
    x = x_NHWC if x_NHWC.dtype == tf.uint8 else _bytes(tf.cast(x_NHWC, tf.float32))
    for layer in range(config.layers):
        x = apply(x, operations[:, layer], signs[:, layer], config.magnitude)
    return x


def apply(x_NHWC: Any, operation: Any, sign: Any, magnitude: int) -> Any:
    """One operation on each image.

    Args:
        x_NHWC: uint8.
        operation: int32 [N], a number in `OPERATIONS`.
        sign: int32 [N], 0 for minus and 1 for plus.

    Returns:
        Uint8 of the same shape.
    """
    share = magnitude / LARGEST_MAGNITUDE
    kind = 2 * operation + sign
    height, width = x_NHWC.shape[1:3]
    x = _warped(x_NHWC, tf.gather(tf.constant(_matrices(height, width, share)), kind))
    x = _blended(x, operation, _of_image(tf.gather(tf.constant(_factors(share)), kind)))
    chosen = {name: _of_image(operation == _NUMBER[name]) for name in ("posterize", "solarize", "autocontrast")}
    lost = 8 - _bits(share)
    x = tf.where(chosen["posterize"], tf.bitwise.bitwise_and(x, tf.constant(256 - 2**lost, tf.uint8)), x)
    bright = tf.cast(x, tf.float32) >= LARGEST * (1 - share)
    x = tf.where(chosen["solarize"] & bright, tf.constant(255, tf.uint8) - x, x)
    x = tf.where(chosen["autocontrast"], _stretched(x), x)
    return _equalized(x, operation == _NUMBER["equalize"])


def _bits(share: float) -> int:
    return 8 - round(4 * share)


def _of_image(values: Any) -> Any:
    """[N] as [N, 1, 1, 1]."""
    return values[:, None, None, None]


def _bytes(x: Any) -> Any:
    """Floats to the nearest of 0..255, uint8."""
    return tf.cast(tf.round(tf.clip_by_value(x, 0.0, LARGEST)), tf.uint8)


# --- shapes -----------------------------------------------------------------------------------------------------------


def _matrices(height: int, width: int, share: float) -> npt.NDArray[np.int32]:
    """Where each operation, with minus and with plus, takes a pixel from: int32 [28, 6], the rows (a, b, c, d, e, f) of

        column = a x + b y + c,    row = d x + e y + f

    for the pixel whose middle is (x, y), with `_POINT` bits behind the point.
    """
    rows = []
    for name in OPERATIONS:
        for sign in (-1, 1):
            a, b, c, d, e, f = 1.0, 0.0, 0.0, 0.0, 1.0, 0.0
            if name == "shear_x":
                b = sign * 0.3 * share
            elif name == "shear_y":
                d = sign * 0.3 * share
            elif name == "translate_x":
                c = sign * int(150 / 331 * width * share)
            elif name == "translate_y":
                f = sign * int(150 / 331 * height * share)
            elif name == "rotate":
                angle = sign * math.radians(30 * share)
                a, b, d, e = math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)
                c = (width - a * width - b * height) / 2
                f = (height - d * width - e * height) / 2
            rows.append((a, b, c, d, e, f))
    return np.asarray(np.rint(np.asarray(rows) * 2**_POINT), np.int32)


def _warped(x_NHWC: Any, matrix: Any) -> Any:
    """Each image by its matrix of `_matrices`, int32 [N, 6], by one gather; whole numbers, as Pillow computes them, so
    that every device takes the same pixels."""
    height, width, channels = x_NHWC.shape[1:]
    x, y = 2 * tf.range(width)[None, None, :] + 1, 2 * tf.range(height)[None, :, None] + 1  # twice a pixel's middle
    a, b, c, d, e, f = tf.unstack(matrix[:, :, None, None], axis=1)
    column = tf.bitwise.right_shift(a * x + b * y + 2 * c, _POINT + 1)
    row = tf.bitwise.right_shift(d * x + e * y + 2 * f, _POINT + 1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = tf.where(inside, row * width + column, 0)
    flat = tf.reshape(x_NHWC, [-1, height * width, channels])
    taken = tf.gather(flat, tf.reshape(index, [-1, height * width]), batch_dims=1)
    return tf.where(inside[..., None], tf.reshape(taken, [-1, height, width, channels]), tf.constant(0, x_NHWC.dtype))


# --- colours ----------------------------------------------------------------------------------------------------------


def _factors(share: float) -> npt.NDArray[np.float32]:
    """What `_blended` keeps of an image under each operation, with minus and with plus, float32 [28]."""
    moved = {"brightness", "colour", "contrast", "sharpness"}
    return np.asarray(
        [1 + sign * 0.9 * share * (name in moved) for name in OPERATIONS for sign in (-1, 1)], dtype=np.float32
    )


def _blended(x_NHWC: Any, operation: Any, factor: Any) -> Any:
    """``factor`` of each image, and the rest of what its operation pulls toward."""
    x = tf.cast(x_NHWC, tf.float32)
    toward: Any = tf.zeros_like(x)
    for name, other in (("colour", gray(x)), ("contrast", gray_mean(x)), ("sharpness", _smooth(x))):
        toward = tf.where(_of_image(operation == _NUMBER[name]), other, toward)
    return _bytes(blend(x, toward, factor))


def _smooth(x_NHWC: Any) -> Any:
    """Each pixel five times, and its eight neighbours, a thirteenth of the sum; at the edges as it was (Pillow's
    SMOOTH)."""
    height, width = x_NHWC.shape[1:3]
    rows = x_NHWC[:, :-2] + x_NHWC[:, 1:-1] + x_NHWC[:, 2:]
    inner = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * x_NHWC[:, 1:-1, 1:-1]
    inner = tf.pad(tf.round(inner / 13), [[0, 0], [1, 1], [1, 1], [0, 0]])
    edge = np.ones((height, width), bool)
    edge[1:-1, 1:-1] = False
    return tf.where(edge[None, :, :, None], x_NHWC, inner)


def _stretched(x_NHWC: Any) -> Any:
    """Each channel from 0 to 255; one of a single value as it is."""
    x = tf.cast(x_NHWC, tf.float32)
    least, most = (reduce(x, [1, 2], keepdims=True) for reduce in (tf.reduce_min, tf.reduce_max))
    spread = most - least
    flat = spread == 0
    scale = LARGEST / tf.where(flat, tf.ones_like(spread), spread)
    return _bytes(tf.where(flat, x, (x - least) * scale))


def _equalized(x_NHWC: Any, chosen: Any) -> Any:
    """The images that are ``chosen``, bool [N], with as many pixels of each value as of any other.

    A histogram is many additions to few counters, the dearest of all operations here, and one image in fourteen needs
    it: those alone are gone through, a few at a time.
    """
    images = x_NHWC.shape[0]
    together = next(size for size in _EQUALIZED_TOGETHER if size == 1 or (images and images % size == 0))
    ones = tf.cast(chosen, tf.int32)
    count = tf.reduce_sum(ones)
    rank = tf.where(chosen, tf.cumsum(ones), count + tf.cumsum(1 - ones)) - 1  # the chosen ones first

    def some(start: Any, x: Any) -> tuple[Any, Any]:
        ranked = rank == (start + tf.range(together))[:, None]
        rows = tf.reduce_sum(tf.where(ranked, tf.range(tf.shape(x)[0]), 0), 1)
        before = tf.gather(x, rows)
        after = tf.where(_of_image(start + tf.range(together) < count), equalize(before), before)
        return start + together, tf.tensor_scatter_nd_update(x, rows[:, None], after)

    shapes = [tf.TensorShape([]), x_NHWC.shape]
    return tf.while_loop(lambda start, _: start < count, some, [tf.constant(0), x_NHWC], shapes)[1]


def equalize(x_NHWC: Any) -> Any:
    """Uint8 images, each channel by its histogram, as Pillow's ``ImageOps.equalize``."""
    height, width, channels = x_NHWC.shape[1:]
    images = tf.shape(x_NHWC)[0]
    value = tf.reshape(tf.cast(x_NHWC, tf.int32), [-1, height * width, channels])
    bin_of = value + 256 * (tf.range(images)[:, None, None] * channels + tf.range(channels))
    counts = tf.math.unsorted_segment_sum(tf.ones_like(bin_of), bin_of, images * channels * 256)
    counts = tf.reshape(counts, [images, channels, 256])
    largest = tf.reduce_max(value, 1)
    of_largest = tf.gather(counts, largest, batch_dims=2)
    step = ((height * width - of_largest) // 255)[..., None]
    table = (tf.cumsum(counts, -1, exclusive=True) + step // 2) // tf.maximum(step, 1)
    table = tf.where(step == 0, tf.range(256), tf.clip_by_value(table, 0, 255))
    return tf.reshape(tf.cast(tf.gather(tf.reshape(table, [-1]), bin_of), tf.uint8), tf.shape(x_NHWC))
