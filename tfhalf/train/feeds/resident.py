"""The training set on the device, whole: nothing crosses the bus while a program of many steps runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfhalf.data.columns import Columns
from tfhalf.train.feeds.base import ChunkResult, Feed, read
from tfhalf.train.objective import tensors
from tfhalf.train.stages import PLAIN, Stage
from tfhalf.train.step import Batch, Step


class Resident(Feed):
    """Up to ``capacity`` steps as one program over a resident training set.

    Args:
        x: [N, ...] in the source's dtype, or several by name.
        y: targets [N, ...], or several by name.
        weight: float32 [N], where items count more or less.
        xla: whether XLA compiles the program.
    """

    def __init__(
        self,
        step: Step,
        x: np.ndarray | Columns,
        y: np.ndarray | Columns,
        weight: np.ndarray | None = None,
        *,
        batch_size: int,
        capacity: int,
        xla: bool,
        max_skipped: int,
    ) -> None:
        super().__init__(step, batch_size=batch_size, capacity=capacity, xla=xla, max_skipped=max_skipped)
        self.x, self.y = tensors(x), tensors(y)
        self.weight = None if weight is None else tf.constant(weight, tf.float32)

    @classmethod
    def of_batch(cls, feed: Feed, batch: Batch) -> Resident:
        """A feed of the items of ``batch`` alone, which runs the step of ``feed`` as many at a time."""
        none = np.zeros(0, np.float32)
        one = cls(
            feed.step,
            none,
            none,
            batch_size=feed.batch_size,
            capacity=feed.capacity,
            xla=feed.xla,
            max_skipped=feed.max_skipped,
        )
        one.x, one.y, one.weight = batch.x, batch.y, batch.weight
        return one

    def __call__(self, order: np.ndarray, epoch: int, first_step: int, stage: Stage = PLAIN) -> ChunkResult:
        """Run one step per row of ``order``, int32 [steps, batch_size]; see `Feed`."""
        order = self.step.group.rows(order)
        padded = np.zeros((self.capacity, order.shape[1]), np.int32)
        padded[: len(order)] = order
        run = self._program(
            stage,
            (self.x, self.y, self.weight),
            tf.constant(padded),
            tf.constant(len(order), tf.int32),
            tf.constant(epoch, tf.int32),
            tf.constant(first_step, tf.int32),
        )
        return read(run)

    def announce(self, order: np.ndarray) -> None:
        """Nothing: all images are there."""

    def batch(self, index: np.ndarray) -> Batch:
        """The batch at the places ``index``, int32 [N]."""
        return _gathered((self.x, self.y, self.weight), tf.constant(index, tf.int32))

    def _run(self, data: Any, order: Any, steps: Any, epoch: Any, first_step: Any, *, stage: Stage) -> tuple[Any, ...]:
        def fetch(i: Any) -> Batch:
            return _gathered(data, order[i])

        return self._steps(fetch, steps, epoch, first_step, capacity=self.capacity, stage=stage)


def _gathered(data: Any, index: Any) -> Batch:
    x, y, weight = tf.nest.map_structure(lambda one: None if one is None else tf.gather(one, index), data)
    return Batch(x, y, index, weight)
