"""A training step that also counts its numbers by exponent, on the device, and changes nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfhalf.numerics import count
from tfhalf.numerics.histogram import BINS
from tfhalf.numerics.taps import Seen, observed, operations
from tfhalf.train.stages import PLAIN, Stage
from tfhalf.train.step import Batch, Step, StepResult

KINDS = ("weights", "activations", "activation gradients", "weight gradients", "weight updates")
TAKEN, SCORES = "taken", "scores"
"""What a layer takes, and what attention takes the softmax of. Only their largest magnitudes are kept."""
_OF_ROWS = (TAKEN, SCORES, *KINDS[1:3])  # of a batch's rows: where processes share it, each has those of its part


class MeasuredStep(Step):
    """`Step` on the same model, optimizer and variables as ``step``, which sees that they are in float32.

    ``rows`` are pairs of kind and name: a layer's path, or a weight's. What the step has counted is in ``counts`` int64
    [rows, BINS], ``largest`` float32 [rows] and ``lost`` int64 [weights, 3] (`count.lost_updates`).
    """

    def __init__(self, step: Step, xla: bool) -> None:
        vars(self).update(vars(step))
        self.xla = xla
        self.operations = operations(self.model)
        self.rows = [(kind, name) for kind in _OF_ROWS for name in self.operations]
        self.rows += [
            (kind, v.path) for kind in ("weights", "weight gradients", "weight updates") for v in self.variables
        ]
        self._index = {row: index for index, row in enumerate(self.rows)}
        self.counts = tf.Variable(np.zeros((len(self.rows), BINS), np.int64), trainable=False)
        self.largest = tf.Variable(np.zeros(len(self.rows), np.float32), trainable=False)
        self.lost = tf.Variable(np.zeros((len(self.variables), 3), np.int64), trainable=False)

    def __call__(self, batch: Batch, epoch: Any, step: Any, stage: Stage = PLAIN) -> StepResult:
        """One step, as `Step` takes it, and its numbers added to the counts. No variable of it stands still."""
        before = [tf.identity(v.value) for v in self.variables]
        with observed(self.operations) as seen:
            result = super().__call__(batch, epoch, step, stage)
        after = [tf.convert_to_tensor(v.value) for v in self.variables]
        self._add(seen, before, after)
        return result

    def gradients(
        self, batch: Batch, epoch: Any, step: Any, size: int | None = None, variables: list[Any] | None = None
    ) -> tuple[Any, Any, list[Any]]:
        """What `Step` finds, kept for counting."""
        result = super().gradients(batch, epoch, step, size, variables)
        self._gradients = result[2]
        return result

    def _over_devices(
        self, loss: Any, sums: Any, gradients: list[Any], before: list[Any]
    ) -> tuple[Any, Any, list[Any]]:
        result = super()._over_devices(loss, sums, gradients, before)
        self._gradients = result[2]
        return result

    def counted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``counts``, ``largest`` and ``lost``, of whole batches where processes share them."""
        counts, largest, lost = (variable.numpy() for variable in (self.counts, self.largest, self.lost))
        of_rows = np.array([kind in _OF_ROWS for kind, _ in self.rows])
        every = self.group.total(counts).astype(counts.dtype)
        return np.where(of_rows[:, None], every, counts), self.group.gather(largest).max(0), lost

    def clear(self) -> None:
        """Forget what was counted."""
        for variable in (self.counts, self.largest, self.lost):
            variable.assign(tf.zeros_like(variable))

    def _add(self, seen: Seen, before: list[Any], after: list[Any]) -> None:
        tensors: dict[tuple[str, str], list[Any]] = {}
        for kind, by_name in (
            (TAKEN, seen.taken),
            (SCORES, seen.scores),
            ("activations", seen.outputs),
            ("activation gradients", seen.gradients),
        ):
            tensors.update({(kind, name): list(calls) for name, calls in by_name.items()})
        for variable, old, new, gradient in zip(self.variables, before, after, self._gradients, strict=True):
            name = variable.path
            tensors["weights", name] = [old]
            tensors["weight gradients", name] = [gradient]
            tensors["weight updates", name] = [new - old]
        del self._gradients
        rows = sorted(tensors, key=self._index.__getitem__)
        places = [[self._index[row]] for row in rows if tensors[row]]
        counts = [self._histogram(row[0], tensors[row]) for row in rows if tensors[row]]
        tops = [tf.reduce_max(tf.stack([count.largest(x) for x in tensors[row]])) for row in rows if tensors[row]]
        self.counts.assign(tf.tensor_scatter_nd_add(self.counts, places, tf.stack(counts)))
        self.largest.assign(tf.tensor_scatter_nd_max(self.largest, places, tf.stack(tops)))
        lost = [count.lost_updates(old, new) for old, new in zip(before, after, strict=True)]
        self.lost.assign_add(tf.stack(lost))

    def _histogram(self, kind: str, tensors: list[Any]) -> Any:
        if kind in (TAKEN, SCORES):
            return tf.zeros([BINS], tf.int64)
        return tf.add_n([count.histogram(x, self.xla) for x in tensors])
