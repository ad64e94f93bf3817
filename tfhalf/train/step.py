"""One training step; `tfhalf.train.feeds.base` runs many of them as one program.

TensorFlow-only code of the training room is in this file, in what feeds it, and in `evaluate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfhalf.config import Augment
from tfhalf.data.augment import augment, cutout
from tfhalf.data.preprocess import Preprocess
from tfhalf.precision.loss_scale import GuardedLossScaleOptimizer
from tfhalf.precision.policy import takes_integers
from tfhalf.train.stages import PLAIN, Stage, call, in_stage, scaled_down


class Batch(NamedTuple):
    """``x`` in the source's dtype [N, ...], ``y`` int32 [N], ``index`` int32 [N] (places in the training set)."""

    x: Any
    y: Any
    index: Any


FINITE, UNKNOWN = -1, -2  # for the place of a non-finite gradient: there is none; nobody looked for it


class StepResult(NamedTuple):
    """Scalars: mean float32 loss (unscaled), number of right answers, whether every gradient was finite; int32, the
    place among the step's variables of the last whose gradient was not."""

    loss: Any
    correct: Any
    finite: Any
    culprit: Any = UNKNOWN


class Step:
    """Augment, forward, scaled loss, backward, update; callable within `tf.function`.

    ``twins``: for each size that images are scaled down to, the net that takes them (`tfhalf.train.stages`).
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        variables: list[Any],
        *,
        preprocess: Preprocess,
        label_smoothing: float,
        augmentation: Augment | None,
        seed: int,
        twins: Mapping[int, keras.Model] | None = None,
    ) -> None:
        self.twins = dict(twins or {})
        self.model, self.optimizer, self.variables = model, optimizer, variables
        self.shift, self.scale = preprocess.shift_and_scale()
        self.label_smoothing, self.augmentation, self.seed = label_smoothing, augmentation, seed
        self.guarded = isinstance(optimizer, GuardedLossScaleOptimizer)
        optimizer.build(variables)

    def __call__(self, batch: Batch, epoch: Any, step: Any, stage: Stage = PLAIN) -> StepResult:
        """Change the model's and the optimizer's variables by one step of ``stage``.

        ``epoch`` and ``step`` are int32 scalars.
        """
        with self.staged(stage):
            return self._step(batch, epoch, step, stage)

    def staged(self, stage: Stage) -> AbstractContextManager[None]:
        """Within the block the net and the optimizer are as ``stage`` has them."""
        return in_stage(self.net(stage.size), getattr(self.optimizer, "inner_optimizer", self.optimizer), stage)

    def _step(self, batch: Batch, epoch: Any, step: Any, stage: Stage) -> StepResult:
        places = [place for place in range(len(self.variables)) if place not in stage.frozen]
        moved = [self.variables[place] for place in places]
        statistics = [tf.identity(v.value) for v in self.model.non_trainable_variables] if self.guarded else []
        loss, correct, gradients = self.gradients(batch, epoch, step, stage.size, moved)
        if self.guarded:
            culprit = self.optimizer.guarded_apply(gradients, moved)
            if stage.frozen:
                culprit = tf.where(culprit == FINITE, FINITE, tf.gather(tf.constant(places), tf.maximum(culprit, 0)))
            # A forward pass that overflowed has put inf into BatchNormalization's moving averages: undo that, without
            # waiting for the gradients' verdict, which would cost a GPU a kernel for each of them.
            for variable, before in zip(self.model.non_trainable_variables, statistics, strict=True):
                if variable.value.dtype.is_floating:
                    variable.assign(tf.where(tf.math.is_finite(variable.value), variable.value, before))
            return StepResult(loss, correct, culprit == FINITE, culprit)
        self.optimizer.apply(gradients, moved)
        return StepResult(loss, correct, tf.math.is_finite(loss))

    def gradients(
        self, batch: Batch, epoch: Any, step: Any, size: int | None = None, variables: list[Any] | None = None
    ) -> tuple[Any, Any, list[Any]]:
        """Unscaled mean loss, right answers, and the (scaled) gradients of ``variables``, else of all that are trained;
        images are scaled down to ``size``, where it is given."""
        variables = self.variables if variables is None else variables
        x = self._images(batch, epoch, step, size)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([v.value for v in variables])
            logits, losses = self._answers(x, size)
            loss = cross_entropy(batch.y, logits, self.label_smoothing)
            if losses:  # what layers add: regularizers
                loss += tf.cast(tf.add_n(losses), tf.float32)
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, [v.value for v in variables])
        gradients = [tf.zeros_like(v.value) if g is None else tf.convert_to_tensor(g)
                     for g, v in zip(gradients, variables, strict=True)]  # fmt: skip
        correct = tf.reduce_sum(tf.cast(tf.argmax(logits, -1, tf.int32) == batch.y, tf.int32))
        return loss, correct, gradients

    def forward(self, batch: Batch, epoch: Any, step: Any, size: int | None = None) -> Any:
        """Logits of the step's forward pass, float32 [N, classes]."""
        return self._answers(self._images(batch, epoch, step, size), size)[0]

    def _images(self, batch: Batch, epoch: Any, step: Any, size: int | None) -> Any:
        x = self.prepare(batch, epoch, step)
        return x if size is None else scaled_down(x, size)

    def net(self, size: int | None) -> keras.Model:
        """What takes images of ``size``; None is their own."""
        return self.model if size is None else self.twins[size]

    def _answers(self, x: Any, size: int | None) -> tuple[Any, list[Any]]:
        if size is None:
            answers, losses = self.model(x, training=True), self.model.losses
        else:
            answers, losses = call(self.model, self.net(size), x)
        return tf.cast(answers, tf.float32), losses

    def prepare(self, batch: Batch, epoch: Any, step: Any) -> Any:
        """Augmented, normalised images, float32; as int32 and as they are for a model that takes integers."""
        x, config = batch.x, self.augmentation
        if config is not None:
            x = augment(x, batch.index, config=config, seed=self.seed, epoch=epoch, step=step)
        if takes_integers(self.model):
            return tf.cast(x, tf.int32)
        x = (tf.cast(x, tf.float32) - self.shift) * self.scale
        if config is not None and config.cutout:
            x = cutout(x, size=config.cutout, seed=self.seed, step=step)
        return x


def cross_entropy(y: Any, logits: Any, label_smoothing: float) -> Any:
    """Mean softmax cross-entropy in float32 (scalar); labels smoothed as Szegedy et al., arXiv:1512.00567, section
    7."""
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
    if label_smoothing:
        uniform = -tf.reduce_mean(tf.nn.log_softmax(logits), -1)
        loss = (1 - label_smoothing) * loss + label_smoothing * uniform
    return tf.reduce_mean(loss)
