"""Cast nodes of an ONNX graph: the ones that change nothing taken out, the others moved to where they are needed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tfhalf.export.onnx.graph import FLOAT, HALF, INT64, Edit, attribute, constant, producer, reader

# Operators that only move or pick values of their first input: rounding before them or after them is the same.
_MOVING = frozenset((
    "Pad", "Transpose", "Reshape", "Slice", "Squeeze", "Unsqueeze", "Flatten", "Expand", "Tile", "Gather",
    "DepthToSpace", "SpaceToDepth", "Identity",
))  # fmt: skip
# Rounding is monotone, so it commutes with these too.
_PICKING = frozenset(["MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin", "Relu", "Neg", "Abs"])
_ELEMENTWISE = frozenset(["Add", "Sub", "Mul", "Div", "Min", "Max", "Pow"])
# What holds every value of the key.
_WIDER = {HALF: {FLOAT, ir.DataType.DOUBLE}, FLOAT: {ir.DataType.DOUBLE}, ir.DataType.INT32: {INT64}}


def cast_constant(node: ir.Node, edit: Edit) -> bool:
    """Cast of a constant: the constant in that dtype."""
    array = constant(node.inputs[0]) if node.op_type == "Cast" and node.inputs else None
    if array is None:
        return False
    output = edit.constant(array.astype(target(node).numpy()), node.inputs[0].name or "constant")  # type: ignore[union-attr]
    edit.replace(node.outputs[0], output)
    return True


def cast_of_nothing(node: ir.Node, edit: Edit) -> bool:
    """A Cast to the dtype that is there, and the first of two of which the second undoes or overrides it."""
    if node.op_type != "Cast":
        return False
    source = node.inputs[0]
    assert source is not None
    if source.dtype == target(node):
        edit.replace(node.outputs[0], source)
        return True
    before = producer(source, "Cast")
    start = None if before is None else before.inputs[0]
    if start is None or start.dtype is None or source.dtype not in _WIDER.get(start.dtype, set()):
        return False
    output = edit.node("Cast", [start], {"to": target(node)}, before=node, like=node.outputs[0], dtype=target(node))
    edit.replace(node.outputs[0], output)
    return True


def cast_before_moving(node: ir.Node, edit: Edit) -> bool:
    """``op -> Cast(float16)`` as ``Cast(float16) -> op`` where ``op`` only moves or picks values.

    tf2onnx pads in float32 whatever the input, for runtimes of long ago; the Casts then meet, and both go.
    """
    if node.op_type != "Cast" or target(node) != HALF:
        return False
    source = node.inputs[0]
    op = producer(source, *_MOVING, *_PICKING)
    if op is None or source is None or source.dtype != FLOAT or reader(source) is not node or len(op.outputs) != 1:
        return False
    inputs: list[ir.Value | None] = list(op.inputs)
    if op.op_type == "Pad" and len(inputs) > 2 and inputs[2] is not None:
        fill = constant(inputs[2])
        if fill is None:
            return False
        inputs[2] = edit.constant(fill.astype(np.float16), inputs[2].name or "fill")
    inputs[0] = edit.node("Cast", [inputs[0]], {"to": HALF}, before=op, like=inputs[0], dtype=HALF)
    attributes = {name: entry.value for name, entry in op.attributes.items()}
    edit.replace(node.outputs[0], edit.node(op.op_type, inputs, attributes, before=node, like=source, dtype=HALF))
    return True


def cast_before_concat(node: ir.Node, edit: Edit) -> bool:
    """``Concat -> Cast(float16)`` of values that were float16 before, or are constant."""
    if node.op_type != "Cast" or target(node) != HALF:
        return False
    op = producer(node.inputs[0], "Concat")
    if op is None or reader(op.outputs[0]) is not node:
        return False
    halves = [_half(value, node, edit) for value in op.inputs]
    if any(half is None for half in halves):
        return False
    output = edit.node("Concat", halves, {"axis": attribute(op, "axis")}, before=node, like=op.outputs[0], dtype=HALF)
    edit.replace(node.outputs[0], output)
    return True


def mean_in_float16(node: ir.Node, edit: Edit) -> bool:
    """``Cast(float32) -> ReduceMean -> Cast(float16)``: the mean of float16 values, in float16.

    Keras widens before a mean. Runtimes add float16 up in float32 (onnxruntime, TensorRT and numpy do), so the pair of
    Casts brings a copy of the tensor at twice the size and nothing else.
    """
    mean = producer(node.inputs[0], "ReduceMean") if node.op_type == "Cast" and target(node) == HALF else None
    up = producer(mean.inputs[0], "Cast") if mean is not None else None
    if mean is None or up is None or reader(mean.outputs[0]) is not node:
        return False
    start = up.inputs[0]
    if start is None or start.dtype != HALF:
        return False
    attributes = {name: entry.value for name, entry in mean.attributes.items()}
    half = edit.node("ReduceMean", [start, *mean.inputs[1:]], attributes, before=node, like=node.outputs[0], dtype=HALF)
    edit.replace(node.outputs[0], half)
    return True


def narrow_constants(node: ir.Node, edit: Edit) -> bool:
    """A float32 constant beside a float16 tensor becomes float16.

    TensorFlow's ResizeBilinear gives float32 for float16 and ONNX's Resize does not, which tf2onnx overlooks.
    """
    if node.op_type not in _ELEMENTWISE or len(node.inputs) != 2:
        return False
    kinds = {value.dtype for value in node.inputs if value is not None}
    if kinds != {HALF, FLOAT}:
        return False
    wide = next(value for value in node.inputs if value is not None and value.dtype == FLOAT)
    array = constant(wide)
    if array is None:
        return False
    with np.errstate(over="ignore"):
        narrow = edit.constant(array.astype(np.float16), wide.name or "constant")
    output = edit.node(
        node.op_type,
        [narrow if value is wide else value for value in node.inputs],
        before=node,
        like=node.outputs[0],
        dtype=HALF,
    )
    edit.replace(node.outputs[0], output)
    return True


def target(node: ir.Node) -> ir.DataType:
    """What a Cast gives."""
    return ir.DataType(attribute(node, "to"))


def _half(value: ir.Value | None, node: ir.Node, edit: Edit) -> ir.Value | None:
    """The float16 value that ``value`` was widened from; None where there is none."""
    array = constant(value)
    if array is not None and value is not None:
        return edit.constant(array.astype(np.float16), value.name or "constant")
    up = producer(value, "Cast")
    start = up.inputs[0] if up is not None else None
    return start if start is not None and start.dtype == HALF else None
