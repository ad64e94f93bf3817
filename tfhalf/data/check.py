"""The one validator that the arrays of every source pass through."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tfhalf.data import targets
from tfhalf.data.columns import Columns
from tfhalf.data.inputs import as_array, as_values, check_alike, check_finite, check_inputs, native
from tfhalf.data.lazy import Array, LazyImages
from tfhalf.data.types import Ignore, Kinds
from tfhalf.errors import DataError

PARTS = ("train", "val", "test")
KEYS = (*(f"{letter}_{part}" for letter in "xyw" for part in PARTS), "x", "y", "w", "sample_weight", "class_names")
ACCEPTED = "x_train, y_train[, x_val, y_val][, x_test, y_test] or x, y; with either w_train, ... or w; class_names"
_WEIGHTS = "weights of items are sample_weight, or w_train, w_val, w_test"
# What people have, and what is done instead.
_INSTEAD = {"class_weight": f"{_WEIGHTS}: give each item that of its class", "weights": _WEIGHTS,
            "x_dev": "x_val is its name here", "y_dev": "y_val is its name here"}  # fmt: skip


@dataclass(frozen=True)
class Arrays:
    """What a source hands over, before validation is drawn.

    ``x_*`` has shape [N, ...] of rank >= 2, or holds texts [N], or is `Columns` of these; ``y_*`` is what a kind of
    targets needs (`tfhalf.data.targets`). A source without a test (or validation) set leaves None. ``w_*`` are weights
    of items [N]. ``x_train`` may be encoded still (`LazyImages`).
    ``class_names`` says how many classes there are where the source knows; ``declared`` allows some of them to have no
    training item (some published sets name more classes than they use). ``items`` are the names of the training items,
    where these are not their numbers. ``categories`` are inputs, str [N], that become
    codes once the training part is drawn. ``empty_cells``: NaN is an empty cell, not a fault. The other fields are
    those of `Splits`.
    """

    x_train: Array | LazyImages | Columns
    y_train: Array | Columns
    x_test: Array | Columns | None = None
    y_test: Array | Columns | None = None
    x_val: Array | Columns | None = None
    y_val: Array | Columns | None = None
    class_names: tuple[str, ...] | None = None
    declared: bool = False
    items: Sequence[str] = ()
    w_train: Array | None = None
    w_val: Array | None = None
    w_test: Array | None = None
    targets: tuple[str, ...] = ()
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    categories: tuple[str, ...] = ()
    vocabularies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    empty_cells: bool = False
    output_classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def from_mapping(values: Mapping[str, Any], source: str) -> Arrays:
    """The arrays of a mapping with the keys ``x_train, y_train[, x_val, y_val][, x_test, y_test]`` or ``x, y``,
    weights ``w_train, ...`` or ``w`` (or ``sample_weight``), and ``class_names``.

    Raises:
        DataError: a key is missing, unknown, or belongs to the other form.
    """
    names = [name for name in values if values[name] is not None]
    _check_names(list(values), source)
    whole, parts = {"x", "y", "w"} & set(names), {f"{letter}_{part}" for letter in "xyw" for part in PARTS} & set(names)
    if whole and parts:
        raise DataError(f"{source}: holds both {_list(whole)} and {_list(parts)}; accepted: {ACCEPTED}; keep one form")
    needed = ["x", "y"] if whole else ["x_train", "y_train"]
    for part in () if whole else ("val", "test"):
        if {f"{letter}_{part}" for letter in "xyw"} & parts:
            needed += [f"x_{part}", f"y_{part}"]
    missing = [name for name in needed if name not in names]
    if missing:
        raise DataError(
            f"{source}: {_list(missing)} missing, found: {_list(names) or 'nothing'}; accepted: {ACCEPTED}; "
            "add what is missing"
        )
    arrays: dict[str, Any] = {name: as_values(values[name], name, source) for name in needed}
    arrays |= _weights(values, names, source)
    class_names = _names(values["class_names"], source) if values.get("class_names") is not None else None
    if whole:
        arrays = {f"{name}_train": value for name, value in arrays.items()}
    return Arrays(**arrays, class_names=class_names)


def check(
    arrays: Arrays,
    source: str,
    kind: Kinds = "classes",
    say: Callable[[str], None] | None = None,
    ignore: Ignore = None,
) -> Arrays:
    """The same arrays in native byte order, C-contiguous, targets of ``kind``, ``class_names`` filled in (empty where
    targets are not classes, or there are several outputs).

    Raises:
        DataError: wrong rank, length, dtype, label or a non-finite value; the message names key and index.
    """
    x: dict[str, Any] = {}
    y: dict[str, Any] = {}
    w: dict[str, Array | None] = {}
    for part in PARTS:
        x_part, y_part = getattr(arrays, f"x_{part}"), getattr(arrays, f"y_{part}")
        if x_part is None or y_part is None:
            continue
        _shape(x_part, y_part, part, kind, source)
        lazy = isinstance(x_part, LazyImages)
        x[part] = x_part if lazy else native(x_part, part, source, arrays.empty_cells)
        y[part], w[part] = y_part, _weight(getattr(arrays, f"w_{part}"), len(x_part), part, source)
        if part != "train":
            check_alike(x[part], x["train"], part, source)
    if kind == "masks":
        for part in y:
            targets.check_sides(y[part], x[part], part, source)
    y, names, outputs = targets.convert(
        y, kind, arrays.class_names, arrays.targets, arrays.declared, source, say or (lambda line: None), ignore
    )
    changed: dict[str, Any] = {f"x_{part}": x.get(part) for part in PARTS}
    changed |= {f"y_{part}": y.get(part) for part in PARTS} | {f"w_{part}": w.get(part) for part in PARTS}
    return replace(arrays, **changed, class_names=names, output_classes=outputs)


def _check_names(names: Iterable[Any], source: str) -> None:
    for name in names:
        if name not in KEYS:
            near = difflib.get_close_matches(str(name).lower(), KEYS, n=1)
            hint = f"; {_INSTEAD[name]}" if name in _INSTEAD else f"; did you mean {near[0]!r}?" if near else ""
            raise DataError(f"{source}: unknown key {name!r}{hint}; accepted: {ACCEPTED}; remove or rename it")


def _weights(values: Mapping[str, Any], names: list[str], source: str) -> dict[str, Array]:
    """Weights by the name of their part, or as ``w``: ``sample_weight`` is those of the training items."""
    weights = {name: as_array(values[name], name, source) for name in names if name == "w" or name[:2] == "w_"}
    if "sample_weight" not in names:
        return weights
    name = "w" if "x" in names else "w_train"
    if name in weights:
        raise DataError(f"{source}: holds both {name} and sample_weight, which are the same; keep one")
    return {**weights, name: as_array(values["sample_weight"], "sample_weight", source)}


def _shape(x: Array | LazyImages | Columns, y: Array | Columns, part: str, kind: Kinds, source: str) -> None:
    check_inputs(x, part, source)
    targets.check_rank(y, kind, part, source)
    if len(x) != len(y):
        raise DataError(
            f"{source}: x_{part} has {len(x)} items and y_{part} {len(y)}; both must be as long; "
            "check how they were made"
        )
    if not len(x) and part != "val":
        raise DataError(f"{source}: x_{part} is empty; at least one item is needed; add items or leave the key out")


def _weight(w: Array | None, items: int, part: str, source: str) -> Array | None:
    """Weights as float32 [N].

    Raises:
        DataError: another shape, no numbers, one below 0 or not finite, or all 0.
    """
    if w is None:
        return None
    if w.dtype.kind not in "uifb" or w.shape not in ((items,), (items, 1)):
        raise DataError(
            f"{source}: w_{part} holds {w.dtype} of shape {w.shape}; accepted: numbers [{items}], one an item; give one"
        )
    w = w.reshape(-1)
    check_finite(w.astype(np.float64), f"w_{part}", source)
    weights = w.astype(np.float32)
    bad = (weights < 0) | ~np.isfinite(weights)
    if bad.any():
        index = int(np.argmax(bad))
        raise DataError(f"{source}: w_{part}[{index}] is {w[index]}; accepted: weights from 0 on; correct it")
    if items and not weights.any():
        raise DataError(f"{source}: w_{part} holds zeros alone: no item would count; give some a weight above 0")
    return weights


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
