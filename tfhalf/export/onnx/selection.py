"""Choices and look-ups of an ONNX graph that TensorFlow writes out at length: Where, masks and indices."""

from __future__ import annotations

import onnx_ir as ir

from tfhalf.export.onnx.graph import Edit, attribute, constant, dims, producer, same, scalar
from tfhalf.export.onnx.match import match


def where(node: ir.Node, edit: Edit) -> bool:
    """``cast(c) * a + cast(not c) * b`` as ``Where(c, a, b)``.

    tf2onnx does without Where for the dtypes that runtimes of long ago lacked. Its sum is NaN where the value that is
    not chosen is infinite.
    """
    if node.op_type != "Add":
        return False
    bound = match(node.outputs[0], ("Add", ("Mul", ("Cast", "c"), "a"), ("Mul", ("Cast", ("Not", "c")), "b")))
    if bound is None or bound["c"].dtype != ir.DataType.BOOL:
        return False
    output = edit.node("Where", [bound["c"], bound["a"], bound["b"]], before=node, like=node.outputs[0])
    edit.replace(node.outputs[0], output)
    return True


def mask_of_all(node: ir.Node, edit: Edit) -> bool:
    """``And(all true, mask)`` as ``mask``, for a Where whose other operands have the full shape anyway."""
    both = producer(node.inputs[0], "And") if node.op_type == "Where" else None
    if both is None or not same(dims(both.outputs[0]), dims(node.outputs[0])):
        return False
    if not any(same(dims(value), dims(node.outputs[0])) for value in node.inputs[1:]):
        return False
    for true, mask in (both.inputs, both.inputs[::-1]):
        wide = producer(true, "Expand")
        numbers = constant(wide.inputs[0] if wide is not None else true)
        if numbers is not None and numbers.all():
            output = edit.node("Where", [mask, *node.inputs[1:]], before=node, like=node.outputs[0])
            edit.replace(node.outputs[0], output)
            return True
    return False


def negative_index(node: ir.Node, edit: Edit) -> bool:
    """A look-up that counts negative indices from the end by itself: ONNX's Gather does."""
    chosen = producer(node.inputs[1], "Where") if node.op_type == "Gather" else None
    if chosen is None or attribute(node, "axis", 0) != 0:
        return False
    rows = (dims(node.inputs[0]) or [None])[0]
    bound = match(chosen.outputs[0], ("Where", ("Less", "tested", 0), ("Add", "index", "#rows"), "index"))
    if bound is None or not isinstance(rows, int) or scalar(bound["#rows"]) != rows:
        return False
    widened = producer(bound["tested"], "Cast")
    if bound["tested"] is not bound["index"] and (widened is None or widened.inputs[0] is not bound["index"]):
        return False
    output = edit.node("Gather", [node.inputs[0], bound["index"]], {"axis": 0}, before=node, like=node.outputs[0])
    edit.replace(node.outputs[0], output)
    return True
