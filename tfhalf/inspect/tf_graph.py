"""What a SavedModel's signature computes, as a `Graph`: every function that it calls is unfolded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf.inspect import values as look_at
from tfhalf.inspect.facts import Budget, Extreme, Graph, Node, Tensor, bytes_of, checked_shape, is_float, words
from tfhalf.inspect.tf_messages import dtype_name

# Attributes that name what an operation computes in, and its output, the first that is there.
_COMPUTES = ("SrcT", "T", "dtype", "element_dtype", "Tparams", "Tidx")
_GIVES = ("DstT", "out_type", "output_type", "Tout", "T", "dtype", "element_dtype")
_BOOLEAN = frozenset(words("Greater GreaterEqual Less LessEqual Equal NotEqual IsNan IsInf IsFinite LogicalAnd"))
# TensorFlow leaves out attributes that have their default: for these operations T is then float32.
_DEFAULT_FLOAT = frozenset(
    words(
        "MaxPool MaxPoolV2 LRN LeakyRelu AdjustContrastv2 AdjustHue AdjustSaturation HSVToRGB RGBToHSV NextAfter "
        "StatelessRandomUniform StatelessRandomUniformV2 StatelessRandomNormal StatelessRandomNormalV2"
    )
)
_ALWAYS_FLOAT = frozenset(words("ResizeBilinear ResizeBicubic ResizeArea CropAndResize"))  # whatever goes in
_PASSES = frozenset(words("Identity IdentityN StopGradient PreventGradient Snapshot"))
_CALLS = frozenset(words("PartitionedCall StatefulPartitionedCall TPUPartitionedCall SymbolicGradient"))


class Unfolding:
    """Walks from the ``wanted`` tensors (``node:0``) up. ``variables`` are those that were reached, and ``constants``
    floating-point tensors within the graph."""

    def __init__(self, path: Path, graph: Any, outputs: list[str], fed: list[str]) -> None:
        self.path = path
        self.graph = Graph()
        self.variables: list[Tensor] = []
        self.constants: list[Tensor] = []
        self._functions = {function.signature.name: function for function in graph.library.functions}
        self._seen_constants: set[tuple[str, str]] = set()
        self.budget = Budget(path)
        nodes = _needed(graph.nodes, outputs)
        scope = _Scope(self, "", nodes, {})
        self.graph.inputs = {scope.prefix + name.partition(":")[0] for name in fed}
        scope.walk(0)
        self.graph.outputs = {scope.value(name) for name in outputs}

    def function(self, name: str, inputs: list[str], prefix: str, depth: int) -> list[str]:
        """Unfold a call; returns the values that it gives."""
        function = self._functions.get(name)
        if function is None:
            return []
        self.budget.enter(depth)
        bound = dict(zip((argument.name for argument in function.signature.inputs), inputs, strict=False))
        scope = _Scope(self, prefix, function.nodes, bound, name)
        scope.walk(depth)
        return [scope.value(function.returns.get(output.name, "")) for output in function.signature.outputs]

    def knows(self, name: str) -> bool:
        """Whether there is a function ``name``."""
        return name in self._functions

    def constant(self, where: str, node: Any, value: str) -> None:
        """Note a constant's tensor, once for all calls of the function that has it."""
        tensor = node.attributes["value"].tensor
        dtype = dtype_name(tensor.dtype)
        shape = checked_shape(self.path, node.name, [dim.size for dim in tensor.shape.dims])
        if is_float(dtype):
            record = Tensor(node.name, dtype, shape, bytes_of(dtype, math.prod(shape)), extreme=_extreme(dtype, tensor))
            self.graph.stored[value] = record
            if (where, node.name) not in self._seen_constants:
                self._seen_constants.add((where, node.name))
                self.constants.append(record)

    def variable(self, node: Any, value: str) -> None:
        """Note a variable that the signature reads."""
        dtype = dtype_name(node.attributes["dtype"].type)
        name = node.attributes["shared_name"].text.decode("utf-8", "replace") or node.name
        dims = node.attributes["shape"].shape
        open_ = dims.unknown_rank or any(dim.size < 0 for dim in dims.dims)
        shape = () if open_ else checked_shape(self.path, name, [dim.size for dim in dims.dims])
        record = Tensor(name, dtype, shape, bytes_of(dtype, math.prod(shape)))
        self.graph.stored[value] = record
        self.variables.append(record)


class _Scope:
    """One body: the main graph, or one call of a function. Values are named by the node that gives them."""

    def __init__(
        self, unfolding: Unfolding, prefix: str, nodes: Any, bound: dict[str, str], function: str = ""
    ) -> None:
        self.unfolding, self.prefix, self.bound, self.where = unfolding, prefix, bound, function
        self.nodes = {node.name: node for node in nodes}
        self.calls: dict[str, list[str]] = {}

    def value(self, written: str) -> str:
        """The value that ``node``, ``node:1`` or ``node:output:1`` means."""
        name, _, rest = written.partition(":")
        if name in self.bound:
            return self.bound[name]
        callee_values = self.calls.get(name)
        if callee_values:
            suffix = rest.rpartition(":")[2]
            number = int(suffix) if suffix.isdecimal() and len(suffix) < 9 else 0
            if number < len(callee_values):
                return callee_values[number]
        return self.prefix + name

    def walk(self, depth: int) -> None:
        """Take every node in, inputs first."""
        done: set[str] = set()
        for start in self.nodes:
            todo = [(start, False)]
            while todo:
                name, ready = todo.pop()
                if ready:
                    self._take(self.nodes[name], depth)
                elif name not in done:
                    done.add(name)
                    todo.append((name, True))
                    above = (written.partition(":")[0] for written in self.nodes[name].inputs if written[:1] != "^")
                    todo += [(one, False) for one in above if one in self.nodes and one not in done]

    def _take(self, node: Any, depth: int) -> None:
        self.unfolding.budget.node(self.prefix + node.name, len(node.inputs) + 1)
        inputs = [self.value(written) for written in node.inputs if not written.startswith("^")]
        value = self.prefix + node.name
        graph = self.unfolding.graph
        if node.op == "Const":
            self.unfolding.constant(self.where, node, value)
        elif node.op in ("VarHandleOp", "VariableV2", "Variable"):
            self.unfolding.variable(node, value)
        elif node.op == "ReadVariableOp" and inputs and inputs[0] in graph.stored:
            self.calls[node.name] = [inputs[0]]  # another name for the variable
            return
        if node.op in _PASSES and inputs:
            self.calls[node.name] = inputs
            return
        results = self._functions_of(node, inputs, value, depth)
        if results is not None:
            self.calls[node.name] = results
            return
        attributes = node.attributes
        dtype = _dtype(attributes, _COMPUTES) or ("float32" if node.op in _DEFAULT_FLOAT else "")
        dtype = "float32" if node.op in _ALWAYS_FLOAT else "bool" if node.op.startswith("Logical") else dtype
        to = "bool" if node.op in _BOOLEAN else _dtype(attributes, _GIVES) or dtype
        graph.nodes.append(Node(node.name, node.op, tuple(inputs), (value,), dtype, to))

    def _functions_of(self, node: Any, inputs: list[str], value: str, depth: int) -> list[str] | None:
        """Unfold what a node calls; the values where the node is no more than a call, else None."""
        inner = f"{value}/"
        if self.unfolding.knows(node.op):
            return self.unfolding.function(node.op, inputs, inner, depth + 1)
        named = [(key, v.function.name) for key, v in sorted(node.attributes.items()) if v.HasField("function")]
        named += [(key, one.name) for key, v in sorted(node.attributes.items()) for one in v.list.functions]
        if not named:
            return None
        if node.op in _CALLS:
            return self.unfolding.function(node.attributes["f"].function.name, inputs, inner, depth + 1)
        arguments = inputs if node.op in ("While", "StatelessWhile") else inputs[1:]
        for number, (key, name) in enumerate(named):
            if not key.startswith("_"):
                self.unfolding.function(name, arguments, f"{inner}{key}{number}/", depth + 1)
        return None


def _extreme(dtype: str, tensor: Any) -> Extreme | None:
    """What float16 makes of a constant: of its values as they are stored, the last of which may stand for many."""
    if tensor.content:
        return look_at.extreme(dtype, tensor.content)
    field, kind = {"float16": ("halves", "<u2"), "float64": ("doubles", "<f8")}.get(dtype, ("floats", "<f4"))
    stored = getattr(tensor, field)[: look_at.FEW]
    values = np.array([v & 0xFFFF for v in stored] if field == "halves" else stored, kind)
    return look_at.extreme(dtype, values.tobytes())


def _dtype(attributes: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    for key in keys:
        if key in attributes:
            value = attributes[key]
            dtype = dtype_name(value.type) if value.type else dtype_name(next(iter(value.list.types), 0))
            if dtype:
                return dtype
    return ""


def _needed(nodes: Any, outputs: list[str]) -> list[Any]:
    """The nodes that the ``wanted`` tensors depend on; all, where none is wanted."""
    if not outputs:
        return list(nodes)
    named = {node.name: node for node in nodes}
    todo = [name.partition(":")[0] for name in outputs]
    seen = set(todo)
    while todo:
        node = named.get(todo.pop())
        for written in node.inputs if node is not None else ():
            above = written.removeprefix("^").partition(":")[0]
            if above not in seen:
                seen.add(above)
                todo.append(above)
    return [named[name] for name in sorted(seen) if name in named]
