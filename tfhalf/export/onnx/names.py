"""An ONNX graph in one order with one set of names, whatever was converted before it and wherever."""

from __future__ import annotations

import itertools
import re

import onnx_ir as ir

# What tf2onnx, TensorFlow (functions of a loop) and the rewrites count with, and the addresses that tf2onnx puts into
# names.
_COUNTED = re.compile(
    r":new\d+|:old|:steps|:last|_alias_\d+|__\d+|\d{9,}|_frozen_\d+"
    r"|(?:(?<=while_cond)|(?<=while_body)|(?<=cond_true)|(?<=cond_false))_\d+"
)


def canonical(model: ir.Model) -> None:
    """Sort the nodes by the way from the outputs to the inputs, and name nodes and tensors by their position.

    tf2onnx's names end in a counter of the whole process (``Reshape__43``), so that the same model would give another
    file each time it is exported.
    """
    _sort(model.graph)
    _rename(model.graph, {value.name for value in (*model.graph.inputs, *model.graph.outputs) if value.name}, set())


def _sort(graph: ir.Graph) -> None:
    """Depth first from the outputs in their order, each node behind what it reads: a sorted graph in any case."""
    done: set[ir.Node] = set()
    order: list[ir.Node] = []
    for output in graph.outputs:
        todo = [(output.producer(), False)]
        while todo:
            node, ready = todo.pop()
            if node is None or node.graph is not graph or node in done:
                continue
            if ready:
                done.add(node)
                order.append(node)
                continue
            todo.append((node, True))
            todo += [(value.producer(), False) for value in reversed(_read(node)) if value is not None]
    rest = [node for node in graph if node not in done]
    for node in rest:  # what no output depends on was taken out before; kept, should there be any
        order.append(node)
    graph.remove(order)
    graph.extend(order)
    for node in order:
        for body in _bodies(node):
            _sort(body)


def _read(node: ir.Node) -> list[ir.Value | None]:
    """What a node reads, the graphs within it included."""
    values = list(node.inputs)
    for body in _bodies(node):
        for inner in body:
            values += _read(inner)
        values += list(body.outputs)
    return values


def _bodies(node: ir.Node) -> list[ir.Graph]:
    graphs: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            graphs.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            graphs += attribute.as_graphs()
    return graphs


def _rename(graph: ir.Graph, taken: set[str], nodes: set[str], *, inner: bool = False) -> None:
    """``inner``: the graph is a Loop's or an If's, whose inputs and outputs nobody calls by name."""
    values: dict[ir.Value, str] = dict.fromkeys(graph.inputs, "") if inner else {}
    for node in graph:
        for index, value in enumerate(node.inputs):
            if value is not None and value.is_initializer():
                values.setdefault(value, f"{node.name or node.op_type}:input{index}" if _small(value) else "")
        values |= {value: f"{node.name}:{i}" if inner else "" for i, value in enumerate(node.outputs)}
    kept = set() if inner else {*graph.inputs, *graph.outputs}
    own = [value for value in (*values, *graph.initializers.values()) if value not in kept]
    own = [value for value in dict.fromkeys(own) if value.name and (value.graph is graph or value.producer())]
    hints = {value: values.get(value) or value.name or "" for value in own}
    for number, value in enumerate(own):  # first out of each other's way
        value.name = f"\x00{number}"
    for value in own:  # which also puts initializers in the order of their first reader
        value.name = _free(hints[value], taken)
    for node in graph:
        node.name = _free(node.name or node.op_type, nodes)
        for body in _bodies(node):
            body.name = _COUNTED.sub("", body.name or "")
            _rename(body, taken, nodes, inner=True)


def _small(value: ir.Value) -> bool:
    """Sizes, axes and single numbers, which several nodes share: whose name tf2onnx keeps is left to chance."""
    array = value.const_value
    return array is not None and (array.size <= 1 or not array.dtype.is_floating_point())


def _free(name: str, taken: set[str]) -> str:
    """``name`` without counters, and with the smallest number that makes it new among ``taken``."""
    base = _COUNTED.sub("", name) or "tensor"
    names = itertools.chain([base], (f"{base}__{k}" for k in itertools.count(1)))
    free = next(name for name in names if name not in taken)
    taken.add(free)
    return free
