"""Answers of a model over a data set that need not fit on the device."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tfhalf.data import Preprocess
from tfhalf.precision.policy import takes_integers

Views = Literal["none", "mirror", "mirror_shift"]

_ROWS = 8192  # whose logarithms are in memory at a time


class Evaluator:
    """Logits of ``model`` in batches of one size, for which, whatever the views, one program is made.

    Args:
        preprocess: how images are normalised.
        xla: whether XLA compiles the program.
    """

    def __init__(self, model: keras.Model, preprocess: Preprocess, *, batch_size: int = 500, xla: bool = False) -> None:
        self.model, self.batch_size = model, batch_size
        self.shift, self.scale = preprocess.shift_and_scale()
        self._answer = tf.function(self._forward, jit_compile=xla, autograph=False, reduce_retracing=True)

    @classmethod
    def of(cls, model: keras.Model, preprocess: Preprocess, images: int, *, xla: bool) -> Evaluator:
        """One whose batches suit a test set of so many ``images``."""
        size = min(2000 if xla else 500, max(images, 1))
        return cls(model, preprocess, batch_size=size, xla=xla)

    def logits(self, x: np.ndarray, views: Views = "none") -> np.ndarray:
        """Float32 [N, num_classes] for images [N, ...] in the source's dtype, averaged over ``views`` of each."""
        size = self.batch_size
        shown = [tuple(map(tf.constant, view)) for view in _VIEWS[views]]
        parts = []
        for start in range(0, len(x), size):
            part = x[start : start + size]
            if len(part) < size:  # else the last batch had a program of its own
                part = np.concatenate([part, np.zeros((size - len(part), *x.shape[1:]), x.dtype)])
            images = tf.constant(part)
            parts.append(tf.add_n([self._answer(images, *view) for view in shown]))
        answers: np.ndarray = np.concatenate([part.numpy() for part in parts])[: len(x)]
        return answers

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """Softmax of `logits`, float32 [N, num_classes]; not finite where they are not."""
        logits = self.logits(x)
        with np.errstate(invalid="ignore"):
            shifted = np.exp(logits - logits.max(-1, keepdims=True))
            answers: np.ndarray = shifted / shifted.sum(-1, keepdims=True)
        return answers

    def accuracy(self, x: np.ndarray, y: np.ndarray, views: Views = "none") -> float:
        """Share of right answers, 0 to 1."""
        return float((self.logits(x, views).argmax(-1) == y).mean())

    def scores(self, x: np.ndarray, y: np.ndarray, label_smoothing: float) -> tuple[float, float]:
        """Mean cross-entropy, as `cross_entropy`, and share of right answers, 0 to 1; images are answered once."""
        logits = self.logits(x)
        return cross_entropy(logits, y, label_smoothing), float((logits.argmax(-1) == y).mean())

    def _forward(self, x: Any, weight: Any, by: Any, mirrored: Any) -> Any:
        if x.shape.rank == 4:
            x = _view(x, by, mirrored)
        x = tf.cast(x, tf.int32) if takes_integers(self.model) else (tf.cast(x, tf.float32) - self.shift) * self.scale
        return weight * tf.cast(self.model(x, training=False), tf.float32)


def cross_entropy(logits: np.ndarray, y: np.ndarray, label_smoothing: float) -> float:
    """Mean softmax cross-entropy of float32 ``logits`` [N, num_classes] and labels ``y`` [N], as `step.cross_entropy`.

    In numpy: the program that answers stays the one that it is, whoever asks for a loss.
    """
    total = 0.0
    for start in range(0, len(y), _ROWS):
        part, labels = logits[start : start + _ROWS], y[start : start + _ROWS]
        with np.errstate(invalid="ignore", over="ignore"):  # logits that are not finite have a loss that is not
            shifted = part - part.max(-1, keepdims=True)
            whole = np.log(np.exp(shifted).sum(-1))
            loss = whole - shifted[np.arange(len(labels)), labels]
            if label_smoothing:
                loss = (1 - label_smoothing) * loss + label_smoothing * (whole - shifted.mean(-1))
            total += float(loss.sum(dtype=np.float64))
    return total / len(y)


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
        place = tf.abs(tf.range(last + 1) + by)
        place = last - tf.abs(last - place)
        if axis == 2:
            place = tf.where(mirrored, place[::-1], place)
        x_NHWC = tf.gather(x_NHWC, place, axis=axis)
    return x_NHWC
