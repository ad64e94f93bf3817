"""The layers that float16 does not hold: which to keep in float32, and what speaks for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import keras
from keras import layers

from tfhalf.numerics.measure import Measured
from tfhalf.numerics.taps import operations
from tfhalf.precision import cast
from tfhalf.precision.islands import Island
from tfhalf.precision.keras_graph import graph_of
from tfhalf.precision.policy import flat_layers, layer_path

MARGIN = 8.0
"""Numbers beyond 65504 / 8 count as too large: training goes on after a few measured steps, and numbers grow."""
LIMIT = cast.MAX / MARGIN
LONG = 2048
"""A sum of so many equal float16 numbers, added one after another, has reached where the next changes nothing."""

_ATTENTION = (
    layers.MultiHeadAttention,
    layers.GroupQueryAttention,
    layers.Attention,
    layers.AdditiveAttention,
)
_GLOBAL_MEANS = (layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D)
_MEANS = (layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D)
# Of keras.ops, by the names of their classes, which are not public: what they square or take the logarithm of.
_SQUARES = ("Var", "Std", "Norm", "Normalize")
_LOGARITHMS = ("Log", "Log2", "Log10", "Logsumexp", "LogSoftmax")


def choose(model: keras.Model, measured: Measured, floor: float = 1.0) -> tuple[Island, ...]:
    """The islands of ``model``, whose numbers in float32 are ``measured``, in the order of its layers.

    A layer is one where

    - its weights, what it gives, or what it takes, go beyond `LIMIT`: a layer that takes too large a number has to be
      in float32 as well, or the number is cast on its way in;
    - it is attention whose scores go beyond `LIMIT`;
    - the gradient of what it gives goes beyond float16 at the lowest loss scale, ``floor``;
    - it adds up `LONG` numbers or more without a matrix product, which accumulates in float32 by itself: softmax,
      attention and means;
    - it squares numbers in its own dtype, and the squares' sum may go beyond `LIMIT`. Keras' norms are not among these,
      except UnitNormalization: they compute in float32 under every policy.

    A layer that another layer makes is rebuilt with that one: so the outer one becomes the island. An operation of
    `keras.ops` computes in float32 if something that it takes is: so the layers before it do.
    """
    reasons: dict[int, list[str]] = {}
    owners = owners_of(model)
    chosen: dict[int, Any] = {}
    for name, operation in operations(model).items():
        causes = list(_reasons(operation, name, measured, floor))
        if not causes:
            continue
        for owner in [owners[id(operation)]] if id(operation) in owners else list(layers_before(operation, owners)):
            chosen[id(owner)] = owner
            inner = "" if owner is operation else f"{name}: "
            reasons.setdefault(id(owner), []).extend(inner + reason for reason in causes)
    order = {id(layer): index for index, layer in enumerate(dict.fromkeys(owners.values()))}
    return tuple(
        Island(layer_path(chosen[key]), tuple(dict.fromkeys(reasons[key])))
        for key in sorted(chosen, key=order.__getitem__)
    )


def joined(first: Iterable[Island], second: Iterable[Island]) -> tuple[Island, ...]:
    """Both, each layer once and with all its reasons."""
    reasons: dict[str, tuple[str, ...]] = {}
    for island in (*first, *second):
        reasons[island.path] = (*reasons.get(island.path, ()), *island.reasons)
    return tuple(Island(path, texts) for path, texts in reasons.items())


def owners_of(model: keras.Model) -> dict[int, Any]:
    """For each layer, by its id, the layer of a graph that it is or lies within; models within models are opened."""
    return dict(_owners(model))


def _owners(model: keras.Model) -> Iterator[tuple[int, Any]]:
    for operation in graph_of(model).operations:
        if isinstance(operation, layers.InputLayer) or not isinstance(operation, layers.Layer):
            continue
        if graph_of(operation) is not None:
            yield from _owners(operation)
            continue
        for inner in (operation, *flat_layers(operation)):
            yield id(inner), operation


def _reasons(operation: Any, name: str, measured: Measured, floor: float) -> Iterator[str]:
    weights, outputs = measured.largest("weights", name), measured.largest("activations", name)
    taken, scores = measured.taken.get(name, 0.0), measured.scores.get(name, 0.0)
    gradient = measured.largest("activation gradients", name)
    layer = isinstance(operation, layers.Layer)
    if weights > LIMIT:
        yield f"weights up to {_number(weights)}"
    if outputs > LIMIT:
        yield f"gives up to {_number(outputs)}"
    if taken > LIMIT and layer:
        yield f"takes up to {_number(taken)}"
    if scores > LIMIT:
        yield f"attention scores up to {_number(scores)}"
    if gradient * floor > LIMIT:
        yield f"gradients up to {_number(gradient * floor)} at the lowest loss scale, {floor:g}"
    added, what = _added(operation)
    if added >= LONG:
        yield f"{what} over {added:,} numbers"
    if _squares(operation, taken) > LIMIT:
        yield f"squares numbers up to {_number(taken)}"
    if not layer and type(operation).__name__ in _LOGARITHMS:
        yield "takes a logarithm, which is infinite where float16 flushes to zero"


def _added(operation: Any) -> tuple[int, str]:
    """How many numbers are added up for one that it gives, and what does it; 0 where that is not known."""
    shapes = [tuple(tensor.shape) for tensor in _inputs(operation)]
    if not shapes:
        return 0, ""
    if isinstance(operation, _GLOBAL_MEANS):
        inner = shapes[0][1:-1] if operation.data_format == "channels_last" else shapes[0][2:]
        return _product(inner), "mean"
    if isinstance(operation, _MEANS):
        return _product(operation.pool_size), "mean"
    if isinstance(operation, _ATTENTION):
        return _product(shapes[min(1, len(shapes) - 1)][1:-1]), "softmax"
    if isinstance(operation, layers.Softmax) and isinstance(operation.axis, int):
        return _product([shapes[0][operation.axis]]), "softmax"
    if getattr(operation, "activation", None) in (keras.activations.softmax, keras.activations.log_softmax):
        return _product([tuple(operation.output.shape)[-1]]), "softmax"
    if type(operation).__name__ in ("Softmax", "LogSoftmax"):
        return _product([shapes[0][operation.axis if isinstance(operation.axis, int) else -1]]), "softmax"
    if type(operation).__name__ in ("Mean", "Sum"):
        axes = operation.axis if operation.axis is not None else range(len(shapes[0]))
        return _product(shapes[0][axis] for axis in axes), type(operation).__name__.lower()
    return 0, ""


def _squares(operation: Any, taken: float) -> float:
    """What a sum of squares may reach."""
    shapes = [tuple(tensor.shape) for tensor in _inputs(operation)]
    if isinstance(operation, layers.UnitNormalization) and shapes:
        axes = [operation.axis] if isinstance(operation.axis, int) else operation.axis
        return taken**2 * _product(shapes[0][axis] for axis in axes)
    return taken**2 if type(operation).__name__ in _SQUARES else 0.0


def _inputs(operation: Any) -> list[Any]:
    """The tensors of the graph that it takes at its first call; none for what a layer holds within."""
    nodes = getattr(operation, "_inbound_nodes", [])
    return list(nodes[0].input_tensors) if nodes else []


def layers_before(operation: Any, owners: dict[int, Any]) -> Iterator[Any]:
    """The nearest layers whose tensors an operation takes, through other operations."""
    for tensor in _inputs(operation):
        before = tensor._keras_history.operation
        if id(before) in owners:
            yield owners[id(before)]
        elif not isinstance(before, layers.Layer):
            yield from layers_before(before, owners)


def _product(sizes: Any) -> int:
    """Of sizes that are known; those that are not, such as the batch's, count as 1."""
    return math.prod(size for size in sizes if size is not None)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value < 1e7 else f"{value:.3g}"
