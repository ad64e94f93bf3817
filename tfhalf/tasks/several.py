"""Several outputs, each with a task of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from tfhalf.errors import ConfigError
from tfhalf.tasks.base import Targets, Task
from tfhalf.tasks.metrics import Metric


class Several(Task):
    """The tasks of a model's outputs, by their names: targets, answers and predictions are by name, too.

    The loss is the sum of theirs, each times its weight; metrics are theirs, called NAME_METRIC; an artifact serves the
    main output of each under the output's name.
    """

    name: ClassVar[str] = "outputs"
    targets: ClassVar[Targets] = "numbers"

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self.tasks = dict(tasks)
        self.width = 0
        self.offered = self.metrics = tuple(
            of_output(name, metric) for name, task in self.tasks.items() for metric in task.metrics
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return tuple(self.tasks)

    def loss(self, y: Any, answers: Any) -> Any:
        """Not defined of all together: `tfhalf.train.objective` adds up those of the outputs."""
        raise NotImplementedError

    def served(self, answers: Any) -> Mapping[str, Any]:
        """The main output of each task, by the output's name."""
        import tensorflow as tf

        main = {name: task.served(answers[name])[task.output] for name, task in self.tasks.items()}
        return {name: tf.identity(value, name) for name, value in main.items()}

    def predictions(self, answers: Any) -> Any:
        """What each task's metrics look at, by name."""
        return {name: task.predictions(answers[name]) for name, task in self.tasks.items()}

    def ports(self, item: Any) -> dict[str, tuple[int | None, ...]]:
        """Of each output; ``item`` are the shapes of the answers by name."""
        return {name: task.ports(item[name])[task.output] for name, task in self.tasks.items()}

    def words(self) -> str:
        """Of each output what is learnt."""
        return "; ".join(f"{name}: {task.words()}" for name, task in self.tasks.items())

    def has_classes(self, port: str) -> bool:
        """As the output's task has it."""
        return self.tasks[port].exclusive

    def check_answers(self, shape: Any, ref: str) -> None:
        """Refuse outputs of other names, or other shapes than their tasks take; ``shape`` is by name."""
        if set(shape) != set(self.tasks):
            raise ConfigError(
                f"model.build: {ref} gives the outputs {', '.join(shape)}, the pipeline names {', '.join(self.tasks)}; "
                "name them alike: keras.Model(inputs, {'NAME': tensor, ...})"
            )
        for name, task in self.tasks.items():
            task.check_answers(shape[name], f"{ref}, output {name!r},")

    def port_facts(self) -> dict[str, dict[str, Any]]:
        """Of each output its task's facts."""
        return {name: task.facts() for name, task in self.tasks.items()}


def of_output(name: str, metric: Metric) -> Metric:
    """``metric`` of the output ``name``, of targets and predictions by name."""

    def sums(xp: Any, y: Any, predictions: Any) -> Any:
        return metric.sums(xp, y[name], predictions[name])

    return replace(metric, name=f"{name}_{metric.name}", sums=sums)
