"""Categories of a table as numbers: what an embedding takes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tfhalf.data.labels import sort_names
from tfhalf.data.lazy import Array

UNKNOWN = ""
"""The name of code 0: an empty cell, or a category that the training part does not hold."""


def vocabulary(train: Array) -> tuple[str, ...]:
    """The categories of ``train``, texts [N], by code: sorted, after `UNKNOWN`."""
    return (UNKNOWN, *sort_names(sorted({str(name) for name in train} - {UNKNOWN})))


def encode(values: Array, names: tuple[str, ...]) -> npt.NDArray[np.int32]:
    """The codes, int32 [N, 1], of ``values``, texts [N]; 0 for those that are not among ``names``."""
    codes = {name: code for code, name in enumerate(names)}
    return np.fromiter((codes.get(str(value), 0) for value in values), np.int32, len(values))[:, None]
