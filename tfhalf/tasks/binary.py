"""One of two classes for each item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tfhalf.errors import ConfigError
from tfhalf.tasks.base import Targets, Task, shape_words
from tfhalf.tasks.logits import of_both, of_second
from tfhalf.tasks.metrics import accuracy, auc, macro_f1


class Binary(Task):
    """Sigmoid cross-entropy of one logit [N, 1], that of the second class; or of the difference of two, [N, 2].

    What is served has both classes, as a classifier's: logits (0 and the logit) and probabilities, [N, 2].
    """

    name: ClassVar[str] = "binary"
    targets: ClassVar[Targets] = "classes"
    exclusive: ClassVar[bool] = True

    def __init__(self, class_names: Sequence[str], *, label_smoothing: float = 0.0) -> None:
        if len(class_names) != 2:
            raise ConfigError(
                f"task: binary needs two classes, the data has {len(class_names)}; set task: classification"
            )
        self.class_names, self.label_smoothing = tuple(class_names), label_smoothing
        self.width = 1
        self.offered = (accuracy(), auc(), macro_f1(2))
        self.metrics = self.offered[:2]

    @property
    def names(self) -> tuple[str, ...]:
        """Both, of both classes."""
        return ("logits", "probabilities")

    def check_answers(self, shape: Sequence[int | None], ref: str) -> None:
        """Refuse answers that are neither one logit an item nor two; see `Task`."""
        if len(shape) != 2 or shape[-1] not in (1, 2):
            raise ConfigError(
                f"model.build: {ref} gives {shape_words(shape)}; binary needs [N, 1], or [N, 2]: a last layer Dense(1) "
                "without activation"
            )

    def ports(self, item: Sequence[int | None]) -> dict[str, tuple[int | None, ...]]:
        """Of both classes, however many logits the net gives."""
        return dict.fromkeys(self.names, (2,))

    def loss(self, y: Any, answers: Any) -> Any:
        """Sigmoid cross-entropy, float32 [N]."""
        import tensorflow as tf

        true = tf.cast(y, tf.float32)
        if self.label_smoothing:
            true = true * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        return tf.nn.sigmoid_cross_entropy_with_logits(true, of_second(answers)[..., 0])

    def served(self, answers: Any) -> Mapping[str, Any]:
        """Logits and probabilities of both classes, float32 [N, 2]."""
        import tensorflow as tf

        logits = of_both(answers)
        return {"logits": tf.identity(logits, "logits"), "probabilities": tf.nn.softmax(logits, name="probabilities")}
