"""Norms, which TensorFlow computes step by step, as ONNX's own operators.

LayerNormalization (opset 17), GroupNormalization (21) and RMSNormalization (23) take float16 and compute mean and
variance in float32 (``stash_type`` 1), so the Casts round the steps go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from tfhalf.export.onnx.casts import target
from tfhalf.export.onnx.graph import (
    FLOAT,
    HALF,
    Dim,
    Edit,
    attribute,
    axes_of,
    constant,
    dims,
    producer,
    rank,
    reader,
    scalar,
)
from tfhalf.export.onnx.match import Bound, match
from tfhalf.precision import cast

_CENTRED = ("Sub", "x", "mean")
_VARIANCE = ("ReduceMean", ("Mul", "centred", "centred"))
_INVERSE = ("Reciprocal", ("Sqrt", ("Add", "variance", "#epsilon")))


def layer_normalization(node: ir.Node, edit: Edit) -> bool:
    """``x * m + (beta - mean * m)`` with ``m = gamma / sqrt(variance + epsilon)`` over the last axes."""
    moments = _moments(node) if node.op_type == "Add" and edit.opset >= 17 else None
    if moments is None:
        return False
    x, axes, gamma, beta, epsilon = moments
    whole = rank(x) or 0
    trailing = sorted(axis % whole for axis in axes) if whole else []
    if trailing != list(range(whole - len(trailing), whole)):
        return False
    shape = (dims(x) or [])[trailing[0] :]
    fixed = [size for size in shape if isinstance(size, int)]
    scale, shift = _parameter(gamma, fixed, 1.0), _parameter(beta, fixed, 0.0)
    if len(fixed) != len(shape) or scale is None or shift is None:
        return False
    parameters = [scale, shift] if beta is not None else [scale]
    attributes = {"axis": trailing[0] - whole, "epsilon": epsilon, "stash_type": 1}
    return _put("LayerNormalization", node, edit, x, parameters, attributes)


def rms_normalization(node: ir.Node, edit: Edit) -> bool:
    """``x / sqrt(mean(x * x) + epsilon) * gamma`` over the last axis."""
    if node.op_type != "Mul" or edit.opset < 23:
        return False
    inverse = ("Reciprocal", ("Sqrt", ("Add", ("ReduceMean", ("Mul", "x", "x")), "#epsilon")))
    bound = match(node.outputs[0], ("Mul", ("Mul", "x", inverse), "#gamma"))
    if bound is None:
        bound = match(node.outputs[0], ("Mul", "x", ("Mul", inverse, "#gamma")))
    if bound is None and not _scaled(reader(node.outputs[0])):
        bound = match(node.outputs[0], ("Mul", "x", inverse))
    mean = bound["@ReduceMean"].producer() if bound is not None else None
    if bound is None or mean is None:
        return False
    x, epsilon, whole = bound["x"], scalar(bound["#epsilon"]), rank(bound["x"]) or 0
    size = (dims(x) or [None])[-1]
    if axes_of(mean) not in ([-1], [whole - 1]) or epsilon is None or not isinstance(size, int):
        return False
    scale = _parameter(bound.get("#gamma"), [size], 1.0)
    if scale is None:
        return False
    return _put("RMSNormalization", node, edit, x, [scale], {"axis": -1, "epsilon": epsilon, "stash_type": 1})


def _scaled(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "Mul" and any(constant(value) is not None for value in node.inputs)


def group_normalization(node: ir.Node, edit: Edit) -> bool:
    """Keras' GroupNormalization: [N, ..., G, C / G], moments over all but N and G, and back; channels last."""
    after = producer(node.inputs[0], "Cast", "Add") if node.op_type == "Reshape" and edit.opset >= 21 else None
    add = producer(after.inputs[0], "Add") if after is not None and after.op_type == "Cast" else after
    moments = _moments(add) if add is not None else None
    if moments is None or add is None or after is None or reader(after.outputs[0]) is not node:
        return False
    wide, axes, gamma, beta, epsilon = moments
    up = producer(wide, "Cast")
    split = producer(up.inputs[0] if up is not None else wide, "Reshape")
    start = split.inputs[0] if split is not None else None
    outer, parts = dims(start), dims(wide)
    if start is None or outer is None or parts is None or len(parts) != len(outer) + 1 or len(outer) < 3:
        return False
    groups, each = parts[-2:]
    if not isinstance(groups, int) or not isinstance(each, int) or outer[-1] != groups * each:
        return False
    if sorted(axis % len(parts) for axis in axes) != [*range(1, len(parts) - 2), len(parts) - 1]:
        return False
    if start.dtype != node.outputs[0].dtype or start.dtype is None:
        return False
    goal = constant(node.inputs[1])
    if goal is None or (goal[len(outer) - 1 :] == 0).any():  # 0 keeps a size, which must be one of both
        return False
    scale, shift = (_parameter(value, [groups * each], default) for value, default in ((gamma, 1.0), (beta, 0.0)))
    if scale is None or shift is None or not _narrow_enough([scale, shift], start.dtype):
        return False
    first = [0, len(outer) - 1, *range(1, len(outer) - 1)]
    moved: list[Dim] = [outer[axis] for axis in first]
    x = edit.node("Transpose", [start], {"perm": first}, before=node, shape=moved, dtype=start.dtype)
    dtype = start.dtype.numpy()
    inputs = [x, edit.constant(scale.astype(dtype), "scale"), edit.constant(shift.astype(dtype), "bias")]
    attributes = {"num_groups": groups, "epsilon": epsilon, "stash_type": 1}
    y = edit.node("GroupNormalization", inputs, attributes, before=node, like=x)
    back = [int(axis) for axis in np.argsort(first)]
    last = edit.node("Transpose", [y], {"perm": back}, before=node, shape=outer, dtype=start.dtype)
    edit.replace(node.outputs[0], edit.node("Reshape", [last, node.inputs[1]], before=node, like=node.outputs[0]))
    return True


_Moments = tuple[ir.Value, list[int], "ir.Value | None", "ir.Value | None", float]


def _moments(node: ir.Node) -> _Moments | None:
    """Input, axes, gamma, beta and epsilon of the steps that end in the Add ``node``."""
    for multiplier in (("Mul", "inverse", "#gamma"), "inverse"):
        shifted = ("Mul", ("Neg", "mean"), multiplier)
        for rest in (("Add", shifted, "#beta"), ("Sub", "#beta", ("Mul", "mean", multiplier)), shifted):
            bound = match(node.outputs[0], ("Add", ("Mul", "x", multiplier), rest))
            moments = _check_moments(bound) if bound is not None else None
            if bound is not None and moments is not None:
                axes, epsilon = moments
                return bound["x"], axes, bound.get("#gamma"), bound.get("#beta"), epsilon
    return None


def _check_moments(bound: Bound) -> tuple[list[int], float] | None:
    """Axes and epsilon, if ``inverse`` is that of the standard deviation of ``x`` and ``mean`` its mean."""
    inverse = match(bound["inverse"], _INVERSE)
    variance = match(inverse["variance"], _VARIANCE) if inverse is not None else None
    centred = match(variance["centred"], _CENTRED) if variance is not None else None
    if inverse is None or variance is None or centred is None:
        return None
    mean = producer(bound["mean"], "ReduceMean")
    if centred["x"] is not bound["x"] or centred["mean"] is not bound["mean"] or mean is None:
        return None
    spread = variance["@ReduceMean"].producer()
    axes, epsilon = axes_of(mean), scalar(inverse["#epsilon"])
    if spread is None or axes is None or epsilon is None or axes_of(spread) != axes or mean.inputs[0] is not bound["x"]:
        return None
    if not attribute(mean, "keepdims", 1) or not attribute(spread, "keepdims", 1):
        return None
    return axes, epsilon


def _parameter(value: ir.Value | None, shape: Sequence[int], default: float) -> np.ndarray | None:
    """Gamma or beta in the shape that the operator wants; None where it is another."""
    if value is None:
        return np.full(list(shape), default)
    array = constant(value)
    count = int(np.prod(shape))
    if array is None or array.size not in (1, count):
        return None
    return np.broadcast_to(array.reshape(-1), (count,)).reshape(list(shape))


def _narrow_enough(parameters: Sequence[np.ndarray], dtype: ir.DataType) -> bool:
    limit = cast.MAX if dtype == HALF else np.inf
    return all(bool(np.isfinite(p).all()) and bool((np.abs(p) <= limit).all()) for p in parameters)


def _put(
    op: str, node: ir.Node, edit: Edit, x: ir.Value, parameters: Sequence[np.ndarray], attributes: dict[str, Any]
) -> bool:
    """The operator instead of ``node``: in float16 where x was widened for it and the result is narrowed."""
    up, down = producer(x, "Cast"), reader(node.outputs[0])
    start = up.inputs[0] if up is not None else None
    narrow = start is not None and start.dtype == HALF and _narrow_enough(parameters, HALF) and _narrowed(down)
    dtype = HALF if narrow else x.dtype or FLOAT
    names = zip(parameters, ("scale", "bias"), strict=False)
    constants = [edit.constant(array.astype(dtype.numpy()), name) for array, name in names]
    like = node.outputs[0]
    output = edit.node(op, [start if narrow else x, *constants], attributes, before=node, like=like, dtype=dtype)
    if narrow:  # the Casts then meet
        output = edit.node("Cast", [output], {"to": like.dtype}, before=node, like=like)
    edit.replace(like, output)
    return True


def _narrowed(node: ir.Node | None) -> bool:
    """Whether a result goes to float16 at once, or does so as a mean."""
    if node is not None and node.op_type == "ReduceMean":
        node = reader(node.outputs[0])
    return node is not None and node.op_type == "Cast" and target(node) == HALF
