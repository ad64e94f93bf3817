"""The labels of a classifier checked, and what else labels may be told from them, with what to do: what is advised
must not ruin the data."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tfhalf.data.lazy import Array
from tfhalf.errors import DataError

ELSEWHERE = "train it with Keras, and `tfhalf export MODEL.keras` makes its float16 artifacts and verifies them"
_TAKEN = "accepted: integer labels 0..K-1, one an item"
RENUMBER = "renumber the classes, for example by np.searchsorted(np.unique(y_train), y) in each part"
_REGRESSION = f"a quantity to predict (regression), which tfhalf train does not learn: {ELSEWHERE}"


def check_one_each(y: Array, part: str, source: str) -> None:
    """Refuse labels that are not one number an item.

    Args:
        y: of any shape and dtype.

    Raises:
        DataError: the rank of ``y`` is not 1; it says what ``y`` looks like.
    """
    if y.ndim != 1:
        raise DataError(f"{source}: y_{part} has shape {y.shape}; {_TAKEN}; {_of_higher_rank(y)}")


def class_numbers(y: Array, part: str, source: str) -> npt.NDArray[np.int32]:
    """Labels ``y`` [N] as int32; booleans count as classes 0 and 1.

    Raises:
        DataError: they are no whole numbers from 0 on.
    """
    if y.dtype.kind not in "uib":
        raise DataError(f"{source}: y_{part} holds {y.dtype}; {_TAKEN}; {_of_other_dtype(y)}")
    for bad in (y < 0, y > np.iinfo(np.int32).max) if y.dtype.kind != "b" else ():
        if bad.any():
            index = int(np.argmax(bad))
            raise DataError(f"{source}: y_{part}[{index}] is {int(y[index])}; accepted: labels 0..K-1; {RENUMBER}")
    return np.ascontiguousarray(y, dtype=np.int32)


def _of_higher_rank(y: Array) -> str:
    """What to do about labels [N, ...]."""
    if y.ndim == 0:
        return "give an array of them"
    if y.ndim > 2:
        return f"these are labels for parts of an item (segmentation), which tfhalf train does not learn: {ELSEWHERE}"
    if y.shape[1] == 1:
        column = y[:, 0]
        return "use y[:, 0]" if column.dtype.kind in "uib" else f"of y[:, 0]: {_of_other_dtype(column)}"
    if y.dtype.kind not in "uibf":
        return "give each item one label"
    zero_or_one = bool(np.isin(y, (0, 1)).all())
    sums = y.sum(1, dtype=np.float64)
    if zero_or_one and (sums == 1).all():
        return "it is one-hot: use y.argmax(-1)"
    if zero_or_one:
        return f"an item may have several labels here (multi-label), which tfhalf train does not learn: {ELSEWHERE}"
    if y.dtype.kind == "f" and (y >= 0).all() and np.allclose(sums, 1, atol=1e-3):
        return "it holds shares of classes (soft labels): y.argmax(-1) keeps the likeliest class of each item alone"
    return f"this is {_REGRESSION}" if y.dtype.kind == "f" else "give each item one label"


def _of_other_dtype(y: Array) -> str:
    """What to do about labels [N] that are no integers."""
    kind = y.dtype.kind
    if kind == "f" and np.isfinite(y).all() and (y == np.rint(y)).all():
        return f"if these whole numbers name classes, use y.astype('int32'); else this is {_REGRESSION}"
    if kind == "f":
        return f"this is {_REGRESSION}; or make classes of it, for example by np.digitize(y, edges)"
    if kind in "US":
        return (
            "names of classes: names = np.unique(y_train); give np.searchsorted(names, y) for each part, and "
            "class_names=names"
        )
    if kind in "Mm":
        return f"a date or a time is not a class; it is {_REGRESSION}"
    return "give each class a number"
