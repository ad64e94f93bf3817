"""One class of several for each item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tfhalf.tasks.base import Targets, Task
from tfhalf.tasks.logits import cross_entropy
from tfhalf.tasks.metrics import accuracy, macro_f1, top_k


class Classification(Task):
    """Softmax cross-entropy of logits [N, K]."""

    name: ClassVar[str] = "classification"
    targets: ClassVar[Targets] = "classes"
    exclusive: ClassVar[bool] = True

    def __init__(self, class_names: Sequence[str], *, label_smoothing: float = 0.0) -> None:
        self.class_names, self.label_smoothing = tuple(class_names), label_smoothing
        self.width = len(self.class_names)
        self.offered = (accuracy(), top_k(5), macro_f1(self.width))
        self.metrics = self.offered[:1]

    @property
    def names(self) -> tuple[str, ...]:
        """Logits, and probabilities."""
        return ("logits", "probabilities")

    def loss(self, y: Any, answers: Any) -> Any:
        """Softmax cross-entropy, float32 [N]."""
        return cross_entropy(y, answers, self.label_smoothing)

    def served(self, answers: Any) -> Mapping[str, Any]:
        """Logits and probabilities, float32 [N, K]."""
        import tensorflow as tf

        return {"logits": tf.identity(answers, "logits"), "probabilities": tf.nn.softmax(answers, name="probabilities")}

    def predictions(self, answers: Any) -> Any:
        """Logits, whose top class is that of the probabilities."""
        return answers
