"""What every kind of task has: `Task`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from tfhalf.errors import ConfigError
from tfhalf.tasks.metrics import Metric

Targets = Literal["classes", "numbers", "multi", "masks", "steps"]
"""What targets are: class numbers [N]; float32 [N, K]; 0 or 1 [N, K]; a class a pixel [N, H, W]; a class a step
[N, T]."""


class Task(ABC):
    """What a net learns: what its targets are, how wrong an answer is, what is served, how good that is.

    ``answers`` are the net's own outputs in float32: logits, or scaled numbers. ``predictions`` are what the artifact
    serves under the name ``output``, from answers: probabilities, or numbers in the caller's units.

    A task of one's own is a subclass, named ``file.py:Class`` in a pipeline and called as
    ``Class(y, class_names=..., **args)`` with the training part's targets.

    Attributes:
        name: as a pipeline calls it.
        targets: what data is read as.
        output: the artifact's main output.
        class_names: of classes, empty where targets are none.
        width: how many outputs a net needs.
        metrics: the figures that are kept of it, the first of which tells the best epoch.
        offered: the figures that a pipeline may name instead.
    """

    name: ClassVar[str]
    targets: ClassVar[Targets]
    output: ClassVar[str] = "probabilities"
    exclusive: ClassVar[bool] = False
    """Whether the last axis of the main output is classes, of which one is right."""

    class_names: tuple[str, ...] = ()
    width: int
    metrics: tuple[Metric, ...]
    offered: tuple[Metric, ...]

    @abstractmethod
    def loss(self, y: Any, answers: Any) -> Any:
        """Of each item, pixel or step how wrong it is, float32 [N, ...]; by TensorFlow, within the compiled loop, never
        in the process that verifies."""

    @abstractmethod
    def served(self, answers: Any) -> Mapping[str, Any]:
        """What an artifact gives, by name, float32; by TensorFlow, behind a net of any dtype policy."""

    def predictions(self, answers: Any) -> Any:
        """What metrics look at while a net trains: the main output, or what ranks as it does."""
        return self.served(answers)[self.output]

    def counted(self, y: Any) -> Any | None:
        """Of each loss whether it counts, float32; None where all do."""
        return None

    def ports(self, item: Sequence[int | None]) -> dict[str, tuple[int | None, ...]]:
        """The shapes of `served` for a net whose answers have the shape ``item``, without the batch."""
        return dict.fromkeys(self.names, tuple(item))

    def example(self) -> tuple[Any, Any]:
        """Targets and answers of one item, as tensors, of which nothing but the shapes matters."""
        import tensorflow as tf

        axes = {"masks": (1, 2, 2), "steps": (1, 2)}.get(self.targets, (1,))
        y = tf.zeros(axes, tf.int32) if self.exclusive else tf.zeros((*axes, self.width))
        return y, tf.zeros((*axes, self.width))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of what is served."""
        return (self.output,)

    def check_answers(self, shape: Sequence[int | None], ref: str) -> None:
        """Refuse a net whose output has another ``shape`` (with the batch) than this task learns.

        Raises:
            ConfigError: it says what the output needs to be.
        """
        if len(shape) != 2 or shape[-1] != self.width:
            raise ConfigError(
                f"model.build: {ref} gives {shape_words(shape)}; {self.name} needs [N, {self.width}]: a last layer "
                f"Dense({self.width}) without activation"
            )

    def words(self) -> str:
        """What is learnt, for people: ``10 classes``."""
        if self.class_names:
            kind = "" if self.name == "classification" else f" ({self.name})"
            return f"{len(self.class_names)} classes{kind}"
        return f"{self.width} number{'s' * (self.width != 1)} ({self.name})"

    def has_classes(self, port: str) -> bool:
        """Whether the last axis of what is served as ``port`` is classes, of which one is right."""
        return self.exclusive

    def port_facts(self) -> dict[str, dict[str, Any]]:
        """`facts` by the output that they are of."""
        return {self.output: self.facts()}

    def facts(self) -> dict[str, Any]:
        """What a manifest says of it, from which `tasks.of_facts` makes it again."""
        names = list(self.class_names)
        about = {"name": self.name, "targets": self.targets, "metrics": [metric.name for metric in self.metrics]}
        return {**about, "classes": len(names), "class_names": names}


def shape_words(shape: Sequence[int | None]) -> str:
    """``[N, 10]``."""
    return f"[{', '.join(['N', *map(str, shape[1:])])}]"


def balanced(y: np.ndarray, classes: int) -> np.ndarray:
    """A weight for each class that makes all count alike, float32 [K]: N / (K * count), 0 for a class without items
    (King and Zeng 2001, as scikit-learn's ``balanced``)."""
    counts = np.bincount(y[y >= 0].reshape(-1), minlength=classes)
    weights: np.ndarray = np.where(counts, counts.sum() / (classes * np.maximum(counts, 1)), 0).astype(np.float32)
    return weights
