"""Answers of a model over a data set that need not fit on the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

Views = Literal["none", "mirror", "mirror_shift"]


class Evaluator:
    """Logits of ``model`` in batches; compiled once per batch size, never by XLA (a second long compilation)."""

    def __init__(
        self, model: keras.Model, *, mean: np.ndarray, std: np.ndarray, batch_size: int = 500, views: Views = "none"
    ) -> None:
        self.model, self.batch_size, self.views = model, batch_size, views
        self.mean, self.scale = np.float32(mean), np.float32(1 / np.float64(std))
        self._logits = tf.function(self._forward, reduce_retracing=True)

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Float32 [N, num_classes] for images [N, ...] in the source's dtype."""
        parts = [
            self._logits(tf.constant(x[start : start + self.batch_size])).numpy()
            for start in range(0, len(x), self.batch_size)
        ]
        return np.concatenate(parts)

    def accuracy(self, x: np.ndarray, y: np.ndarray) -> float:
        """Share of right answers, 0 to 1."""
        return float((self.logits(x).argmax(-1) == y).mean())

    def _forward(self, x: Any) -> Any:
        x = (tf.cast(x, tf.float32) - self.mean) * self.scale
        if self.views == "none":
            return self._answer(x)
        total = self._mirrored(x)
        if self.views == "mirror_shift":
            # Jordan, arXiv:2404.00498, section 3.5: half the weight on the centre, a quarter on each diagonal shift.
            padded = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT")
            height, width = x.shape[1], x.shape[2]
            shifted = [padded[:, 0:height, 0:width], padded[:, 2 : height + 2, 2 : width + 2]]
            total = 0.5 * total + 0.25 * sum(self._mirrored(view) for view in shifted)
        return total

    def _mirrored(self, x: Any) -> Any:
        return 0.5 * (self._answer(x) + self._answer(tf.reverse(x, [2])))

    def _answer(self, x: Any) -> Any:
        return tf.cast(self.model(x, training=False), tf.float32)


@contextmanager
def float32_exactly() -> Iterator[None]:
    """Within the block a GPU multiplies float32 as float32: TensorFlow's default, TF32, keeps 11 bits as float16
    does."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
