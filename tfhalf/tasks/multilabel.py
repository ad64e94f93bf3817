"""Any number of labels for each item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tfhalf.tasks.base import Targets, Task
from tfhalf.tasks.metrics import exact_match, micro_f1


class Multilabel(Task):
    """Sigmoid cross-entropy of logits [N, K], the mean over labels; targets are 0 or 1, float32 [N, K]."""

    name: ClassVar[str] = "multilabel"
    targets: ClassVar[Targets] = "multi"

    def __init__(self, class_names: Sequence[str], *, label_smoothing: float = 0.0) -> None:
        self.class_names, self.label_smoothing = tuple(class_names), label_smoothing
        self.width = len(self.class_names)
        self.offered = (micro_f1(), exact_match())
        self.metrics = self.offered

    def loss(self, y: Any, answers: Any) -> Any:
        """Sigmoid cross-entropy, the mean over labels, float32 [N]."""
        import tensorflow as tf

        true = y * (1 - self.label_smoothing) + 0.5 * self.label_smoothing if self.label_smoothing else y
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(true, answers), -1)

    def served(self, answers: Any) -> Mapping[str, Any]:
        """The probability of each label, float32 [N, K]."""
        import tensorflow as tf

        return {"probabilities": tf.math.sigmoid(answers, name="probabilities")}
