"""Images of a batch mixed with each other, and their targets with them.

Mixup: H. Zhang, M. Cisse, Y. Dauphin, D. Lopez-Paz, arXiv:1710.09412. CutMix: S. Yun et al., arXiv:1905.04899.

    share ~ Beta(alpha, alpha)
    mixup      x = share * x + (1 - share) * partner
    cutmix     x = partner within a box of the share 1 - share of the area, about a centre drawn uniformly, x outside;
               what of the box lies outside of the image is cut off, and share becomes what x keeps
    loss = share * loss(y) + (1 - share) * loss(y of the partner)

An image's partner is the one before it in the batch, the last one that of the first, as batches are drawn anew each
epoch; devices that share a batch mix the rows that each of them has. The authors draw one share for a batch; here each
image has its own, a function of (seed, step, row).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfhalf.config import Augment
from tfhalf.data.augment import Draws

_SALT_SHARE, _SALT_KIND, _SALT_MIXED, _SALT_ROW, _SALT_COLUMN = 19, 20, 21, 22, 23
STEPS = 2**16  # as many shares of a Beta distribution, all equally likely


class Mixed(NamedTuple):
    """Targets of mixed images: ``y`` [N, ...], or several by name, count for ``share`` float32 [N] of the loss, those
    of their `partners` for the rest."""

    y: Any
    share: Any

    @property
    def main(self) -> Any:
        """Of both targets the one that counts for more, as metrics take it."""
        own = self.share >= 0.5

        def larger(y: Any) -> Any:
            return tf.where(tf.reshape(own, [-1, *[1] * (y.shape.rank - 1)]), y, partners(y))

        return tf.nest.map_structure(larger, self.y)


def partners(values: Any) -> Any:
    """Of each row [N, ...] that of the image it is mixed with; of several tensors in a structure, too."""
    return tf.nest.map_structure(lambda one: tf.roll(one, 1, 0), values)


def mix(x_NHWC: Any, y: Any, draws: Draws, config: Augment) -> tuple[Any, Any]:
    """Mix a batch as ``config`` says: by mixup, by cutmix, or by one of both for each image.

    Args:
        x_NHWC: normalised, floats [N, H, W, C].
        y: targets [N, ...], or several by name.

    Returns:
        Images of that shape and dtype, and `Mixed` targets; both as they were where nothing is mixed.
    """
    if not config.mixes:
        return x_NHWC, y
    drawn = draws.integers(_SALT_SHARE, 0, STEPS)
    own, share = _blended(drawn, config.mixup) if config.mixup else _boxed(drawn, draws, config.cutmix, x_NHWC.shape)
    if config.mixup and config.cutmix:
        by_mixup = draws.integers(_SALT_KIND, 0, 2) == 1
        boxed, area = _boxed(drawn, draws, config.cutmix, x_NHWC.shape)
        own, share = tf.where(by_mixup[:, None, None], own, boxed), tf.where(by_mixup, share, area)
    if config.mix_probability < 1:
        mixed = draws.integers(_SALT_MIXED, 0, STEPS) < round(config.mix_probability * STEPS)
        own, share = tf.where(mixed[:, None, None], own, 1.0), tf.where(mixed, share, 1.0)
    own = tf.cast(own[..., None], x_NHWC.dtype)
    return own * x_NHWC + (1 - own) * partners(x_NHWC), Mixed(y, share)


def shares(alpha: float) -> npt.NDArray[np.float64]:
    """The quantiles of Beta(alpha, alpha) at the middles of `STEPS` equal steps, rising: one drawn evenly among them is
    distributed so, to 2^-17 in probability."""
    from scipy.special import betaincinv  # a tenth of a second, which most trainings need not wait for

    return np.asarray(betaincinv(alpha, alpha, (np.arange(STEPS) + 0.5) / STEPS), np.float64)


def _blended(drawn: Any, alpha: float) -> tuple[Any, Any]:
    """What each pixel keeps, float32 [N, 1, 1], and the share of the target, [N]."""
    share = tf.gather(tf.constant(shares(alpha), tf.float32), drawn)
    return share[:, None, None], share


def _boxed(drawn: Any, draws: Draws, alpha: float, shape: Any) -> tuple[Any, Any]:
    """1 where a pixel stays and 0 within the box, float32 [N, H, W], and the share of the pixels that stay, [N]."""
    side = np.sqrt(1 - shares(alpha))
    lines = []
    area: Any = 1
    for salt, length in ((_SALT_ROW, shape[1]), (_SALT_COLUMN, shape[2])):
        half = tf.gather(tf.constant((length * side).astype(np.int32) // 2), drawn)
        centre = draws.integers(salt, 0, length)
        first, end = tf.maximum(centre - half, 0), tf.minimum(centre + half, length)
        position = tf.range(length)[None]
        lines.append((position >= first[:, None]) & (position < end[:, None]))
        area *= end - first
    box = lines[0][:, :, None] & lines[1][:, None, :]
    pixels = shape[1] * shape[2]
    # Multiplied, since compilers divide by a constant in their own ways.
    return tf.cast(~box, tf.float32), tf.cast(pixels - area, tf.float32) * np.float32(1 / pixels)
