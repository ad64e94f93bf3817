"""Rules of `decompose` for linear algebra on small matrices, step by step over their rows.

After Golub and Van Loan, "Matrix Computations" (4th edition): Cholesky by outer products (algorithm 4.2.2), elimination
with partial pivoting (3.4.1), both ways from the pivot. A matrix of n * n takes n steps of a few operators each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfhalf.export.graph.decompose import Operator, Rule, wide

LARGEST = 32
"""Rows of a matrix beyond which an operator stays as it is: so many steps make a graph long."""


def _small(rule: Callable[..., Any]) -> Rule:
    """A rule for square matrices [..., n, n] of a known size, in float32; what is larger stays."""

    def within(operator: Operator, x: Any, *rest: Any) -> Any:
        size = x.shape[-1]
        if size is None or size != x.shape[-2] or size > LARGEST or not x.dtype.is_floating:
            return None
        answer = rule(operator, wide(x), *map(wide, rest))
        return [tf.cast(y, x.dtype) for y in answer] if isinstance(answer, list) else tf.cast(answer, x.dtype)

    return within


@_small
def cholesky(operator: Operator, x: Any) -> Any:
    """The lower triangular factor; NaN where there is none."""
    size, columns = x.shape[-1], []
    for k in range(size):
        column = x[..., k] / tf.sqrt(x[..., k : k + 1, k])
        column = tf.where(np.arange(size) >= k, column, tf.zeros([], x.dtype))
        columns.append(column)
        x -= column[..., :, None] * column[..., None, :]
    return tf.stack(columns, -1)


@_small
def inverse(operator: Operator, x: Any) -> Any:
    """The inverse; infinite or NaN where there is none."""
    eye = tf.zeros_like(x) + np.eye(x.shape[-1], dtype=np.float32)
    return _eliminated(_adjoint(operator, x), eye)[0]


@_small
def solve(operator: Operator, x: Any, right: Any) -> Any:
    """The solution of ``x @ answer = right``."""
    return _eliminated(_adjoint(operator, x), right)[0]


@_small
def determinant(operator: Operator, x: Any) -> Any:
    """The product of the pivots."""
    _, pivots, sign = _eliminated(x, None)
    return sign * tf.reduce_prod(tf.stack(pivots, -1), -1)


@_small
def log_determinant(operator: Operator, x: Any) -> list[Any]:
    """The determinant's sign, and the logarithm of its magnitude."""
    _, pivots, sign = _eliminated(x, None)
    line = tf.stack(pivots, -1)
    return [sign * tf.reduce_prod(tf.sign(line), -1), tf.reduce_sum(tf.math.log(tf.abs(line)), -1)]


@_small
def solve_triangular(operator: Operator, x: Any, right: Any) -> Any:
    """The solution of ``x @ answer = right``, of which one triangle of ``x`` counts."""
    size, lower = x.shape[-1], operator.attribute("lower").b
    if operator.attribute("adjoint").b:
        x, lower = tf.linalg.matrix_transpose(x), not lower
    rows: dict[int, Any] = {}
    for k in range(size) if lower else reversed(range(size)):
        rest = right[..., k, :]
        for j, row in rows.items():
            rest -= x[..., k, j, None] * row
        rows[k] = rest / x[..., k, k, None]
    return tf.stack([rows[k] for k in range(size)], -2)


def _adjoint(operator: Operator, x: Any) -> Any:
    return tf.linalg.matrix_transpose(x) if operator.attribute("adjoint").b else x


def _eliminated(x: Any, right: Any) -> tuple[Any, list[Any], Any]:
    """``x`` made the identity by steps that go on in ``right`` as well: that, the pivots [...], and the sign that the
    exchange of rows gives the determinant."""
    size = x.shape[-1]
    rows = np.arange(size)
    both = x if right is None else tf.concat([x, right], -1)
    pivots: list[Any] = []
    sign: Any = tf.ones_like(x[..., 0, 0])
    for k in range(size):
        column = both[..., k]
        chosen = tf.argmax(tf.where(rows >= k, tf.abs(column), -tf.ones([], x.dtype)), -1, output_type=tf.int32)
        there = tf.one_hot(chosen, size, dtype=x.dtype)[..., None]  # [..., n, 1]
        pivot_row = tf.reduce_sum(tf.where(there > 0, both, tf.zeros([], x.dtype)), -2, keepdims=True)
        both = tf.where(there > 0, both[..., k : k + 1, :], both)
        pivot = pivot_row[..., 0, k]
        pivots.append(pivot)
        sign = tf.where(tf.equal(chosen, k), sign, -sign)
        if right is None:  # of a determinant, which is 0 then; a solution is infinite
            pivot = tf.where(tf.equal(pivot, 0), tf.ones([], x.dtype), pivot)
        row = pivot_row / pivot[..., None, None]
        both = tf.where((rows == k)[:, None], row, both - both[..., k : k + 1] * row)
    return None if right is None else both[..., size:], pivots, sign
