"""A class for each pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tfhalf.errors import ConfigError
from tfhalf.tasks.base import Targets, Task, shape_words
from tfhalf.tasks.logits import cross_entropy, not_ignored, of_both
from tfhalf.tasks.metrics import accuracy, mean_iou


class Segmentation(Task):
    """Softmax cross-entropy of logits [N, H, W, K]; of two classes also one logit [N, H, W, 1], that of the second.

    Targets are int32 [N, H, W]; pixels below 0 do not count.
    """

    name: ClassVar[str] = "segmentation"
    targets: ClassVar[Targets] = "masks"
    exclusive: ClassVar[bool] = True

    def __init__(self, class_names: Sequence[str], *, label_smoothing: float = 0.0) -> None:
        self.class_names, self.label_smoothing = tuple(class_names), label_smoothing
        self.width = len(self.class_names)
        self.offered = (mean_iou(self.width), accuracy())
        self.metrics = self.offered

    def check_answers(self, shape: Sequence[int | None], ref: str) -> None:
        """Refuse answers that are not logits for each pixel; see `Task`."""
        if len(shape) != 4 or not (shape[-1] == self.width or (shape[-1] == 1 and self.width == 2)):
            raise ConfigError(
                f"model.build: {ref} gives {shape_words(shape)}; segmentation needs [N, H, W, {self.width}]: a last "
                f"layer Conv2D({self.width}, 1) without activation"
            )

    def ports(self, item: Sequence[int | None]) -> dict[str, tuple[int | None, ...]]:
        """Of all classes, however many logits a pixel has."""
        return {self.output: (*item[:-1], self.width)}

    def counted(self, y: Any) -> Any:
        """Pixels that are not ignored, float32 [N, H, W]."""
        return not_ignored(y)

    def loss(self, y: Any, answers: Any) -> Any:
        """Softmax cross-entropy, float32 [N, H, W]."""
        import tensorflow as tf

        return cross_entropy(tf.maximum(y, 0), of_both(answers), self.label_smoothing)

    def served(self, answers: Any) -> Mapping[str, Any]:
        """Probabilities, float32 [N, H, W, K]."""
        import tensorflow as tf

        return {"probabilities": tf.nn.softmax(of_both(answers), name="probabilities")}

    def predictions(self, answers: Any) -> Any:
        """Logits, whose top class is that of the probabilities."""
        return of_both(answers)
