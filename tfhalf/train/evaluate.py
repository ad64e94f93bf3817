"""Answers of a model over a data set that need not fit on the device."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tfhalf.data.columns import Columns
from tfhalf.data.lazy import Array
from tfhalf.data.normalize import normalizer
from tfhalf.data.preprocess import AnyPreprocess
from tfhalf.system.group import ALONE, Group
from tfhalf.train.objective import Objective, tensors

Views = Literal["none", "mirror", "mirror_shift"]


class Evaluator:
    """Answers of ``model`` in batches of one size, for which, whatever the views, one program is made.

    Args:
        preprocess: how inputs are normalised.
        objective: what its answers are measured by.
        xla: whether XLA compiles the program.
    """

    def __init__(
        self,
        model: keras.Model,
        preprocess: AnyPreprocess,
        objective: Objective,
        *,
        batch_size: int = 500,
        xla: bool = False,
    ) -> None:
        self.model, self.objective, self.batch_size = model, objective, batch_size
        self.normalized = normalizer(preprocess, model)
        self._answer = tf.function(self._forward, jit_compile=xla, autograph=False, reduce_retracing=True)

    @classmethod
    def of(
        cls, model: keras.Model, preprocess: AnyPreprocess, objective: Objective, images: int, *, xla: bool
    ) -> Evaluator:
        """One whose batches suit a test set of so many ``images``."""
        size = min(2000 if xla else 500, max(images, 1))
        return cls(model, preprocess, objective, batch_size=size, xla=xla)

    def answers(self, x: Array | Columns, views: Views = "none", group: Group = ALONE) -> Array | Columns:
        """Float32 [N, ...] for inputs [N, ...] in the source's dtype, averaged over ``views`` of each image; each
        process of ``group`` answers its part of them, and has those of all."""
        if group.size == 1 or len(x) < group.size:
            return self._own_answers(x, views)
        own = self._own_answers(x[group.part(len(x))], views)
        if isinstance(own, Columns):
            return own.map(lambda array: group.joined(np.asarray(array), len(x)))
        return group.joined(np.asarray(own), len(x))

    def _own_answers(self, x: Array | Columns, views: Views) -> Array | Columns:
        size = self.batch_size
        shown = [tuple(map(tf.constant, view)) for view in _VIEWS[views]]
        parts = []
        for start in range(0, len(x), size):
            inputs = tensors(_filled(x[start : start + size], size))  # else the last batch had a program of its own
            parts.append(tf.nest.map_structure(_sum, *(self._answer(inputs, *view) for view in shown)))
        if isinstance(parts[0], dict):
            return Columns({name: _joined([part[name] for part in parts], len(x)) for name in parts[0]})
        return _joined(parts, len(x))

    def predictions(self, x: Array | Columns) -> dict[str, np.ndarray]:
        """What an artifact serves, by name, float32 [N, ...]; not finite where answers are not."""
        return self.objective.predictions(self.answers(x))

    def metrics(self, x: Array | Columns, y: Array | Columns, views: Views = "none") -> dict[str, float]:
        """The objective's metrics over inputs ``x`` and targets ``y``."""
        return self.scores(x, y, views=views)[1]

    def scores(
        self,
        x: Array | Columns,
        y: Array | Columns,
        weight: Array | None = None,
        views: Views = "none",
        group: Group = ALONE,
    ) -> tuple[float, dict[str, float]]:
        """Mean loss, and metrics by name; inputs are answered once, each process of ``group`` its part of them."""
        if len(x) < group.size:
            group = ALONE
        rows = group.part(len(x))
        weight = None if weight is None else weight[rows]
        return self.objective.scores(y[rows], self._own_answers(x[rows], views), weight, group)

    def _forward(self, x: Any, weight: Any, by: Any, mirrored: Any) -> Any:
        if not isinstance(x, dict) and x.shape.rank == 4:
            x = _view(x, by, mirrored)
        answers = self.model(self.normalized(x), training=False)
        return tf.nest.map_structure(lambda one: weight * tf.cast(one, tf.float32), answers)


def _sum(*views: Any) -> Any:
    return tf.add_n(views)


def _joined(parts: list[Any], count: int) -> Array:
    joined: Array = np.concatenate([part.numpy() for part in parts])[:count]
    return joined


def _filled(x: Array | Columns, size: int) -> Array | Columns:
    """``x`` with rows of zeros behind it, so that there are ``size``."""
    if len(x) == size:
        return x
    if isinstance(x, Columns):
        return x.map(lambda array: np.asarray(_filled(array, size)))
    return np.concatenate([x, np.zeros((size - len(x), *x.shape[1:]), x.dtype)])


def penalties(model: keras.Model) -> float:
    """What the regularizers of ``model``'s weights add to its loss."""
    weights = [v for v in model.trainable_variables if v.regularizer is not None]
    return float(sum(float(keras.ops.convert_to_numpy(v.regularizer(v))) for v in weights))


# What stands for each image: weight, shift and whether mirrored. ``mirror_shift``: Jordan, arXiv:2404.00498, section
# 3.5: half the weight on the centre, a quarter on each diagonal shift.
_SIDES = (False, True)
_VIEWS: dict[Views, list[tuple[float, int, bool]]] = {
    "none": [(1.0, 0, False)],
    "mirror": [(1 / 2, 0, side) for side in _SIDES],
    "mirror_shift": [(weight / 2, by, side) for weight, by in ((1 / 2, 0), (1 / 4, -1), (1 / 4, 1)) for side in _SIDES],
}


def _view(x_NHWC: Any, by: Any, mirrored: Any) -> Any:
    """Each pixel from ``by`` further down and to the right, mirrored at the edges, then left and right exchanged where
    ``mirrored``; by `tf.gather`, since a GPU has no `tf.pad` for integers and would send the images to the CPU and
    back."""
    for axis in (1, 2):
        last = tf.shape(x_NHWC)[axis] - 1
        indices = tf.abs(tf.range(last + 1) + by)
        indices = last - tf.abs(last - indices)
        if axis == 2:
            indices = tf.where(mirrored, indices[::-1], indices)
        x_NHWC = tf.gather(x_NHWC, indices, axis=axis)
    return x_NHWC
