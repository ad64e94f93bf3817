"""One training step; `tfhalf.train.feeds.base` runs many of them as one program.

TensorFlow-only code of the training room is in this file, in what feeds it, and in `evaluate`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfhalf.config import Augment
from tfhalf.data.augment import Draws, augment, cutout
from tfhalf.data.colour import colour
from tfhalf.data.crop import Crop, OnCanvas
from tfhalf.data.mix import mix
from tfhalf.data.normalize import normalizer
from tfhalf.data.preprocess import AnyPreprocess
from tfhalf.data.rand_augment import rand_augment
from tfhalf.precision.loss_scale import GuardedLossScaleOptimizer
from tfhalf.precision.policy import takes_integers
from tfhalf.system.group import ALONE, Group
from tfhalf.train.mixed import mean_loss, sums
from tfhalf.train.objective import Objective
from tfhalf.train.stages import PLAIN, Stage, call, in_stage, scaled_down


class Batch(NamedTuple):
    """``x`` in the source's dtype [N, ...], several by name, or `OnCanvas`; ``y`` targets [N, ...], ``index`` int32 [N]
    (places in the training set), ``weight`` float32 [N] where items count more or less."""

    x: Any
    y: Any
    index: Any
    weight: Any = None


FINITE, UNKNOWN = -1, -2  # for the index of a non-finite gradient: there is none; nobody looked for it


class StepResult(NamedTuple):
    """Scalars: mean float32 loss (unscaled), whether every gradient was finite; int32, the index among the step's
    variables of the last whose gradient was not. ``sums``: of the metrics, float32 [K]."""

    loss: Any
    sums: Any
    finite: Any
    variable: Any = UNKNOWN


class Step:
    """Augment, forward, scaled loss, backward, update; callable within `tf.function`.

    ``twins``: for each size that images are scaled down to, the net that takes them (`tfhalf.train.stages`).

    ``group``: the processes that share a batch, each with an equal part of it. Gradients, the loss and what forward
    passes change are averaged over them in every step, and metrics added up, before anything is judged or applied: so
    all of them skip a step that is not finite in one, and their variables stay the same bits. Gradients travel in
    ``reduce_dtype``.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        variables: list[Any],
        *,
        preprocess: AnyPreprocess,
        objective: Objective,
        augmentation: Augment | None,
        seed: int,
        crop: Crop | None = None,
        twins: Mapping[int, keras.Model] | None = None,
        group: Group = ALONE,
        reduce_dtype: str = "float32",
    ) -> None:
        self.group, self.reduce_dtype = group, reduce_dtype
        self.twins = dict(twins or {})
        self.model, self.optimizer, self.variables = model, optimizer, variables
        self.preprocess = normalizer(preprocess, model)
        self.objective, self.augmentation, self.seed, self.crop = objective, augmentation, seed, crop
        self.guarded = isinstance(optimizer, GuardedLossScaleOptimizer)
        optimizer.build(variables)

    def __call__(self, batch: Batch, epoch: Any, step: Any, stage: Stage = PLAIN) -> StepResult:
        """Change the model's and the optimizer's variables by one step of ``stage``.

        ``epoch`` and ``step`` are int32 scalars.
        """
        with self.staged(stage):
            return self._step(batch, epoch, step, stage)

    @property
    def alone(self) -> Step:
        """The step of a whole batch in this process; what it changes, it changes here only."""
        if self.group.size == 1:
            return self
        other = copy.copy(self)
        other.group = ALONE
        return other

    def staged(self, stage: Stage) -> AbstractContextManager[None]:
        """Within the block the net and the optimizer are as ``stage`` has them."""
        return in_stage(self.net(stage.size), getattr(self.optimizer, "inner_optimizer", self.optimizer), stage)

    def _step(self, batch: Batch, epoch: Any, step: Any, stage: Stage) -> StepResult:
        places = [index for index in range(len(self.variables)) if index not in stage.frozen]
        moved = [self.variables[index] for index in places]
        shared = self.group.size > 1
        statistics = (
            [tf.identity(v.value) for v in self.model.non_trainable_variables] if self.guarded or shared else []
        )
        loss, sums, gradients = self.gradients(batch, epoch, step, stage.size, moved)
        if shared:
            loss, sums, gradients = self._over_devices(loss, sums, gradients, statistics)
        if self.guarded:
            non_finite = self.optimizer.guarded_apply(gradients, moved)
            if stage.frozen:
                non_finite = tf.where(
                    non_finite == FINITE, FINITE, tf.gather(tf.constant(places), tf.maximum(non_finite, 0))
                )
            # A forward pass that overflowed has put inf into BatchNormalization's moving averages: undo that, without
            # waiting for the gradients' verdict, which would cost a GPU a kernel for each of them.
            for variable, before in zip(self.model.non_trainable_variables, statistics, strict=True):
                if variable.value.dtype.is_floating:
                    variable.assign(tf.where(tf.math.is_finite(variable.value), variable.value, before))
            return StepResult(loss, sums, non_finite == FINITE, non_finite)
        self.optimizer.apply(gradients, moved)
        return StepResult(loss, sums, tf.math.is_finite(loss))

    def _over_devices(
        self, loss: Any, sums: Any, gradients: list[Any], before: list[Any]
    ) -> tuple[Any, Any, list[Any]]:
        """Loss, metrics' sums and gradients of the whole batch, from those of this process's part, whose gradients are
        of its share of the loss. Statistics that the forward pass moved, ``before`` it as they were, become the mean of
        what they are in all processes."""
        group, share = self.group, 1 / self.group.size
        moved = [
            (variable, old)
            for variable, old in zip(self.model.non_trainable_variables, before, strict=True)
            if variable.value.dtype.is_floating
        ]
        # By how much they moved: what no forward pass changes stays the same bits, whatever the number of processes.
        changes = [(tf.cast(v.value, tf.float32) - tf.cast(old, tf.float32)) * share for v, old in moved]
        parts, together = [tf.cast(g, self.reduce_dtype) for g in gradients], self.reduce_dtype == "float32"
        loss, sums, *rest = group.sums([loss * share, sums, *changes, *(parts if together else [])])
        parts = rest[len(changes) :] if together else group.sums(parts)
        for (variable, old), change in zip(moved, rest, strict=False):
            variable.assign(tf.cast(tf.cast(old, tf.float32) + change, old.dtype))
        return loss, sums, [tf.cast(part, g.dtype) for part, g in zip(parts, gradients, strict=True)]

    def gradients(
        self, batch: Batch, epoch: Any, step: Any, size: int | None = None, variables: list[Any] | None = None
    ) -> tuple[Any, Any, list[Any]]:
        """Unscaled mean loss, the metrics' sums, and the (scaled) gradients of ``variables``, else of all that are
        trained; images are scaled down to ``size``, where it is given."""
        variables = self.variables if variables is None else variables
        x, y = self._inputs(batch, epoch, step, size)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([v.value for v in variables])
            answers, losses = self._answers(x, size)
            loss = mean_loss(self.objective, y, answers, batch.weight, self.group)
            if losses:  # what layers add: regularizers
                if len({one.dtype for one in losses}) > 1:
                    losses = [tf.cast(one, tf.float32) for one in losses]
                loss += tf.cast(tf.add_n(losses), tf.float32)
            # A part's share of the batch's loss: so its gradients have the range that one device's would have.
            scaled = self.optimizer.scale_loss(loss / self.group.size if self.group.size > 1 else loss)
        gradients = tape.gradient(scaled, [v.value for v in variables])
        gradients = [tf.zeros_like(v.value) if g is None else tf.convert_to_tensor(g)
                     for g, v in zip(gradients, variables, strict=True)]  # fmt: skip
        return loss, sums(self.objective, y, answers), gradients

    def forward(self, batch: Batch, epoch: Any, step: Any, size: int | None = None) -> Any:
        """The net's answers in the step's forward pass, float32 [N, ...]."""
        return self._answers(self._inputs(batch, epoch, step, size)[0], size)[0]

    def _inputs(self, batch: Batch, epoch: Any, step: Any, size: int | None) -> tuple[Any, Any]:
        x, y = self.prepare(batch, epoch, step, size)
        return (x if size is None or self.crop else scaled_down(x, size)), y

    def net(self, size: int | None) -> keras.Model:
        """What takes images of ``size``; None is their own."""
        return self.model if size is None else self.twins[size]

    def _answers(self, x: Any, size: int | None) -> tuple[Any, list[Any]]:
        if size is None:
            answers, losses = self.model(x, training=True), self.model.losses
        else:
            answers, losses = call(self.model, self.net(size), x)
        return tf.nest.map_structure(lambda one: tf.cast(one, tf.float32), answers), losses

    def prepare(self, batch: Batch, epoch: Any, step: Any, size: int | None = None) -> tuple[Any, Any]:
        """Inputs, augmented and normalised, float32, as int32 and as they are where the model takes integers; and their
        targets, of which masks are moved as the images are, and which are `Mixed` where images are. Boxes that are cut
        out come at ``size``, where it is given."""
        x, y, config = batch.x, batch.y, self.augmentation
        rows = batch.index.shape[0] or tf.shape(batch.index)[0]
        draws = Draws(self.seed, step, rows, self.group.rank, self.group.size)
        if self.crop is not None:
            x = self.crop(OnCanvas.of(x), draws, size)
            x = tf.round(x) if takes_integers(self.model) else x
        if config is not None:
            masks = y if self.objective.task.targets == "masks" else None
            x, masks = augment(x, batch.index, draws, config=config, epoch=epoch, masks=masks)
            y = y if masks is None else masks
            x = colour(rand_augment(x, draws, config.rand_augment), draws, config.colour)
        x = self.preprocess(x)
        if config is not None and not takes_integers(self.model):
            x, y = mix(cutout(x, draws, size=config.cutout), y, draws, config)
        return x, y
