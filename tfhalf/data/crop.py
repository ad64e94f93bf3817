"""Random resized crops on the device: a box of each image, cut and resized in one, as two matrix products.

The crop is that of C. Szegedy et al., "Going Deeper with Convolutions", arXiv:1409.4842, section 6, with the draws of
torchvision's RandomResizedCrop: a share of the area, evenly, and a ratio of width to height, evenly in its logarithm;
of ten draws the first whose box fits, else the largest centred box of an allowed ratio.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from tfhalf.data.augment import Draws

SALT = 7
"""Of `Draws.integers`, for these crops alone."""
_TRIES = 10
_BITS = 19  # of a draw: times a side of up to 4096 px it is below 2^31
LARGEST_SIDE = 4096
"""Of a canvas, in pixels."""


class OnCanvas(NamedTuple):
    """Images of different sizes: ``pixels`` uint8 [N, Hc, Wc, C], each from the upper left corner on; ``sides`` int32
    [N, 2], the height and width of each. What lies beyond is never looked at."""

    pixels: Any
    sides: Any

    @classmethod
    def of(cls, x: Any) -> OnCanvas:
        """``x``, or images [N, H, W, C] that fill theirs."""
        if isinstance(x, cls):
            return x
        shape = tf.shape(x)
        return cls(x, tf.tile(shape[None, 1:3], [shape[0], 1]))


@dataclass(frozen=True)
class Crop:
    """A crop of each image, resized.

    Args:
        size: (height, width) that boxes are resized to.
        scale: of the image's area, least and most; None cuts nothing: the whole image is resized.
        ratio: of width to height, least and most.
        half: products of float16 values, which hold pixels exactly (bfloat16 does not hold weights well enough), with
            sums in float32; else float32.
    """

    size: tuple[int, int]
    scale: tuple[float, float] | None = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    half: bool = False

    def __call__(self, x: OnCanvas, draws: Draws, size: int | None = None) -> Any:
        """Float32 [N, H, W, C] in the units of ``x``, of `size`, or of ``size`` x ``size``."""
        height, width = self.size if size is None else (size, size)
        return resized(x.pixels, self.boxes(x.sides, draws), height, width, half=self.half)

    def boxes(self, sides: Any, draws: Draws) -> Any:
        """Int32 [N, 4]: the first row and column, the height and the width of each image's box, of ``sides`` [N, 2]."""
        if self.scale is None:
            return tf.concat([tf.zeros_like(sides), sides], -1)
        drawn = draws.integers(SALT, 0, 1 << _BITS, 2 * _TRIES + 2)
        even = tf.cast(drawn[:, : 2 * _TRIES], tf.float32) * 2.0**-_BITS
        heights, widths = _sides(sides, even[:, :_TRIES], even[:, _TRIES:], self.scale, self.ratio)
        fitting = (heights > 0) & (widths > 0) & (heights <= sides[:, :1]) & (widths <= sides[:, 1:])
        first = tf.argmax(tf.cast(fitting, tf.int32), -1, tf.int32)[:, None]
        box = tf.concat([tf.gather(values, first, axis=1, batch_dims=1) for values in (heights, widths)], -1)
        fits = tf.reduce_any(fitting, -1, keepdims=True)
        box = tf.where(fits, box, _centred(sides, self.ratio))
        start = tf.bitwise.right_shift(drawn[:, 2 * _TRIES :] * (sides - box + 1), tf.constant(_BITS, tf.int32))
        return tf.concat([tf.where(fits, start, (sides - box) // 2), box], -1)


def _sides(sides: Any, area: Any, shape: Any, scale: tuple[float, float], ratio: tuple[float, float]) -> Any:
    """Heights and widths of the boxes that draws in [0, 1) make, int32 [N, tries] each."""
    whole = tf.cast(sides[:, 0] * sides[:, 1], tf.float32)[:, None]
    target = whole * (scale[0] + area * (scale[1] - scale[0]))
    low, high = (math.log(value) for value in ratio)
    wide = tf.exp(low + shape * (high - low))
    return tuple(tf.cast(tf.round(tf.sqrt(value)), tf.int32) for value in (target / wide, target * wide))


def _centred(sides: Any, ratio: tuple[float, float]) -> Any:
    """The largest box of a ratio that is allowed, int32 [N, 2]."""
    height, width = (tf.cast(sides[:, axis], tf.float32) for axis in (0, 1))
    low = tf.minimum(height, tf.round(width / ratio[0]))  # narrow images: all of the width
    high = tf.minimum(width, tf.round(height * ratio[1]))  # wide ones: all of the height
    box = tf.stack(
        [tf.where(width < height * ratio[0], low, height), tf.where(width > height * ratio[1], high, width)], -1
    )
    return tf.maximum(tf.cast(box, tf.int32), 1)


def resized(x_NHWC: Any, boxes: Any, height: int, width: int, *, half: bool = False) -> Any:
    """Each image's box, resized: bilinear, each new pixel a mean over all that it covers, as Pillow and torchvision
    have it with antialiasing.

    Args:
        x_NHWC: numbers [N, H, W, C].
        boxes: int32 [N, 4], as `Crop.boxes`.
        half: compute in float16.

    Returns:
        Float32 [N, height, width, C].
    """
    kind = tf.float16 if half else tf.float32
    count, rows, columns, channels = (
        dimension or tf.shape(x_NHWC)[axis] for axis, dimension in enumerate(x_NHWC.shape)
    )
    down = _weights(boxes[:, 0], boxes[:, 2], rows, height, kind)
    across = _weights(boxes[:, 1], boxes[:, 3], columns, width, kind)
    lines = tf.reshape(tf.cast(x_NHWC, kind), [count, rows, columns * channels])
    lines = tf.reshape(tf.matmul(down, lines), [count, height, columns, channels])
    return tf.cast(tf.einsum("npwc,nqw->npqc", lines, across), tf.float32)


def _weights(start: Any, length: Any, old: Any, new: int, kind: Any) -> Any:
    """[N, new, old]: the share that an old pixel has in a new one, a triangle as wide as the scale; of pixels in
    ``start`` .. ``start + length`` [N] alone."""
    start, length = (tf.cast(value, tf.float32)[:, None, None] for value in (start, length))
    scale = length / new
    centres = start + (tf.range(new, dtype=tf.float32)[None, :, None] + 0.5) * scale
    pixels = tf.range(old, dtype=tf.float32)[None, None, :] + 0.5
    weights = tf.maximum(1 - tf.abs(pixels - centres) / tf.maximum(scale, 1), 0)
    weights = tf.where((pixels > start) & (pixels < start + length), weights, tf.zeros_like(weights))
    return tf.cast(weights / tf.reduce_sum(weights, -1, keepdims=True), kind)
