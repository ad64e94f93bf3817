"""Convolutions and matrix products of an ONNX graph: what follows them folded in, what surrounds them taken off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from tfhalf.export.onnx.casts import target
from tfhalf.export.onnx.graph import FLOAT, HALF, Edit, attribute, axes_of, constant, dims, producer, rank, reader
from tfhalf.precision import cast


@dataclass(frozen=True)
class _Affine:
    """``y = x * scale + shift`` per channel (float64, each [C]), and the last value of the chain that computes it."""

    scale: np.ndarray
    shift: np.ndarray
    end: ir.Value


def fold_affine(node: ir.Node, edit: Edit) -> bool:
    """Mul and Add per channel behind a convolution, a BatchNormalization mostly, as its weights and bias.

    In inference BatchNormalization is affine (arXiv:1502.03167, section 3.1). It is computed in float64; where the
    weights would not fit float16, nothing is folded. A norm's way through float32 goes with it.
    """
    if node.op_type not in ("Conv", "ConvTranspose"):
        return False
    weights, bias = constant(node.inputs[1]), constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if weights is None or (len(node.inputs) > 2 and node.inputs[2] is not None and bias is None):
        return False
    groups = attribute(node, "group", 1)
    channels = weights.shape[0] if node.op_type == "Conv" else weights.shape[1] * groups
    affine = _chain(node.outputs[0], channels, weights.ndim)
    if affine is None:
        return False
    if node.op_type == "Conv":
        kernel = weights.astype(np.float64) * affine.scale.reshape(-1, *[1] * (weights.ndim - 1))
    else:  # [C_in, C_out / groups, ...]
        scale = affine.scale.reshape(groups, 1, -1, *[1] * (weights.ndim - 2))
        kernel = (weights.astype(np.float64).reshape(groups, -1, *weights.shape[1:]) * scale).reshape(weights.shape)
    shift = affine.shift + (0 if bias is None else bias.astype(np.float64) * affine.scale)
    return _put(node, edit, kernel, shift, affine, weights.dtype)


def _put(node: ir.Node, edit: Edit, kernel: np.ndarray, shift: np.ndarray, affine: _Affine, dtype: np.dtype) -> bool:
    if affine.end.dtype != node.outputs[0].dtype or not (_fits(kernel, dtype) and _fits(shift, dtype)):
        return False
    name = node.inputs[1].name or "kernel"  # type: ignore[union-attr]
    old = node.inputs[2] if len(node.inputs) > 2 else None
    parameters = [edit.constant(kernel.astype(dtype), name)]
    if shift.any() or old is not None:
        parameters.append(edit.constant(shift.astype(dtype), old.name or "bias" if old is not None else f"{name}_bias"))
    attributes = {key: value.value for key, value in node.attributes.items()}
    output = edit.node(node.op_type, [node.inputs[0], *parameters], attributes, before=node, like=node.outputs[0])
    edit.replace(affine.end, output)
    return True


def _fits(values: np.ndarray, dtype: np.dtype) -> bool:
    """Finite, and in float16 nothing clamped and no more than one value in a hundred lost."""
    if not np.isfinite(values).all():
        return False
    if dtype != np.float16:
        return True
    _, counts = cast.cast(values)
    return counts.clamped == 0 and counts.flushed * 100 <= counts.total


def _chain(value: ir.Value, channels: int, dimensions: int) -> _Affine | None:
    """The longest run of Mul, Add and Sub with one number a channel that begins with the only reader of ``value``."""
    scale, shift, start = np.ones(channels), np.zeros(channels), value.dtype
    best: _Affine | None = None
    steps = 0
    while (node := reader(value)) is not None and node.domain == "":
        if node.op_type == "Cast":
            if target(node) not in (HALF, FLOAT):
                break
        else:
            step = _step(node, value, channels, dimensions)
            if step is None:
                break
            factor, offset = step
            scale, shift, steps = scale * factor, shift * factor + offset, steps + 1
        value = node.outputs[0]
        if value.dtype == start and steps:
            best = _Affine(scale, shift, value)
    return best


def _step(node: ir.Node, value: ir.Value, channels: int, dimensions: int) -> tuple[np.ndarray, np.ndarray] | None:
    """``(factor, offset)`` of one node."""
    if node.op_type not in ("Mul", "Add", "Sub", "Div") or len(node.inputs) != 2:
        return None
    first = node.inputs[0] is value
    other = constant(node.inputs[1] if first else node.inputs[0])
    if other is None or (node.op_type in ("Sub", "Div") and not first):
        return None
    padded = other.reshape((1,) * (dimensions - other.ndim) + other.shape) if other.ndim <= dimensions else None
    if padded is None or padded.size not in (1, channels) or padded.shape[1] not in (1, channels):
        return None
    if padded.size != padded.shape[1]:
        return None
    numbers = np.broadcast_to(padded.astype(np.float64).reshape(-1), (channels,))
    ones, zeros = np.ones(channels), np.zeros(channels)
    return {
        "Mul": (numbers, zeros),
        "Add": (ones, numbers),
        "Sub": (ones, -numbers),
        "Div": (1 / np.where(numbers == 0, np.nan, numbers), zeros),
    }[node.op_type]


def one_dimension(node: ir.Node, edit: Edit) -> bool:
    """``Unsqueeze -> Conv -> Squeeze`` of the same spatial axis as a convolution of one dimension less.

    TensorFlow has no other way of computing a 1-D convolution. The bias and the norm behind the Squeeze then fold.
    """
    after = reader(node.outputs[0]) if node.op_type == "Conv" else None
    before = producer(node.inputs[0], "Unsqueeze") if after is not None else None
    weights = constant(node.inputs[1]) if before is not None else None
    if after is None or before is None or weights is None or after.op_type != "Squeeze" or weights.ndim != 4:
        return False
    added, taken = axes_of(before), axes_of(after)
    if added is None or added != taken or len(added) != 1 or added[0] not in (2, 3):
        return False
    side = added[0] - 2
    pads, auto = attribute(node, "pads", [0, 0, 0, 0]), attribute(node, "auto_pad", "NOTSET")
    if weights.shape[2 + side] != 1 or pads[side] or pads[2 + side] or auto != "NOTSET":
        return False
    stay = 1 - side  # with one position, the stride of the other axis moves nothing
    attributes = {
        "dilations": [attribute(node, "dilations", [1, 1])[stay]],
        "strides": [attribute(node, "strides", [1, 1])[stay]],
        "kernel_shape": [weights.shape[2 + stay]],
        "pads": [pads[stay], pads[2 + stay]],
        "group": attribute(node, "group", 1),
    }
    name = node.inputs[1].name or "kernel"  # type: ignore[union-attr]
    kernel = edit.constant(weights.squeeze(2 + side), name)
    inputs = [before.inputs[0], kernel, *node.inputs[2:]]
    edit.replace(after.outputs[0], edit.node("Conv", inputs, attributes, before=node, like=after.outputs[0]))
    return True


def unflattened(node: ir.Node, edit: Edit) -> bool:
    """``Reshape([-1, K]) -> MatMul -> Reshape([..., M])`` as one MatMul of any rank.

    Keras' Dense on sequences is TensorFlow's tensordot, which flattens what it multiplies.
    """
    after = reader(node.outputs[0]) if node.op_type == "MatMul" else None
    before = producer(node.inputs[0], "Reshape") if after is not None else None
    weights = constant(node.inputs[1]) if before is not None else None
    if after is None or before is None or after.op_type != "Reshape" or weights is None or weights.ndim != 2:
        return False
    inner, outer = dims(before.inputs[0]), dims(after.outputs[0])
    if inner is None or outer is None or rank(node.inputs[0]) != 2 or inner[-1] != weights.shape[0]:
        return False
    if outer[-1] != weights.shape[1] or None in outer or inner[:-1] != outer[:-1]:
        return False
    dtype = node.outputs[0].dtype
    output = edit.node("MatMul", [before.inputs[0], node.inputs[1]], before=node, shape=outer, dtype=dtype)
    edit.replace(after.outputs[0], output)
    return True
