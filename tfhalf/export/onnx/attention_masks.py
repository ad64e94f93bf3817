"""What a mask of attention scores lets through, and how ONNX's Attention takes it.

Keras puts a large negative number where a mask is False. A row in which all is False then becomes the mean of all
values, or zeros; engines answer it with zeros, NaN or whatever the scores say. So no row goes to them without a key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from tfhalf.export.onnx.graph import (
    FLOAT,
    HALF,
    INT64,
    Dim,
    Edit,
    attribute,
    axes_of,
    constant,
    dims,
    ints,
    producer,
    rank,
    reader,
    same,
)
from tfhalf.export.onnx.match import match

# What is added to scores that do not count, as far from them as the dtype goes without an infinity in any kernel.
_LOW = {HALF: -65504.0, FLOAT: -1e30}


@dataclass(frozen=True)
class Masked:
    """``allowed``: bool [(B or 1, H or 1,) T, S], True where a key counts; ``causal``: just those up to the query's
    own; ``open``: a row may have no key; ``alike``: where such rows are is the same for all heads."""

    allowed: ir.Value | None = None
    causal: bool = False
    open: bool = False
    alike: bool = True


def read_mask(
    mask: ir.Value,
    scores: ir.Value,
    whole: Sequence[Dim],
    tokens: tuple[ir.Value, int],
    edit: Edit,
    node: ir.Node,
) -> Masked | None:
    """What ``mask`` lets through of ``scores``; None where it does not broadcast as it should.

    Args:
        mask: bool, of any shape that broadcasts.
        scores: what it is for.
        whole: their sizes, [(B, H,) T, S].
        tokens: a tensor, and the axis of it that is T.
        edit: changes the graph.
        node: in front of which new nodes go.
    """
    whole, array = list(whole), constant(mask)
    if mask.dtype != ir.DataType.BOOL:
        return None
    if array is not None:
        if array.shape[-2:] != tuple(whole[-2:]) or not array.any(-1).all():
            return None
        tensor = _fitted(mask, whole, tokens, edit, node)
        lower = np.tril(np.ones(array.shape[-2:], bool))
        causal = array.shape[-1] == array.shape[-2] and bool((array == lower).all())
        return Masked(tensor, causal) if tensor is not None else None
    parts = [part for part in _conjunction(mask) if not _all_true(part, scores)]
    if not parts:
        return Masked()
    if len(parts) == 1 and _is_band(parts[0]):
        square = whole[-1] == whole[-2] and _one_size(whole[-1], edit)
        tensor = _fitted(_unsliced(parts[0]), whole, tokens, edit, node)
        return Masked(tensor, square) if tensor is not None else None
    joined = _unsliced(parts[0])
    for part in map(_unsliced, parts[1:]):
        joined = edit.node("And", [joined, part], before=node, shape=_broadcast(joined, part), dtype=joined.dtype)
    tensor = _fitted(joined, whole, tokens, edit, node)
    if tensor is None:
        return None
    shape = dims(tensor) or []
    return Masked(tensor, open=True, alike=len(shape) == 2 or len(whole) == 3 or shape[1] == 1)


def constant_choice(node: ir.Node, edit: Edit) -> bool:
    """``x * c + low * cast(not c)`` as ``Where(c, x, low)``, where c is a constant.

    So tf2onnx writes a choice by a constant mask in float16; of these, the ones before and behind a softmax.
    """
    if node.op_type != "Add" or edit.opset < 23:
        return False
    others = ("Mul", "#low", ("Cast", ("Not", "#mask")))
    bound = match(node.outputs[0], ("Add", ("Mul", "x", "#chosen"), others))
    after = reader(node.outputs[0])
    if bound is None or (producer(bound["x"], "Softmax") is None and (after is None or after.op_type != "Softmax")):
        return False
    chosen, mask, low = (constant(bound[name]) for name in ("#chosen", "#mask", "#low"))
    if chosen is None or mask is None or low is None or low.size != 1 or not np.array_equal(chosen, mask):
        return False
    lowest = edit.constant(low.reshape(()), "low")
    output = edit.node("Where", [bound["#mask"], bound["x"], lowest], before=node, like=node.outputs[0])
    edit.replace(node.outputs[0], output)
    return True


def rows_with_keys(masked: Masked, edit: Edit, node: ir.Node) -> ir.Value | None:
    """Bool [(B or 1, H or 1,) T, 1]: which rows have a key; None where all have."""
    if not masked.open or masked.allowed is None:
        return None
    allowed = masked.allowed
    shape = [*(dims(allowed) or [])[:-1], 1]
    count = edit.node("Cast", [allowed], {"to": FLOAT}, before=node, like=allowed, dtype=FLOAT)
    last = edit.constant(np.array([-1]), "axes")
    total = edit.node("ReduceSum", [count, last], {"keepdims": 1}, before=node, shape=shape, dtype=FLOAT)
    none = edit.constant(np.zeros((), np.float32), "none")
    return edit.node("Greater", [total, none], before=node, shape=shape, dtype=ir.DataType.BOOL)


def without_heads(rows: ir.Value, edit: Edit, node: ir.Node) -> ir.Value:
    """Rows of all heads alike [B or 1, 1, T, 1] as [B or 1, T, 1]."""
    shape = dims(rows) or []
    if len(shape) != 4:
        return rows
    axes = edit.constant(np.array([1]), "axes")
    return edit.node("Squeeze", [rows, axes], before=node, shape=[shape[0], *shape[2:]], dtype=rows.dtype)


def operand(masked: Masked, bias: ir.Value | None, rows: ir.Value | None, edit: Edit, node: ir.Node) -> ir.Value | None:
    """The mask as Attention takes it, in which every row has a key: bool, or numbers where there is a ``bias``; None
    where there is nothing to mask, or ``is_causal`` says it."""
    allowed = masked.allowed
    if allowed is None or bias is None:
        if bias is not None or allowed is None or masked.causal:
            return bias
        if rows is None:
            return allowed
        empty = edit.node("Not", [rows], before=node, like=rows)
        return edit.node("Or", [allowed, empty], before=node, like=allowed)
    dtype = bias.dtype or FLOAT
    low = edit.constant(np.array(_LOW[dtype], dtype.numpy()), "low")
    shape = _broadcast(allowed, bias)
    mask = edit.node("Where", [allowed, bias, low], before=node, shape=shape, dtype=dtype)
    if rows is None:
        return mask
    zero = edit.constant(np.zeros((), dtype.numpy()), "zero")
    return edit.node("Where", [rows, mask, zero], before=node, like=mask)


def _conjunction(mask: ir.Value) -> list[ir.Value]:
    both = producer(mask, "And")
    if both is None:
        return [mask]
    return [part for value in both.inputs if value is not None for part in _conjunction(value)]


def _all_true(value: ir.Value, scores: ir.Value) -> bool:
    """Keras' ``ones_like(scores)``."""
    wide = producer(value, "Expand")
    numbers = constant(wide.inputs[0] if wide is not None else value)
    if numbers is None or not numbers.all():
        return False
    sizes = wide.inputs[1] if wide is not None else None
    while (cast := producer(sizes, "Cast")) is not None:
        sizes = cast.inputs[0]
    shape = producer(sizes, "Shape")
    return same(dims(value), dims(scores)) or (
        shape is not None and shape.inputs[0] is scores and not {"start", "end"} & set(shape.attributes)
    )


def _unsliced(value: ir.Value) -> ir.Value:
    """A value without a Slice that takes all of it, by which TensorFlow adds axes."""
    cut = producer(value, "Slice")
    if cut is None or cut.inputs[0] is None or not 3 <= len(cut.inputs) <= 5:
        return value
    starts, ends = ints(cut.inputs[1]), ints(cut.inputs[2])
    steps = ints(cut.inputs[4]) if len(cut.inputs) == 5 else [1]
    if starts is None or ends is None or steps is None or any(starts) or min(ends) < 10**9 or set(steps) != {1}:
        return value
    return cut.inputs[0]


def _is_band(value: ir.Value) -> bool:
    """What tf2onnx makes of ``band_part(ones([T, S]), -1, 0)``: keys up to the query's own number."""
    value = _unsliced(value)
    while (up := producer(value, "Unsqueeze")) is not None and up.inputs[0] is not None:
        axes = axes_of(up)
        if axes is None or sorted(axes) != list(range(len(axes))):  # new axes in front alone
            return False
        value = up.inputs[0]
    ahead = ("Sub", ("Mod", "number", "width"), ("Div", "number", "width"))
    bound = match(value, ("Cast", ("Mul", ("Cast", ("Not", ("Greater", ahead, 0))), ("Cast", "ones"))))
    ones = producer(bound["ones"], "Expand") if bound is not None else None
    numbers = constant(ones.inputs[0]) if ones is not None else None
    if bound is None or numbers is None or not numbers.all():
        return False
    counted = ("CumSum", ("Expand", 1, ("Mul", "height", "width")), 0)
    inner = match(bound["number"], ("Reshape", counted))
    total = inner["@CumSum"].producer() if inner is not None else None
    if inner is None or total is None or attribute(total, "exclusive") != 1 or attribute(total, "reverse", 0):
        return False
    return (
        inner["width"] is bound["width"]
        and _side(inner["height"], bound["ones"]) == 0
        and _side(inner["width"], bound["ones"]) == 1
    )


def _side(value: ir.Value, matrix: ir.Value) -> int | None:
    """Which axis of ``matrix`` [T, S] a value is the size of."""
    node = producer(value, "Slice", "Split", "Shape")
    shape = producer(node.inputs[0], "Shape") if node is not None and node.op_type != "Shape" else node
    if node is None or shape is None or shape.inputs[0] is not matrix:
        return None
    if node is not shape and {"start", "end"} & set(shape.attributes):
        return None
    if node.op_type == "Split":
        return list(node.outputs).index(value) if len(node.outputs) == 2 else None
    if node.op_type == "Slice":
        start, end = ints(node.inputs[1]), ints(node.inputs[2])
    else:
        start, end = [attribute(node, "start", 0)], [attribute(node, "end", 2)]
    axis = start[0] if start is not None and len(start) == 1 else None
    return axis if axis in (0, 1) and end == [axis + 1] else None


def _one_size(size: Dim, edit: Edit) -> bool:
    """Whether a size is one and the same wherever it stands: a number, or a name that one axis of the inputs has."""
    if isinstance(size, int):
        return True
    return size is not None and sum((dims(value) or []).count(size) for value in edit.graph.inputs) == 1


def _rank(own: int, whole: int) -> int | None:
    """The axis at which a mask of rank ``own`` lacks one for scores of rank ``whole``; -1 where it lacks none."""
    if own == 2 or own == 4 == whole:
        return -1
    return {(3, 4): 0, (3, 3): 1}.get((own, whole))


def _fitted(
    mask: ir.Value, whole: list[Dim], tokens: tuple[ir.Value, int], edit: Edit, node: ir.Node
) -> ir.Value | None:
    """The mask with rank 2 or 4, and all queries and keys as its last two axes, which engines insist on."""
    own = dims(mask)
    axis = _rank(len(own), len(whole)) if own is not None else None
    if own is None or axis is None:
        return None
    outer = zip(own[:-2][::-1], whole[:-2][::-1], strict=False)
    if any(a not in (1, b) for a, b in outer):
        return None
    if any(a not in (1, b) or b is None for a, b in zip(own[-2:], whole[-2:], strict=True)):
        return None
    if axis >= 0:
        own = [*own[:axis], 1, *own[axis:]]
        axes = edit.constant(np.array([axis]), "axes")
        mask = edit.node("Unsqueeze", [mask, axes], before=node, shape=own, dtype=mask.dtype)
    if own[-2:] == whole[-2:]:
        return mask
    if own[-1] != whole[-1]:
        return None
    count = edit.constant(np.array([whole[-2]], np.int64), "count") if isinstance(whole[-2], int) else None
    if count is None:
        value, axis = tokens
        axis %= rank(value) or 1
        count = edit.node("Shape", [value], {"start": axis, "end": axis + 1}, before=node, shape=[1], dtype=INT64)
    one = edit.constant(np.ones(1, np.int64), "one")
    parts = [one] * (len(own) - 2) + [count, one]
    sizes = edit.node("Concat", parts, {"axis": 0}, before=node, shape=[len(own)], dtype=INT64)
    return edit.node("Expand", [mask, sizes], before=node, shape=[*own[:-2], *whole[-2:]], dtype=mask.dtype)


def _broadcast(first: ir.Value, second: ir.Value) -> list[Dim] | None:
    """The shape of two tensors side by side."""
    one, other = dims(first), dims(second)
    if one is None or other is None:
        return None
    longer = max(len(one), len(other))
    pairs = zip([1] * (longer - len(one)) + one, [1] * (longer - len(other)) + other, strict=True)
    return [b if a == 1 else a for a, b in pairs]
