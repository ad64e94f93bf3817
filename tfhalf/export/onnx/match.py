"""Patterns of operators in an ONNX graph, written as nested tuples.

``("Add", ("Mul", "x", "#scale"), "#shift")``: text stands for any tensor, the same text for the same tensor; ``#text``
for a constant, a number for a constant of that value. The operands of Add, Mul, Max and Min match in either order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from tfhalf.export.onnx.graph import constant, scalar

Bound = dict[str, ir.Value]
_COMMUTE = frozenset(("Add", "Mul", "Max", "Min"))


def match(value: ir.Value | None, pattern: Any, bound: Bound | None = None) -> Bound | None:
    """What the names of ``pattern`` stand for, seen from ``value`` upwards; None where it does not match."""
    bound = {} if bound is None else bound
    if value is None:
        return None
    if isinstance(pattern, str):
        return _named(value, pattern, bound)
    if isinstance(pattern, int | float):
        number = scalar(value)
        return bound if number is not None and np.isclose(number, pattern, rtol=2e-3) else None
    node = value.producer()
    if node is None or node.domain or node.op_type != pattern[0] or len(node.inputs) < len(pattern) - 1:
        return None
    operands = list(pattern[1:])
    orders = [operands, operands[::-1]] if node.op_type in _COMMUTE else [operands]
    for order in orders:
        merged: Bound | None = bound
        for source, part in zip(node.inputs, order, strict=False):
            merged = match(source, part, merged) if merged is not None else None
        if merged is not None:
            return {**merged, f"@{node.op_type}": value}
    return None


def _named(value: ir.Value, name: str, bound: Bound) -> Bound | None:
    if name.startswith("#"):
        if constant(value) is None:
            return None
    elif name in bound:
        return bound if bound[name] is value else None
    return {**bound, name: value}
