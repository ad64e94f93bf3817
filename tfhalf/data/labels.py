"""The labels of a classifier checked and numbered, and what else labels may be, with what to do: what
is advised must not ruin the data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tfhalf.data.lazy import Array
from tfhalf.errors import DataError

_TAKEN = "accepted: integer labels 0..K-1, or names of classes, one an item"
RENUMBER = "renumber the classes, for example by np.searchsorted(np.unique(y_train), y) in each part"
_REGRESSION = "a quantity to predict: set task: regression"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_FEW = 1 << 20  # counted without sorting up to here


def check_one_each(y: Array, part: str, source: str) -> None:
    """Refuse labels that are not one an item.

    Args:
        y: of any shape and dtype.
        part: for messages.
        source: for messages.

    Raises:
        DataError: the rank of ``y`` is not 1; it says what ``y`` looks like.
    """
    if y.ndim != 1:
        raise DataError(f"{source}: y_{part} has shape {y.shape}; {_TAKEN}; {_of_higher_rank(y)}")


def number(
    parts: Mapping[str, Array], names: tuple[str, ...] | None, source: str
) -> tuple[dict[str, npt.NDArray[np.int32]], tuple[str, ...] | None]:
    """Labels of all parts, of any shape, as int32, and the names that they had; None where they were numbers.

    Texts become classes in the order of ``names``, else sorted: by value where all are numbers. Booleans become 0
    and 1.

    Args:
        parts: labels by part, ``train`` among them: whole numbers from 0 on, booleans or texts.
        names: of the classes, where they are known.
        source: for messages.

    Raises:
        DataError: another dtype, a negative number, or a text that the training part lacks.
    """
    if not is_text(parts["train"]):
        if names is None and parts["train"].dtype.kind == "b":
            names = ("False", "True")
        return {part: class_numbers(y, part, source) for part, y in parts.items()}, names
    decoded = {part: _decoded(y, part, source) for part, y in parts.items()}
    names = names or sort_names(np.unique(decoded["train"]).tolist())
    return {part: _coded(y, names, part, source) for part, y in decoded.items()}, names


def class_numbers(y: Array, part: str, source: str) -> npt.NDArray[np.int32]:
    """Labels ``y`` [N, ...] as int32; booleans count as classes 0 and 1.

    Raises:
        DataError: they are not whole numbers from 0 on.
    """
    if y.dtype.kind not in "uib":
        raise DataError(f"{source}: y_{part} holds {y.dtype}; {_TAKEN}; {_of_other_dtype(y)}")
    for bad in (y < 0, y > np.iinfo(np.int32).max) if y.dtype.kind != "b" else ():
        if bad.any():
            index = int(np.argmax(bad))
            raise DataError(
                f"{source}: y_{part}[{position(index, y.shape)}] is {int(y.flat[index])}; accepted: labels 0..K-1; "
                f"{RENUMBER}"
            )
    return np.ascontiguousarray(y, dtype=np.int32)


def check_classes(
    labels: Mapping[str, Array], names: tuple[str, ...] | None, declared: bool, source: str, item: str = "item"
) -> tuple[str, ...]:
    """The names of the classes, "0" and so on where there are none.

    Args:
        labels: int32 of any shape by part, ``train`` among them; negative ones don't count.
        names: as many as there are classes.
        declared: whether a class may have no item of the training part.
        source: for messages.
        item: what a label is for.

    Raises:
        DataError: a label without a class, a class without a label, or fewer than two classes.
    """
    present = _present(labels["train"])
    count = len(names) if names else int(present[-1]) + 1 if len(present) else 0
    for part, y in labels.items():
        if y.size and int(y.max()) >= count:
            index = int(np.argmax(y >= count))
            whence = "class_names has" if names else "the training part has"
            raise DataError(
                f"{source}: y_{part}[{position(index, y.shape)}] is {int(y.flat[index])} where {whence} {count} "
                f"classes; accepted: 0..{count - 1}; correct the label or add the class"
            )
    if len(present) < count and not declared:
        # The first position where the sorted labels leave 0, 1, 2, ... is the first class without items.
        padded = np.append(present, -1)
        empty = int(np.argmax(padded != np.arange(len(padded))))
        named = f" ({names[empty]!r})" if names else ""
        raise DataError(
            f"{source}: class {empty}{named} has no {item} in y_train, whose labels are to be 0..{count - 1}; every "
            f"class needs one; add {item}s, or {RENUMBER}"
        )
    if count < 2 or len(present) < 2:
        raise DataError(f"{source}: y_train holds one class; at least two are needed; add {item}s of another class")
    return names or tuple(str(index) for index in range(count))


def is_text(y: Array) -> bool:
    """Whether ``y`` holds str, bytes, or objects that are str."""
    return y.dtype.kind in "US" or (y.dtype == object and y.size > 0 and all(isinstance(item, str) for item in y.flat))


def sort_names(names: Sequence[str]) -> tuple[str, ...]:
    """Distinct texts in their order: of their values where all are numbers."""
    numeric = all(_NUMBER.fullmatch(name) for name in names)
    return tuple(sorted(names, key=lambda name: (float(name), name)) if numeric else sorted(names))


def position(index: int, shape: tuple[int, ...]) -> str:
    """A flat index as one of an array of ``shape``."""
    return ", ".join(str(int(axis)) for axis in np.unravel_index(index, shape))


def _decoded(y: Array, part: str, source: str) -> Array:
    if not is_text(y):
        raise DataError(f"{source}: y_{part} holds {y.dtype} and y_train text; both must be alike; convert one")
    if y.dtype.kind != "S":
        return y.astype(str)
    try:
        return np.char.decode(y, "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: y_{part} holds bytes that are not UTF-8 ({error.reason}); decode them") from error


def _coded(y: Array, names: tuple[str, ...], part: str, source: str) -> npt.NDArray[np.int32]:
    known = np.asarray(names)
    order = np.argsort(known, kind="stable")
    positions = np.minimum(np.searchsorted(known, y, sorter=order), len(known) - 1)
    codes = order[positions]
    wrong = known[codes] != y
    if wrong.any():
        index = int(np.argmax(wrong))
        listed = ", ".join(map(repr, names[:8])) + (", ..." if len(names) > 8 else "")
        raise DataError(
            f"{source}: y_{part}[{position(index, y.shape)}] is {str(y.flat[index])[:80]!r}, which the training part "
            f"lacks; accepted: {listed}; correct the label or add the class"
        )
    return codes.astype(np.int32)


def _present(y: Array) -> Array:
    """The labels from 0 on that occur, sorted."""
    y = y[y >= 0] if y.size and y.min() < 0 else y
    if y.size and int(y.max()) < _FEW:
        return np.flatnonzero(np.bincount(y.reshape(-1)))
    return np.unique(y)


def _of_higher_rank(y: Array) -> str:
    """What to do about labels [N, ...]."""
    if y.ndim == 0:
        return "give an array of them"
    if y.ndim > 2:
        return "these are labels for parts of an item: set task: segmentation"
    if y.shape[1] == 1:
        column = y[:, 0]
        return "use y[:, 0]" if column.dtype.kind in "uibUS" else f"of y[:, 0]: {_of_other_dtype(column)}"
    if y.dtype.kind not in "uibf":
        return "give each item one label"
    zero_or_one = bool(np.isin(y, (0, 1)).all())
    sums = y.sum(1, dtype=np.float64)
    if zero_or_one and (sums == 1).all():
        return "it is one-hot: use y.argmax(-1)"
    if zero_or_one:
        return "an item may have several labels here: set task: multilabel"
    if y.dtype.kind == "f" and (y >= 0).all() and np.allclose(sums, 1, atol=1e-3):
        return "it holds shares of classes (soft labels): y.argmax(-1) keeps the likeliest class of each item alone"
    return f"this is {_REGRESSION}" if y.dtype.kind == "f" else "give each item one label"


def _of_other_dtype(y: Array) -> str:
    """What to do about labels [N] that are not integers."""
    kind = y.dtype.kind
    if kind == "f" and np.isfinite(y).all() and (y == np.rint(y)).all():
        return f"if these whole numbers name classes, use y.astype('int32'); else this is {_REGRESSION}"
    if kind == "f":
        return f"this is {_REGRESSION}; or make classes of it, for example by np.digitize(y, edges)"
    if kind in "Mm":
        return f"a date or a time is not a class; make a number of it, which is {_REGRESSION}"
    return "give each class a number"
