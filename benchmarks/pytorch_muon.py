"""Muon for convolutions, and SGD for what else there is, as the public record on CIFAR-10 uses them.

K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), kellerjordan.github.io/posts/muon;
figures from airbench94_muon (github.com/KellerJordan/cifar10-airbench). Written from the method: filter banks are
worked on many at a time, and `torch.compile` makes few kernels of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Update = Callable[..., Any]

_A, _B, _C = 3.4445, -4.7750, 2.0315
FILTER_RATE, FILTER_MOMENTUM, MUON_STEPS = 0.24, 0.6, 3
BIAS_RATE, HEAD_RATE, MOMENTUM = 0.053, 0.67, 0.85
_DECAY_PER_IMAGE = 2e-6


def orthogonalized(u: Tensor, steps: int = MUON_STEPS) -> Tensor:
    """Matrices [K, rows, columns], rows <= columns, with every singular value pushed toward 1; bfloat16.

    Each round maps a singular value s to ``a s + b s^3 + c s^5``. Rows and columns of zeros stay.
    """
    u = u.float()
    x = (u / (u.square().sum((1, 2), keepdim=True).sqrt() + 1e-7)).bfloat16()
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        inner = torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C)
        x = torch.baddbmm(x, inner, x, beta=_A)
    return x


class Optimizer:
    """Muon on the filters of ``net`` and SGD with Nesterov momentum on whitening bias, norm biases and head.

    ``factors``, float32 [2] on the device, are what the rates are multiplied by: the whitening bias' and all others'.
    Both figures and decay belong to losses that are summed over ``batch`` images.
    """

    def __init__(self, net: nn.Module, batch: int, compiled: Callable[[Update], Update]) -> None:
        named = [(name, value) for name, value in net.named_parameters() if value.requires_grad]
        self.filters = [value for _, value in named if value.ndim == 4]
        self.others = [(name, value) for name, value in named if value.ndim != 4]
        self.filter_momenta = [torch.zeros_like(value) for value in self.filters]
        self.other_momenta = [torch.zeros_like(value) for _, value in self.others]
        self.factors = torch.ones(2, device=self.filters[0].device)
        self._decay = _DECAY_PER_IMAGE * batch
        self._muon, self._sgd = compiled(muon), compiled(sgd)

    def reset(self) -> None:
        """No momentum, in place."""
        for momentum in (*self.filter_momenta, *self.other_momenta):
            momentum.zero_()

    def step(self) -> None:
        """Move every weight that has a gradient; nothing waits for the device."""
        moving = [i for i, (_, value) in enumerate(self.others) if value.grad is not None]
        names, values = zip(*(self.others[i] for i in moving), strict=True)
        rates = [HEAD_RATE if name.startswith("head") else BIAS_RATE for name in names]
        places = [0 if name.startswith("whitening") else 1 for name in names]
        momenta = [self.other_momenta[i] for i in moving]
        with torch.no_grad():
            self._sgd(list(values), [v.grad for v in values], momenta, rates, places, self.factors, self._decay)
            self._muon(self.filters, [v.grad for v in self.filters], self.filter_momenta, self.factors)


def sgd(
    values: list[Tensor],
    gradients: list[Tensor],
    momenta: list[Tensor],
    rates: list[float],
    places: list[int],
    factors: Tensor,
    decay: float,
) -> None:
    """One step in place: Nesterov momentum, decay within the gradient and divided by the rate that it is multiplied
    by again."""
    for value, gradient, momentum, rate, index in zip(values, gradients, momenta, rates, places, strict=True):
        total = gradient.float() + decay / rate * value.float()
        moved = MOMENTUM * momentum.float() + total
        momentum.copy_(moved)
        value.copy_(value.float() - rate * factors[index] * (total + MOMENTUM * moved))


def muon(filters: list[Tensor], gradients: list[Tensor], momenta: list[Tensor], factors: Tensor) -> None:
    """One step in place: each filter bank is brought to a norm of the root of its filters, then moved along its
    orthogonalized Nesterov momentum."""
    directions = []
    for gradient, momentum in zip(gradients, momenta, strict=True):
        moved = FILTER_MOMENTUM * momentum.float() + gradient.float()
        momentum.copy_(moved)
        directions.append(gradient.float() + FILTER_MOMENTUM * moved)
    for members, rows, columns in grouped([tuple(value.shape) for value in filters]):
        turned = orthogonalized(torch.stack([_padded(directions[i], rows, columns) for i in members]))
        for row, i in enumerate(members):
            value = filters[i]
            norm = value.float().square().sum().sqrt()
            unit = value.float() * (math.sqrt(len(value)) / norm)
            value.copy_(unit - FILTER_RATE * factors[1] * _unpadded(turned[row], tuple(value.shape)).float())


def grouped(shapes: Sequence[tuple[int, ...]]) -> list[tuple[list[int], int, int]]:
    """Places of filters [out, in, height, width] with the same shorter side, which are worked on as one stack; and the
    stack's rows and columns."""
    sides: dict[int, list[int]] = {}
    for index, shape in enumerate(shapes):
        sides.setdefault(min(shape[0], math.prod(shape[1:])), []).append(index)
    longest = {side: max(max(shapes[i][0], math.prod(shapes[i][1:])) for i in places) for side, places in sides.items()}
    return [(places, side, longest[side]) for side, places in sorted(sides.items())]


def _padded(u: Tensor, rows: int, columns: int) -> Tensor:
    """A filter as a matrix with its shorter side down, the longer one padded with zeros to ``columns``."""
    matrix = _matrix(u)
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return nn.functional.pad(matrix, (0, columns - matrix.shape[1], 0, rows - matrix.shape[0]))


def _matrix(u: Tensor) -> Tensor:
    # As the memory lies: orthogonalizing does not mind the order of columns.
    return u.permute(0, 2, 3, 1).reshape(len(u), -1)


def _unpadded(matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The filter [out, in, height, width] that `_padded` made ``matrix`` of."""
    out, into, height, width = shape
    size = into * height * width
    matrix = matrix[:out, :size] if out <= size else matrix[:size, :out].T
    return matrix.reshape(out, height, width, into).permute(0, 3, 1, 2)
