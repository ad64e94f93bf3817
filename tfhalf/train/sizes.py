"""Training on smaller images first: the net sees more of them in the same time.

Progressive resizing, as fast.ai's DAWNBench entries had it (J. Howard, 2018) and M. Tan and Q. Le, "EfficientNetV2",
arXiv:2104.00298, section 4.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfhalf.errors import ConfigError
from tfhalf.train.build import Builder


class Sizes:
    """Which size belongs to which epoch; None is the images' own.

    Raises:
        ConfigError: the images are not square, or a size is larger than they are.
    """

    def __init__(self, sizes: tuple[int, ...], epochs: int, input_shape: tuple[int, ...]) -> None:
        side = input_shape[0]
        if sizes and (len(input_shape) != 3 or input_shape[1] != side):
            raise ConfigError(f"train.sizes: needs square images, the data's are of shape {input_shape}; leave it out")
        for size in sizes:
            if size > side:
                raise ConfigError(
                    f"train.sizes: {size} is larger than the images, which are of {side}x{side} pixels; images are "
                    "only scaled down"
                )
        self._parts = tuple(None if size == side else size for size in sizes) or (None,)
        self._epochs = epochs

    def of(self, epoch: int) -> int | None:
        """The size in ``epoch``, counted from 0."""
        return self._parts[min(epoch * len(self._parts) // self._epochs, len(self._parts) - 1)]

    @property
    def all(self) -> tuple[int | None, ...]:
        """Every size, once, in the order of training."""
        return tuple(dict.fromkeys(self._parts))


def twins(model: keras.Model, builder: Builder, policy: str, sizes: Sizes) -> dict[int, keras.Model]:
    """For each size a net of the same variables as ``model``, built for images of that size. Its own values are never
    used: see `call`.

    Raises:
        ConfigError: the weights depend on the size of the images.
        RefError: the builder fails on that size.
    """
    found = {}
    for size in sizes.all:
        if size is None:
            continue
        twin = builder(policy, size=size)
        for one, other in zip(model.variables, twin.variables, strict=False):
            if one.shape != other.shape:
                raise ConfigError(
                    f"train.sizes: {one.path} is of shape {tuple(one.shape)}, and of {tuple(other.shape)} for images "
                    f"of {size}x{size}; pool globally before the first dense layer, or leave train.sizes out"
                )
        if len(model.variables) != len(twin.variables):
            raise ConfigError(f"train.sizes: {builder.ref} builds another net for images of {size}x{size}")
        found[size] = twin
    return found


def call(model: keras.Model, twin: keras.Model, x: Any) -> tuple[Any, list[Any]]:
    """What ``twin`` answers in training with the variables of ``model``, which take the changes; and its losses."""
    pairs = list(zip(twin.variables, model.variables, strict=True))
    with keras.StatelessScope(state_mapping=[(theirs, ours.value) for theirs, ours in pairs]) as scope:
        answers, losses = twin(x, training=True), list(twin.losses)
    for theirs, ours in pairs:
        if scope.get_current_value(theirs) is not ours.value and not theirs.trainable:
            ours.assign(scope.get_current_value(theirs))
    return answers, losses


def scaled_down(x_NHWC: Any, size: int) -> Any:
    """Float32 [N, H, W, C] to [N, size, size, C]: bilinear, each pixel a mean over all that it covers."""
    rows, columns = (_weights(side, size) for side in x_NHWC.shape[1:3])
    return tf.einsum("ph,nhwc,qw->npqc", rows, x_NHWC, columns)


def _weights(old: int, new: int) -> np.ndarray:
    """Float32 [new, old]: the share that an old pixel has in a new one, a triangle as wide as the scale."""
    scale = old / new
    centres = (np.arange(new) + 0.5) * scale
    distance = np.abs(np.arange(old) + 0.5 - centres[:, None]) / scale
    weights = np.maximum(1 - distance, 0)
    shares: np.ndarray = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return shares
