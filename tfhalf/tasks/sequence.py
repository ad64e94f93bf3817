"""A class for each step of a sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tfhalf.errors import ConfigError
from tfhalf.tasks.base import Targets, Task, shape_words
from tfhalf.tasks.logits import cross_entropy, not_ignored
from tfhalf.tasks.metrics import accuracy, macro_f1


class SequenceLabels(Task):
    """Softmax cross-entropy of logits [N, T, K]; targets are int32 [N, T], of which those below 0 do not count."""

    name: ClassVar[str] = "sequence"
    targets: ClassVar[Targets] = "steps"
    exclusive: ClassVar[bool] = True

    def __init__(self, class_names: Sequence[str], *, label_smoothing: float = 0.0) -> None:
        self.class_names, self.label_smoothing = tuple(class_names), label_smoothing
        self.width = len(self.class_names)
        self.offered = (accuracy(), macro_f1(self.width))
        self.metrics = self.offered[:1]

    def check_answers(self, shape: Sequence[int | None], ref: str) -> None:
        """Refuse answers that are not logits for each step; see `Task`."""
        if len(shape) != 3 or shape[-1] != self.width:
            raise ConfigError(
                f"model.build: {ref} gives {shape_words(shape)}; a label for each step needs [N, T, {self.width}]: a "
                f"last layer Dense({self.width}) on a sequence, without activation"
            )

    def counted(self, y: Any) -> Any:
        """Steps that are not ignored, float32 [N, T]."""
        return not_ignored(y)

    def loss(self, y: Any, answers: Any) -> Any:
        """Softmax cross-entropy, float32 [N, T]."""
        import tensorflow as tf

        return cross_entropy(tf.maximum(y, 0), answers, self.label_smoothing)

    def served(self, answers: Any) -> Mapping[str, Any]:
        """Probabilities, float32 [N, T, K]."""
        import tensorflow as tf

        return {"probabilities": tf.nn.softmax(answers, name="probabilities")}

    def predictions(self, answers: Any) -> Any:
        """Logits, whose top class is that of the probabilities."""
        return answers
