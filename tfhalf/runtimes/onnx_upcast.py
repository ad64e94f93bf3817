"""An ONNX graph brought from float16 to float32 for processors without float16 arithmetic.

onnxruntime has almost no float16 kernels for x64: it puts a Cast before and after each node and computes in float32
anyway. Here the graph says float32 from the start, so no tensor is cast on its way. The values of the weights are
unchanged (every float16 number is a float32 number), and inputs and outputs keep the dtype that they had.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np


def holds_float16(model: Any) -> bool:
    """Whether any weight, constant or cast of ``model`` is float16."""
    from onnx import TensorProto

    half = TensorProto.FLOAT16
    for graph in _graphs(model.graph):
        if any(tensor.data_type == half for tensor in graph.initializer):
            return True
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.t.data_type == half or (node.op_type == "Cast" and attribute.i == half):
                    return True
    return False


def upcast(model: Any) -> None:
    """Change ``model`` in place: weights, constants, casts and stated types from float16 to float32."""
    from onnx import TensorProto, helper

    half, single = TensorProto.FLOAT16, TensorProto.FLOAT
    top = model.graph
    ends = {value.name for value in [*top.input, *top.output] if value.type.tensor_type.elem_type == half}
    for graph in _graphs(top):
        for tensor in graph.initializer:
            _widen(tensor)
        for value in [*graph.value_info, *graph.input, *graph.output]:
            if value.type.tensor_type.elem_type == half and not (graph is top and value.name in ends):
                value.type.tensor_type.elem_type = single
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    _widen(attribute.t)
                for tensor in attribute.tensors:
                    _widen(tensor)
                if attribute.name in ("to", "dtype", "stash_type") and attribute.i == half:
                    attribute.i = single
    for value in top.input:
        if value.name in ends:
            inner = f"{value.name}/float32"
            _rename(top, value.name, inner, outputs=False)
            top.node.insert(0, helper.make_node("Cast", [value.name], [inner], to=single))
    for value in top.output:
        if value.name in ends:
            inner = f"{value.name}/float32"
            _rename(top, value.name, inner, outputs=True)
            top.node.append(helper.make_node("Cast", [inner], [value.name], to=half))


def _graphs(graph: Any) -> Iterator[Any]:
    """``graph`` and the graphs within its nodes (branches and loop bodies)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                if inner.node:
                    yield from _graphs(inner)


def _widen(tensor: Any) -> None:
    from onnx import TensorProto, numpy_helper

    if tensor.data_type == TensorProto.FLOAT16:
        wide = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
        tensor.CopyFrom(wide)


def _rename(graph: Any, old: str, new: str, *, outputs: bool) -> None:
    """Have every node read (and with ``outputs`` also write) ``new`` instead of ``old``, in inner graphs too."""
    for inner in _graphs(graph):
        for node in inner.node:
            for names in (node.input, node.output) if outputs else (node.input,):
                for index, name in enumerate(names):
                    if name == old:
                        names[index] = new
