"""The one validator that the arrays of every source pass through."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfhalf.data.labels import ELSEWHERE, RENUMBER, check_one_each, class_numbers
from tfhalf.data.lazy import Array as Array
from tfhalf.data.lazy import LazyImages
from tfhalf.errors import DataError
from tfhalf.text import one_line

KEYS = ("x_train", "y_train", "x_test", "y_test", "x", "y", "class_names")
ACCEPTED = "x_train, y_train[, x_test, y_test][, class_names] or x, y[, class_names]"
_CHUNK = 1024
_WEIGHTS = "every item counts alike in training; repeat those that are to count more"
_VALIDATION = "data.validation is drawn from x_train: put these items there, or return tfhalf.data.Splits"
# What people have, and what is done in its place.
_TOLD = {"sample_weight": _WEIGHTS, "sample_weights": _WEIGHTS, "class_weight": _WEIGHTS, "weights": _WEIGHTS,
         "x_val": _VALIDATION, "y_val": _VALIDATION}  # fmt: skip


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
            hint = f"; {_TOLD[name]}" if name in _TOLD else f"; did you mean {near[0]!r}?" if near else ""
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
    y_train = class_numbers(arrays.y_train, "train", source)
    checked = {}
    for part, x, y in (("val", arrays.x_val, arrays.y_val), ("test", arrays.x_test, arrays.y_test)):
        if x is not None and y is not None:
            _shape(x, y, part, source)
            checked[part] = _native(x, part, source), class_numbers(y, part, source)
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
        raise DataError(f"{source}: x_{part} holds {x.dtype}; accepted: integers or floats; {_converted(x.dtype.kind)}")
    if x.ndim < 2 or 0 in x.shape[1:]:
        raise DataError(
            f"{source}: x_{part} has shape {x.shape}; accepted: [N, ...] of rank 2 or more, images [N, H, W, C]; "
            "reshape it"
        )
    check_one_each(y, part, source)
    if len(x) != len(y):
        raise DataError(
            f"{source}: x_{part} has {len(x)} items and y_{part} {len(y)}; both must be as long; "
            "check how they were made"
        )
    if not len(x) and part != "val":
        raise DataError(f"{source}: x_{part} is empty; at least one item is needed; add items or leave the key out")


def _converted(kind: str) -> str:
    """What to do about inputs of another kind of dtype."""
    if kind in "US":
        return "make whole numbers of the words, for example by keras.layers.TextVectorization, as many for each item"
    if kind in "Mm":
        return "make numbers of dates, for example days since the first: (x - x.min()) / np.timedelta64(1, 'D')"
    return "use x.astype('uint8')" if kind == "b" else "convert it"


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
            item, *axes = (int(i) for i in np.argwhere(~good)[0])
            raise DataError(
                f"{source}: x_{part}[{', '.join(map(str, [start + item, *axes]))}] is {chunk[(item, *axes)]}; "
                "accepted: finite values; clean or drop the item"
            )


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
            f"class needs one; add items, or {RENUMBER}"
        )
    if count < 2 or len(present) < 2:
        raise DataError(f"{source}: y_train holds one class; at least two are needed; add items of another class")
    return names or tuple(str(index) for index in range(count))


def as_array(value: Any, name: str, source: str) -> Array:
    """``value`` as a numpy array that holds no Python objects.

    Raises:
        DataError: it makes none, for example because its items differ in length.
    """
    names = _several(value)
    if names:
        raise DataError(
            f"{source}: {name} holds {len(names)} arrays ({', '.join(names)}); accepted: one; tfhalf train does not "
            f"learn models of several inputs or outputs: {ELSEWHERE}"
        )
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{source}: {name} is a {type(value).__name__} that makes no array ({one_line(error, 120)}); "
            "accepted: a numeric array; pad or convert the items"
        ) from error
    if array.dtype == object:
        raise DataError(f"{source}: {name} holds Python objects; accepted: a numeric array; pad or convert the items")
    return array


def _several(value: Any) -> list[str]:
    """The names of several arrays in one, as Keras takes them for a model of several inputs; none where it is one."""
    if isinstance(value, Mapping):
        return [str(key) for key in value]
    if not isinstance(value, list | tuple) or not 2 <= len(value) <= 16:
        return []
    shapes: list[tuple[int, ...]] = [tuple(getattr(part, "shape", ())) for part in value]
    alike = all(len(shape) >= 2 and shape[0] == shapes[0][0] for shape in shapes)
    return [str(index) for index in range(len(value))] if alike and len(set(shapes)) > 1 else []


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
