"""What training makes smaller, and what it keeps figures of: a task, its loss and its metrics, as a pipeline has
them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfhalf.data.columns import Columns
from tfhalf.system.group import ALONE, Group
from tfhalf.tasks import Metric, Several, Task
from tfhalf.tasks.several import of_output

Values = np.ndarray | Columns

_ROWS = 8192  # whose losses are computed at a time


class _Ops:
    """`keras.ops` as metrics need it, with TensorFlow's own argmax: Keras' tells -0 from 0, by several kernels more."""

    @staticmethod
    def argmax(x: Any, axis: int) -> Any:
        return tf.argmax(x, axis, tf.int32)

    def __getattr__(self, name: str) -> Any:
        return getattr(keras.ops, name)


_OPS = _Ops()


def tensors(x: Values) -> Any:
    """On the device: one tensor, or several by name."""
    return {name: tf.constant(one) for name, one in x.arrays.items()} if isinstance(x, Columns) else tf.constant(x)


class Objective:
    """A task's mean loss over a batch, and its metrics' sums.

        loss = sum(w * loss_i) / sum(1)

    over all losses that count (items; pixels and steps that are not ignored): as Keras, weights are not divided by.
    ``w`` is an item's own weight times that of its class.

    Args:
        task: what is learnt.
        loss: in place of the task's own, see `Task.loss`.
        metrics: in place of the task's own.
        class_weight: of each class, float32 [K].
    """

    def __init__(
        self,
        task: Task,
        *,
        loss: Any = None,
        metrics: Sequence[Metric] = (),
        class_weight: np.ndarray | None = None,
    ) -> None:
        self.task, self.losses, self.class_weight = task, loss or task.loss, class_weight
        self.metrics = tuple(metrics) or task.metrics
        self.sizes = tuple(metric.size for metric in self.metrics)

    @property
    def shown(self) -> tuple[Metric, ...]:
        """The metrics that a table of epochs has columns for; all are in the history."""
        return self.metrics[:2]

    @property
    def monitor(self) -> Metric:
        """What tells the best epoch."""
        return self.metrics[0]

    def score(self, metrics: Mapping[str, float]) -> float | None:
        """How good ``metrics`` are by the monitor, higher is better; None without it."""
        value = metrics.get(self.monitor.name)
        return None if value is None else value if self.monitor.higher else -value

    @property
    def size(self) -> int:
        """How many sums `sums` gives."""
        return sum(self.sizes)

    def loss(self, y: Any, answers: Any, weight: Any = None, group: Group = ALONE) -> Any:
        """Mean loss of targets ``y`` [N, ...] and float32 ``answers``, scalar; ``weight`` float32 [N].

        Where the items are part of a batch that ``group`` shares, the mean of this over its processes is that of the
        batch: pixels and steps that count are counted in all of them.
        """
        losses = self.losses(y, answers)
        weights = self._weights(y, weight, losses.shape.rank)
        if weights is None:
            return tf.reduce_mean(losses)
        counted = self.task.counted(y)
        if counted is None:
            count = tf.cast(tf.size(losses), tf.float32)
        else:
            count = tf.maximum(group.sum(tf.reduce_sum(counted)), 1.0) / group.size
        return tf.reduce_sum(losses * weights) / count

    def _weights(self, y: Any, weight: Any, rank: int) -> Any | None:
        """What each of losses of ``rank`` counts, float32 [N, ...]; None where all count alike."""
        parts = [one for one in (self.task.counted(y),) if one is not None]
        if self.class_weight is not None:
            parts.append(tf.gather(tf.constant(self.class_weight), tf.maximum(y, 0)))
        if weight is not None:
            parts.append(tf.reshape(weight, [-1, *[1] * (rank - 1)]))
        if not parts:
            return None
        return math.prod(parts[1:], start=parts[0])

    def sums(self, y: Any, answers: Any) -> Any:
        """The metrics' sums over a batch, one after another, float32 [size]; within the compiled loop."""
        predictions = self.task.predictions(answers)
        parts = [metric.sums(_OPS, y, answers if metric.of_answers else predictions) for metric in self.metrics]
        return tf.concat([tf.reshape(tf.cast(part, tf.float32), [-1]) for part in parts], 0)

    def values(self, sums: np.ndarray) -> dict[str, float]:
        """The metrics by name, of their ``sums`` float64 [size] over any number of batches."""
        parts = np.split(sums, np.cumsum(self.sizes)[:-1])
        return {metric.name: metric.value(part) for metric, part in zip(self.metrics, parts, strict=True)}

    def scores(
        self, y: Values, answers: Values, weight: np.ndarray | None = None, group: Group = ALONE
    ) -> tuple[float, dict[str, float]]:
        """Mean loss and metrics of a net's float32 ``answers`` [N, ...], which need not fit on a device; and of those
        that the other processes of ``group`` have."""
        total, sums = 0.0, np.zeros(self.size)
        with tf.device("CPU:0"):
            for start in range(0, len(y), _ROWS):
                rows = slice(start, start + _ROWS)
                part, true = tensors(answers[rows]), tensors(y[rows])
                own = None if weight is None else tf.constant(weight[rows])
                total += float(self.loss(true, part, own)) * self._counted(y[rows])
                sums += self.sums(true, part).numpy()
        total, count, *all_sums = group.total(np.array([total, self._counted(y), *sums]))
        return total / max(count, 1.0), self.values(np.array(all_sums))

    def _counted(self, y: Any) -> float:
        counted = self.task.counted(y) if isinstance(y, np.ndarray) else None
        return float(len(y)) if counted is None else float(tf.reduce_sum(counted))

    def predictions(self, answers: Values) -> dict[str, np.ndarray]:
        """What an artifact serves, by name, of a float32 model's ``answers`` [N, ...]."""
        parts: list[Mapping[str, Any]] = []
        with tf.device("CPU:0"):
            for start in range(0, len(answers), _ROWS):
                parts.append(self.task.served(tensors(answers[start : start + _ROWS])))
        return {name: np.concatenate([part[name].numpy() for part in parts]) for name in self.task.names}


class SeveralObjectives(Objective):
    """Those of a model's outputs by name: the losses are added, each times its weight."""

    def __init__(self, parts: Mapping[str, Objective], weights: Mapping[str, float]) -> None:
        metrics = tuple(of_output(name, metric) for name, part in parts.items() for metric in part.metrics)
        super().__init__(Several({name: part.task for name, part in parts.items()}), metrics=metrics)
        self.parts, self.weights = dict(parts), dict(weights)

    @property
    def shown(self) -> tuple[Metric, ...]:
        """The first of each output, three at most."""
        firsts = [of_output(name, part.metrics[0]) for name, part in self.parts.items()]
        return tuple(firsts[:3])

    def loss(self, y: Any, answers: Any, weight: Any = None, group: Group = ALONE) -> Any:
        """The sum over outputs, scalar; targets and answers are by name."""
        losses = [
            self.weights[name] * part.loss(y[name], answers[name], weight, group) for name, part in self.parts.items()
        ]
        return tf.add_n(losses)

    def sums(self, y: Any, answers: Any) -> Any:
        """Those of the outputs' metrics, one after another, float32 [size]."""
        return tf.concat([part.sums(y[name], answers[name]) for name, part in self.parts.items()], 0)

    def scores(
        self, y: Values, answers: Values, weight: np.ndarray | None = None, group: Group = ALONE
    ) -> tuple[float, dict[str, float]]:
        """Mean loss and metrics, each of its own output."""
        assert isinstance(y, Columns)
        assert isinstance(answers, Columns)
        total = 0.0
        metrics: dict[str, float] = {}
        for name, part in self.parts.items():
            loss, own = part.scores(y.arrays[name], answers.arrays[name], weight, group)
            total += self.weights[name] * loss
            metrics |= {f"{name}_{metric}": value for metric, value in own.items()}
        return total, metrics
