"""Stages of a training, each with a program of its own: smaller images first, weights that stand still after a while.

Progressive resizing, by which a net sees more images in the same time, as fast.ai's DAWNBench entries had it (J.
Howard, 2018) and M. Tan and Q. Le, "EfficientNetV2", arXiv:2104.00298, section 4. Weights that stand still spare the
gradient that would have to reach them: A. Brock et al., "FreezeOut", arXiv:1706.04983.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfhalf.errors import ConfigError
from tfhalf.train.job import Job


class Stage(NamedTuple):
    """What sets the epochs of a stage apart: the ``size`` (height and width) that images are scaled down to, None for
    their own; and the places, among the step's variables, of those that are ``frozen``."""

    size: int | None = None
    frozen: tuple[int, ...] = ()


PLAIN = Stage()


class Stages:
    """Which stage belongs to which epoch.

    Args:
        sizes: `config.Train.sizes`.
        freeze_after: `config.Train.freeze_after`.
        paths: of the variables that are trained, in the step's order.

    Raises:
        ConfigError: the images are not square, or a size is larger than they are; a pattern matches no variable, or no
            variable is left to train.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        epochs: int,
        input_shape: tuple[int, ...],
        freeze_after: Mapping[str, int] | None = None,
        paths: Sequence[str] = (),
    ) -> None:
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
        self._last = _last_epochs(freeze_after or {}, paths)
        if paths and len(self.of(epochs - 1).frozen) == len(paths):
            raise ConfigError(
                f"train.freeze_after: {dict(freeze_after or {})} leaves nothing to train in the last epochs; narrow it"
            )

    def of(self, epoch: int) -> Stage:
        """The stage of ``epoch``, counted from 0."""
        size = self._parts[min(epoch * len(self._parts) // self._epochs, len(self._parts) - 1)]
        return Stage(size, tuple(place for place, last in self._last.items() if epoch >= last))

    @property
    def all(self) -> tuple[Stage, ...]:
        """Every stage, once, in the order of training."""
        return tuple(dict.fromkeys(self.of(epoch) for epoch in range(self._epochs)))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Every size that images are scaled down to, once."""
        return tuple(dict.fromkeys(size for size in self._parts if size is not None))


def _last_epochs(freeze_after: Mapping[str, int], paths: Sequence[str]) -> dict[int, int]:
    """Place of a variable: the number of epochs that train it, the fewest where several patterns match."""
    found: dict[int, int] = {}
    for pattern, epochs in freeze_after.items():
        places = [place for place, path in enumerate(paths) if re.search(pattern, path)]
        if not places:
            raise ConfigError(
                f"train.freeze_after: {pattern!r} matches no variable that is trained; there are "
                f"{', '.join(paths[:6])}, ..."
            )
        for place in places:
            found[place] = min(epochs, found.get(place, epochs))
    return found


def twins(model: keras.Model, job: Job, sizes: Sequence[int]) -> dict[int, keras.Model]:
    """For each size a net of the same variables as ``model``, built for images of that size. Its own values are never
    used: see `call`.

    Raises:
        ConfigError: the weights depend on the size of the images.
        RefError: the builder fails on that size.
    """
    found = {}
    for size in sizes:
        twin = job.model(size=size)
        for one, other in zip(model.variables, twin.variables, strict=False):
            if one.shape != other.shape:
                raise ConfigError(
                    f"train.sizes: {one.path} is of shape {tuple(one.shape)}, and of {tuple(other.shape)} for images "
                    f"of {size}x{size}; pool globally before the first dense layer, or leave train.sizes out"
                )
        if len(model.variables) != len(twin.variables):
            raise ConfigError(f"train.sizes: {job.builder.ref} builds another net for images of {size}x{size}")
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
