"""Stages of a training, each with a program of its own: smaller images first, weights that stand still after a while.

Progressive resizing, by which a net sees more images in the same time, as fast.ai's DAWNBench entries had it (J.
Howard, 2018) and M. Tan and Q. Le, "EfficientNetV2", arXiv:2104.00298, section 4. Weights that stand still spare the
gradient that would have to reach them: A. Brock et al., "FreezeOut", arXiv:1706.04983.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfhalf import config
from tfhalf.errors import ConfigError
from tfhalf.precision.policy import flat_layers, layer_path
from tfhalf.train.batches import Batches
from tfhalf.train.job import Job


class Stage(NamedTuple):
    """What sets the epochs of a stage apart.

    ``size``: height and width that images are scaled down to, None for their own. ``frozen``: places, among the step's
    variables, of those that stand still; ``still``: places, among `norms`, of those that do. ``rate``: what the
    learning rate is multiplied by. ``batch_size``: None for the pipeline's.
    """

    size: int | None = None
    frozen: tuple[int, ...] = ()
    still: tuple[int, ...] = ()
    rate: float = 1.0
    batch_size: int | None = None


PLAIN = Stage()


class Stages:
    """Which stage belongs to which epoch.

    Args:
        sizes: `config.Train.sizes`.
        freeze_after: `config.Train.freeze_after`.
        paths: of the variables that are trained, in the step's order.
        parts: `config.Train.stages`, in place of ``sizes`` and ``freeze_after``.
        norms: for each of the model's `norms` its path, then those of its variables.
        peak: `config.Optimizer.learning_rate`.
        batches: how large they are; None where all are as large.

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
        parts: Sequence[config.Stage] = (),
        norms: Sequence[tuple[str, ...]] = (),
        peak: float = 1.0,
        batches: Batches | None = None,
    ) -> None:
        side = input_shape[0] if input_shape else 0  # several inputs have no one shape
        reduced = [part.size for part in parts if part.size is not None] or sizes
        _check_sizes("train.stages" if parts else "train.sizes", reduced, input_shape)
        self._parts = tuple(None if size == side else size for size in sizes) or (None,)
        self._epochs, self._batches = epochs, batches
        self._last = _last_epochs(freeze_after or {}, paths)
        self._each: list[Stage] = []  # of every epoch, where the pipeline says them one by one
        for number, part in enumerate(parts):
            frozen, still = _frozen(f"train.stages[{number}].freeze", part.freeze, paths, norms)
            rate = part.learning_rate / peak if part.learning_rate else 1.0
            self._each += [Stage(None if part.size == side else part.size, frozen, still, rate)] * part.epochs
        if paths and len(self.of(epochs - 1).frozen) == len(paths):
            raise ConfigError(
                f"train.freeze_after: {dict(freeze_after or {})} leaves nothing to train in the last epochs; narrow it"
            )

    def of(self, epoch: int, falls: int = 0) -> Stage:
        """The stage of ``epoch``, counted from 0; ``falls`` as in `Batches`."""
        batch_size = self._batches.size(epoch, falls) if self._batches else None
        stage = self._stage(epoch)
        return stage if not self._batches or batch_size == self._batches.base else stage._replace(batch_size=batch_size)

    def _stage(self, epoch: int) -> Stage:
        if self._each:
            return self._each[min(epoch, len(self._each) - 1)]
        size = self._parts[min(epoch * len(self._parts) // self._epochs, len(self._parts) - 1)]
        return Stage(size, tuple(index for index, last in self._last.items() if epoch >= last))

    @property
    def all(self) -> tuple[Stage, ...]:
        """Every stage that there may be, once, in the order of training."""
        falls = self._batches.falls if self._batches else range(1)
        return tuple(dict.fromkeys(self.of(epoch, count) for count in falls for epoch in range(self._epochs)))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Every size that images are scaled down to, once."""
        listed = [stage.size for stage in self._each] or self._parts
        return tuple(dict.fromkeys(size for size in listed if size is not None))


def _check_sizes(key: str, sizes: Sequence[int], input_shape: tuple[int, ...]) -> None:
    side = input_shape[0] if input_shape else 0  # several inputs have no one shape
    if sizes and (len(input_shape) != 3 or input_shape[1] != side):
        raise ConfigError(f"{key}: needs square images, the data's are of shape {input_shape}; leave it out")
    for size in sizes:
        if size > side:
            raise ConfigError(
                f"{key}: {size} is larger than the images, which are of {side}x{side} pixels; images are "
                "only scaled down"
            )


def _frozen(
    key: str, patterns: Sequence[str], paths: Sequence[str], norms: Sequence[tuple[str, ...]]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The places of variables and of norms that stand still where ``patterns`` do not train."""
    frozen: set[int] = set()
    still: set[int] = set()
    for pattern in patterns:
        here = {index for index, path in enumerate(paths) if _matches(pattern, path)}
        whole = {index for index, (path, *inner) in enumerate(norms) if _whole(pattern, path, inner)}
        if not here and not whole:
            raise ConfigError(
                f"{key}: {pattern!r} matches no variable that is trained; there are {', '.join(paths[:6])}, ..."
            )
        frozen, still = frozen | here, still | whole
    if paths and len(frozen) == len(paths):
        raise ConfigError(f"{key}: {list(patterns)} leaves nothing to train; narrow it")
    return tuple(sorted(frozen)), tuple(sorted(still))


def _matches(pattern: str, path: str) -> bool:
    """Whether it is in the path of a variable, or of its layer."""
    return bool(re.search(pattern, path) or re.search(pattern, path.rpartition("/")[0] or path))


def _whole(pattern: str, path: str, inner: Sequence[str]) -> bool:
    return bool(re.search(pattern, path)) or all(re.search(pattern, one) for one in inner)


def _last_epochs(freeze_after: Mapping[str, int], paths: Sequence[str]) -> dict[int, int]:
    """Place of a variable: the number of epochs that train it, the fewest where several patterns match."""
    epochs_of: dict[int, int] = {}
    for pattern, epochs in freeze_after.items():
        places = [index for index, path in enumerate(paths) if re.search(pattern, path)]
        if not places:
            raise ConfigError(
                f"train.freeze_after: {pattern!r} matches no variable that is trained; there are "
                f"{', '.join(paths[:6])}, ..."
            )
        for index in places:
            epochs_of[index] = min(epochs, epochs_of.get(index, epochs))
    return epochs_of


def norms(model: keras.Model) -> list[Any]:
    """Every BatchNormalization of ``model``, nested ones too, in an order that does not depend on the images' size."""
    return [layer for layer in flat_layers(model) if isinstance(layer, keras.layers.BatchNormalization)]


def norm_paths(model: keras.Model) -> list[tuple[str, ...]]:
    """For each of `norms` its path, then those of its variables."""
    return [(layer_path(layer), *(variable.path for variable in layer.variables)) for layer in norms(model)]


def stages_of(job: Job, model: keras.Model, trained: Sequence[Any]) -> Stages:
    """The stages of ``job``, of whose ``model`` the optimizer moves ``trained``.

    Raises:
        ConfigError: as `Stages`.
    """
    settings = job.pipeline.train
    return Stages(
        settings.sizes,
        settings.epochs,
        job.splits.input_shape,
        settings.freeze_after,
        [variable.path for variable in trained],
        settings.stages,
        norm_paths(model) if settings.stages else (),
        settings.optimizer.learning_rate,
        Batches(settings, len(job.splits.x_train)),
    )


def unstaged(train: config.Train, **changes: Any) -> config.Train:
    """``train`` as a single stage without callbacks, whose batches are all as large, and which keeps all that layers
    compute; with ``changes``."""
    schedule = train.schedule.model_copy(update={"decay": "rate", "max_batch_size": None})
    plain = {"callbacks": (), "sizes": (), "freeze_after": {}, "stages": (), "schedule": schedule}
    plain |= {"remat": (), "remat_gib": None}
    return train.model_copy(update={**plain, **changes})


def lines(job: Job, stages: Stages, trained: Sequence[Any]) -> list[str]:
    """A line for each of ``train.stages``: how long, how much of it trains, how fast."""
    settings, first, listed = job.pipeline.train, 0, []
    total = sum(math.prod(variable.shape) for variable in trained)
    for number, part in enumerate(settings.stages):
        stage = stages.of(first)
        still = sum(math.prod(trained[index].shape) for index in stage.frozen)
        norms = f", {len(stage.still)} BatchNormalization standing still" if stage.still else ""
        size = f", images of {stage.size}x{stage.size}" if stage.size else ""
        batch = f", batches of {stage.batch_size:,}" if stage.batch_size else ""
        rate = part.learning_rate or settings.optimizer.learning_rate
        listed.append(
            f"stage {number + 1}: {part.epochs} epoch{'s' if part.epochs > 1 else ''}, {total - still:,} of {total:,} "
            f"parameters train{norms}, learning rate {rate:g}{size}{batch}"
        )
        first += part.epochs
    return listed


@contextmanager
def in_stage(net: keras.Model, optimizer: Any, stage: Stage) -> Iterator[None]:
    """Within the block, in which a step is traced, ``net`` and ``optimizer`` are as ``stage`` has them.

    Both are part of the program that is traced: nothing of a stage is state, and a checkpoint need not hold it.
    """
    chosen = [layer for index, layer in enumerate(norms(net)) if index in stage.still] if stage.still else []
    before = [layer._trainable for layer in chosen]
    for layer in chosen:
        layer._trainable = False  # the property would mark its variables too, which other nets share
    optimizer.stage_rate = stage.rate
    try:
        yield
    finally:
        optimizer.stage_rate = 1.0
        for layer, trainable in zip(chosen, before, strict=True):
            layer._trainable = trainable


def twins(model: keras.Model, job: Job, sizes: Sequence[int]) -> dict[int, keras.Model]:
    """For each size a net of the same variables as ``model``, built for images of that size. Its own values are never
    used: see `call`.

    Raises:
        ConfigError: the weights depend on the size of the images.
        RefError: the builder fails on that size.
    """
    models = {}
    key = "train.stages" if job.pipeline.train.stages else "train.sizes"
    for size in sizes:
        twin = job.model(size=size)
        for one, other in zip(model.variables, twin.variables, strict=False):
            if one.shape != other.shape:
                raise ConfigError(
                    f"{key}: {one.path} is of shape {tuple(one.shape)}, and of {tuple(other.shape)} for images "
                    f"of {size}x{size}; pool globally before the first dense layer, or leave {key} out"
                )
        if len(model.variables) != len(twin.variables):
            raise ConfigError(f"{key}: {job.builder.ref} builds another net for images of {size}x{size}")
        models[size] = twin
    return models


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
