"""Activations and upsampling that TensorFlow computes step by step, as ONNX's own operators."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from tfhalf.export.onnx.graph import Dim, Edit, attribute, axes_of, constant, dims, ints, producer, rank, reader
from tfhalf.export.onnx.match import match

_CUBE = ("Pow", "x", 3.0)
_TANH = ("Tanh", ("Mul", ("Add", "x", ("Mul", _CUBE, 0.044715)), math.sqrt(2 / math.pi)))
_ERF = ("Erf", ("Mul", "x", math.sqrt(0.5)))
_ERF_OF_NEGATIVE = ("Erf", ("Mul", ("Neg", "x"), math.sqrt(0.5)))


def gelu(node: ir.Node, edit: Edit) -> bool:
    """Both forms of D. Hendrycks and K. Gimpel, arXiv:1606.08415, as Gelu, from opset 20 on."""
    if node.op_type != "Mul" or edit.opset < 20:
        return False
    for inner, form in ((_TANH, "tanh"), (_ERF, "none"), (_ERF_OF_NEGATIVE, "none")):
        bracket = ("Sub", 1.0, inner) if inner is _ERF_OF_NEGATIVE else ("Add", 1.0, inner)
        for whole in (("Mul", ("Mul", 0.5, "x"), bracket), ("Mul", "x", ("Mul", 0.5, bracket)),
                      ("Mul", 0.5, ("Mul", "x", bracket))):  # fmt: skip
            bound = match(node.outputs[0], whole)
            if bound is not None:
                like = node.outputs[0]
                output = edit.node("Gelu", [bound["x"]], {"approximate": form}, before=node, like=like)
                edit.replace(like, output)
                return True
    return False


def erf_of_positive(node: ir.Node, edit: Edit) -> bool:
    """``1 - Erf(-x * c)`` as ``1 + Erf(x * c)``: one node less, and the form that runtimes know as a GELU's."""
    bound = match(node.outputs[0], ("Sub", "#one", ("Erf", ("Mul", ("Neg", "x"), "#factor"))))
    if bound is None:
        return False
    inner = edit.node("Mul", [bound["x"], bound["#factor"]], before=node, like=bound["@Mul"])
    erf = edit.node("Erf", [inner], before=node, like=bound["@Erf"])
    edit.replace(node.outputs[0], edit.node("Add", [erf, bound["#one"]], before=node, like=node.outputs[0]))
    return True


def clip(node: ir.Node, edit: Edit) -> bool:
    """``Max(Min(x, high), low)`` of two numbers as Clip."""
    for pattern in (("Max", ("Min", "x", "#high"), "#low"), ("Min", ("Max", "x", "#low"), "#high")):
        operands = match(node.outputs[0], pattern)
        inner = (
            producer(operands["@Min" if pattern[0] == "Max" else "@Max"], "Min", "Max")
            if operands is not None
            else None
        )
        if operands is None or inner is None or reader(inner.outputs[0]) is not node:
            continue
        bounds = [constant(operands[key]) for key in ("#low", "#high")]
        if any(bound is None or bound.size != 1 for bound in bounds):
            continue
        low, high = (edit.constant(b.reshape(()), "bound") for b in bounds if b is not None)
        edit.replace(node.outputs[0], edit.node("Clip", [operands["x"], low, high], before=node, like=node.outputs[0]))
        return True
    return False


def repeat_as_resize(node: ir.Node, edit: Edit) -> bool:
    """``Unsqueeze -> Tile -> Reshape``, which repeats each row or column, as Resize to the nearest pixel."""
    tile = producer(node.inputs[0], "Tile") if node.op_type == "Reshape" else None
    up = producer(tile.inputs[0], "Unsqueeze") if tile is not None else None
    axes, repeats = (axes_of(up), ints(tile.inputs[1])) if up is not None and tile is not None else (None, None)
    if up is None or tile is None or axes is None or repeats is None or len(axes) != 1 or rank(up.inputs[0]) != 4:
        return False
    side = axes[0] % 5 - 1  # the new axis counts the copies of the one before it
    inner, target = dims(up.inputs[0]), ints(node.inputs[1])
    if reader(up.outputs[0]) is not tile or reader(tile.outputs[0]) is not node or side < 0 or inner is None:
        return False
    if [n for axis, n in enumerate(repeats) if axis != side + 1] != [1] * 4 or target is None or 0 in target[side:]:
        return False
    scales, shape = np.ones(4, np.float32), list(inner)
    scales[side] = repeats[side + 1]
    grown = inner[side]
    shape[side] = grown * repeats[side + 1] if isinstance(grown, int) else None
    resized = _nearest(up.inputs[0], scales, node, edit, shape)
    edit.replace(node.outputs[0], edit.node("Reshape", [resized, node.inputs[1]], before=node, like=node.outputs[0]))
    return True


def two_resizes(node: ir.Node, edit: Edit) -> bool:
    """One Resize for rows and one for columns as one."""
    before = producer(node.inputs[0], "Resize") if node.op_type == "Resize" else None
    if before is None or reader(before.outputs[0]) is not node:
        return False
    scales = []
    for resize in (before, node):
        numbers = constant(resize.inputs[2]) if len(resize.inputs) == 3 else None
        plain = attribute(resize, "mode") == "nearest" and attribute(resize, "nearest_mode") == "floor"
        if numbers is None or not plain or attribute(resize, "coordinate_transformation_mode") != "asymmetric":
            return False
        scales.append(numbers)
    if any(a != 1 and b != 1 for a, b in zip(*scales, strict=True)):
        return False
    edit.replace(node.outputs[0], _nearest(before.inputs[0], scales[0] * scales[1], node, edit, dims(node.outputs[0])))
    return True


def nearest_pixel(node: ir.Node, edit: Edit) -> bool:
    """TensorFlow's nearest pixel in terms that ONNX kept: ``floor(at + 0.5)`` is rounding with halves up."""
    if node.op_type != "Resize" or attribute(node, "coordinate_transformation_mode") != "tf_half_pixel_for_nn":
        return False
    attributes = {name: entry.value for name, entry in node.attributes.items()}
    how = {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"}
    output = edit.node("Resize", list(node.inputs), {**attributes, **how}, before=node, like=node.outputs[0])
    edit.replace(node.outputs[0], output)
    return True


def _nearest(
    source: ir.Value | None, scales: np.ndarray, node: ir.Node, edit: Edit, shape: Sequence[Dim] | None
) -> ir.Value:
    how = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    inputs = [source, None, edit.constant(scales, "scales")]
    return edit.node("Resize", inputs, how, before=node, shape=shape, dtype=node.outputs[0].dtype)
