"""A functional or sequential model as a `Simulator`: rebuilt from its layers' configurations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfhalf.errors import ArtifactError, ExportError
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
from tfhalf.export.rebuild.fold_batchnorm import find_folds
from tfhalf.export.rebuild.grouped_conv import any_grouped
from tfhalf.export.rebuild.policies import Target, own_islands
from tfhalf.export.rebuild.rebuild import Rebuilt, rebuild
from tfhalf.precision.constants import Trace
from tfhalf.precision.keras_graph import LayerError, failures_named, operations, reason, run
from tfhalf.precision.policy import layer_path, matching

_PARTS = ("kernel", "bias")
_PRODUCTS = ("Matmul", "Dot", "Tensordot", "Einsum", "Inner", "Vdot", "Conv", "ConvTranspose", "DepthwiseConv")


class GraphSimulator:
    """A functional or sequential model."""

    def __init__(self, model: keras.Model, interface: Interface, *, fold: bool = True) -> None:
        self.model, self.interface, self.fold = model, interface, fold
        self._operations = operations(model)
        self._folds = find_folds(model) if fold else []
        self._norms = {id(f.norm): f for f in self._folds}
        self.names = tuple(n for n, op in self._operations.items() if id(op) not in self._norms)
        self._wide = rebuild(model, fold_batchnorm=False, target="float32")  # fails at once where it cannot be rebuilt
        float32_model = self._wide.model
        self._answer = tf.function(lambda x: float32_model(x, training=False), autograph=False, reduce_retracing=True)
        self._sim: Any = None
        self._failing: dict[str, LayerError] = {}

    def reference(self, inputs: Arrays, seen: Seen | None = None) -> dict[str, np.ndarray]:
        """As `Simulator`."""
        if seen is None:
            try:
                return answers(self.interface, self._answer, inputs)
            except (ArtifactError, ExportError):
                raise
            except Exception as error:  # whatever an operation raises
                raise ExportError(self._why(error)) from error
        names = self._names_of(self._wide.copies)
        return answers(self.interface, lambda x: run(self._wide.model, x, _noted(names, seen)), inputs)

    def _why(self, error: Exception) -> str:
        """What float32 is missing for an answer, after it failed with ``error``."""
        if isinstance(error, tf.errors.OpError):  # of the numbers themselves
            return f"the model fails on some of its inputs: {reason(error)}; give it others: --verify-with DATA.npz"
        ports = self.interface.inputs
        one = replace(self.interface, inputs=tuple(replace(p, shape=(1, *p.shape[1:])) for p in ports))
        try:
            traced_model(one, lambda trace, x: self._wide.model(x, training=False))
        except ExportError:
            return (
                f"the model computes step by step in Python alone, and every format is a graph: {reason(error)}; "
                "write that operation with others"
            )
        return (
            f"the model takes no open number of samples: {reason(error)}; build it with keras.Input(..., "
            "batch_size=1), or write that operation with others"
        )

    def simulate(self, kept: Iterable[str], inputs: Arrays, seen: Seen | None = None) -> dict[str, np.ndarray]:
        """As `Simulator`."""
        call = _widening(*self._prepared(kept))
        names = self._names_of(self._sim.copies)
        return answers(self.interface, lambda x: run(self._sim.model, x, _noted(names, seen, call)), inputs)

    def _prepared(self, kept: Iterable[str]) -> tuple[dict[int, str], set[int]]:
        """Have the simulated model compute with ``kept`` in float32; its operations' names, and those that are kept.

        Raises:
            LayerError: a layer cannot be computed in float16 at all, and is not among ``kept``.
        """
        if self._sim is None:
            self._sim = self._simulator()
            self._base = {id(c): _policies(c) for c in self._sim.copies.values() if isinstance(c, keras.layers.Layer)}
        names = self._names_of(self._sim.copies)
        chosen = set(kept)
        for name, failure in self._failing.items():
            if name not in chosen:
                raise LayerError(name, failure.why)
        wide = {key for key, name in names.items() if name in chosen}
        for copy in self._sim.copies.values():
            if isinstance(copy, keras.layers.Layer):
                for layer, policy in self._base[id(copy)]:
                    set_policy(layer, "float32" if id(copy) in wide else policy)
        return names, wide

    def _simulator(self) -> Rebuilt:
        """The model rebuilt to compute in float16; what fails there computes in float32."""
        while True:
            keep = [self._operations[name] for name in self._failing]
            try:
                return rebuild(self.model, keep=keep, fold_batchnorm=self.fold, target="mixed_float16")
            except LayerError as error:
                if error.name in self._failing or error.name not in self._operations:
                    raise
                self._failing[error.name] = error

    def ship(self, kept: Iterable[str], numbers: Target = "float16") -> Shipped:
        """As `Simulator`."""
        chosen = [self._operations[name] for name in kept]
        of_linear = {id(f.linear): f.norm for f in self._folds}
        chosen += [of_linear[id(op)] for op in chosen if id(op) in of_linear]  # what was folded goes along
        rebuilt = rebuild(self.model, keep=chosen, fold_batchnorm=self.fold, target=numbers)
        model = rebuilt.model
        return Shipped(
            lambda x: model(x, training=False), *variables_of(model), rebuilt.counts, rebuilt.folded, any_grouped(model)
        )

    def weights(self) -> Iterator[tuple[str, str, np.ndarray]]:
        """As `Simulator`."""
        folded = {id(f.linear): (f.kernel, f.bias) for f in self._folds}
        for name, operation in self._operations.items():
            if id(operation) in self._norms or not isinstance(operation, keras.layers.Layer):
                continue
            if id(operation) in folded:
                yield from ((name, f"{name}/{part}", v) for part, v in zip(_PARTS, folded[id(operation)], strict=True))
                continue
            for layer in operation._flatten_layers():
                yield from ((name, path, value) for path, value in own_weights(layer))

    def own_islands(self) -> tuple[str, ...]:
        """As `Simulator`."""
        own = own_islands(self.model)
        return tuple(name for name, op in self._operations.items() if id(op) in own)

    def trace(self, kept: Iterable[str] | None) -> Trace:
        """As `Simulator`."""
        if kept is None:
            rebuilt, names, call = self._wide, self._names_of(self._wide.copies), _plain
        else:
            call = _widening(*self._prepared(kept))
            rebuilt, names = self._sim, self._names_of(self._sim.copies)

        def traced(trace: Trace, x: Any) -> Any:
            def within(operation: Any, *args: Any, **kwargs: Any) -> Any:
                with trace.within(names[id(operation)]) if id(operation) in names else nullcontext():
                    return call(operation, *args, **kwargs)

            return run(rebuilt.model, x, within)

        return traced_model(self.interface, traced)

    def outputs_from(self, name: str, fill: float, inputs: Arrays) -> dict[str, float]:
        """As `Simulator`."""
        names, seen, begun = self._names_of(self._wide.copies), Seen(), False

        def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal begun
            if names.get(id(operation)) == name:
                begun = True
                args, kwargs = keras.tree.map_structure(lambda x: _filled(x, fill), (args, kwargs))
            returned = operation(*args, **kwargs)
            if begun and id(operation) in names:
                seen.note(names[id(operation)], args, returned)
            return returned

        answers(self.interface, lambda x: run(self._wide.model, x, call), inputs)
        return {n: np.inf if n in seen.broken else returned for n, returned in seen.returned.items()}

    def joins(self, name: str) -> bool:
        """As `Simulator`."""
        operation = self._operations[name]
        return not isinstance(operation, keras.layers.Layer) and type(operation).__name__ not in _PRODUCTS

    def _names_of(self, copies: dict[int, Any]) -> dict[int, str]:
        return {id(copies[id(op)]): name for name, op in self._operations.items() if id(op) in copies}


class LayerSimulator(GraphSimulator):
    """A functional or sequential model of which layers alone are kept in float32, as ``precision.keep_float32`` of a
    pipeline keeps them: an operation of `keras.ops` computes in what it takes."""

    def __init__(self, model: keras.Model, interface: Interface, *, fold: bool = True) -> None:
        super().__init__(model, interface, fold=fold)
        self.names = tuple(name for name in self.names if isinstance(self._operations[name], keras.layers.Layer))

    def kept_by(self, patterns: Iterable[str]) -> tuple[str, ...]:
        """Those of ``names`` that ``precision.keep_float32`` keeps."""
        kept = {id(inner) for layer in matching(self.model, patterns) for inner in layer._flatten_layers()}
        return tuple(name for name in self.names if id(self._operations[name]) in kept)

    def paths(self, kept: Iterable[str]) -> tuple[str, ...]:
        """The layers of ``kept``, each with the norm that is folded into it: what `ship` keeps."""
        norms = {id(fold.linear): fold.norm for fold in self._folds}
        chosen = [self._operations[name] for name in kept]
        return tuple(layer_path(one) for op in chosen for one in (op, norms.get(id(op))) if one is not None)


def _policies(layer: Any) -> list[tuple[Any, str]]:
    return [(inner, inner.dtype_policy.name) for inner in layer._flatten_layers()]


def _plain(operation: Any, *args: Any, **kwargs: Any) -> Any:
    return operation(*args, **kwargs)


def _widening(names: dict[int, str], wide: set[int]) -> Callable[..., Any]:
    """Calls an operation, an operation of `keras.ops` in ``wide`` with floats in float32."""

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if id(operation) in wide and not isinstance(operation, keras.layers.Layer):
            args, kwargs = keras.tree.map_structure(widened, (args, kwargs))
        with failures_named(names.get(id(operation), operation.name)):
            return operation(*args, **kwargs)

    return call


def _noted(names: dict[int, str], seen: Seen | None, call: Callable[..., Any] = _plain) -> Callable[..., Any]:
    """``call``, with what each operation did noted."""

    def noting(operation: Any, *args: Any, **kwargs: Any) -> Any:
        returned = call(operation, *args, **kwargs)
        if seen is not None and id(operation) in names:
            seen.note(names[id(operation)], args, returned)
        return returned

    return noting


def _filled(x: Any, fill: float) -> Any:
    return tf.fill(tf.shape(x), tf.cast(fill, x.dtype)) if tf.is_tensor(x) and x.dtype.is_floating else x
