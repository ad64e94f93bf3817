"""The float32 twin of a float16 graph: the same operations on the same numbers, each of them in float32.

LiteRT has no float16 arithmetic on a CPU, and its converter takes no float16 graph. So the function that every other
format holds is frozen, and every float16 in it becomes float32: types, constants (whose values stay, rounded as they
are), and casts, which have nothing left to do.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2

from tfhalf.errors import ExportError
from tfhalf.export.graph.frozen import Frozen, freeze
from tfhalf.export.program import Program
from tfhalf.text import one_line

_HALF, _FLOAT = types_pb2.DT_HALF, types_pb2.DT_FLOAT
# A protobuf message and a FlatBuffer end at 2 GiB, and the twin's weights are float32.
_LARGEST = 2**31 - 2**24


def frozen(program: Program) -> Frozen:
    """The function of ``program`` with its weights as constants, float16 still.

    Raises:
        ExportError: a port is text, the weights are too many, or the function reaches what cannot be a constant.
    """
    strings = [port.name for port in (*program.inputs, *program.outputs) if port.dtype == "string"]
    if strings:
        raise ExportError(
            f"LiteRT: {', '.join(strings)} is text, which LiteRT does not look up in vocabularies; give numbers (the "
            "layers after the vocabulary), or leave litert out"
        )
    held = sum(math.prod(weight.shape) * 4 for weight in program.weights)
    if held > _LARGEST:
        raise ExportError(
            f"LiteRT: the weights are {held / 2**30:.1f} GiB in float32, in which its converter works, and its files "
            "end at 2 GiB; leave litert out"
        )
    try:
        return freeze(program.function)
    except Exception as error:  # whatever TensorFlow meets in the graph
        raise ExportError(f"LiteRT: the graph cannot be frozen: {one_line(error, 200)}; leave litert out") from error


def widen(graph: Any) -> None:
    """Make a GraphDef its float32 twin, functions of loops and branches included."""
    for node in graph.node:
        _widen_node(node)
    for function in graph.library.function:
        for node in function.node_def:
            _widen_node(node)
        for argument in [*function.signature.input_arg, *function.signature.output_arg]:
            argument.ClearField("experimental_full_type")
            argument.type = _FLOAT if argument.type == _HALF else argument.type
        for attribute in function.attr.values():
            _widen_attribute(attribute)


def _widen_node(node: Any) -> None:
    node.ClearField("experimental_type")
    node.device = ""
    for attribute in node.attr.values():
        _widen_attribute(attribute)
    if node.op == "Cast" and node.attr["SrcT"].type == node.attr["DstT"].type:
        kind = node.attr["SrcT"].type
        node.ClearField("attr")
        node.op, node.attr["T"].type = "Identity", kind


def _widen_attribute(attribute: Any) -> None:
    kind = attribute.WhichOneof("value")
    if kind == "type" and attribute.type == _HALF:
        attribute.type = _FLOAT
    elif kind == "tensor":
        _widen_tensor(attribute.tensor)
    elif kind == "func":
        for inner in attribute.func.attr.values():
            _widen_attribute(inner)
    elif kind == "list":
        for index, dtype in enumerate(attribute.list.type):
            attribute.list.type[index] = _FLOAT if dtype == _HALF else dtype
        for tensor in attribute.list.tensor:
            _widen_tensor(tensor)


def _widen_tensor(tensor: Any) -> None:
    if tensor.dtype == _HALF:
        tensor.CopyFrom(tf.make_tensor_proto(tf.make_ndarray(tensor).astype(np.float32)))


def expand_slices(graph: Any) -> None:
    """Write slices that only add axes (``mask[None, None]``) as the operator for that: LiteRT does not slice truth
    values of an open size, which attention masks are."""
    constants = {node.name: node.attr["value"].tensor for node in graph.node if node.op == "Const"}
    for node in list(graph.node):
        if node.op != "StridedSlice" or node.input[1] not in constants:
            continue
        entries = constants[node.input[1]].tensor_shape.dim[0].size
        mask = {key: node.attr[f"{key}_mask"].i for key in ("begin", "end", "new_axis", "shrink_axis", "ellipsis")}
        others = ((1 << entries) - 1) & ~mask["new_axis"]  # of which all has to be taken
        whole = mask["begin"] & others == others and mask["end"] & others == others
        if mask["new_axis"] and whole and not mask["shrink_axis"] and not mask["ellipsis"]:
            _expand(graph, node, [axis for axis in range(entries) if mask["new_axis"] >> axis & 1])


def _expand(graph: Any, node: Any, axes: list[int]) -> None:
    """Make ``node`` the last of a chain that adds one axis after the other."""
    kind, source = node.attr["T"].type, node.input[0]
    node.ClearField("attr")
    for axis in axes:
        constant = graph.node.add(op="Const", name=f"{node.name}/axis{axis}")
        constant.attr["dtype"].type = types_pb2.DT_INT32
        constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(axis, tf.int32))
        added = node if axis == axes[-1] else graph.node.add(name=f"{node.name}/expand{axis}")
        added.op = "ExpandDims"
        added.ClearField("input")
        added.input.extend([source, constant.name])
        added.attr["T"].type, added.attr["Tdim"].type = kind, types_pb2.DT_INT32
        source = added.name


# Which input says the shape of a list's elements, -1 where it is open.
_LISTS = {"TensorListReserve": 0, "TensorListFromTensor": 1, "TensorListStack": 1, "TensorListGetItem": 2}


def fix_batch(graph: Any) -> None:
    """Let the lists that recurrent layers keep their steps in hold elements of one sample: LiteRT has lists of known
    shapes only, and what varies in a step's first axis is the batch."""
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        by_name = {node.name: node for node in nodes}
        for node in nodes:
            if node.op not in _LISTS:
                continue
            shape = by_name.get(node.input[_LISTS[node.op]].partition(":")[0])
            if shape is None or shape.op != "Const":
                continue
            sides = tf.make_ndarray(shape.attr["value"].tensor)
            if sides.ndim == 1 and sides.size and sides[0] == -1:
                fixed = np.concatenate([[1], sides[1:]]).astype(sides.dtype)
                shape.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(fixed))


def float32_constants(graph: Any) -> list[Any]:
    """The constants that are float32, in functions of loops and branches too, as TensorProtos. Before `widen` they are
    what islands and norms hold; after it, all weights."""
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    held = (node.attr["value"].tensor for node in nodes if node.op == "Const")
    return [tensor for tensor in held if tensor.dtype == _FLOAT]


def count(tensor: Any) -> int:
    """How many numbers a TensorProto says that it holds."""
    return math.prod(dim.size for dim in tensor.tensor_shape.dim)
