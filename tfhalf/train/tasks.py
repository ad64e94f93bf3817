"""A pipeline's ``task`` section turned into an `Objective`, with what the training part says of its targets."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.utils.naming import to_snake_case

from tfhalf import config
from tfhalf.config.refs import resolve, user_code
from tfhalf.data import Splits
from tfhalf.data.columns import Columns
from tfhalf.errors import ConfigError, RefError
from tfhalf.tasks import CLASSES, Binary, Metric, Regression, Targets, Task
from tfhalf.tasks.base import balanced
from tfhalf.tasks.logits import of_second
from tfhalf.train.augmentation import check_augment
from tfhalf.train.minimums import check_minimums
from tfhalf.train.objective import Objective, SeveralObjectives


def targets_of(pipeline: config.Pipeline, base: Path) -> Targets | dict[str, Targets]:
    """What targets the pipeline's task takes, of several outputs by name.

    Raises:
        RefError: a task of one's own is not to be had.
    """
    if pipeline.outputs:
        return {name: _class(output, base).targets for name, output in pipeline.outputs.items()}
    return _class(pipeline.task, base).targets


def make_objective(pipeline: config.Pipeline, splits: Splits, base: Path) -> Objective:
    """What the pipeline trains for.

    Args:
        base: the folder that files of one's own are relative to.

    Raises:
        ConfigError: the section does not go with the data, or names a loss or a metric that is not there.
        RefError: code of one's own is not to be had, or fails.
    """
    kinds = targets_of(pipeline, base)
    several = set(kinds.values() if isinstance(kinds, dict) else (kinds,))
    _check_images(pipeline, several)
    check_augment(pipeline.data.augment, splits, several)
    objective = _objective(pipeline, splits, base)
    check_minimums(pipeline.verify.min, objective)
    return objective


def _objective(pipeline: config.Pipeline, splits: Splits, base: Path) -> Objective:
    smoothing = pipeline.train.label_smoothing
    if not pipeline.outputs:
        return _Output(pipeline.task, splits.y_train, splits.class_names, splits.targets, smoothing, base).objective()
    if pipeline.task != config.Task():  # a run folder's pipeline has every section written out
        raise ConfigError("task and outputs are both set; name the tasks under outputs, or the one under task")
    if not isinstance(splits.y_train, Columns) or set(splits.y_train) != set(pipeline.outputs):
        held = ", ".join(splits.y_train) if isinstance(splits.y_train, Columns) else "one array"
        raise ConfigError(
            f"outputs: names {', '.join(pipeline.outputs)}, and the data's y is {held}; give y by the outputs' names"
        )
    parts = {
        name: _Output(
            output, splits.y_train.arrays[name], splits.output_classes.get(name, ()), (), smoothing, base
        ).objective()
        for name, output in pipeline.outputs.items()
    }
    return SeveralObjectives(parts, {name: output.weight for name, output in pipeline.outputs.items()})


def _check_images(pipeline: config.Pipeline, kinds: Collection[str]) -> None:
    """Refuse what changes images and would have to change masks with them.

    Raises:
        ConfigError: naming the key.
    """
    if "masks" not in kinds:
        return
    train = pipeline.train
    smaller = train.sizes or [stage.size for stage in train.stages if stage.size is not None]
    for key, used in (("test_views", train.test_views != "none"), ("sizes", smaller)):
        if used:
            raise ConfigError(f"train.{key}: changes images and not their masks; leave it out of a segmentation")


@dataclass(frozen=True)
class _Output:
    """One output's section and training targets.

    Attributes:
        y: targets of the training part.
        columns: names of the numbers to predict, where the data has them.
        base: the folder that files of one's own are relative to.
    """

    settings: config.Task
    y: np.ndarray
    class_names: tuple[str, ...]
    columns: tuple[str, ...]
    label_smoothing: float
    base: Path

    def objective(self) -> Objective:
        """What it is trained for."""
        settings, task = self.settings, self.task()
        metrics = tuple(_metric(one, task, self.base) for one in settings.metrics) or task.metrics
        # An artifact is measured by those that are the task's own; where none is, by the usual ones.
        task.metrics = tuple(metric for metric in metrics if not metric.of_answers) or task.metrics
        return Objective(
            task,
            loss=None if settings.loss is None else _loss(settings.loss, task, self.base),
            metrics=_monitored(metrics, settings.monitor),
            class_weight=_class_weight(settings, self.y, task),
        )

    def task(self) -> Task:
        """What it learns."""
        settings = self.settings
        kind = _class(settings, self.base)
        if kind is Regression:
            return Regression.fit(self.y, scale=settings.scale, unit=settings.unit, columns=self.columns)
        if settings.unit or not settings.scale:
            raise ConfigError(
                f"task.{'unit' if settings.unit else 'scale'}: is for regression; leave it out of {settings.name}"
            )
        if settings.name in CLASSES:
            return kind(self.class_names, label_smoothing=self.label_smoothing)  # type: ignore[call-arg]
        with user_code(f"task: {settings.name} fails"):
            return kind(self.y, class_names=self.class_names, **settings.args)  # type: ignore[call-arg]


def _class(settings: config.Task, base: Path) -> type[Task]:
    if settings.name in CLASSES:
        return CLASSES[settings.name]
    own = resolve(settings.name, base)
    if not (isinstance(own, type) and issubclass(own, Task)):
        raise RefError(f"task: {settings.name} is not a class that extends tfhalf.tasks.Task")
    return own


def _monitored(metrics: tuple[Metric, ...], monitor: str | None) -> tuple[Metric, ...]:
    """With the one that tells the best epoch first."""
    names = [metric.name for metric in metrics]
    if len(set(names)) < len(names):
        raise ConfigError(f"task.metrics: {', '.join(names)} hold one twice; keep one")
    if monitor is None:
        return metrics
    if monitor not in names:
        raise ConfigError(f"task.monitor: received {monitor!r}, accepted: {', '.join(names)}")
    first = names.index(monitor)
    return (metrics[first], *metrics[:first], *metrics[first + 1 :])


def _class_weight(settings: config.Task, y: np.ndarray, task: Task) -> np.ndarray | None:
    """Of each class, float32 [K]."""
    setting = settings.class_weight
    if setting is None:
        return None
    if not task.exclusive:
        raise ConfigError(f"task.class_weight: {task.name} has no classes of which one is right; leave it out")
    if setting == "balanced":
        return balanced(y, len(task.class_names))
    weights = np.ones(len(task.class_names), np.float32)
    for name, weight in setting.items():
        if name not in task.class_names and not (name.isdigit() and int(name) < len(weights)):
            raise ConfigError(
                f"task.class_weight: {name!r} is not a class; accepted: {', '.join(task.class_names[:12])}, or a "
                f"number from 0 to {len(weights) - 1}"
            )
        weights[task.class_names.index(name) if name in task.class_names else int(name)] = weight
    return weights


# --- losses and metrics by name --------------------------------------------------------------------------------------


def _arguments(named: config.Named) -> str:
    return f"{named.name}({', '.join(f'{key}={value!r}' for key, value in named.args.items())})"


def _instance(named: config.Named, key: str, module: Any, base: Path) -> Any:
    """The loss or metric that ``named`` is: an object of Keras, or what code of one's own gives.

    Raises:
        ConfigError: Keras has none of that name, or it does not take the arguments.
        RefError: code of one's own is not to be had, or fails.
    """
    if ":" in named.name:
        own = resolve(named.name, base)
        if inspect.isclass(own):
            with user_code(f"{key}: {_arguments(named)} fails"):
                return own(**named.args)
        return lambda *tensors: own(*tensors, **named.args)
    kind = _of_keras(named.name, module)
    if kind is None:
        raise ConfigError(
            f"{key}: {named.name!r} is not in keras.{'losses' if module is keras.losses else 'metrics'}; accepted: a "
            "class there, such as "
            + ("Huber, CategoricalFocalCrossentropy" if "loss" in key else "AUC, F1Score")
            + ", or file.py:name"
        )
    arguments = {**named.args}
    parameters = inspect.signature(kind).parameters
    if "reduction" in parameters and module is keras.losses:
        arguments["reduction"] = "none"
    if "from_logits" in parameters:
        arguments.setdefault("from_logits", module is keras.losses)
    with user_code(f"{key}: {_arguments(named)} fails", ConfigError):
        return kind(**arguments)


def _of_keras(name: str, module: Any) -> type | None:
    """The class of that name, written as Keras has it or as ``binary_focal_crossentropy``."""
    plain = name.replace("_", "").lower()
    base = keras.losses.Loss if module is keras.losses else keras.metrics.Metric
    for candidate in dir(module):
        kind = getattr(module, candidate)
        if inspect.isclass(kind) and issubclass(kind, base) and candidate.lower() == plain:
            return kind
    return None


def _loss(named: config.Named, task: Task, base: Path) -> Callable[[Any, Any], Any]:
    """``loss(y, answers)``, float32 of each item, pixel or step. Keras' losses that know logits get logits, the others
    what is served; of numbers both are the scaled ones. Code of one's own gets the net's answers."""
    loss = _instance(named, "task.loss", keras.losses, base)
    parameters = inspect.signature(type(loss)).parameters
    raw = ":" in named.name or named.args.get("from_logits", "from_logits" in parameters)
    sparse = "Sparse" in type(loss).__name__

    def losses(y: Any, answers: Any) -> Any:
        if isinstance(task, Regression):
            truth, predictions = task.scaled(y), answers
        else:
            truth, predictions = _as_keras_has_them(task, y, answers, sparse=sparse, logits=bool(raw))
        return tf.cast(loss(truth, predictions), tf.float32)

    return losses


def _as_keras_has_them(task: Task, y: Any, answers: Any, *, sparse: bool, logits: bool) -> tuple[Any, Any]:
    """Targets and answers as Keras' losses and metrics take them: of two classes the second alone, [N, 1]; of several
    one-hot unless ``sparse``; logits, or what is served."""
    if isinstance(task, Binary):
        logit = of_second(answers)
        return tf.cast(y, tf.float32)[..., None], logit if logits else tf.sigmoid(logit)
    predictions = answers if logits else task.served(answers)[task.output]
    if task.exclusive and not sparse:
        y = tf.one_hot(y, len(task.class_names))
    return y, predictions


def _metric(named: config.Named, task: Task, base: Path) -> Metric:
    """A metric of the task's own by its name, else Keras', or code of one's own.

    Raises:
        ConfigError, RefError: there is none of that name.
    """
    offered = {metric.name: metric for metric in task.offered}
    if named.name in offered and not named.args:
        return offered[named.name]
    if ":" not in named.name and _of_keras(named.name, keras.metrics) is None:
        raise ConfigError(
            f"task.metrics: {named.name!r} is not a metric; accepted: {', '.join(offered)}, a class of keras.metrics "
            "such as TopKCategoricalAccuracy, or file.py:name"
        )
    return _keras_metric(_instance(named, "task.metrics", keras.metrics, base), named, task)


def _keras_metric(metric: Any, named: config.Named, task: Task) -> Metric:
    """A Keras metric, or a function of targets and predictions, as sums: what one update from the start adds to the
    metric's variables. All of Keras' own metrics add up so: means, counts, confusion matrices."""
    if not isinstance(metric, keras.metrics.Metric):
        metric = keras.metrics.MeanMetricWrapper(metric, name=named.name.rpartition(":")[2])
    sparse = "Sparse" in type(metric).__name__

    def pair(y: Any, answers: Any) -> tuple[Any, Any, Any]:
        return (*_as_keras_has_them(task, y, answers, sparse=sparse, logits=False), task.counted(y))

    metric(*pair(*task.example()))  # makes its variables
    metric.reset_state()
    start = [variable.numpy() for variable in metric.variables]
    cuts = np.cumsum([one.size for one in start])[:-1]

    def sums(xp: Any, y: Any, answers: Any) -> Any:
        after = metric.stateless_update_state([tf.constant(one) for one in start], *pair(y, answers))
        return tf.concat([tf.reshape(tf.cast(one, tf.float32), [-1]) for one in after], 0)

    def value(total: np.ndarray) -> float:
        parts = zip(np.split(total, cuts), start, strict=True)
        state = [tf.constant(part.reshape(one.shape).astype(one.dtype)) for part, one in parts]
        return float(np.mean(metric.stateless_result(state)))

    # Keras numbers those that it names itself: the second AUC of a process is auc_1, whatever pipeline it is of.
    own = to_snake_case(type(metric).__name__)
    name = str(named.args.get("name", own if re.fullmatch(rf"{own}_\d+", metric.name) else metric.name))
    kind = type(metric).__name__.lower()
    error = any(word in kind for word in ("error", "entropy", "hinge", "divergence", "logcosh"))
    return Metric(
        name, int(sum(one.size for one in start)), sums, value, higher=not error, share=not error, of_answers=True
    )
