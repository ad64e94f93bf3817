"""Random changes to a batch of training images, on whatever device the batch lies.

Every draw is a function of (seed, step) and an image's row in the batch, so a run that is taken up again draws what it
would have drawn, and so do several devices that share a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tfhalf.config import Augment

# The same generator on every device, compiled or not: "auto_select" would differ between them.
_ALGORITHM = "philox"


@dataclass(frozen=True)
class Draws:
    """What is drawn for the rows of one step's batch, of which this device has a part.

    Args:
        seed: of the training.
        step: int32 scalar, counted from the start of training.
        rows: on this device, a number or a scalar.
        device, devices: which part of the batch these rows are, of so many parts of one length.
    """

    seed: int
    step: Any
    rows: Any
    device: int = 0
    devices: int = 1

    def integers(self, salt: int, low: Any, high: Any, *shape: int) -> Any:
        """Int32 [rows, *shape] in low..high-1. What has a ``salt`` of its own, 0..255, is drawn apart from all else.

        Whole numbers alone: XLA makes other floats of the same bits.
        """
        apart = self.seed * 8 + salt % 8 + (salt // 8) * 2**34  # a seed is below 2^31
        key = tf.stack([tf.constant(apart, tf.int64), tf.cast(self.step, tf.int64)])
        rows = [self.rows * self.devices, *shape]
        drawn = tf.random.stateless_uniform(rows, key, low, high, tf.int32, alg=_ALGORITHM)
        return drawn if self.devices == 1 else drawn[self.device * self.rows :][: self.rows]


def augment(
    x_NHWC: Any, index: Any, draws: Draws, *, config: Augment, epoch: Any, masks: Any = None
) -> tuple[Any, Any]:
    """Flip and crop one batch, and the ``masks`` of its images with them.

    Args:
        x_NHWC: any dtype, [N, H, W, C].
        masks: int32 [N, H, W], or None. Where zeros are padded to an image its mask is -1, which does not count.
        index: int32 [N], each image's place in the training set; alternating flips go by it.
        epoch: int32 scalar, counted from the start of training.

    Returns:
        Both, of the same shapes and dtypes.
    """
    if config.flip != "none":
        flip = _flips(index, config.flip, draws, epoch)
        x_NHWC = tf.where(flip[:, None, None, None], tf.reverse(x_NHWC, [2]), x_NHWC)
        if masks is not None:
            masks = tf.where(flip[:, None, None], tf.reverse(masks, [2]), masks)
    if config.crop:
        x_NHWC = _crop(x_NHWC, config, draws)
        if masks is not None:  # shifted by one, so that what is padded with zeros becomes -1
            masks = _crop(masks[..., None] + 1, config, draws)[..., 0] - 1
    return x_NHWC, masks


def cutout(x_NHWC: Any, draws: Draws, *, size: int) -> Any:
    """Set a ``size`` x ``size`` square of each normalised image to 0, its centre drawn uniformly (DeVries and Taylor,
    arXiv:1708.04552)."""
    if not size:
        return x_NHWC
    shape = tf.shape(x_NHWC)
    outside = []
    for axis, salt in ((1, 3), (2, 4)):
        centre = draws.integers(salt, 0, shape[axis])
        first = centre[:, None] - size // 2
        position = tf.range(shape[axis])[None]
        outside.append((position < first) | (position >= first + size))
    keep = outside[0][:, :, None] | outside[1][:, None, :]
    return x_NHWC * tf.cast(keep, x_NHWC.dtype)[..., None]


def _flips(index: Any, kind: str, draws: Draws, epoch: Any) -> Any:
    """``random``: a coin per image and step. ``alternating`` (Jordan, arXiv:2404.00498, section 3.6): a coin per image
    once, then the other side every epoch, so that each pair of epochs shows both."""
    if kind == "random":
        return draws.integers(1, 0, 2) == 1
    mixed = tf.bitwise.bitwise_xor(tf.cast(index, tf.uint32) + tf.constant(draws.seed % 2**31, tf.uint32), 0x9E3779B9)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):  # an integer hash; its lowest bit is the coin
        mixed = tf.bitwise.bitwise_xor(mixed, tf.bitwise.right_shift(mixed, tf.constant(shift, tf.uint32)))
        mixed *= tf.constant(factor, tf.uint32)
    mixed = tf.bitwise.bitwise_xor(mixed, tf.bitwise.right_shift(mixed, tf.constant(16, tf.uint32)))
    return (tf.cast(mixed % 2, tf.int32) + epoch) % 2 == 1


def _crop(x_NHWC: Any, config: Augment, draws: Draws) -> Any:
    """Pad by ``crop`` pixels on each side and cut the original size out at a random place."""
    pad, height, width = config.crop, x_NHWC.shape[1], x_NHWC.shape[2]
    mode = "REFLECT" if config.crop_padding == "reflect" else "CONSTANT"
    padded = tf.pad(x_NHWC, [[0, 0], [pad, pad], [pad, pad], [0, 0]], mode)
    offset = draws.integers(2, 0, 2 * pad + 1, 2)
    rows = offset[:, :1] + tf.range(height)[None]
    columns = offset[:, 1:] + tf.range(width)[None]
    padded = tf.gather(padded, rows, axis=1, batch_dims=1)
    return tf.gather(padded, columns, axis=2, batch_dims=1)
