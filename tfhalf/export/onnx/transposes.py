"""Transposes of an ONNX graph moved towards the outputs until they meet their inverse, and taken out with it.

TensorFlow's images are [N, H, W, C] and ONNX's [N, C, H, W], so a converter puts a Transpose before and behind each
convolution. ``Transpose(x, perm)`` has ``perm[i]`` of x as its axis i.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from tfhalf.export.onnx.graph import Edit, attribute, axes_of, constant, dims, ints, producer, rank, reader

_UNARY = frozenset((
    "Relu", "Sigmoid", "Tanh", "Erf", "Exp", "Log", "Sqrt", "Reciprocal", "Neg", "Abs", "Cast", "Clip", "LeakyRelu",
    "Elu", "Selu", "Softplus", "Softsign", "HardSigmoid", "HardSwish", "Gelu", "Mish", "Identity", "Celu",
    "ThresholdedRelu", "Floor", "Ceil", "Round", "Sign", "Not", "IsNaN", "Swish",
))  # fmt: skip
_ELEMENTWISE = frozenset((
    "Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "PRelu", "Where", "Equal", "Greater", "Less", "GreaterOrEqual",
    "And", "Or",
))  # fmt: skip
_REDUCE = frozenset(["ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd", "ReduceL2", "ReduceSumSquare"])


def cancel(node: ir.Node, edit: Edit) -> bool:
    """Two Transposes as one; none where nothing moves, and a constant transposed at once."""
    if node.op_type != "Transpose":
        return False
    source, perm = node.inputs[0], _perm(node)
    assert source is not None
    array = constant(source)
    if array is not None:
        edit.replace(node.outputs[0], edit.constant(array.transpose(perm), source.name or "constant"))
        return True
    if perm == sorted(perm):
        edit.replace(node.outputs[0], source)
        return True
    before = producer(source, "Transpose")
    if before is None:
        return False
    first = _perm(before)
    edit.replace(node.outputs[0], _transpose(before.inputs[0], [first[axis] for axis in perm], node, edit))
    return True


def sink(node: ir.Node, edit: Edit) -> bool:
    """``Transpose -> op`` as ``op -> Transpose``."""
    perms = [_perm(t) for t in map(_above, node.inputs) if t is not None]
    if not perms or any(perm != perms[0] for perm in perms):
        return False
    perm = perms[0]
    if node.op_type in _UNARY:
        return _put(node, edit, perm, [_below(node.inputs[0]), *node.inputs[1:]]) if _above(node.inputs[0]) else False
    if node.op_type in _ELEMENTWISE or node.op_type == "Concat":
        inputs = [_operand(value, perm, edit, whole=node.op_type == "Concat") for value in node.inputs]
        if any(value is None for value in inputs):
            return False
        axis = {"axis": perm[attribute(node, "axis")]} if node.op_type == "Concat" else {}
        return _put(node, edit, perm, inputs, axis)
    if _above(node.inputs[0]) is None or len(perms) != 1:
        return False
    how = _SPECIAL.get("Reduce" if node.op_type in _REDUCE else node.op_type)
    return how(node, edit, perm) if how is not None else False


def transpose_before_unsqueeze(node: ir.Node, edit: Edit) -> bool:
    """``Unsqueeze -> Transpose`` as ``Transpose -> Unsqueeze``, so that a 1-D convolution's meets it."""
    up = producer(node.inputs[0], "Unsqueeze") if node.op_type == "Transpose" else None
    axes = axes_of(up) if up is not None else None
    if up is None or axes is None or reader(up.outputs[0]) is not node:
        return False
    perm = _perm(node)
    axes = [axis % len(perm) for axis in axes]
    stay = [axis for axis in range(len(perm)) if axis not in axes]
    inner = _transpose(up.inputs[0], [stay.index(axis) for axis in perm if axis not in axes], node, edit)
    places = [index for index, axis in enumerate(perm) if axis in axes]
    output = edit.node("Unsqueeze", [inner, edit.constant(np.array(places), "axes")], before=node, like=node.outputs[0])
    edit.replace(node.outputs[0], output)
    return True


def transpose_before_tile(node: ir.Node, edit: Edit) -> bool:
    """``Tile -> Transpose`` as ``Transpose -> Tile``, so that an upsampling's Tile stays beside its Unsqueeze."""
    tile = producer(node.inputs[0], "Tile") if node.op_type == "Transpose" else None
    repeats = ints(tile.inputs[1]) if tile is not None else None
    if tile is None or repeats is None or reader(tile.outputs[0]) is not node:
        return False
    perm = _perm(node)
    inner = _transpose(tile.inputs[0], perm, node, edit)
    moved = edit.constant(np.array([repeats[axis] for axis in perm]), "repeats")
    edit.replace(node.outputs[0], edit.node("Tile", [inner, moved], before=node, like=node.outputs[0]))
    return True


def transpose_before_pad(node: ir.Node, edit: Edit) -> bool:
    """``Pad -> Transpose`` as ``Transpose -> Pad``, so that Pad lies before the convolution that can take it in."""
    pad = producer(node.inputs[0], "Pad") if node.op_type == "Transpose" else None
    pads = ints(pad.inputs[1]) if pad is not None else None
    perm = _perm(node) if pad is not None else []
    if pad is None or pads is None or len(pads) != 2 * len(perm) or reader(pad.outputs[0]) is not node:
        return False
    moved = [pads[axis] for axis in perm] + [pads[len(perm) + axis] for axis in perm]
    inputs = [_transpose(pad.inputs[0], perm, node, edit), edit.constant(np.array(moved), "pads"), *pad.inputs[2:]]
    mode = {name: entry.value for name, entry in pad.attributes.items()}
    edit.replace(node.outputs[0], edit.node("Pad", inputs, mode, before=node, like=node.outputs[0]))
    return True


def flatten_unmoved(node: ir.Node, edit: Edit) -> bool:
    """``Transpose -> Reshape([N, K]) -> MatMul``: the rows of the matrix in the order before the Transpose."""
    flat = producer(node.inputs[0], "Reshape") if node.op_type == "MatMul" else None
    up = producer(flat.inputs[0], "Transpose") if flat is not None else None
    weights = constant(node.inputs[1]) if up is not None else None
    if flat is None or up is None or weights is None or weights.ndim != 2 or rank(flat.outputs[0]) != 2:
        return False
    source, perm = up.inputs[0], _perm(up)
    sizes = (dims(source) or [None])[1:]
    fixed = [size for size in sizes if isinstance(size, int)]
    if reader(flat.outputs[0]) is not node or perm[0] != 0 or len(fixed) != len(sizes):
        return False
    if int(np.prod(fixed)) != len(weights):
        return False
    moved = weights.reshape(*[fixed[axis - 1] for axis in perm[1:]], -1)
    back = np.argsort(perm[1:])
    kernel = moved.transpose(*back, len(back)).reshape(weights.shape)
    target = edit.constant(np.array([-1, len(weights)]), "flat")
    plain = edit.node("Reshape", [source, target], before=node, like=flat.outputs[0])
    matrix = edit.constant(kernel, node.inputs[1].name or "kernel")  # type: ignore[union-attr]
    edit.replace(node.outputs[0], edit.node("MatMul", [plain, matrix], before=node, like=node.outputs[0]))
    return True


def _perm(node: ir.Node) -> list[int]:
    default = list(range(rank(node.inputs[0]) or 0))[::-1]
    return [int(axis) for axis in attribute(node, "perm", default)]


def _above(value: ir.Value | None) -> ir.Node | None:
    return producer(value, "Transpose")


def _below(value: ir.Value | None) -> ir.Value | None:
    node = _above(value)
    return node.inputs[0] if node is not None else None


def _operand(value: ir.Value | None, perm: Sequence[int], edit: Edit, whole: bool) -> ir.Value | None:
    """What stands for one operand once the Transpose is behind: its source, or a constant turned the other way."""
    array = constant(value)
    if array is None or value is None:
        return _below(value)
    if array.ndim > len(perm) or (whole and array.ndim != len(perm)):
        return None
    if array.size == 1 and not whole:
        return value
    array = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
    return edit.constant(array.transpose(np.argsort(perm)), value.name or "constant")


def _transpose(source: ir.Value | None, perm: Sequence[int], node: ir.Node, edit: Edit) -> ir.Value:
    known = dims(source)
    shape = [known[axis] for axis in perm] if known is not None else None
    if list(perm) == sorted(perm):
        assert source is not None
        return source
    dtype = source.dtype if source is not None else None
    return edit.node("Transpose", [source], {"perm": list(perm)}, before=node, shape=shape, dtype=dtype)


def _put(
    node: ir.Node,
    edit: Edit,
    perm: Sequence[int],
    inputs: Sequence[ir.Value | None],
    changed: dict[str, Any] | None = None,
) -> bool:
    """``node`` on other inputs, and ``perm`` behind it; ``changed`` attributes, None for one that goes."""
    attributes = {name: entry.value for name, entry in node.attributes.items()} | (changed or {})
    attributes = {name: value for name, value in attributes.items() if value is not None}
    outer, back = dims(node.outputs[0]), np.argsort(perm)
    shape = [outer[axis] for axis in back] if outer is not None and len(outer) == len(perm) else None
    output = edit.node(node.op_type, inputs, attributes, before=node, shape=shape, dtype=node.outputs[0].dtype)
    edit.replace(node.outputs[0], _transpose(output, perm, node, edit))
    return True


def _pad(node: ir.Node, edit: Edit, perm: list[int]) -> bool:
    pads = ints(node.inputs[1])
    if pads is None or len(pads) != 2 * len(perm) or len(node.inputs) > 3:
        return False
    back = np.argsort(perm)
    moved = [pads[axis] for axis in back] + [pads[len(perm) + axis] for axis in back]
    return _put(node, edit, perm, [_below(node.inputs[0]), edit.constant(np.array(moved), "pads"), *node.inputs[2:]])


def _reduce(node: ir.Node, edit: Edit, perm: list[int]) -> bool:
    axes = axes_of(node)
    if not axes:
        return False
    axes = [axis % len(perm) for axis in axes]
    moved = sorted(perm[axis] for axis in axes)
    if not attribute(node, "keepdims", 1):
        stay = [axis for axis in range(len(perm)) if axis not in moved]
        perm = [stay.index(perm[axis]) for axis in range(len(perm)) if axis not in axes]
    return _axes(node, edit, perm, moved)


def _axes(node: ir.Node, edit: Edit, perm: list[int], axes: list[int]) -> bool:
    source = _below(node.inputs[0])
    if "axes" in node.attributes:
        return _put(node, edit, perm, [source], {"axes": axes})
    return _put(node, edit, perm, [source, edit.constant(np.array(axes), "axes")])


def _squeeze(node: ir.Node, edit: Edit, perm: list[int]) -> bool:
    axes = axes_of(node)
    if axes is None:
        return False
    axes = [axis % len(perm) for axis in axes]
    moved = sorted(perm[axis] for axis in axes)
    stay = [axis for axis in range(len(perm)) if axis not in moved]
    return _axes(node, edit, [stay.index(perm[axis]) for axis in range(len(perm)) if axis not in axes], moved)


def _softmax(node: ir.Node, edit: Edit, perm: list[int]) -> bool:
    return _put(node, edit, perm, [_below(node.inputs[0])], {"axis": perm[attribute(node, "axis", -1)]})


def _slice(node: ir.Node, edit: Edit, perm: list[int]) -> bool:
    starts, axes = ints(node.inputs[1]), ints(node.inputs[3]) if len(node.inputs) > 3 else None
    if axes is None and starts is not None:
        axes = list(range(len(starts)))
    if axes is None:
        return False
    moved = edit.constant(np.array([perm[axis] for axis in axes]), "axes")
    return _put(node, edit, perm, [_below(node.inputs[0]), *node.inputs[1:3], moved, *node.inputs[4:]])


def _resize(node: ir.Node, edit: Edit, perm: list[int]) -> bool:
    scales = constant(node.inputs[2]) if len(node.inputs) == 3 else None
    crop = attribute(node, "coordinate_transformation_mode") == "tf_crop_and_resize"
    cubic = attribute(node, "mode") == "cubic"  # which onnxruntime has over the last two axes alone
    if scales is None or scales.shape != (len(perm),) or crop or cubic or "axes" in node.attributes:
        return False
    return _put(node, edit, perm, [_below(node.inputs[0]), None, edit.constant(scales[np.argsort(perm)], "scales")])


_SPECIAL = {
    "Pad": _pad,
    "Reduce": _reduce,
    "Squeeze": _squeeze,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "Slice": _slice,
    "Resize": _resize,
}
