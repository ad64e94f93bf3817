"""What the rewrites of an ONNX graph are written with: constants, readers, and one node instead of another."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass

FLOAT, HALF, INT64 = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT64
Dim = int | str | None


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The numbers of an initializer; None for anything that is computed."""
    if value is None or value.const_value is None:
        return None
    array: np.ndarray = value.const_value.numpy()
    return array


def scalar(value: ir.Value | None) -> float | None:
    """The number of an initializer that holds one."""
    array = constant(value)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def ints(value: ir.Value | None) -> list[int] | None:
    """The numbers of a whole-number initializer, as a list."""
    array = constant(value)
    return None if array is None else [int(number) for number in array.reshape(-1)]


def producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that gives ``value``, if it is one of ``op_types`` (of ONNX's own domain)."""
    node = None if value is None else value.producer()
    return node if node is not None and node.domain == "" and node.op_type in op_types else None


def reader(value: ir.Value) -> ir.Node | None:
    """The only node that reads ``value``; None where another does, or it is an output of the graph."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """The value of an attribute: a number, text or list."""
    entry = node.attributes.get(name)
    if entry is None:
        return default
    return list(entry.value) if isinstance(entry.value, tuple | list) else entry.value


def dims(value: ir.Value | None) -> list[Dim] | None:
    """Sizes: a number, the name of a symbolic one, or None for an unknown one; None where the rank is not known."""
    if value is None or value.shape is None:
        return None
    return [size if isinstance(size, int) else size.value for size in value.shape]


def rank(value: ir.Value | None) -> int | None:
    """Number of dimensions."""
    return None if value is None or value.shape is None else len(value.shape)


def same(first: Sequence[Dim] | None, second: Sequence[Dim] | None) -> bool:
    """Whether two shapes are known to be equal."""
    return first is not None and second is not None and list(first) == list(second) and None not in first


def axes_of(node: ir.Node, index: int = 1) -> list[int] | None:
    """The axes of a reduction, Squeeze or Unsqueeze: an input since opset 13 or 18, an attribute before."""
    if "axes" in node.attributes:
        return list(attribute(node, "axes"))
    return ints(node.inputs[index]) if len(node.inputs) > index else None


class Edit:
    """Changes to one graph (or the body of a Loop), which keep its nodes sorted and rid of what nobody reads."""

    def __init__(self, graph: ir.Graph, opset: int) -> None:
        self.graph, self.opset = graph, opset
        names = [value.name or "" for node in graph for value in node.outputs] + list(graph.initializers)
        self._count = max((int(n) for name in names for n in re.findall(r":new(\d+)$", name)), default=0)

    def constant(self, array: np.ndarray, hint: str = "constant") -> ir.Value:
        """A new initializer."""
        self._count += 1
        name = f"{hint}:new{self._count}"
        tensor = ir.tensor(np.array(array, order="C"), name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: dict[str, Any] | None = None,
        *,
        before: ir.Node,
        like: ir.Value | None = None,
        shape: Sequence[Dim] | None = None,
        dtype: ir.DataType | None = None,
        name: str | None = None,
    ) -> ir.Value:
        """A new node in front of ``before``; dtype and shape of its output are those of ``like`` where not stated."""
        new = ir.node(op_type, inputs, attributes or {}, name=name or before.name)
        output = new.outputs[0]
        self._count += 1
        output.name = f"{new.name}:new{self._count}"
        kind = dtype or (like.dtype if like is not None else None)
        output.type = ir.TensorType(kind) if kind is not None else None
        output.shape = ir.Shape(shape) if shape is not None else (like.shape.copy() if like and like.shape else None)
        self.graph.insert_before(before, new)
        return output

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Whoever read ``old`` reads ``new``; an output of the graph keeps its name."""
        node = old.producer()
        if old.is_graph_output():
            if new.is_graph_input() or new.is_graph_output() or new.is_initializer():
                assert node is not None
                new = self.node("Identity", [new], before=node, like=old)
            new.name, old.name = old.name, f"{old.name}:old"
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        if node is not None:
            self.drop(node)

    def drop(self, node: ir.Node) -> None:
        """Take out ``node`` and what only it read, as far as nobody reads it."""
        if node.graph is not self.graph or any(out.uses() or out.is_graph_output() for out in node.outputs):
            return
        above = [value.producer() for value in node.inputs if value is not None]
        self.graph.remove(node, safe=True)
        for maker in above:
            if maker is not None:
                self.drop(maker)


Rewrite = Callable[[ir.Node, Edit], bool]


def sweep(model: ir.Model, rewrites: Iterable[Rewrite], limit: int = 50) -> int:
    """Try each rewrite on each node, from the first node to the last, until none changes anything; returns how many
    did. A rewrite says whether it changed the graph."""
    changes = 0
    edit = Edit(model.graph, model.opset_imports[""])
    for _ in range(limit):
        before = changes
        for rewrite in rewrites:
            for node in list(model.graph):
                if node.graph is model.graph and node.domain == "" and rewrite(node, edit):
                    changes += 1
        if changes == before:
            break
        tidy(model)
    return changes


def tidy(model: ir.Model) -> None:
    """Constant nodes as initializers, and nothing that nobody reads."""
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    RemoveUnusedNodesPass()(model)
