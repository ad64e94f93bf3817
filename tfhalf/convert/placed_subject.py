"""A model as a `Subject` that is changed in place: a subclass of keras.Model, or one with a layer that cannot be made
again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfhalf.convert.interface import Interface
from tfhalf.convert.subject import Arrays, Seen, Shipped, answers, kernels_told, own_weights, set_policy
from tfhalf.export import grouped
from tfhalf.export.policies import own_islands, resizes
from tfhalf.export.program import variables_of
from tfhalf.export.rebuild import narrowed
from tfhalf.precision.float16 import CastCounts
from tfhalf.precision.policy import NORMS, RAW_RANGE, flat_layers, layer_path


class PlacedSubject:
    """A model changed in place: a subclass of keras.Model, or one with a layer that cannot be made again."""

    def __init__(self, model: keras.Model, interface: Interface, inputs: Arrays) -> None:
        self.model, self.interface = model, interface
        self._own = own_islands(model)
        self._narrowed: list[tuple[Any, Any, str]] = []
        model._convert_input_args = False  # its layers cast what they take; raw values reach preprocessing whole
        for layer in flat_layers(model):
            grouped.replace(layer)
        few = interface.few(inputs, 1)
        with _policies_set(model, {}, "float32"):
            tensors = [tf.constant(few[port.name]) for port in interface.inputs]
            answer = interface.call(self._call, tensors)  # builds what is not built yet
            self.interface = interface = interface.of_answer(answer)
            self._layers = {layer_path(layer): layer for layer in [model, *flat_layers(model)]}
            seen = Seen()
            with _watched(self._layers, seen):
                answers(interface, self._call, few)
        self.names = tuple(seen.given)

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, training=False, **kwargs)

    def reference(self, inputs: Arrays, seen: Seen | None = None) -> dict[str, np.ndarray]:
        """As `Subject`."""
        with _policies_set(self.model, {}, "float32"), _watched(self._layers, seen):
            return answers(self.interface, self._call, inputs)

    def simulate(self, kept: Iterable[str], inputs: Arrays, seen: Seen | None = None) -> dict[str, np.ndarray]:
        """As `Subject`."""
        with _policies_set(self.model, self._plan(kept), "mixed_float16"), _watched(self._layers, seen):
            return answers(self.interface, self._call, inputs)

    def ship(self, kept: Iterable[str]) -> Shipped:
        """As `Subject`; the model is float16 until the next call."""
        plan = self._plan(kept)
        while self._narrowed:  # what was shipped before
            variable, value, dtype = self._narrowed.pop()
            variable._value, variable._dtype = value, dtype
        for layer in self._layers.values():
            set_policy(layer, plan.get(id(layer), "mixed_float16"))
        counts = CastCounts()
        for layer in self._layers.values():
            if plan.get(id(layer)) is None:
                for variable in [*layer._trainable_variables, *layer._non_trainable_variables]:
                    self._narrowed.append((variable, variable._value, variable._dtype))
                    counts += _narrow(variable)
        return Shipped(self._call, *variables_of(self.model), counts, (), grouped.any_grouped(self.model))

    def weights(self) -> Iterator[tuple[str, str, np.ndarray]]:
        """As `Subject`."""
        for name, layer in self._layers.items():
            yield from ((name, path, value) for path, value in own_weights(layer))

    def own_islands(self) -> tuple[str, ...]:
        """As `Subject`."""
        return tuple(name for name, layer in self._layers.items() if id(layer) in self._own)

    def _plan(self, kept: Iterable[str]) -> dict[int, str]:
        """The policies of those layers that are not simply float16."""
        plan = {id(la): "mixed_float16" for la in self._layers.values() if isinstance(la, NORMS)}
        plan |= {id(la): "float32" for la in self._layers.values() if isinstance(la, RAW_RANGE) or resizes(la)}
        plan |= dict.fromkeys(self._own, "float32")
        return plan | {id(self._layers[name]): "float32" for name in kept}


@contextmanager
def _policies_set(model: keras.Model, plan: dict[int, str], rest: str) -> Iterator[None]:
    """Within the block every layer computes under its policy of ``plan``, or under ``rest``."""
    layers = [model, *flat_layers(model)]
    before = [layer.dtype_policy.name for layer in layers]
    try:
        for layer in layers:
            set_policy(layer, plan.get(id(layer), rest))
        yield
    finally:
        for layer, name in zip(layers, before, strict=True):
            set_policy(layer, name)


@contextmanager
def _watched(layers: dict[str, Any], seen: Seen | None) -> Iterator[None]:
    """Within the block ``seen`` notes every call of the layers, in the order in which they end."""
    before = [(layer, vars(layer).get("call")) for layer in layers.values()]
    for name, layer in layers.items():
        layer.call = _noting(name, layer.call, seen)
    try:
        yield
    finally:
        for layer, own in before:
            if own is None:
                del layer.call
            else:
                layer.call = own


def _noting(name: str, call: Callable[..., Any], seen: Seen | None) -> Callable[..., Any]:
    def noting(*args: Any, **kwargs: Any) -> Any:
        with kernels_told(name):
            given = call(*args, **kwargs)
        if seen is not None:
            seen.note(name, args, given)
        return given

    return noting


def _narrow(variable: Any) -> CastCounts:
    """Make a built variable float16 where it lies; integers stay."""
    value = keras.ops.convert_to_numpy(variable.value)
    narrow, counts = narrowed(variable.path, value)
    if narrow is not value:
        variable._value = tf.Variable(narrow, trainable=variable.trainable)
        variable._dtype = "float16"
    return counts
