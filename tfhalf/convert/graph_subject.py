"""A functional or sequential model as a `Subject`: made anew from its layers' configurations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfhalf.convert.interface import Interface
from tfhalf.convert.subject import Arrays, Seen, Shipped, answers, kernels_told, own_weights, set_policy
from tfhalf.export.batchnorm import find_folds
from tfhalf.export.graph import operations, run
from tfhalf.export.grouped import any_grouped
from tfhalf.export.policies import own_islands
from tfhalf.export.program import variables_of
from tfhalf.export.rebuild import rebuild

_PARTS = ("kernel", "bias")


class GraphSubject:
    """A functional or sequential model."""

    def __init__(self, model: keras.Model, interface: Interface, *, fold: bool = True) -> None:
        self.model, self.interface, self.fold = model, interface, fold
        self._operations = operations(model)
        self._folds = find_folds(model) if fold else []
        self._norms = {id(f.norm): f for f in self._folds}
        self.names = tuple(n for n, op in self._operations.items() if id(op) not in self._norms)
        self._judge = rebuild(model, fold_batchnorm=False, target="float32")  # told at once if it cannot be made again
        judge = self._judge.model
        self._answer = tf.function(lambda x: judge(x, training=False), autograph=False, reduce_retracing=True)
        self._sim: Any = None

    def reference(self, inputs: Arrays, seen: Seen | None = None) -> dict[str, np.ndarray]:
        """As `Subject`."""
        if seen is None:
            return answers(self.interface, self._answer, inputs)
        names = self._names_of(self._judge.copies)
        return answers(self.interface, lambda x: run(self._judge.model, x, _noted(names, seen, set())), inputs)

    def simulate(self, kept: Iterable[str], inputs: Arrays, seen: Seen | None = None) -> dict[str, np.ndarray]:
        """As `Subject`."""
        if self._sim is None:
            self._sim = rebuild(self.model, fold_batchnorm=self.fold, target="mixed_float16")
            self._base = {id(c): _policies(c) for c in self._sim.copies.values() if isinstance(c, keras.layers.Layer)}
        names = self._names_of(self._sim.copies)
        chosen = set(kept)
        wide = {key for key, name in names.items() if name in chosen}
        for copy in self._sim.copies.values():
            if isinstance(copy, keras.layers.Layer):
                for layer, policy in self._base[id(copy)]:
                    set_policy(layer, "float32" if id(copy) in wide else policy)
        return answers(self.interface, lambda x: run(self._sim.model, x, _noted(names, seen, wide)), inputs)

    def ship(self, kept: Iterable[str]) -> Shipped:
        """As `Subject`."""
        chosen = [self._operations[name] for name in kept]
        of_linear = {id(f.linear): f.norm for f in self._folds}
        chosen += [of_linear[id(op)] for op in chosen if id(op) in of_linear]  # what was folded goes along
        made = rebuild(self.model, keep=chosen, fold_batchnorm=self.fold)
        model = made.model
        return Shipped(
            lambda x: model(x, training=False), *variables_of(model), made.counts, made.folded, any_grouped(model)
        )

    def weights(self) -> Iterator[tuple[str, str, np.ndarray]]:
        """As `Subject`."""
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
        """As `Subject`."""
        own = own_islands(self.model)
        return tuple(name for name, op in self._operations.items() if id(op) in own)

    def _names_of(self, copies: dict[int, Any]) -> dict[int, str]:
        return {id(copies[id(op)]): name for name, op in self._operations.items() if id(op) in copies}


def _policies(layer: Any) -> list[tuple[Any, str]]:
    return [(inner, inner.dtype_policy.name) for inner in layer._flatten_layers()]


def _noted(names: dict[int, str], seen: Seen | None, wide: set[int]) -> Callable[..., Any]:
    """Calls an operation, an operation of `keras.ops` in ``wide`` with floats in float32, and notes what it did."""

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if id(operation) in wide and not isinstance(operation, keras.layers.Layer):
            args, kwargs = keras.tree.map_structure(_widened, (args, kwargs))
        with kernels_told(names.get(id(operation), operation.name)):
            given = operation(*args, **kwargs)
        if seen is not None and id(operation) in names:
            seen.note(names[id(operation)], args, given)
        return given

    return call


def _widened(x: Any) -> Any:
    return tf.cast(x, tf.float32) if tf.is_tensor(x) and x.dtype.is_floating else x
