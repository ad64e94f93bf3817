"""What a pipeline file says of what is learnt: the task, its loss and its metrics."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tfhalf.config.section import NonNegative, Section

TASKS = ("classification", "binary", "multilabel", "regression", "segmentation", "sequence")
# Field descriptions stand in for the words that error messages otherwise make from types.
_TASK_WORDS = f"one of {', '.join(TASKS)}, or file.py:Class"


class Named(Section):
    """A loss or a metric: a name of ``keras.losses`` or ``keras.metrics``, ``file.py:name`` (relative to the pipeline
    file) or ``package.module:name``, and ``args``, its keyword arguments. A name alone may stand for it."""

    name: Annotated[str, Field(min_length=2)]
    args: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class Task(Section):
    """What is learnt.

    ``name``: ``classification`` (one class of several), ``binary`` (of two, by one logit), ``multilabel`` (any number
    of labels), ``regression`` (numbers), ``segmentation`` (a class for each pixel), ``sequence`` (a class for each
    step), or a class of one's own, ``file.py:Class``, with ``args``. A name alone may stand for the section.

    ``loss`` and ``metrics`` replace those that the task has; metrics are the task's own by their names, or Keras'.
    ``monitor`` is the metric that tells the best epoch, the first without it. ``class_weight``: by class name or number
    how much its items count, or ``balanced``. ``ignore``: a target that does not count, of pixels and steps. ``scale``:
    whether numbers are scaled by the training targets' mean and standard deviation while a net learns them; ``unit`` is
    what they count.
    """

    name: Annotated[str, Field(min_length=2, description=_TASK_WORDS)] = "classification"
    args: dict[str, Any] = Field(default_factory=dict)
    loss: Named | None = None
    metrics: tuple[Named, ...] = ()
    monitor: str | None = None
    class_weight: Literal["balanced"] | dict[str, NonNegative] | None = None
    ignore: int | None = None
    scale: bool = True
    unit: Annotated[str, Field(max_length=40)] = ""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _known(self) -> Task:
        if self.name not in TASKS and ":" not in self.name:
            raise ValueError(f"{self.name!r} is not a task; accepted: {_TASK_WORDS}")
        return self


class Output(Task):
    """One output of a model of several: its task, and ``weight``, what its loss is multiplied by in the sum."""

    weight: Annotated[float, Field(gt=0)] = 1.0
