"""The one validator that the arrays of every source pass through."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tfhalf.data.lazy import Array as Array
from tfhalf.data.lazy import LazyImages
from tfhalf.errors import DataError

KEYS = ("x_train", "y_train", "x_test", "y_test", "x", "y", "class_names")
ACCEPTED = "x_train, y_train[, x_test, y_test][, class_names] or x, y[, class_names]"
_CHUNK = 1024


@dataclass(frozen=True)
class Arrays:
    """What a source hands over, before validation is drawn.

    ``x_*`` has shape [N, ...] of rank >= 2, ``y_*`` shape [N]. A source without a test (or validation) set leaves None.
    ``x_train`` may be encoded still (`LazyImages`).
    ``class_names`` says how many classes there are where the source knows; ``declared`` allows some of them to have no
    training item (some published sets name more classes than they use).
    """

    x_train: Array | LazyImages
    y_train: Array
    x_test: Array | None = None
    y_test: Array | None = None
    x_val: Array | None = None
    y_val: Array | None = None
    class_names: tuple[str, ...] | None = None
    declared: bool = False


def from_mapping(found: Mapping[str, Any], source: str) -> Arrays:
    """The arrays of a mapping with the keys ``x_train, y_train[, x_test, y_test]`` or ``x, y``, and ``class_names``.

    Raises:
        DataError: a key is missing, unknown, or belongs to the other form.
    """
    names = list(found)
    for name in names:
        if name not in KEYS:
            near = difflib.get_close_matches(str(name).lower(), KEYS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise DataError(f"{source}: unknown key {name!r}{hint}; accepted: {ACCEPTED}; remove or rename it")
    whole, parts = {"x", "y"} & set(names), {"x_train", "y_train", "x_test", "y_test"} & set(names)
    if whole and parts:
        raise DataError(f"{source}: holds both {_list(whole)} and {_list(parts)}; accepted: {ACCEPTED}; keep one form")
    needed = ["x", "y"] if whole else ["x_train", "y_train"]
    if {"x_test", "y_test"} & parts:
        needed += ["x_test", "y_test"]
    missing = [name for name in needed if name not in found]
    if missing:
        raise DataError(
            f"{source}: {_list(missing)} missing, found: {_list(names) or 'nothing'}; accepted: {ACCEPTED}; "
            "add what is missing"
        )
    arrays = {name: as_array(found[name], name, source) for name in needed}
    class_names = _names(found["class_names"], source) if found.get("class_names") is not None else None
    if whole:
        return Arrays(arrays["x"], arrays["y"], class_names=class_names)
    return Arrays(
        arrays["x_train"], arrays["y_train"], arrays.get("x_test"), arrays.get("y_test"), class_names=class_names
    )


def check(arrays: Arrays, source: str) -> Arrays:
    """The same arrays in native byte order, C-contiguous, labels as int32 in 0..K-1, ``class_names`` filled in.

    Raises:
        DataError: wrong rank, length, dtype, label or a non-finite value; the message names key and index.
    """
    x_train = arrays.x_train
    _shape(x_train, arrays.y_train, "train", source)
    if not isinstance(x_train, LazyImages):
        x_train = _native(x_train, "train", source)
    y_train = _labels(arrays.y_train, "train", source)
    checked = {}
    for part, x, y in (("val", arrays.x_val, arrays.y_val), ("test", arrays.x_test, arrays.y_test)):
        if x is not None and y is not None:
            _shape(x, y, part, source)
            checked[part] = _native(x, part, source), _labels(y, part, source)
    for part, (x, _) in checked.items():
        if x.shape[1:] != x_train.shape[1:] or x.dtype != x_train.dtype:
            raise DataError(
                f"{source}: x_{part} holds {x.dtype} items of shape {x.shape[1:]}, x_train {x_train.dtype} of "
                f"{x_train.shape[1:]}; both must be alike; convert one"
            )
    names = _classes(arrays, {"train": y_train, **{part: y for part, (_, y) in checked.items()}}, source)
    x_val, y_val = checked.get("val", (None, None))
    x_test, y_test = checked.get("test", (None, None))
    return Arrays(x_train, y_train, x_test, y_test, x_val, y_val, names, arrays.declared)


def _shape(x: Array | LazyImages, y: Array, part: str, source: str) -> None:
    if x.dtype.kind not in "uif":
        raise DataError(
            f"{source}: x_{part} holds {x.dtype}; accepted: integers or floats; convert it, for example to uint8"
        )
    if x.ndim < 2 or 0 in x.shape[1:]:
        raise DataError(
            f"{source}: x_{part} has shape {x.shape}; accepted: [N, ...] of rank 2 or more, images [N, H, W, C]; "
            "reshape it"
        )
    if y.ndim != 1:
        raise DataError(f"{source}: y_{part} has shape {y.shape}; accepted: [N], one label an item; reshape it")
    if len(x) != len(y):
        raise DataError(
            f"{source}: x_{part} has {len(x)} items and y_{part} {len(y)}; both must be as long; "
            "check how they were made"
        )
    if not len(x) and part != "val":
        raise DataError(f"{source}: x_{part} is empty; at least one item is needed; add items or leave the key out")


def _native(x: Array, part: str, source: str) -> Array:
    x = np.ascontiguousarray(x, dtype=x.dtype.newbyteorder("="))
    if x.dtype.kind == "f":
        _finite(x, part, source)
    return x


def _finite(x: Array, part: str, source: str) -> None:
    for start in range(0, len(x), _CHUNK):
        chunk = x[start : start + _CHUNK]
        good = np.isfinite(chunk)
        if not good.all():
            item, *place = (int(i) for i in np.argwhere(~good)[0])
            raise DataError(
                f"{source}: x_{part}[{', '.join(map(str, [start + item, *place]))}] is {chunk[(item, *place)]}; "
                "accepted: finite values; clean or drop the item"
            )


def _labels(y: Array, part: str, source: str) -> npt.NDArray[np.int32]:
    if y.dtype.kind not in "ui":
        raise DataError(
            f"{source}: y_{part} holds {y.dtype}; accepted: integer labels 0..K-1; use y.astype('int32') if they "
            "are whole numbers"
        )
    if len(y) and int(y.min()) < 0:
        index = int(np.argmax(y < 0))
        raise DataError(
            f"{source}: y_{part}[{index}] is {int(y[index])}; accepted: labels 0..K-1; renumber the classes"
        )
    if len(y) and int(y.max()) > np.iinfo(np.int32).max:
        index = int(np.argmax(y))
        raise DataError(
            f"{source}: y_{part}[{index}] is {int(y[index])}; accepted: labels 0..K-1; renumber the classes"
        )
    return np.ascontiguousarray(y, dtype=np.int32)


def _classes(arrays: Arrays, labels: dict[str, Array], source: str) -> tuple[str, ...]:
    present = np.unique(labels["train"])
    names = arrays.class_names
    count = len(names) if names else int(present[-1]) + 1
    for part, y in labels.items():
        if len(y) and int(y.max()) >= count:
            index = int(np.argmax(y >= count))
            whence = "class_names has" if names else "the training part has"
            raise DataError(
                f"{source}: y_{part}[{index}] is {int(y[index])} where {whence} {count} classes; accepted: "
                f"0..{count - 1}; correct the label or add the class"
            )
    if len(present) < count and not arrays.declared:
        # The first place where the sorted labels leave 0, 1, 2, ... is the first class without items.
        padded = np.append(present, -1)
        empty = int(np.argmax(padded != np.arange(len(padded))))
        named = f" ({names[empty]!r})" if names else ""
        raise DataError(
            f"{source}: class {empty}{named} has no item in y_train, whose labels are to be 0..{count - 1}; every "
            "class needs one; add items or renumber the classes"
        )
    if count < 2 or len(present) < 2:
        raise DataError(f"{source}: y_train holds one class; at least two are needed; add items of another class")
    return names or tuple(str(index) for index in range(count))


def as_array(value: Any, name: str, source: str) -> Array:
    """``value`` as a numpy array that holds no Python objects.

    Raises:
        DataError: it makes none, for example because its items differ in length.
    """
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{source}: {name} is a {type(value).__name__} that makes no array ({' '.join(str(error).split())[:120]}); "
            "accepted: a numeric array; pad or convert the items"
        ) from error
    if array.dtype == object:
        raise DataError(f"{source}: {name} holds Python objects; accepted: a numeric array; pad or convert the items")
    return array


def _names(value: Any, source: str) -> tuple[str, ...]:
    array = np.asarray(value)
    if array.ndim != 1 or array.dtype.kind not in "US" or not len(array):
        raise DataError(
            f"{source}: class_names has shape {array.shape} of {array.dtype}; accepted: one text for each class; "
            "store them as text"
        )
    names = tuple(item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in array.tolist())
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        raise DataError(f"{source}: class_names holds {twice!r} twice; each class needs its own name; rename one")
    return names


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(map(str, names)))
