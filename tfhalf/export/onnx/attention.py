"""Scaled dot-product attention, which Keras computes step by step, as ONNX's own Attention, from opset 23 on.

``softmax(q k^T * scale + bias, masked) v``: two products with what lies between them. Where an engine has a kernel for
the operator, the scores never lie in its memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from tfhalf.export.onnx import attention_masks as masks
from tfhalf.export.onnx.attention_operands import TOKENS_FIRST, Operand, factor_of, flat, operands, plain, reshaped
from tfhalf.export.onnx.casts import target
from tfhalf.export.onnx.graph import FLOAT, HALF, Dim, Edit, attribute, constant, dims, producer, rank, reader, scalar

# Keras' stand-ins for minus infinity are this or below: probability 0 beside any score above -29,000.
_MASKED = -3e4


@dataclass(frozen=True)
class _Steps:
    """What lies between the products. ``scores``: what the mask is applied to, ``sizes``: of it, [(B, H,) T, S];
    ``turned``: the first product is k q^T; ``emptied``: masked probabilities are set to 0 behind the softmax."""

    scale: float
    product: ir.Node
    scores: ir.Value
    sizes: Sequence[Dim]
    turned: bool
    mask: ir.Value | None
    bias: ir.Value | None
    emptied: bool


@dataclass(frozen=True)
class _Parts:
    """All that the operator is made of."""

    query: Operand
    key: Operand
    value: Operand
    scale: float
    masked: masks.Masked
    bias: ir.Value | None
    emptied: bool


def attention(node: ir.Node, edit: Edit) -> bool:
    """Two products, and between them scale, bias, mask and softmax, as Attention with a softmax in float32.

    Left alone is what is not this in every respect: scores or probabilities that something else reads, another axis or
    order, products that broadcast, a scale that is not positive, a mask whose shape is not known.
    """
    if node.op_type != "MatMul" or edit.opset < 23 or rank(node.outputs[0]) not in (3, 4):
        return False
    steps = _steps(node, edit)
    parts = _parts(node, steps, edit) if steps is not None else None
    if parts is None:
        return False
    after = reader(node.outputs[0])
    if after is not None and after.op_type == "Cast":
        after = reader(after.outputs[0])
    moved = after is not None and after.op_type == "Transpose" and attribute(after, "perm") == TOKENS_FIRST
    split = all(one.heads is not None for one in (parts.query, parts.key, parts.value))
    if after is not None and moved and split and parts.masked.alike:
        _on_tokens(parts, node, after, edit)
    else:
        _on_heads(parts, node, edit)
    return True


class _Way:
    """Up from the second product, through what nothing else reads; Casts and a Transpose of the last two axes may lie
    on the way."""

    def __init__(self, node: ir.Node) -> None:
        self.below, self.value, self.turned = node, node.inputs[0], False

    def to(self, *op_types: str) -> ir.Node | None:
        """The next node, if it is one of these."""
        while self.value is not None and (node := producer(self.value, "Cast", "Transpose", *op_types)) is not None:
            if reader(self.value) is not self.below:
                return None
            if node.op_type in op_types:
                return node
            source = node.inputs[0]
            if node.op_type == "Transpose":
                size = rank(self.value) or 0
                if attribute(node, "perm") != [*range(size - 2), size - 1, size - 2]:
                    return None
                self.turned = not self.turned
            elif source is None or not {source.dtype, target(node)} <= {HALF, FLOAT}:
                return None
            self.go(node, source)
        return None

    def go(self, node: ir.Node, value: ir.Value | None) -> None:
        """On above ``node``, by the one of its inputs that is the way."""
        self.below, self.value = node, value


def _steps(node: ir.Node, edit: Edit) -> _Steps | None:
    way = _Way(node)
    zero = way.to("Where")
    if zero is not None and scalar(zero.inputs[2]) != 0:
        return None
    emptied = _mask(zero, way, edit)
    if zero is not None:
        way.go(zero, zero.inputs[1])
    softmax = way.to("Softmax")
    size = rank(node.outputs[0]) or 0
    if softmax is None or attribute(softmax, "axis", -1) % size != size - 1 - way.turned:
        return None
    way.go(softmax, softmax.inputs[0])
    where = way.to("Where")
    low = scalar(where.inputs[2]) if where is not None else None
    if where is not None and (low is None or not np.isfinite(low) or low > _MASKED):
        return None
    mask = _mask(where, way, edit)
    if where is not None:
        way.go(where, where.inputs[1])
    scores, sizes = way.value, dims(way.value)
    if scores is None or sizes is None or (mask is None) != (where is None):
        return None
    if way.turned:
        sizes = [*sizes[:-2], sizes[-1], sizes[-2]]
    if zero is not None and not _equal(emptied, mask):
        return None
    add, bias = way.to("Add"), None
    if add is not None:
        first = producer(add.inputs[0], "MatMul", "Mul", "Div", "Cast") is not None
        bias = add.inputs[1 if first else 0]
        if way.turned or bias is None:
            return None
        way.go(add, add.inputs[0 if first else 1])
    scale = 1.0
    while (times := way.to("Mul", "Div")) is not None and (step := factor_of(times)) is not None:
        scale *= step[1]
        way.go(times, step[0])
    product = way.to("MatMul")
    if product is None:
        return None
    return _Steps(scale, product, scores, sizes, way.turned, mask, bias, zero is not None)


def _mask(where: ir.Node | None, way: _Way, edit: Edit) -> ir.Value | None:
    """What a Where chooses by, with queries before keys."""
    mask = where.inputs[0] if where is not None else None
    if mask is None or not way.turned:
        return mask
    array = constant(mask)
    return edit.constant(array.swapaxes(-1, -2), "mask") if array is not None and array.ndim > 1 else None


def _equal(one: ir.Value | None, other: ir.Value | None) -> bool:
    first, second = constant(one), constant(other)
    if first is None or second is None:
        return one is not None and one is other
    return np.array_equal(first, second)


def _parts(node: ir.Node, steps: _Steps, edit: Edit) -> _Parts | None:
    three = operands(steps.product, node, steps.turned)
    if three is None:
        return None
    scale = steps.scale * three[0].factor * three[1].factor
    bias = _bias(steps.bias, steps.sizes, node, edit) if steps.bias is not None else None
    if not scale > 0 or not np.isfinite(scale) or (bias is None and steps.bias is not None):
        return None
    masked = masks.Masked()
    if steps.mask is not None:
        query = three[0]
        tokens = (query.heads, 1) if query.heads is not None else (query.value, -1 if query.turned else -2)
        read = masks.read_mask(steps.mask, steps.scores, steps.sizes, tokens, edit, node)
        if read is None:
            return None
        masked = read
    return _Parts(*three, scale, masked, bias, steps.emptied)


def _bias(bias: ir.Value, whole: Sequence[Dim], node: ir.Node, edit: Edit) -> ir.Value | None:
    """What is added to the scores, in the dtype of query, key and value; None where that would round it, or where its
    last two axes are not all queries and keys."""
    own, dtype = dims(bias), node.outputs[0].dtype
    if own is None or len(own) not in (2, len(whole)) or len(own) == 3 or None in own[-2:]:
        return None
    outer = zip(own[:-2][::-1], whole[:-2][::-1], strict=False)
    if own[-2:] != list(whole[-2:]) or any(a not in (1, b) for a, b in outer):
        return None
    up, array = producer(bias, "Cast"), constant(bias)
    if bias.dtype == dtype:
        return bias
    if up is not None and up.inputs[0] is not None and up.inputs[0].dtype == dtype:
        return up.inputs[0]
    if array is None or dtype != HALF:
        return None
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float16)
    return edit.constant(narrow, bias.name or "bias") if (narrow.astype(array.dtype) == array).all() else None


def _on_tokens(parts: _Parts, node: ir.Node, after: ir.Node, edit: Edit) -> None:
    """The operator on [B, T, H * D], as dense layers give them, instead of ``after``: no Transpose is left."""
    (query, heads), (key, fewer), (value, _) = (flat(x, node, edit) for x in (parts.query, parts.key, parts.value))
    shape = dims(after.outputs[0]) or [None] * 4
    how = {"q_num_heads": heads, "kv_num_heads": fewer}
    y = _put(parts, (query, key, value), how, [*shape[:2], None], node, edit)
    each = (dims(parts.value.heads) or [None])[-1]
    y = reshaped(y, [0, 0, heads, each], node, edit, shape)
    dtype = after.outputs[0].dtype
    if dtype != y.dtype:  # a Cast stands between
        y = edit.node("Cast", [y], {"to": dtype}, before=node, like=y, dtype=dtype)
    edit.replace(after.outputs[0], y)


def _on_heads(parts: _Parts, node: ir.Node, edit: Edit) -> None:
    """The operator on [B, H, T, D], or [B, T, D] of one head, instead of ``node``."""
    three = plain(parts.query, node, edit), plain(parts.key, node, edit), plain(parts.value, node, edit)
    how = {"q_num_heads": 1, "kv_num_heads": 1} if rank(node.outputs[0]) == 3 else {}
    edit.replace(node.outputs[0], _put(parts, three, how, dims(node.outputs[0]), node, edit))


def _put(
    parts: _Parts,
    three: tuple[ir.Value, ir.Value, ir.Value],
    how: dict[str, int],
    shape: Sequence[Dim] | None,
    node: ir.Node,
    edit: Edit,
) -> ir.Value:
    """Attention, and what a row without a key answers: zeros where masked probabilities are set to 0, and the mean of
    all values where scores alone are masked, which is what a query of zeros and no mask give."""
    query, key, value = three
    rows = masks.rows_with_keys(parts.masked, edit, node)
    mask = masks.operand(parts.masked, parts.bias, rows, edit, node)
    dtype = node.outputs[0].dtype or FLOAT
    zero = edit.constant(np.zeros((), dtype.numpy()), "zero") if rows is not None else None
    if rows is not None and rank(query) == 3:
        rows = masks.without_heads(rows, edit, node)
    if rows is not None and not parts.emptied:
        query = edit.node("Where", [rows, query, zero], before=node, like=query)
    attributes: dict[str, float] = {**how, "scale": parts.scale}
    if parts.masked.causal and parts.bias is None:
        attributes["is_causal"] = 1
    if dtype == HALF:
        attributes["softmax_precision"] = int(FLOAT)
    inputs = [query, key, value] if mask is None else [query, key, value, mask]
    y = edit.node("Attention", inputs, attributes, before=node, shape=shape, dtype=dtype)
    return edit.node("Where", [rows, y, zero], before=node, like=y) if rows is not None and parts.emptied else y
