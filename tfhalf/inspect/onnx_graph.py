"""An ONNX graph as a `Graph`: bodies of If, Loop and Scan and calls of local functions unfolded."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from tfhalf.inspect.facts import Budget, Graph, Node, Tensor, is_float
from tfhalf.inspect.onnx_types import dtype_name, output_dtypes

_GRAPHS = (5, 10)  # AttributeProto.GRAPH and GRAPHS


_Scope = ChainMap[str, str]  # a value's name in a body, and its name in the whole


class Unfolding:
    """Walks a model's graph into ``graph``. ``constants`` are the tensors of Constant nodes: (name, TensorProto)."""

    def __init__(self, model: Any, path: Path, stored: Mapping[str, Tensor]) -> None:
        self.graph = Graph()
        self.constants: list[tuple[str, Any]] = []
        self._types: dict[str, str] = {}
        self._budget = Budget(path)
        self._stored = stored
        self._functions = {(f.domain, f.name): f for f in model.functions}
        versions = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import}
        self._top = self._body(model.graph, ChainMap(), "", versions, 0)
        self.graph.inputs = {v.name for v in model.graph.input} - set(stored)
        self.graph.outputs = {self._top.get(v.name, v.name) for v in model.graph.output}

    def _body(self, body: Any, outer: _Scope, prefix: str, versions: dict[str, int], depth: int) -> _Scope:
        """Nodes of a graph; ``outer`` names the values that it sees from outside. Returns its own such names."""
        scope = outer.new_child()
        for tensor in body.initializer:
            value = scope[tensor.name] = prefix + tensor.name
            self._types[value] = dtype_name(tensor.data_type)
            if value in self._stored:
                self.graph.stored[value] = self._stored[value]
        for said in (*body.input, *body.output, *body.value_info):
            if said.type.HasField("tensor_type"):
                self._types.setdefault(prefix + said.name, dtype_name(said.type.tensor_type.elem_type))
        own = {tensor.name for tensor in body.initializer}  # IR version 3 lists them among the inputs as well
        scope.update({said.name: prefix + said.name for said in body.input if said.name not in own})
        self._nodes(body.node, scope, prefix, versions, depth)
        return scope

    def _nodes(self, nodes: Any, scope: _Scope, prefix: str, versions: dict[str, int], depth: int) -> None:
        self._budget.enter(depth)
        for node in nodes:
            # Calls too: functions that only call each other add no node.
            self._budget.node(prefix + node.name, len(node.input) + len(node.output))
            inputs = [scope.get(name, prefix + name) for name in node.input if name]
            function = self._functions.get((node.domain, node.op_type))
            if function is not None:
                self._call(function, node, inputs, scope, prefix, depth)
                continue
            for name in node.output:
                scope[name] = prefix + name
            name = node.name or (node.output[0] if node.output else node.op_type)
            outputs = [prefix + value for value in node.output if value]
            taken = [self._types.get(value, "") for value in inputs]
            result_dtypes = output_dtypes(node, taken, versions)
            for inner_prefix, body in bodies(node, prefix):
                inner = self._body(body, scope, inner_prefix, versions, depth + 1)
                results = [inner.get(value.name, value.name) for value in body.output]
                if node.op_type == "If":
                    result_dtypes = [self._types.get(value, "") for value in results]
                inputs += results
            for index, (value, dtype) in enumerate(zip(node.output, result_dtypes, strict=False)):
                if dtype or not self._types.get(prefix + value):
                    self._types[prefix + value] = dtype
                elif not index:
                    result_dtypes[0] = self._types[prefix + value]  # what the file says where the operator is not known
            if node.op_type == "Constant":
                self._constant(node, prefix + name, outputs)
            to = result_dtypes[0] if result_dtypes else ""
            self.graph.nodes.append(
                Node(prefix + name, node.op_type, tuple(inputs), tuple(outputs), _computes(node, taken, to), to)
            )

    def _call(self, function: Any, node: Any, inputs: list[str], scope: _Scope, prefix: str, depth: int) -> None:
        inner_prefix = f"{prefix}{node.name or node.op_type}@{len(self.graph.nodes)}/"
        inner = ChainMap(dict(zip(function.input, inputs, strict=False)))
        versions = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in function.opset_import}
        self._nodes(function.node, inner, inner_prefix, versions, depth + 1)
        for outside, inside in zip(node.output, function.output, strict=False):
            scope[outside] = inner.get(inside, inner_prefix + inside)

    def _constant(self, node: Any, name: str, outputs: list[str]) -> None:
        for attribute in node.attribute:
            if not outputs:
                continue
            if attribute.name == "value":
                self.constants.append((outputs[0], attribute.t))
            elif attribute.name == "value_float":
                self.constants.append((outputs[0], type(attribute.t)(data_type=1, float_data=[attribute.f])))


def bodies(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """The graphs within a node, each with the prefix of its values."""
    name = node.name or (node.output[0] if node.output else node.op_type)
    for attribute in node.attribute:
        if attribute.type in _GRAPHS:
            for number, body in enumerate((attribute.g, *attribute.graphs)):
                yield f"{prefix}{name}/{attribute.name}{number}/", body


def _computes(node: Any, taken: list[str], to: str) -> str:
    """What a node computes in: its first floating input, or else its output; for a Cast, what it casts from."""
    if node.op_type in ("Cast", "CastLike"):
        return taken[0] if taken else ""
    if node.op_type == "DequantizeLinear":
        return to
    return next((dtype for dtype in taken if is_float(dtype)), to or (taken[0] if taken else ""))


def checked(message: Any) -> Any:
    """A parsed model, if it is one: protobuf takes much that is none.

    Raises:
        ValueError: it has no graph, or a name of it is not text.
    """
    if not message.HasField("graph") or not message.opset_import:
        raise ValueError("it has no graph or no opset")
    todo = [message]
    while todo:
        for field, value in todo.pop().ListFields():
            if field.type == field.TYPE_MESSAGE:
                todo += [value] if isinstance(value, Message) else value
            elif field.type == field.TYPE_STRING:  # protobuf gives bytes where they are no UTF-8
                texts = (value,) if isinstance(value, str | bytes) else value
                if any(isinstance(text, bytes) for text in texts):
                    raise ValueError("a name in it is not text")
    return message
