"""The floating-point operations of a training step, counted from the model's own graph.

    forward = 2 * multiply-adds of every convolution and matrix product
    step    = sum over these: forward * (1 + number of its operands whose gradient is asked for)

The gradient with respect to either operand of a product costs what the product does. One is asked for where the operand
depends on a trained variable: a layer in the middle costs three times its forward pass, the first one on the image
twice (nobody asks for the image's gradient), a frozen one on the image once. Everything else (norms, activations,
pooling, the optimizer, augmentation) is left out, as is usual: it is bound by memory, not by arithmetic. Padding counts
as if it were image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

_CALLS = ("PartitionedCall", "StatefulPartitionedCall")


@dataclass(frozen=True)
class Work:
    """Operations of one batch, forward and in a whole training step. ``uncounted`` names what the counts lack."""

    forward: int
    step: int
    uncounted: tuple[str, ...]


def count(
    model: Any,
    inputs: Sequence[int] | Mapping[str, tuple[Sequence[int], str]],
    batch_size: int,
    trained: Sequence[Any],
) -> Work:
    """Trace ``model`` on a batch as training does, and count; nothing is run.

    Args:
        inputs: the shape of an item, float32; or of several inputs by name shape and dtype.
        trained: the Keras variables that the optimizer moves.
    """
    spec: Any
    if isinstance(inputs, Mapping):
        spec = {name: tf.TensorSpec([batch_size, *shape], dtype, name) for name, (shape, dtype) in inputs.items()}
    else:
        spec = tf.TensorSpec([batch_size, *inputs], tf.float32)
    traced = tf.function(lambda x: model(x, training=True), autograph=False).get_concrete_function(spec)
    graph = traced.graph
    handles = {id(variable.value.handle) for variable in trained}
    moved = {inner.name for outer, inner in graph.captures if id(outer) in handles}
    walk = _Walk()
    walk.through(graph, [tensor.name in moved for tensor in graph.inputs])
    return Work(walk.forward, walk.step, tuple(sorted(walk.uncounted)))


class _Walk:
    """Sums over the operations of a graph and of the functions that it calls."""

    def __init__(self) -> None:
        self.forward, self.step = 0, 0
        self.uncounted: set[str] = set()

    def through(self, graph: Any, moved_inputs: Sequence[bool]) -> list[bool]:
        """Count ``graph``; in and out go, per tensor, whether it depends on a trained variable."""
        moved = {tensor.name for tensor, depends in zip(graph.inputs, moved_inputs, strict=True) if depends}
        for op in graph.get_operations():
            depends_in = [tensor.name in moved for tensor in op.inputs]
            if op.type in _CALLS:
                gives = self.through(graph._get_function(op.get_attr("f").name).graph, depends_in)
            else:
                self._add(op, depends_in)
                self._look_into(graph, op)
                gives = [any(depends_in) and op.type != "StopGradient" and _differentiable(o) for o in op.outputs]
            moved |= {tensor.name for tensor, depends in zip(op.outputs, gives, strict=True) if depends}
        return [tensor.name in moved for tensor in graph.outputs]

    def _add(self, op: Any, depends: Sequence[bool]) -> None:
        known = _PRODUCTS.get(op.type)
        if known is None:
            return
        function, operands = known
        try:
            work = 2 * function(op)
        except TypeError:  # a side of None
            self.uncounted.add(f"{op.type} of unknown shape")
            return
        self.forward += work
        self.step += work * (1 + sum(depends[i] for i in operands if i < len(depends)))

    def _look_into(self, graph: Any, op: Any) -> None:
        """Name a loop or a branch that has products in it: how often they run is known when they do."""
        kinds = {attribute.name: attribute.type for attribute in op.op_def.attr}
        named = [op.get_attr(name) for name, kind in kinds.items() if kind == "func"]
        named += [function for name, kind in kinds.items() if kind == "list(func)" for function in op.get_attr(name)]
        for function in named:
            inner, body = _Walk(), graph._get_function(function.name).graph
            inner.through(body, [False] * len(body.inputs))
            if inner.forward or inner.uncounted:
                self.uncounted.add(f"products within {op.type}")


def _differentiable(tensor: Any) -> bool:
    return bool(tensor.dtype.is_floating or tensor.dtype in (tf.resource, tf.variant))


# --- multiply-adds of one operation; a TypeError where a shape is not known ------------------------------------------


def _sides(tensor: Any) -> list[int]:
    if tensor.shape.rank is None:
        raise TypeError("unknown rank")
    return list(tensor.shape)


def _convolution(op: Any) -> int:
    """Kernel [*window, channels / groups, filters], whatever the layout of the images."""
    return math.prod(_sides(op.outputs[0])) * math.prod(_sides(op.inputs[1])[:-1])


def _depthwise(op: Any) -> int:
    return math.prod(_sides(op.outputs[0])) * math.prod(_sides(op.inputs[1])[:2])


def _transposed(op: Any) -> int:
    """Kernel [*window, filters, channels]: each value of the (smaller) input is spread over a window."""
    return math.prod(_sides(op.inputs[2])) * math.prod(_sides(op.inputs[1])[:-1])


def _matrix(op: Any) -> int:
    left = _sides(op.inputs[0])
    return math.prod(_sides(op.outputs[0])) * left[0 if op.get_attr("transpose_a") else 1]


def _batch_matrix(op: Any) -> int:
    left = _sides(op.inputs[0])
    return math.prod(_sides(op.outputs[0])) * left[-2 if op.get_attr("adj_x") else -1]


def _einsum(op: Any) -> int:
    """The product of the sides of all labels; one operand alone is only summed or transposed."""
    if len(op.inputs) < 2:
        return 0
    terms = op.get_attr("equation").decode().partition("->")[0].split(",")
    sides: dict[str, int] = {}
    for term, tensor in zip(terms, op.inputs, strict=True):
        shape = _sides(tensor)
        before, _, after = term.partition("...")
        # Sides under an ellipsis are matched by their position from its right end, as broadcasting does.
        hidden = [f"...{i}" for i in range(len(shape) - len(before) - len(after), 0, -1)]
        for label, side in zip([*before, *hidden, *after], shape, strict=True):
            sides[label] = max(sides.get(label, 1), side)
    return math.prod(sides.values())


_PRODUCTS: dict[str, tuple[Callable[[Any], int], tuple[int, ...]]] = {
    "Conv2D": (_convolution, (0, 1)),
    "Conv3D": (_convolution, (0, 1)),
    "DepthwiseConv2dNative": (_depthwise, (0, 1)),
    "Conv2DBackpropInput": (_transposed, (1, 2)),
    "Conv3DBackpropInputV2": (_transposed, (1, 2)),
    "MatMul": (_matrix, (0, 1)),
    "BatchMatMulV2": (_batch_matrix, (0, 1)),
    "BatchMatMulV3": (_batch_matrix, (0, 1)),
    "Einsum": (_einsum, (0, 1)),
}
