"""Sizes that an ONNX graph works out while it runs, though they are known before: constants, or the shortest way there.

A size is written as a number times named ones: ``(4, ("batch",))`` is four times the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from tfhalf.export.onnx.graph import INT64, Dim, Edit, attribute, axes_of, constant, dims, ints, producer, rank, reader

Size = tuple[int, tuple[str, ...]]
_ONE: Size = (1, ())
# The input that says a size, for the operators that read sizes.
_READS_SIZES = {"Reshape": 1, "Expand": 1, "Tile": 1, "ConstantOfShape": 0, "Resize": 3, "Range": 1}
_DEPTH = 60


def fixed_target(node: ir.Node, edit: Edit) -> bool:
    """A Reshape to a shape that is computed, as one to a constant: 0 keeps a size, -1 is the one that is left."""
    if node.op_type != "Reshape" or constant(node.inputs[1]) is not None:
        return False
    numbers = sizes(node.inputs[1])
    outer = dims(node.outputs[0])
    goal: list[Dim] | None = [_dim(size) for size in numbers] if numbers is not None else outer
    goal = outer if goal is not None and None in goal and outer is not None else goal
    if goal is None or attribute(node, "allowzero", 0):
        return False
    inner = dims(node.inputs[0]) or []
    target: list[int] = []
    for index, size in enumerate(goal):
        kept = isinstance(size, str) and index < len(inner) and inner[index] == size
        target.append(size if isinstance(size, int) and size != 0 else 0 if kept else -1)
    if target.count(-1) > 1:
        return False
    output = edit.node("Reshape", [node.inputs[0], edit.constant(np.array(target), "shape")], before=node, shape=goal,
                       dtype=node.outputs[0].dtype)  # fmt: skip
    edit.replace(node.outputs[0], output)
    return True


def kept_size(node: ir.Node, edit: Edit) -> bool:
    """-1 in a Reshape's target as 0 where it is the size that is there: shape inference then knows its name."""
    target = ints(node.inputs[1]) if node.op_type == "Reshape" else None
    inner = dims(node.inputs[0])
    if target is None or inner is None or target.count(-1) != 1 or attribute(node, "allowzero", 0):
        return False
    index = target.index(-1)
    if index >= len(inner) or isinstance(inner[index], int):
        return False
    goal = [inner[i] if size == 0 and i < len(inner) else size for i, size in enumerate(target)]
    rest, others = goal[:index] + goal[index + 1 :], inner[:index] + inner[index + 1 :]
    named = [sorted(str(size) for size in part if not isinstance(size, int)) for part in (rest, others)]
    counts = [math.prod(size for size in part if isinstance(size, int)) for part in (rest, others)]
    if counts[0] != counts[1] or named[0] != named[1] or "None" in named[0]:
        return False
    target[index] = 0
    goal[index] = inner[index]
    output = edit.node("Reshape", [node.inputs[0], edit.constant(np.array(target), "shape")], before=node, shape=goal,
                     dtype=node.outputs[0].dtype)  # fmt: skip
    edit.replace(node.outputs[0], output)
    return True


def shortest_way(node: ir.Node, edit: Edit) -> bool:
    """Sizes that an operator reads: a constant, or the open ones taken from the graph's inputs at once."""
    index = _READS_SIZES.get(node.op_type)
    value = node.inputs[index] if index is not None and index < len(node.inputs) else None
    if value is None or index is None or constant(value) is not None or value.dtype != INT64:
        return False
    entries, scalar = sizes(value), rank(value) == 0
    if entries is None or (scalar and entries[0][1]) or "short" in value.meta:
        return False
    parts: list[ir.Value] = []
    for factor, names in entries:
        if names and (factor != 1 or len(names) != 1):
            return False
        part = _open_size(names[0], node, edit) if names else edit.constant(np.array([factor]), "size")
        if part is None:
            return False
        parts.append(part)
    if all(not names for _, names in entries):
        numbers = np.array([factor for factor, _ in entries])
        node.replace_input_with(index, edit.constant(numbers[0] if scalar else numbers, "sizes"))
    else:
        joined = edit.node("Concat", parts, {"axis": 0}, before=node, shape=[len(parts)], dtype=INT64)
        joined.meta["short"] = True
        node.replace_input_with(index, joined if len(parts) > 1 else parts[0])
        parts[0].meta["short"] = True
    above = value.producer()
    if above is not None:
        edit.drop(above)
    return True


def reshape_as_squeeze(node: ir.Node, edit: Edit) -> bool:
    """A Reshape that only adds or only takes out sizes of 1, as Unsqueeze or Squeeze; none where it changes nothing."""
    if node.op_type != "Reshape":
        return False
    inner, outer = dims(node.inputs[0]), dims(node.outputs[0])
    if inner is None or outer is None or None in inner or None in outer:
        return False
    if inner == outer:
        edit.replace(node.outputs[0], node.inputs[0])  # type: ignore[arg-type]
        return True
    longer, shorter = (outer, inner) if len(outer) > len(inner) else (inner, outer)
    axes = _extra_ones(longer, shorter)
    if axes is None:
        return False
    op = "Unsqueeze" if longer is outer else "Squeeze"
    output = edit.node(op, [node.inputs[0], edit.constant(np.array(axes), "axes")], before=node, like=node.outputs[0])
    edit.replace(node.outputs[0], output)
    return True


def two_reshapes(node: ir.Node, edit: Edit) -> bool:
    """The first of two Reshapes goes, where the second says all sizes but one."""
    before = producer(node.inputs[0], "Reshape") if node.op_type == "Reshape" else None
    target = ints(node.inputs[1]) if before is not None else None
    if before is None or target is None or reader(before.outputs[0]) is not node:
        return False
    inner = dims(before.inputs[0]) or []
    middle = dims(before.outputs[0]) or []
    for index, size in enumerate(target):
        if size == 0 and (index >= len(inner) or index >= len(middle) or inner[index] != middle[index]):
            return False
        if size == 0 and inner[index] is None:
            return False
    output = edit.node("Reshape", [before.inputs[0], node.inputs[1]], before=node, like=node.outputs[0])
    edit.replace(node.outputs[0], output)
    return True


def reduce_keeping(node: ir.Node, edit: Edit) -> bool:
    """``Reduce(keepdims=0) -> Unsqueeze`` of the same axes, as ``Reduce(keepdims=1)``."""
    before = node.inputs[0].producer() if node.op_type == "Unsqueeze" and node.inputs[0] is not None else None
    if before is None or not before.op_type.startswith("Reduce") or attribute(before, "keepdims", 1):
        return False
    axes, added, whole = axes_of(before), axes_of(node), rank(before.inputs[0])
    if axes is None or added is None or whole is None or reader(before.outputs[0]) is not node:
        return False
    if sorted(axis % whole for axis in axes) != sorted(axis % whole for axis in added):
        return False
    attributes = {name: entry.value for name, entry in before.attributes.items()} | {"keepdims": 1}
    output = edit.node(before.op_type, before.inputs, attributes, before=node, like=node.outputs[0])
    edit.replace(node.outputs[0], output)
    return True


def sizes(value: ir.Value | None, depth: int = 0) -> list[Size] | None:
    """The numbers that a whole-number tensor of rank 0 or 1 will hold; None where they are unknown."""
    known = ints(value)
    if known is not None:
        return [(number, ()) for number in known]
    node = value.producer() if value is not None else None
    if node is None or depth > _DEPTH or (rank(value) or 0) > 1:
        return None
    if node.op_type == "Shape":
        shape = dims(node.inputs[0])
        if shape is None:
            return None
        shape = shape[attribute(node, "start", 0) : attribute(node, "end", None)]
        return [_size(size) for size in shape] if None not in shape else None
    if node.op_type in ("Gather", "Slice"):
        return _picked(node, depth)
    inner = [sizes(source, depth + 1) for source in node.inputs[: 1 if node.op_type in _SAME else None]]
    if not inner or any(part is None for part in inner):
        return None
    parts = [part for part in inner if part is not None]
    if node.op_type in _SAME:
        return parts[0]
    if node.op_type == "Concat":
        return [size for part in parts for size in part]
    if node.op_type == "ReduceProd":
        return [_product(parts[0])]
    return _elementwise(node.op_type, parts)


_SAME = {"Cast", "Unsqueeze", "Squeeze", "Identity", "Reshape"}


def _picked(node: ir.Node, depth: int) -> list[Size] | None:
    all_, at = sizes(node.inputs[0], depth + 1), [ints(value) for value in node.inputs[1:]]
    if all_ is None or any(index is None for index in at):
        return None
    if node.op_type == "Gather":
        index = at[0] or []
        return [all_[i] for i in index] if all(-len(all_) <= i < len(all_) for i in index) else None
    starts, ends, steps = at[0], at[1], at[3] if len(at) > 3 else [1]
    if not starts or not ends or not steps:
        return None
    return all_[starts[0] : ends[0] : steps[0]]


def _elementwise(op: str, parts: list[list[Size]]) -> list[Size] | None:
    length = max(len(part) for part in parts)
    if any(len(part) not in (1, length) for part in parts) or len(parts) != 2:
        return None
    pairs = zip(*(part * (length // len(part)) for part in parts), strict=True)
    combined = [_combined(op, a, b) for a, b in pairs]
    return None if any(size is None for size in combined) else [size for size in combined if size is not None]


def _combined(op: str, a: Size, b: Size) -> Size | None:
    if op == "Mul":
        return _product([a, b])
    if op in ("Max", "Min") and a == b:
        return a
    if op == "Max" and _ONE in (a, b):
        return b if a == _ONE else a  # broadcasting: a size is 1 or more
    if a[1] or b[1]:
        return None
    numbers = {"Add": a[0] + b[0], "Sub": a[0] - b[0], "Max": max(a[0], b[0]), "Min": min(a[0], b[0])}
    if op == "Div" and b[0] > 0 and a[0] >= 0:
        return a[0] // b[0], ()
    return (numbers[op], ()) if op in numbers else None


def _product(parts: Sequence[Size]) -> Size:
    return math.prod(factor for factor, _ in parts), tuple(sorted(name for _, names in parts for name in names))


def _size(size: Dim) -> Size:
    return (size, ()) if isinstance(size, int) else (1, (str(size),))


def _dim(size: Size) -> Dim:
    """A number or a name; None for a product with an open size."""
    factor, names = size
    return factor if not names else names[0] if factor == 1 and len(names) == 1 else None


def _open_size(name: str, node: ir.Node, edit: Edit) -> ir.Value | None:
    if edit.opset < 15:  # Shape has neither start nor end
        return None
    for port in edit.graph.inputs:
        shape = dims(port) or []
        if name in shape:
            axis = shape.index(name)
            return edit.node("Shape", [port], {"start": axis, "end": axis + 1}, before=node, shape=[1], dtype=INT64)
    return None


def _extra_ones(longer: Sequence[Dim], shorter: Sequence[Dim]) -> list[int] | None:
    axes, at = [], 0
    for axis, size in enumerate(longer):
        if at < len(shorter) and shorter[at] == size:
            at += 1
        elif size == 1:
            axes.append(axis)
        else:
            return None
    return axes if at == len(shorter) else None
