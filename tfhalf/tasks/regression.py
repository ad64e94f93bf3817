"""Numbers to predict, in the caller's units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from tfhalf.errors import ConfigError, DataError
from tfhalf.tasks.base import Targets, Task, shape_words
from tfhalf.tasks.metrics import mae, r2, rmse

_SMALLEST = 1e-30


class Regression(Task):
    """Squared error of numbers [N, K], scaled by the training targets' mean and standard deviation.

    A net gives numbers about 0 of size 1, which half precision holds whatever the units; they become units again in
    float32, which holds dollars beyond float16's 65504.

    Args:
        mean, std: of the training targets, one number each of K.
        unit: what the numbers count, for people.
        columns: what each of K is called.

    Raises:
        DataError: a target is the same for all training items.
    """

    name: ClassVar[str] = "regression"
    targets: ClassVar[Targets] = "numbers"
    output: ClassVar[str] = "value"

    def __init__(self, mean: Sequence[float], std: Sequence[float], *, unit: str = "", columns: Sequence[str] = ()):
        self.mean, self.std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
        self.unit, self.columns = unit, tuple(columns)
        self.width = len(self.mean)
        self.offered = (rmse(self.width, unit), mae(self.width, unit), r2(self.mean, self.std))
        self.metrics = self.offered

    @classmethod
    def fit(cls, y: np.ndarray, *, scale: bool = True, unit: str = "", columns: Sequence[str] = ()) -> Regression:
        """Of training targets ``y`` float32 [N, K]; without ``scale`` they stay as they are."""
        if not scale:
            return cls([0.0] * y.shape[1], [1.0] * y.shape[1], unit=unit, columns=columns)
        exact = y.astype(np.float64)
        mean, std = exact.mean(0), exact.std(0)
        flat = np.flatnonzero(std <= np.maximum(1e-7 * np.abs(mean), _SMALLEST))
        if len(flat):
            raise DataError(
                f"targets: all training items have {mean[flat[0]]:g} in column {int(flat[0])}, from which nothing can "
                "be learned; leave that column out"
            )
        return cls(mean.tolist(), std.tolist(), unit=unit, columns=columns)

    def loss(self, y: Any, answers: Any) -> Any:
        """Squared error of scaled numbers, the mean over them, float32 [N]."""
        import tensorflow as tf

        return tf.reduce_mean(tf.square(answers - self.scaled(y)), -1)

    def scaled(self, y: Any) -> Any:
        """Targets as a net gives them, tensors or arrays float32 [N, K]."""
        return (y - self.mean) * (1 / self.std)

    def served(self, answers: Any) -> Mapping[str, Any]:
        """Numbers in the caller's units, float32 [N, K]."""
        import tensorflow as tf

        return {"value": tf.identity(answers * self.std + self.mean, "value")}

    def check_answers(self, shape: Sequence[int | None], ref: str) -> None:
        """Refuse answers that are not a number for each target; see `Task`."""
        if tuple(shape[1:]) != (self.width,):
            raise ConfigError(
                f"model.build: {ref} gives {shape_words(shape)}; regression of {self.width} number"
                f"{'s' * (self.width != 1)} needs [N, {self.width}]: a last layer Dense({self.width})"
            )

    def facts(self) -> dict[str, Any]:
        """With the scale of the numbers."""
        numbers = {"mean": self.mean.tolist(), "std": self.std.tolist()}
        about = {"name": self.name, "targets": self.targets, "metrics": [metric.name for metric in self.metrics]}
        return {**about, **numbers, "unit": self.unit, "columns": list(self.columns)}
