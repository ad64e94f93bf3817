"""What a classifier does with each class: its confusion matrix, and precision, recall and support by class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from tfhalf.artifacts.comparison import Confusion


class ClassFigures(NamedTuple):
    """By class: ``support``, its samples; ``recall``, the share of these that are recognised; ``precision``, the share
    of those taken for it that are of it. Shares are 0 to 1, None where there are no samples to take one of."""

    support: tuple[int, ...]
    precision: tuple[float | None, ...]
    recall: tuple[float | None, ...]


def confusion(y: np.ndarray, top: np.ndarray) -> Confusion:
    """The cells of integer labels ``y`` [N] and top classes ``top`` [N], in the order of the matrix."""
    pairs, counts = np.unique(np.stack([y, top]).astype(np.int64), axis=1, return_counts=True)
    return tuple(zip(*(row.tolist() for row in (*pairs, counts)), strict=True))


def by_class(cells: Confusion, classes: int) -> ClassFigures:
    """`ClassFigures` of a confusion matrix."""
    right, support, predicted = (np.zeros(classes, np.int64) for _ in range(3))
    for true, answer, count in cells:
        support[true] += count
        if answer >= 0:
            predicted[answer] += count
        if answer == true:
            right[true] += count
    return ClassFigures(tuple(support.tolist()), _shares(right, predicted), _shares(right, support))


def _shares(part: np.ndarray, whole: np.ndarray) -> tuple[float | None, ...]:
    return tuple(p / w if w else None for p, w in zip(part.tolist(), whole.tolist(), strict=True))


def matrix(cells: Confusion, classes: int) -> np.ndarray:
    """The matrix, int64 [true, predicted], without answers that are not finite."""
    dense = np.zeros((classes, classes), np.int64)
    for true, answer, count in cells:
        if answer >= 0:
            dense[true, answer] = count
    return dense


def mistakes(cells: Iterable[Sequence[int]], most: int) -> list[tuple[int, int, int]]:
    """Of the cells beside the diagonal the ``most`` largest, the largest first."""
    wrong = [(true, answer, count) for true, answer, count in cells if true != answer]
    return sorted(wrong, key=lambda cell: (-cell[2], cell[0], cell[1]))[:most]
