"""A model as a `Simulator` that is changed in place: a subclass of keras.Model, or one with a layer that cannot be made
again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfhalf.export.interface import Interface
from tfhalf.export.islands.simulator import (
    Arrays,
    Seen,
    Shipped,
    answers,
    own_weights,
    set_policy,
    traced_model,
    widened,
)
from tfhalf.export.program import variables_of
from tfhalf.export.rebuild import grouped_conv
from tfhalf.export.rebuild.policies import HALF, Target, own_islands, resizes
from tfhalf.export.rebuild.rebuild import narrowed
from tfhalf.precision.cast import CastCounts
from tfhalf.precision.constants import Trace
from tfhalf.precision.cudnn import leave_cudnn
from tfhalf.precision.keras_graph import failures_named
from tfhalf.precision.policy import NORMS, RAW_RANGE, flat_layers, layer_path

_MIXED = "mixed_float16"


class InplaceSimulator:
    """A model changed in place: a subclass of keras.Model, or one with a layer that cannot be rebuilt."""

    def __init__(self, model: keras.Model, interface: Interface, inputs: Arrays) -> None:
        self.model, self.interface = model, interface
        self._own = own_islands(model)
        self._narrowed: list[tuple[Any, Any, str]] = []
        model._convert_input_args = False  # its layers cast what they take; raw values reach preprocessing whole
        for layer in flat_layers(model):
            grouped_conv.replace(layer)
        few = interface.few(inputs, 1)
        with _policies_set(model, {}, "float32"):
            tensors = [tf.constant(few[port.name]) for port in interface.inputs]
            answer = interface.call(self._call, tensors)  # builds what is not built yet
            leave_cudnn(model)
            self.interface = interface = interface.of_answer(answer)
            self._layers = {layer_path(layer): layer for layer in [model, *flat_layers(model)]}
            seen = Seen()
            with _Watch(self._layers, seen):
                answers(interface, self._call, few)
        self.names = tuple(seen.returned)

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, training=False, **kwargs)

    def reference(self, inputs: Arrays, seen: Seen | None = None) -> dict[str, np.ndarray]:
        """As `Simulator`."""
        with _policies_set(self.model, {}, "float32"), _Watch(self._layers, seen):
            return answers(self.interface, self._call, inputs)

    def simulate(self, kept: Iterable[str], inputs: Arrays, seen: Seen | None = None) -> dict[str, np.ndarray]:
        """As `Simulator`."""
        kept = set(kept)
        with (
            _policies_set(self.model, self._plan(kept), "mixed_float16"),
            _Watch(self._layers, seen, half="float16", wide=kept),
        ):
            return answers(self.interface, self._call, inputs)

    def ship(self, kept: Iterable[str], numbers: Target = "float16") -> Shipped:
        """As `Simulator`; the model is of these numbers until the next call."""
        kept, half = set(kept), numbers in HALF
        mixed = f"mixed_{numbers}" if half else numbers
        plan = {key: mixed if name == _MIXED else name for key, name in self._plan(kept).items()} if half else {}
        while self._narrowed:  # what was shipped before
            variable, value, dtype = self._narrowed.pop()
            variable._value, variable._dtype = value, dtype
        for layer in self._layers.values():
            set_policy(layer, plan.get(id(layer), mixed))
        counts = CastCounts()
        for layer in self._layers.values():
            if half and plan.get(id(layer)) is None:
                for variable in [*layer._trainable_variables, *layer._non_trainable_variables]:
                    self._narrowed.append((variable, variable._value, variable._dtype))
                    counts += _narrow(variable, numbers)

        def call(*args: Any, **kwargs: Any) -> Any:
            with _Watch(self._layers, half=numbers if half else "", wide=kept):
                return self._call(*args, **kwargs)

        return Shipped(call, *variables_of(self.model), counts, (), grouped_conv.any_grouped(self.model))

    def weights(self) -> Iterator[tuple[str, str, np.ndarray]]:
        """As `Simulator`."""
        for name, layer in self._layers.items():
            yield from ((name, path, value) for path, value in own_weights(layer))

    def own_islands(self) -> tuple[str, ...]:
        """As `Simulator`."""
        return tuple(name for name, layer in self._layers.items() if id(layer) in self._own)

    def trace(self, kept: Iterable[str] | None) -> Trace:
        """As `Simulator`."""
        half, wide = kept is not None, set(kept or ())
        plan, rest = (self._plan(wide), "mixed_float16") if half else ({}, "float32")

        def traced(trace: Trace, *args: Any, **kwargs: Any) -> Any:
            with _Watch(self._layers, half="float16" if half else "", wide=wide, trace=trace):
                return self._call(*args, **kwargs)

        with _policies_set(self.model, plan, rest):
            return traced_model(self.interface, traced)

    def outputs_from(self, name: str, fill: float, inputs: Arrays) -> dict[str, float]:
        """As `Simulator`; nothing is known of the order within a call."""
        return {}

    def joins(self, name: str) -> bool:
        """As `Simulator`; a layer that computes in float32 does so with all that its call takes."""
        return False

    def _plan(self, kept: Iterable[str]) -> dict[int, str]:
        """The policies of those layers that are not simply float16."""
        plan = {id(la): _MIXED for la in self._layers.values() if isinstance(la, NORMS)}
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


class _Watch:
    """Within it every call of the layers is noted, in the order in which they end; a failure is told as its layer's.

    Args:
        seen: what notes the calls.
        half: float16 or bfloat16, where the layers compute in it, so that what fails may do so by its dtype.
        wide: those that compute in float32, also with the float16 values that the layers give which they call.
        trace: what the graph is traced into.
    """

    def __init__(
        self,
        layers: dict[str, Any],
        seen: Seen | None = None,
        *,
        half: str = "",
        wide: Iterable[str] = (),
        trace: Trace | None = None,
    ) -> None:
        self.layers, self.seen, self.half, self.wide, self.trace = layers, seen, half, set(wide), trace
        self._callers: list[str] = []
        self._own: list[tuple[Any, Any]] = []

    def __enter__(self) -> None:
        self._own = [(layer, vars(layer).get("call")) for layer in self.layers.values()]
        for name, layer in self.layers.items():
            layer.call = self._watched(name, layer.call)

    def __exit__(self, *error: object) -> None:
        for layer, own in self._own:
            if own is None:
                del layer.call
            else:
                layer.call = own

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            caller = self._callers[-1] if self._callers else None
            self._callers.append(name)
            try:
                with (
                    failures_named(name, self.half) if self.half else nullcontext(),
                    nullcontext() if self.trace is None else self.trace.within(name),
                ):
                    returned = call(*args, **kwargs)
            finally:
                self._callers.pop()
            if self.seen is not None:
                self.seen.note(name, args, returned)
            return keras.tree.map_structure(widened, returned) if caller in self.wide else returned

        return watched


def _narrow(variable: Any, dtype: str) -> CastCounts:
    """Make a built variable one of ``dtype`` where it lies; integers stay."""
    value = keras.ops.convert_to_numpy(variable.value)
    narrow, counts = narrowed(variable.path, value, dtype)
    if value.dtype.kind == "f" or value.dtype.name == "bfloat16":
        variable._value = tf.Variable(tf.cast(narrow, dtype), trainable=variable.trainable)
        variable._dtype = dtype
    return counts
