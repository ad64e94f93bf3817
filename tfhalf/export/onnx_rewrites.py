"""Small rewrites of an ONNX graph, each with the fault of the converter that it mends."""

from __future__ import annotations

import itertools
import re

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

# Operators that only move or pick values: the result is the same in either dtype.
_MOVING = {"Pad", "Transpose", "Reshape", "Slice", "Squeeze", "Unsqueeze", "Flatten", "MaxPool", "Concat", "Gather"}


def drop_cast_pairs(graph: onnx.GraphProto) -> int:
    """Take out ``Cast(float) -> op -> Cast(float16)`` where ``op`` only moves values; returns how many pairs went.

    tf2onnx pads in float32 whatever the input, for runtimes of long ago. The value that Pad fills in is cast too.
    """
    producers = {name: node for node in graph.node for name in node.output}
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    outputs = {value.name for value in graph.output}
    dropped = 0
    for back in list(graph.node):
        if not _is_cast(back, TensorProto.FLOAT16):
            continue
        op = producers.get(back.input[0])
        if op is None or op.op_type not in _MOVING or readers[op.output[0]] != 1 or op.output[0] in outputs:
            continue
        up = producers.get(op.input[0])
        if up is None or not _is_cast(up, TensorProto.FLOAT) or readers[up.output[0]] != 1 or len(op.output) != 1:
            continue
        if up.output[0] in outputs:
            continue
        extra = [name for name in op.input[1:] if name in initializers and _is_float(initializers[name])]
        if op.op_type == "Concat" or (op.op_type == "Pad" and len(op.input) > 2 and op.input[2] and not extra):
            continue
        for name in extra:
            half = f"{name}__float16"
            if half not in initializers:  # two nodes may share a value
                narrow = numpy_helper.to_array(initializers[name]).astype(np.float16)
                graph.initializer.append(numpy_helper.from_array(narrow, half))
                initializers[half] = graph.initializer[-1]
            op.input[list(op.input).index(name)] = half
        op.input[0], op.output[0] = up.input[0], back.output[0]
        graph.node.remove(up)
        graph.node.remove(back)
        dropped += 1
    if dropped:
        del graph.value_info[:]  # their dtypes are those of before
    return dropped


def stable_names(graph: onnx.GraphProto) -> None:
    """Number nodes and tensors by their place in the graph, and put initializers in the order of their first reader.

    tf2onnx's names end in a counter of the whole process (``Reshape__43``), so that the same model would give another
    file each time it is exported. A graph with graphs inside (If, Loop) is left as it is.
    """
    if any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute):
        return
    taken = {value.name for value in [*graph.input, *graph.output]} | {""}
    names = {name: name for name in taken}
    nodes: set[str] = set()
    for node in graph.node:
        node.name = _free(node.name or node.op_type, nodes)
        for place in (node.input, node.output):
            for i, name in enumerate(place):
                if name not in names:
                    names[name] = _free(name, taken)
                place[i] = names[name]
    place_of = {name: i for i, name in enumerate(names)}
    tensors = sorted(graph.initializer, key=lambda tensor: place_of.get(tensor.name, len(place_of)))
    for tensor in tensors:
        tensor.name = names.get(tensor.name, tensor.name)
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    del graph.value_info[:]  # it speaks of the old names; shape inference makes it anew


def _free(name: str, taken: set[str]) -> str:
    """``name`` without tf2onnx's counters, and with the smallest number that makes it new among ``taken``."""
    base = re.sub(r"__\d+", "", name)
    names = itertools.chain([base], (f"{base}__{k}" for k in itertools.count(1)))
    free = next(name for name in names if name not in taken)
    taken.add(free)
    return free


def drop_unused(model: onnx.ModelProto) -> None:
    """Take out initializers that no node reads and operator sets that no node is of."""
    read = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    domains = {node.domain for node in model.graph.node} | {""}
    sets = [opset for opset in model.opset_import if opset.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(sets)


def count(graph: onnx.GraphProto, op_type: str) -> int:
    """Number of nodes of one operator."""
    return sum(node.op_type == op_type for node in graph.node)


def _is_cast(node: onnx.NodeProto, to: int) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i == to for a in node.attribute)


def _is_float(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_type == TensorProto.FLOAT)
