"""A model's forward pass as TensorFlow's graph, asked what no layer says: where its inputs are looked up in tables, and
by which function its answers end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

# Operations that take whole numbers: which of their inputs these are.
_LOOKUPS = {
    "GatherV2": 1,
    "ResourceGather": 1,
    "GatherNd": 1,
    "OneHot": 0,
    "DenseBincount": 1,
    "Bincount": 0,
    "LookupTableFindV2": 1,
    "AsString": 0,
}
# Operations after which whole numbers still are some, and which of their inputs hold them.
_SAME = {"Cast": (0,), "Identity": (0,), "StopGradient": (0,), "SelectV2": (2,)}  # keras.ops.take selects where x < 0
_FIRST = ("Reshape", "ExpandDims", "Squeeze", "StridedSlice", "Slice", "Transpose", "Tile", "Pad", "PadV2", "Round",
          "Rint", "Floor", "Unpack", "ReverseV2", "GatherV2", "ClipByValue")  # fmt: skip
_EVERY = ("AddV2", "Sub", "Mul", "Minimum", "Maximum", "FloorMod", "FloorDiv", "ConcatV2", "Pack")
_PLAIN_END = ("Identity", "Cast", "Reshape", "StopGradient", "Squeeze", "EnsureShape")


class Lookup(NamedTuple):
    """A place where a model looks its inputs up.

    ``layer``: where, as TensorFlow names it; ``size``: entries of the table, where the inputs are its indices as they
    are; ``dtype``: the narrowest floating type that they pass through, or None.
    """

    layer: str
    size: int | None
    dtype: str | None


def trace(model: keras.Model, dtype: str) -> Any:
    """The graph of the answers of ``model``, one input, in inference."""
    shape = model.inputs[0].shape
    spec = tf.TensorSpec((None, *shape[1:]), dtype)
    function = tf.function(lambda x: model(x, training=False), autograph=False)
    return function.get_concrete_function(spec).graph


def lookups(model: keras.Model, dtype: str) -> list[Lookup]:
    """Where an input of ``dtype``, and nothing that weights have changed, is looked up in tables by ``model``."""
    graph, names = trace(model, dtype), {layer.name for layer in model._flatten_layers()}
    rows = []
    for operation in graph.get_operations():
        operand = _LOOKUPS.get(operation.type)
        path = None if operand is None else _way_back(operation.inputs[operand], graph.inputs[0])
        if path is not None:
            same, narrowest = path
            name = operation.name.split("/")[-2:][0]
            name = name if name in names else re.sub(r"_\d+$", "", name)  # TensorFlow counts the calls of a layer
            rows.append(Lookup(name, _size(operation) if same else None, narrowest))
    return rows


def closing(model: keras.Model) -> str:
    """The type of the operation that ends ``model``: ``Softmax``, ``Sigmoid``, ``BiasAdd`` ..."""
    operation = trace(model, model.inputs[0].dtype).outputs[0].op
    while operation.type in _PLAIN_END:
        operation = operation.inputs[0].op
    return str(operation.type)


def _way_back(tensor: Any, source: Any) -> tuple[bool, str | None] | None:
    """Whether ``tensor`` is ``source`` as it is, and the narrowest floating type between; None where it comes from
    elsewhere, or through what makes other numbers of it."""
    todo: list[tuple[Any, bool, str | None]] = [(tensor, True, None)]
    seen: set[str] = set()
    while todo:
        tensor, same, narrowest = todo.pop()
        if tensor is source:
            return same, narrowest
        if tensor.name in seen:
            continue
        seen.add(tensor.name)
        operation = tensor.op
        if tensor.dtype.is_floating and (narrowest is None or tensor.dtype.size < tf.as_dtype(narrowest).size):
            narrowest = tensor.dtype.name
        todo += [(operation.inputs[i], same and operation.type in _SAME, narrowest) for i in _kept(operation)]
    return None


def _kept(operation: Any) -> Sequence[int]:
    if operation.type in _SAME:
        return _SAME[operation.type]
    if operation.type in _FIRST:
        return (0,)
    return range(len(operation.inputs)) if operation.type in _EVERY else ()


def _size(operation: Any) -> int | None:
    if operation.type == "GatherV2":
        size: int | None = operation.inputs[0].shape[0]
        return size
    if operation.type == "OneHot":
        depth = tf.get_static_value(operation.inputs[1])
        return None if depth is None else int(depth)
    return None
