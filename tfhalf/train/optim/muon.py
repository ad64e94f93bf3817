"""Muon: momentum made orthogonal before it moves a kernel, many kernels at a time.

K. Jordan, Y. Jin, V. Boza, J. You, F. Cesista, L. Newhouse, J. Bernstein, "Muon: An optimizer for hidden layers in
neural networks" (2024), kellerjordan.github.io/posts/muon; with weights of a fixed norm as in the public record
airbench94_muon (github.com/KellerJordan/cifar10-airbench). Written for Keras from the published method.

A kernel is a matrix with a row per filter. Keras keeps the filters last, so what is worked on here is its transpose,
``[inputs, filters]``, which needs no copy; orthogonalizing commutes with transposing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from tfhalf.config import Muon

_A, _B, _C = 3.4445, -4.7750, 2.0315
_TINY = 1e-7


def newton_schulz(x: Any, steps: int) -> Any:
    """Push every singular value of a matrix toward 1 and keep its singular vectors, with matrix products alone.

    ::

        X = M / (|M|_F + 1e-7)                       # no singular value above 1
        repeat steps times:                          # a, b, c = 3.4445, -4.7750, 2.0315
            A = X X^T  if rows <= columns else  X^T X
            B = b A + c A A
            X = a X + (B X  if rows <= columns else  X B)

    Each round maps a singular value s to ``a s + b s^3 + c s^5`` (Jordan et al. 2024): the slope of 3.4 at 0 raises
    small ones fast, and the price is that they end about 1 (0.7 to 1.2), not at 1. Rows and columns of zeros stay.

    Args:
        x: float32 [..., rows, columns].
        steps: rounds; 5 reach singular values down to about 1 % of the norm.

    Returns:
        Float32 of the same shape. A matrix of zeros stays one.
    """
    wide = x.shape[-2] <= x.shape[-1]
    x = ops.divide(x, ops.add(_norm(x), _TINY))
    for _ in range(steps):
        turned = ops.swapaxes(x, -1, -2)
        gram = ops.matmul(x, turned) if wide else ops.matmul(turned, x)
        inner = ops.add(ops.multiply(_B, gram), ops.multiply(_C, ops.matmul(gram, gram)))
        x = ops.add(ops.multiply(_A, x), ops.matmul(inner, x) if wide else ops.matmul(x, inner))
    return x


def update(
    weights: Sequence[Any],
    gradients: Sequence[Any],
    momenta: Sequence[Any],
    *,
    rates: Sequence[float],
    decays: Sequence[float],
    learning_rate: Any,
    config: Muon,
) -> tuple[list[Any], list[Any]]:
    """One step of Muon for every kernel.

    ::

        m = momentum * m + g
        u = g + momentum * m  if nesterov else  m
        if normalize:  w = w * sqrt(filters) / |w|_F
        else:          w = w - learning_rate * decay * w
        w = w - learning_rate * rate * newton_schulz(matrix of u)

    Kernels whose shorter side is equal are stacked, the longer side padded with zeros, which every product keeps: so
    the number of operations is that of the different sides, not of the layers.

    Args:
        weights, gradients, momenta: float32 kernels [..., filters] of rank >= 2, in the same order.
        rates: per kernel, what ``learning_rate`` is multiplied by.
        decays: per kernel, decoupled weight decay; nothing with ``config.normalize``, which undoes it.
        learning_rate: float32 scalar.

    Returns:
        New weights and new momenta.
    """
    momenta = [ops.add(ops.multiply(config.momentum, m), g) for m, g in zip(momenta, gradients, strict=True)]
    if config.nesterov:
        ahead = zip(momenta, gradients, strict=True)
        directions = [ops.add(g, ops.multiply(config.momentum, m)) for m, g in ahead]
    else:
        directions = list(momenta)
    moved: list[Any] = list(weights)
    for group in grouped([tuple(w.shape) for w in weights]):
        w, u = (_stack([arrays[i] for i in group.members], group.rows) for arrays in (weights, directions))
        if config.normalize:
            filters = _column([float(weights[i].shape[-1]) for i in group.members])
            w = ops.multiply(w, ops.divide(np.sqrt(filters), ops.maximum(_norm(w), _TINY)))
        elif any(decays[i] for i in group.members):
            decay = ops.multiply(learning_rate, _column([decays[i] for i in group.members]))
            w = ops.subtract(w, ops.multiply(decay, w))
        rate = ops.multiply(learning_rate, _column([rates[i] for i in group.members]))
        w = ops.subtract(w, ops.multiply(rate, newton_schulz(u, config.steps)))
        for row, i in enumerate(group.members):
            moved[i] = _kernel(w[row], tuple(weights[i].shape))
    return moved, momenta


class Group(NamedTuple):
    """Kernels that are stacked: their places in the list, and the rows that the longest of them has."""

    members: tuple[int, ...]
    rows: int


def grouped(shapes: Sequence[tuple[int, ...]]) -> list[Group]:
    """Kernels with the same shorter side, in the order of that side."""
    sides: dict[int, list[int]] = {}
    for index, shape in enumerate(shapes):
        sides.setdefault(min(_sides(shape)), []).append(index)
    return [Group(tuple(places), max(max(_sides(shapes[i])) for i in places)) for _, places in sorted(sides.items())]


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Inputs and filters."""
    return math.prod(shape[:-1]), shape[-1]


def _stack(kernels: Sequence[Any], rows: int) -> Any:
    """[kernels, rows, shorter side]: each lies with its longer side down, and zeros below it."""
    tall = []
    for kernel in kernels:
        inputs, filters = _sides(tuple(kernel.shape))
        matrix = ops.reshape(kernel, (inputs, filters))
        matrix = ops.transpose(matrix) if inputs < filters else matrix
        tall.append(ops.pad(matrix, [[0, rows - max(inputs, filters)], [0, 0]]))
    return ops.stack(tall)


def _kernel(tall: Any, shape: tuple[int, ...]) -> Any:
    """The kernel of ``shape`` that `_stack` made ``tall`` of."""
    inputs, filters = _sides(shape)
    matrix = tall[: max(inputs, filters)]
    return ops.reshape(ops.transpose(matrix) if inputs < filters else matrix, shape)


def _norm(x: Any) -> Any:
    """Frobenius norm of each matrix, [..., 1, 1]."""
    return ops.sqrt(ops.sum(ops.square(x), axis=(-2, -1), keepdims=True))


def _column(values: Sequence[float]) -> Any:
    return np.asarray(values, np.float32).reshape(-1, 1, 1)
