"""What every layer of a net takes and gives, and the gradients of what it gives, seen while a step is traced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from tfhalf.precision import keras_graph


@dataclass
class Seen:
    """Float tensors by the operation's path, one for each of its calls: ``taken`` and ``outputs``, and the gradients
    of the loss with regard to ``outputs``, which come while the tape is read; ``scores``: what attention takes the
    softmax of, before it is divided by the root of the size of a head."""

    taken: dict[str, list[Any]] = field(default_factory=dict)
    outputs: dict[str, list[Any]] = field(default_factory=dict)
    gradients: dict[str, list[Any]] = field(default_factory=dict)
    scores: dict[str, list[Any]] = field(default_factory=dict)


def operations(model: keras.Model) -> dict[str, Any]:
    """Everything in the graph of ``model`` that computes, by its path and in its order: layers, each followed by those
    within it, and operations of `keras.ops`. Models within the model are opened: what one gives is what its last layer
    gives."""
    return keras_graph.operations(model, inner=True)


@contextmanager
def observed(named: dict[str, Any]) -> Iterator[Seen]:
    """Within the block, while a step is traced, calls of the operations ``named`` leave their tensors in what this
    yields. The numbers stay what they were.

    A call within a loop of the graph, such as that of a recurrent layer's cell, is not seen: its tensors exist there
    only.
    """
    seen = Seen()
    outer = tf.compat.v1.get_default_graph()

    def here(tensors: Any) -> list[Any]:
        flat = [x for x in keras.tree.flatten(tensors) if tf.is_tensor(x) and x.dtype.is_floating]
        return [x for x in flat if getattr(x, "graph", outer) is outer]

    def tap(name: str, x: Any) -> Any:
        @tf.custom_gradient
        def identity(x: Any) -> Any:
            def gradient(dy: Any) -> Any:
                if dy.graph is outer:
                    seen.gradients.setdefault(name, []).append(dy)
                return dy

            return tf.identity(x), gradient

        return identity(x)

    def watch(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **keywords: Any) -> Any:
            seen.taken.setdefault(name, []).extend(here((arguments, keywords)))
            result = call(*arguments, **keywords)
            if not here(result):
                return result
            seen.outputs.setdefault(name, []).extend(here(result))
            return keras.tree.map_structure(lambda x: tap(name, x) if here(x) else x, result)

        return watched

    def attend(name: str, compute: Callable[..., Any]) -> Callable[..., Any]:
        def attended(query: Any, key: Any, *rest: Any, **keywords: Any) -> Any:
            if len(query.shape) == 4 and here(query):  # [batch, time, heads, size of a head]
                seen.scores.setdefault(name, []).append(tf.einsum("btnh,bsnh->bnts", query, key))
            return compute(query, key, *rest, **keywords)

        return attended

    patched: dict[tuple[int, str], tuple[Any, Any]] = {}  # the operation, and the function of its own that it had
    for name, operation in named.items():
        for method, wrap in (("call", watch), ("_compute_attention", attend)):
            if hasattr(operation, method) and (id(operation), method) not in patched:
                patched[id(operation), method] = operation, vars(operation).get(method)
                setattr(operation, method, wrap(name, getattr(operation, method)))
    try:
        yield seen
    finally:
        for (_, method), (operation, before) in patched.items():
            delattr(operation, method)
            if before is not None:
                setattr(operation, method, before)
