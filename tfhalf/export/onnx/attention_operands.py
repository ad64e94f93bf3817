"""Query, key and value of an attention, as they come out of dense layers and as they go into two products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from tfhalf.export.onnx.graph import (
    FLOAT,
    HALF,
    Dim,
    Edit,
    attribute,
    axes_of,
    constant,
    dims,
    ints,
    producer,
    rank,
    same,
    scalar,
)
from tfhalf.export.onnx.match import match

TOKENS_FIRST = [0, 2, 1, 3]
"""The Transpose of [B, H, T, D] to [B, T, H, D], and back."""


@dataclass(frozen=True)
class Operand:
    """``value`` [B, H, T, D], or [B, T, D] of one head, with the last two axes the other way where ``turned``.

    ``heads``: what it was before a Transpose, [B, T, H, D], without the ``factor`` that was multiplied with it and with
    each head once instead of ``repeats`` times; ``spread`` is that with the repeats. Both None where there was no such
    Transpose; then ``value`` is without the factor.
    """

    value: ir.Value
    turned: bool
    factor: float = 1.0
    repeats: int = 1
    heads: ir.Value | None = None
    spread: ir.Value | None = None


def operands(first: ir.Node, second: ir.Node, turned: bool) -> tuple[Operand, Operand, Operand] | None:
    """Query, key and value, if they are of one dtype, of one batch, and of heads that go with each other.

    Args:
        first: the product of query and key.
        second: the product of probabilities and value.
        turned: whether ``first`` is k q^T.
    """
    size, dtype = rank(second.outputs[0]) or 0, second.outputs[0].dtype
    query, key = first.inputs[:2] if not turned else (first.inputs[1], first.inputs[0])
    value = second.inputs[1]
    if query is None or key is None or value is None or dtype not in (HALF, FLOAT):
        return None
    if any(rank(one) != size or one.dtype != dtype for one in (query, key, value)):
        return None
    three = _operand(query, turned, True), _operand(key, not turned, True), _operand(value, False, False)
    outer = [_outer(one, size) for one in three]
    if three[0].repeats != 1 or three[1].repeats != three[2].repeats or outer[0] is None or None in outer[0]:
        return None
    return three if outer[0] == outer[1] == outer[2] else None


def _operand(value: ir.Value, turned: bool, scaled: bool) -> Operand:
    value, factor = _unscaled(value) if scaled else (value, 1.0)
    up = producer(value, "Transpose")
    perm = attribute(up, "perm") if up is not None else None
    source = up.inputs[0] if up is not None else None
    if source is None or perm != ([0, 2, 3, 1] if turned else TOKENS_FIRST):
        return Operand(value, turned, factor)
    spread, inner = _unscaled(source) if scaled else (source, 1.0)
    heads, count = _repeated(spread)
    return Operand(value, turned, factor * inner, count, heads, spread)


def _unscaled(value: ir.Value) -> tuple[ir.Value, float]:
    node = producer(value, "Mul", "Div")
    step = factor_of(node) if node is not None else None
    return (value, 1.0) if step is None else step


def factor_of(node: ir.Node) -> tuple[ir.Value, float] | None:
    """A tensor, and the one number that a Mul or a Div takes it by; None where there is no such number, or it is 0."""
    pairs = [node.inputs] if node.op_type == "Div" else [node.inputs, node.inputs[::-1]]
    for tensor, number in pairs:
        factor = scalar(number)
        factor = _of_head_size(number) if factor is None else factor
        if tensor is not None and factor and rank(number) in (0, 1):
            return tensor, 1 / factor if node.op_type == "Div" else factor
    return None


def _of_head_size(value: ir.Value | None) -> float | None:
    """``1 / sqrt(D)`` of a D that is known, which Keras computes from a tensor of open sizes."""
    last = ("Squeeze", ("Slice", ("Cast", ("Shape", "x")), "#start", "#end", "#axis"))
    bound = match(value, ("Reciprocal", ("Sqrt", ("Cast", last))))
    size = (dims(bound["x"]) or [None])[-1] if bound is not None else None
    if bound is None or scalar(bound["#start"]) != -1 or (scalar(bound["#end"]) or 0) < 2**31 - 1:
        return None
    return float(size**-0.5) if isinstance(size, int) else None


def _repeated(value: ir.Value) -> tuple[ir.Value, int]:
    """What has each head [B, T, H, D] once, and how often it is repeated: by a Resize, as
    `activations.repeat_as_resize` has it, or by a Tile if it is one."""
    resize, squeeze = producer(value, "Resize"), producer(value, "Squeeze")
    if resize is not None and resize.inputs[0] is not None and len(resize.inputs) == 3:
        scales = constant(resize.inputs[2])
        plain = attribute(resize, "mode") == "nearest" and attribute(resize, "nearest_mode") == "floor"
        if scales is None or not plain or attribute(resize, "coordinate_transformation_mode") != "asymmetric":
            return value, 1
        count = float(scales[2]) if scales.shape == (4,) else 0.0
        if count >= 1 and count.is_integer() and [*scales[:2], scales[3]] == [1, 1, 1]:
            return resize.inputs[0], int(count)
    tile = producer(squeeze.inputs[0], "Tile") if squeeze is not None and axes_of(squeeze) == [2] else None
    up = producer(tile.inputs[0], "Unsqueeze") if tile is not None else None
    one = up.inputs[0] if up is not None and axes_of(up) == [3] else None
    repeats = ints(tile.inputs[1]) if tile is not None else None
    shape = dims(one)
    if one is None or shape is None or repeats is None or len(shape) != 4 or shape[2] != 1:
        return value, 1
    return (one, repeats[3]) if [*repeats[:3], repeats[4]] == [1, 1, 1, 1] else (value, 1)


def _outer(one: Operand, size: int) -> list[Dim] | None:
    """Batch, and heads as the query counts them."""
    shape = dims(one.heads if one.heads is not None else one.value)
    if one.heads is None or shape is None:
        return shape[: size - 2] if shape is not None else None
    heads = shape[2]
    return [shape[0], heads * one.repeats] if isinstance(heads, int) and isinstance(shape[3], int) else None


def flat(one: Operand, node: ir.Node, edit: Edit) -> tuple[ir.Value, int]:
    """``heads`` [B, T, H, D] as [B, T, H * D], the bias of a dense layer with it; and H. Nodes go before ``node``."""
    shape, heads = dims(one.heads), one.heads
    assert shape is not None
    assert heads is not None
    count, each = shape[2], shape[3]
    assert isinstance(count, int)
    assert isinstance(each, int)
    whole: list[Dim] = [*shape[:2], count * each]
    for split in ("Reshape", "Unsqueeze"):
        bound = match(heads, ("Add", (split, "x"), "#bias"))
        own = constant(bound["#bias"]) if bound is not None else None
        if bound is None or own is None or own.shape[-1:] != (each,) or own.size != count * each:
            continue
        if same(dims(bound["x"]), whole):
            adding = bound["@Add"].producer()
            bias = edit.constant(own.reshape(-1), bound["#bias"].name or "bias")
            name = adding.name if adding is not None else None
            return edit.node("Add", [bound["x"], bias], before=node, like=bound["x"], name=name), count
    return reshaped(heads, [0, 0, count * each], node, edit, whole), count


def plain(one: Operand, node: ir.Node, edit: Edit) -> ir.Value:
    """[B, H, T, D], or [B, T, D] of one head, each head as often as the query has it, without the factor."""
    if one.spread is not None:
        return _transposed(one.spread, TOKENS_FIRST, node, edit)
    size = rank(one.value) or 0
    return one.value if not one.turned else _transposed(one.value, [*range(size - 2), size - 1, size - 2], node, edit)


def reshaped(value: ir.Value, sizes: Sequence[Dim], node: ir.Node, edit: Edit, shape: Sequence[Dim] | None) -> ir.Value:
    """A Reshape to ``sizes``, of which 0 keeps one, with ``shape`` as what is known of its result."""
    to = edit.constant(np.array(sizes, np.int64), "shape")
    return edit.node("Reshape", [value, to], before=node, shape=shape, dtype=value.dtype)


def _transposed(value: ir.Value, perm: Sequence[int], node: ir.Node, edit: Edit) -> ir.Value:
    shape = dims(value)
    moved = [shape[axis] for axis in perm] if shape is not None else None
    return edit.node("Transpose", [value], {"perm": list(perm)}, before=node, shape=moved, dtype=value.dtype)
