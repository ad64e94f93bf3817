"""Keras callbacks around a training whose steps run many at a time: at begin and end, and round each epoch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from tfhalf import config
from tfhalf.config.refs import raised, resolve, user_code
from tfhalf.errors import ConfigError, RefError, TfhalfError
from tfhalf.progress import Progress
from tfhalf.tasks import Metric
from tfhalf.train.record.history import Epoch

_BATCH_HOOKS = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")

_OPERATION = "keras.ops"
_NOT_STATE = ("_model", "params", "validation_data")

Instances = list[tuple[str, keras.callbacks.Callback]]  # each with its reference


class State(NamedTuple):
    """What callbacks know: of each, in their order, its ``plain`` attributes; and lists of ``arrays`` by
    PLACE.ATTRIBUTE.INDEX (weights that `EarlyStopping` is to bring back)."""

    plain: list[dict[str, Any]]
    arrays: dict[str, np.ndarray]


class Callbacks:
    """The callbacks that a pipeline names: found at once, made when training starts, and anew when it is resumed."""

    def __init__(self, configs: Sequence[config.Callback], base: Path, metrics: Sequence[Metric]) -> None:
        """Find what ``configs`` name, files relative to ``base``; nothing is called yet. ``metrics`` are those of logs.

        Raises:
            RefError: a reference leads nowhere, or to a class that is not a callback.
            ConfigError: what it leads to does not take the arguments.
        """
        self.makers = [(one.build, _maker(one, base)) for one in configs]
        self.metrics = tuple(metrics)

    @contextmanager
    def running(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        progress: Progress,
        *,
        validation: bool,
        **params: Any,
    ) -> Iterator[Hooks]:
        """Training begins; within the block callbacks find ``model.optimizer`` and may set ``model.stop_training``.

        Args:
            validation: whether there is a validation part.
            params: what Keras tells callbacks: ``epochs``, ``steps``.

        Raises:
            RefError: a function fails, or what it returns is not a callback; a callback fails.
            ConfigError: a callback sets the learning rate, which a schedule decides, or monitors what logs do not hold.
        """
        hooks = Hooks(self._make(), model, progress, self.metrics)
        if not self.makers:
            yield hooks
            return
        model.optimizer, model.stop_training = optimizer, False
        try:
            hooks.begin(_keys(self.metrics, validation), params)
            yield hooks
        finally:
            # They are no part of the model: what builds or exports it again must not find them.
            del model.optimizer, model.stop_training

    def check(self, optimizer: keras.optimizers.Optimizer, *, validation: bool) -> list[str]:
        """Make the callbacks and look at them as training does when it begins; none of their hooks is called.

        Args:
            optimizer: one like that of training.
            validation: whether there is a validation part.

        Returns:
            A line for each that has hooks which training never calls.

        Raises:
            RefError, ConfigError: as `running`.
        """
        instances = self._make()
        look = partial(_looked_at, instances, optimizer, _keys(self.metrics, validation), _growing(self.metrics))
        return [line for line in map(look, range(len(instances))) if line]

    def _make(self) -> Instances:
        instances = []
        for ref, maker in self.makers:
            with user_code(f"train.callbacks: {ref} fails"):
                callback = maker()
            if not isinstance(callback, keras.callbacks.Callback):
                raise RefError(
                    f"train.callbacks: {ref} returned a {type(callback).__name__}, accepted: a keras.callbacks.Callback"
                )
            instances.append((ref, callback))
        return instances


class Hooks:
    """The hooks of the callbacks of one training; those of batches, tests and predictions are never called.

    Epochs are counted from 0, as Keras does. Logs hold ``loss``, every metric, ``val_loss`` and every metric's ``val_``
    (these with a validation part), ``learning_rate``, ``loss_scale`` and ``images_per_s``.
    """

    def __init__(
        self, callbacks: Instances, model: keras.Model, progress: Progress, metrics: Sequence[Metric] = ()
    ) -> None:
        self.callbacks, self.model, self.progress, self.metrics = callbacks, model, progress, metrics
        self.keys: list[str] = []
        self.logs: dict[str, float] = {}
        self.list = keras.callbacks.CallbackList()

    @property
    def stopped(self) -> bool:
        """Whether a callback asked for the end of training."""
        return bool(self.callbacks and self.model.stop_training)

    def begin(self, keys: list[str], params: dict[str, Any]) -> None:
        """Check what can be known before training, and call ``on_train_begin``. ``keys`` are what logs will hold."""
        self.keys = keys
        for index in range(len(self.callbacks)):
            said = _looked_at(self.callbacks, self.model.optimizer, keys, _growing(self.metrics), index)
            if said:
                self.progress.line(f"callbacks  {said}")
        plain = [callback for _, callback in self.callbacks]
        with self._named("set_model"):
            self.list = keras.callbacks.CallbackList(plain, model=self.model, verbose=0, **params)
        self._call("on_train_begin")

    def epoch_begin(self, epoch: int) -> None:
        """Before ``epoch``, counted from 0."""
        self._call("on_epoch_begin", epoch)

    def epoch_end(self, row: Epoch) -> None:
        """After the epoch of ``row``."""
        facts = row.to_dict()
        self.logs = {key: facts[key] for key in self.keys if facts.get(key) is not None}
        self._call("on_epoch_end", row.epoch - 1, dict(self.logs))

    def end(self) -> None:
        """After training, once averaged weights have become the model's; what callbacks restore then stays."""
        self._call("on_train_end", dict(self.logs))

    def state(self) -> State:
        """What the callbacks know by now, as far as it is numbers, text and arrays."""
        plain: list[dict[str, Any]] = []
        arrays: dict[str, np.ndarray] = {}
        for index, (_, callback) in enumerate(self.callbacks):
            plain.append({})
            for name, value in vars(callback).items():
                if name in _NOT_STATE:
                    continue
                if isinstance(value, np.generic):
                    value = value.item()
                if value is None or isinstance(value, bool | int | float | str):
                    plain[-1][name] = value
                elif operation := _operation(value):
                    plain[-1][name] = {_OPERATION: operation}  # which way a monitored value improves
                elif isinstance(value, list) and value and all(isinstance(one, np.ndarray) for one in value):
                    arrays |= {f"{index}.{name}.{i}": one for i, one in enumerate(value)}
        return State(plain, arrays)

    def restore(self, state: State) -> None:
        """Have the callbacks know what they knew when ``state`` was taken."""
        for index, ((_, callback), plain) in enumerate(zip(self.callbacks, state.plain, strict=False)):
            for name, value in plain.items():
                setattr(callback, name, getattr(keras.ops, value[_OPERATION]) if isinstance(value, dict) else value)
            lists: dict[str, list[tuple[int, np.ndarray]]] = {}
            for key, array in state.arrays.items():
                number, name, i = key.split(".")
                if int(number) == index:
                    lists.setdefault(name, []).append((int(i), array))
            for name, parts in lists.items():
                setattr(callback, name, [array for _, array in sorted(parts, key=lambda part: part[0])])

    def _call(self, hook: str, *arguments: Any) -> None:
        if self.callbacks:
            with self._named(hook):
                getattr(self.list, hook)(*arguments)

    @contextmanager
    def _named(self, hook: str) -> Iterator[None]:
        self.progress.clear()  # callbacks print
        try:
            yield
        except (TfhalfError, KeyboardInterrupt):
            raise
        except BaseException as error:  # whatever a callback raises, SystemExit included
            raise RefError(f"train.callbacks: {self._reference(error)}{hook} fails: {raised(error)}") from error

    def _reference(self, error: BaseException) -> str:
        """The reference of the callback whose method ``error`` came through."""
        trace = error.__traceback__
        while trace is not None:
            owner = trace.tb_frame.f_locals.get("self")
            for ref, callback in self.callbacks:
                if owner is callback:
                    return f"{ref}: "
            trace = trace.tb_next
        return ""


def _maker(one: config.Callback, base: Path) -> Callable[[], Any]:
    function = resolve(one.build, base)
    if isinstance(function, type) and not issubclass(function, keras.callbacks.Callback):
        raise RefError(
            f"train.callbacks: {one.build} is the class {function.__name__}, accepted: a keras.callbacks.Callback, or "
            "a function that returns one"
        )
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a function written in C may not tell
        return partial(function, **one.args)
    try:
        signature.bind(**one.args)
    except TypeError as error:
        accepted = ", ".join(signature.parameters) or "none"
        raise ConfigError(f"train.callbacks: {one.build}: {error} (accepted: {accepted})") from None
    return partial(function, **one.args)


def _operation(value: Any) -> str | None:
    """The name of ``value`` in `keras.ops`, if it is one of these functions."""
    name = str(getattr(value, "__name__", ""))
    return name if name and getattr(keras.ops, name, None) is value else None


def _is_keras_own(callback: keras.callbacks.Callback) -> bool:
    """One whose class says all that it does: no functions of the user's."""
    return type(callback).__module__.split(".")[0] == "keras" and not isinstance(
        callback, keras.callbacks.LambdaCallback
    )


def _keys(metrics: Sequence[Metric], validation: bool) -> list[str]:
    """What logs hold."""
    names = [metric.name for metric in metrics]
    own = ["loss", *names, *(("val_loss", *(f"val_{name}" for name in names)) if validation else ())]
    return [*own, "learning_rate", "loss_scale", "images_per_s"]


def _growing(metrics: Sequence[Metric]) -> set[str]:
    """Of the logs those that are better the larger they are."""
    names = [metric.name for metric in metrics if metric.higher]
    return {"images_per_s", *names, *(f"val_{name}" for name in names)}


def _looked_at(
    callbacks: Instances, optimizer: keras.optimizers.Optimizer, keys: list[str], growing: set[str], index: int
) -> str:
    """A line about hooks of the callback at ``index`` that are never called, once it is known that it can work."""
    ref, callback = callbacks[index]
    _check_rate(callback, optimizer)
    _check_monitor(ref, callback, keys, growing, callbacks[:index])
    unheard = _batch_hooks(callback)
    return f"{ref}: {', '.join(unheard)}: not called, because many steps run as one program" if unheard else ""


def _batch_hooks(callback: keras.callbacks.Callback) -> list[str]:
    """Hooks that ``callback`` waits for in vain; some of Keras' own do nothing as long as they work by the epoch."""
    frequency = getattr(callback, "save_freq", getattr(callback, "update_freq", None))
    if _is_keras_own(callback) and frequency == "epoch" and not getattr(callback, "_should_trace", False):
        return []
    plain = keras.callbacks.Callback
    own = {name for name in _BATCH_HOOKS if getattr(type(callback), name) is not getattr(plain, name)}
    return [name for name in _BATCH_HOOKS if name in own or name in vars(callback)]


def _check_rate(callback: keras.callbacks.Callback, optimizer: keras.optimizers.Optimizer) -> None:
    """Tell before training, not in the middle of it, that a learning rate cannot be set: set it to what it is."""
    if isinstance(callback, keras.callbacks.LearningRateScheduler | keras.callbacks.ReduceLROnPlateau):
        optimizer.learning_rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def _check_monitor(
    ref: str, callback: keras.callbacks.Callback, keys: list[str], growing: set[str], earlier: Instances
) -> None:
    """Refuse to wait for a value that never comes, of which Keras would only warn; give accuracies their direction."""
    if not hasattr(callback, "monitor_op"):  # what those have that Keras derives from its MonitorCallback
        return
    if callback.mode == "auto" and callback.monitor in growing:
        callback.mode = "max"  # Keras asks the metrics of a compiled model, and there is none
    used = getattr(callback, "save_best_only", True)
    # Callbacks of one's own may add to the logs, which those behind them see.
    if used and callback.monitor not in keys and all(_is_keras_own(other) for _, other in earlier):
        raise ConfigError(
            f"train.callbacks: {ref}: received monitor {callback.monitor!r}, accepted: {', '.join(keys)}; "
            + (
                "set args.monitor"
                if "val_loss" in keys
                else f"set args.monitor, or data.validation to have val_loss and val_{keys[1]}"
            )
        )
