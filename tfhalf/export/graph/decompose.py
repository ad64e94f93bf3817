"""A frozen graph imported anew, with operators that a converter lacks written out in others: `import_graph`.

The rules, in `decompositions`, are plain TensorFlow: they say what an operator computes, in float32 where the operator
takes float16 (TensorFlow's own float16 kernels do the same, and round once). Complex numbers, which neither ONNX nor
LiteRT has, are pairs of real ones on the way: see `complex_numbers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, types_pb2

HALF, FLOAT, DOUBLE = types_pb2.DT_HALF, types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE
COMPLEX = types_pb2.DT_COMPLEX64


SHAPES = "_output_shapes"
"""The attribute by which a graph may say what shapes a node gives."""


@dataclass(frozen=True)
class Pair:
    """Complex numbers: two tensors of float32."""

    real: Any
    imag: Any


@dataclass(frozen=True)
class Operator:
    """A node that a rule writes out. ``readers`` are the nodes that take what it gives, ``nodes`` all of the graph by
    name."""

    node: Any
    readers: tuple[Any, ...]
    nodes: Mapping[str, Any]
    versions: Any

    def attribute(self, name: str) -> Any:
        """The entry of the node's attributes, a protobuf message."""
        return self.node.attr[name]

    def constant(self, source: str) -> np.ndarray | None:
        """The numbers of a tensor of the graph, if they are constant."""
        node = self.nodes[_full(source).rpartition(":")[0]]
        return tf.make_ndarray(node.attr["value"].tensor) if node.op == "Const" else None

    def again(self, inputs: Sequence[Any], *, instead: Mapping[int, int] | None = None) -> list[Any]:
        """The node itself on other ``inputs``, with types replaced; its outputs."""
        graph = graph_pb2.GraphDef(versions=self.versions)
        node = graph.node.add()
        node.CopyFrom(self.node)
        del node.input[:]
        node.input.extend(f"given{k}:0" for k in range(len(inputs)))
        for attribute in node.attr.values():
            if attribute.WhichOneof("value") == "type":
                attribute.type = (instead or {}).get(attribute.type, attribute.type)
        mapping = {f"given{k}:0": x for k, x in enumerate(inputs)}
        (operation,) = tf.graph_util.import_graph_def(graph, input_map=mapping, return_elements=[node.name], name="")
        return list(operation.outputs)


def wide(x: Any) -> Any:
    """A tensor of float16 in float32; any other as it is."""
    return tf.cast(x, tf.float32) if x.dtype == tf.float16 else x


Rule = Callable[..., Any]
"""Takes an `Operator` and its inputs; gives a list of its outputs, or its only one. None: the node stays as it is."""
Rules = Callable[[Any, bool], "Rule | None"]
"""What writes out a node, of which is said whether it takes complex numbers; None for a node that stays."""


def import_graph(graph: Any, inputs: Mapping[str, Any], outputs: Sequence[str], rules: Rules) -> list[Any]:
    """Import a GraphDef into the function that is being traced, as `tf.graph_util.import_graph_def` does.

    Args:
        graph: without variables; what ``outputs`` do not need is left out, control dependencies too.
        inputs: tensors instead of the graph's, by name.
        outputs: names of tensors.
        rules: for a node, what writes it out.
    """
    return _Import(graph, dict(inputs), rules).run(outputs)


class _Import:
    def __init__(self, graph: Any, values: dict[str, Any], rules: Rules) -> None:
        self.graph, self.values, self.rules = graph, values, rules
        self.nodes = {node.name: node for node in graph.node}
        self.readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for source in _data(node):
                self.readers.setdefault(source.rpartition(":")[0], []).append(node)
        self.kept: list[Any] = []  # nodes that stay, and are not imported yet
        if in_a_loop(graph):
            for function in graph.library.function:
                _widen_scatters(function)
            _rename_functions(graph)
        # Functions of loops and branches, once: imported again they count as others of the same name.
        tf.graph_util.import_graph_def(graph_pb2.GraphDef(versions=graph.versions, library=graph.library), name="")

    def run(self, outputs: Sequence[str]) -> list[Any]:
        for node in self._order(outputs):
            sources = _data(node)
            rule = self.rules(node, any(isinstance(self.values.get(source), Pair) for source in sources))
            if rule is None:
                self.kept.append(node)
                continue
            self._flush(outputs)
            readers = tuple(self.readers.get(node.name, ()))
            operator = Operator(node, readers, self.nodes, self.graph.versions)
            answer = rule(operator, *(self._shaped(source) for source in sources))
            if answer is None:
                self.kept.append(node)
                continue
            answers = answer if isinstance(answer, list) else [answer]
            self.values.update((f"{node.name}:{k}", value) for k, value in enumerate(answers))
        self._flush(outputs)
        return [self.values[_full(name)] for name in outputs]

    def _shaped(self, source: str) -> Any:
        """A tensor, of the shape that layers said it has where the graph alone does not tell."""
        value, node = self.values[source], self.nodes.get(source.rpartition(":")[0])
        shapes = node.attr[SHAPES].list.shape if node is not None and SHAPES in node.attr else ()
        index = int(source.rpartition(":")[2])
        if not isinstance(value, Pair) and index < len(shapes):
            value.set_shape(tf.TensorShape(shapes[index]))
        return value

    def _order(self, outputs: Sequence[str]) -> list[Any]:
        """The nodes that ``outputs`` need, each after those whose tensors it takes."""
        done: dict[str, Any] = {}
        todo = [(_full(name).rpartition(":")[0], False) for name in reversed(outputs)]
        while todo:
            name, ready = todo.pop()
            if name in done or f"{name}:0" in self.values:
                continue
            node = self.nodes[name]
            if ready:
                done[name] = node
                continue
            todo.append((name, True))
            todo += [(source.rpartition(":")[0], False) for source in reversed(_data(node))]
        return list(done.values())

    def _flush(self, outputs: Sequence[str]) -> None:
        """Import the nodes that stay as far as they have come."""
        if not self.kept:
            return
        part = graph_pb2.GraphDef(versions=self.graph.versions)
        names = {node.name for node in self.kept}
        mapping: dict[str, Any] = {}
        for node in self.kept:
            copy = part.node.add()
            copy.CopyFrom(node)
            del copy.input[:]
            copy.input.extend(_data(node))
            mapping.update((s, self.values[s]) for s in _data(node) if s.rpartition(":")[0] not in names)
        needed = {_full(name) for name in outputs if _full(name).rpartition(":")[0] in names}
        for name in names:
            for reader in self.readers.get(name, ()):
                if reader.name not in names:
                    needed |= {source for source in _data(reader) if source.rpartition(":")[0] == name}
        order = sorted(needed)
        tensors = tf.graph_util.import_graph_def(part, input_map=mapping, return_elements=order, name="")
        self.values.update(zip(order, tensors, strict=True))
        self.kept = []


SCATTERS = frozenset(("TensorScatterAdd", "TensorScatterMax", "TensorScatterMin"))
"""What onnxruntime's CPU has not in float16. Beside loops a rule writes them out."""


def in_a_loop(graph: Any) -> bool:
    """Whether a function of a loop or branch holds one of `SCATTERS` in float16."""
    nodes = (node for function in graph.library.function for node in function.node_def)
    return any(node.op in SCATTERS and node.attr["T"].type == HALF for node in nodes)


def _rename_functions(graph: Any) -> None:
    """Give all functions other names: TensorFlow knows those that were traced by theirs."""
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    for node in nodes:
        for attribute in node.attr.values():
            for function in (*attribute.list.func, *([attribute.func] if attribute.HasField("func") else [])):
                function.name += _RENAMED
    for function in graph.library.function:
        function.signature.name += _RENAMED
    graph.library.ClearField("gradient")


_RENAMED = "_in_float32"


def _widen_scatters(function: Any) -> None:
    """Have a function of a loop or branch, a FunctionDef, add up what it scatters in float32."""
    for node in [node for node in function.node_def if node.op in SCATTERS and node.attr["T"].type == HALF]:
        name, before, after = node.name, f"{node.name}:output:0", f"{node.name}:y:0"
        for other in function.node_def:
            other.input[:] = [after if source == before else source for source in other.input]
        for key, source in function.ret.items():
            function.ret[key] = after if source == before else source
        node.name, node.attr["T"].type = f"{name}/wide", FLOAT
        for index in (0, 2):
            up = _cast(function, f"{name}/wide{index}", node.input[index], HALF, FLOAT)
            node.input[index] = f"{up}:y:0"
        _cast(function, name, f"{name}/wide:output:0", FLOAT, HALF)


def _cast(function: Any, name: str, source: str, before: int, after: int) -> str:
    node = function.node_def.add(op="Cast", name=name, input=[source])
    node.attr["SrcT"].type, node.attr["DstT"].type, node.attr["Truncate"].b = before, after, False
    return name


def _data(node: Any) -> list[str]:
    """The tensors that a node takes, each with its index among the outputs of what gives it."""
    return [_full(source) for source in node.input if not source.startswith("^")]


def _full(name: str) -> str:
    return name if ":" in name else f"{name}:0"
