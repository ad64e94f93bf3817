"""What a model is to predict, by kind: checked, and brought to the dtype and rank that its loss takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tfhalf.data import labels
from tfhalf.data.columns import Columns
from tfhalf.data.inputs import check_finite
from tfhalf.data.lazy import Array, LazyImages
from tfhalf.data.types import Ignore, Kind, Kinds
from tfhalf.errors import DataError

Say = Callable[[str], None]

IGNORED = -1
_RANKS = {"numbers": (1, 2), "multi": (2,), "masks": (3, 4), "steps": (2,)}
_TAKEN = {
    "numbers": "numbers [N], or [N, K] for K of each item",
    "multi": "0 or 1 for each item and label, [N, K]",
    "masks": "a class for each pixel, [N, H, W]",
    "steps": "a class for each step, [N, T]",
}
_BINARY_MASK = 255  # what images of masks hold for 1


def kind_of(kind: Kinds, output: str | None, source: str) -> Kind:
    """The kind of one of several outputs; of the one there is, where ``output`` is None.

    Raises:
        DataError: ``kind`` names other outputs.
    """
    if isinstance(kind, str):
        return kind
    if output is not None and output in kind:
        return kind[output]
    has = "y is one array" if output is None else f"y holds {output!r}"
    raise DataError(
        f"{source}: {has} where the outputs to learn are {', '.join(kind)}; accepted: an array for each of these, by "
        "name; rename or add it"
    )


def check_rank(y: Array | Columns, kind: Kinds, part: str, source: str) -> None:
    """Refuse targets of a rank that ``kind`` does not have.

    Raises:
        DataError: names the shape, and what is accepted.
    """
    if isinstance(y, Columns):
        for name, array in y.arrays.items():
            _check_rank(array, kind_of(kind, name, source), f"{part}/{name}", source)
    else:
        _check_rank(y, kind_of(kind, None, source), part, source)


def _check_rank(y: Array, kind: Kind, part: str, source: str) -> None:
    if kind == "classes":
        labels.check_one_each(y, part, source)
    elif y.ndim not in _RANKS[kind] or 0 in y.shape[1:] or (kind == "masks" and y.ndim == 4 and y.shape[3] != 1):
        raise DataError(f"{source}: y_{part} has shape {y.shape}; accepted: {_TAKEN[kind]}; {_reshaped(y, kind)}")


def check_sides(y: Array | Columns, x: Array | LazyImages | Columns, part: str, source: str) -> None:
    """Refuse masks of another height or width than their images [N, H, W, C].

    Raises:
        DataError: names both shapes.
    """
    if isinstance(x, Columns) or isinstance(y, Columns):
        return  # which image a mask is of, the model alone tells
    if x.ndim != 4 or x.shape[1:3] != y.shape[1:3]:
        raise DataError(
            f"{source}: x_{part} has shape {x.shape} and y_{part} {y.shape}; accepted: images [N, H, W, C] and masks "
            "[N, H, W] of the same height and width; resize one"
        )


def convert(
    parts: Mapping[str, Any],
    kind: Kinds,
    names: tuple[str, ...] | None,
    columns: tuple[str, ...],
    declared: bool,
    source: str,
    say: Say,
    ignore: Ignore = None,
) -> tuple[dict[str, Any], tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Targets of all parts as ``kind`` has them (see `Splits`), class names, and class names by output where ``parts``
    hold several.

    Args:
        parts: arrays or `Columns` by part, ``train`` among them, whose ranks `check_rank` takes.
        kind: of each of them, or of each output by its name.
        names: of the classes, where the source knows them; for one output only.
        columns: names of the columns of [N, K].
        declared: whether a class may have no item of the training part.
        source: for messages.
        say: called with what is changed silently otherwise.
        ignore: the class of pixels or steps that do not count, beside -1.

    Raises:
        DataError: names part and index of the first value that is wrong.
    """
    train = parts["train"]
    if not isinstance(train, Columns):
        arrays = {part: y for part, y in parts.items() if not isinstance(y, Columns)}
        if len(arrays) < len(parts):
            raise DataError(f"{source}: y_train is one array and another part's y several; give all parts alike")
        converted, classes = _convert(
            arrays, kind_of(kind, None, source), names, columns, declared, source, say, _of(ignore)
        )
        return converted, classes, {}
    absent = "" if isinstance(kind, str) else ", ".join(sorted(set(kind) - set(train)))
    if absent:
        raise DataError(f"{source}: y_train lacks the outputs {absent}; accepted: {', '.join(kind)}; add them")
    for part, y in parts.items():
        if not isinstance(y, Columns) or set(y) != set(train):
            raise DataError(f"{source}: y_{part} does not hold the outputs {', '.join(train)} of y_train; add them")
    outputs: dict[str, dict[str, Array]] = {part: {} for part in parts}
    by_output = {}
    for name in train:
        here = {part: y.arrays[name] for part, y in parts.items()}
        where = f"{source}, output {name!r}"
        converted, by_output[name] = _convert(
            here, kind_of(kind, name, source), None, (), declared, where, say, _of(ignore, name)
        )
        for part, y in converted.items():
            outputs[part][name] = y
    return {part: Columns(arrays) for part, arrays in outputs.items()}, (), by_output


def _convert(
    parts: dict[str, Array],
    kind: Kind,
    names: tuple[str, ...] | None,
    columns: tuple[str, ...],
    declared: bool,
    source: str,
    say: Say,
    ignore: int | None,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    if kind == "numbers":
        return _alike({part: _numbers(y, part, source) for part, y in parts.items()}, source), ()
    if kind == "multi":
        converted = _alike({part: _zero_or_one(y, part, source) for part, y in parts.items()}, source)
        return converted, _label_names(names or columns, converted["train"].shape[1], source)
    if kind == "classes":
        numbered, names = labels.number(parts, names, source)
        return numbered, labels.check_classes(numbered, names, declared, source)
    if kind == "masks":
        masks = _masks({part: y.reshape(y.shape[:3]) for part, y in parts.items()}, source, say, ignore)
        return masks, labels.check_classes(masks, names, declared or bool(names), source, "pixel")
    steps, names = _steps(parts, names, source, ignore)
    return steps, labels.check_classes(steps, names, declared or bool(names), source, "step")


def _numbers(y: Array, part: str, source: str) -> npt.NDArray[np.float32]:
    """float32 [N, K]."""
    if y.dtype.kind not in "uif":
        remedy = "these are names of classes: set task: classification" if labels.is_text(y) else "convert it"
        raise DataError(f"{source}: y_{part} holds {y.dtype}; accepted: {_TAKEN['numbers']}; {remedy}")
    if y.dtype.kind == "f":
        check_finite(y, f"y_{part}", source)
    with np.errstate(over="ignore"):
        numbers = np.ascontiguousarray(y, dtype=np.float32).reshape(len(y), -1)
    wide = np.isinf(numbers)
    if wide.any():
        index = int(np.argmax(wide))
        raise DataError(
            f"{source}: y_{part}[{labels.position(index, y.shape)}] is {y.flat[index]}, which float32 does not hold; "
            "accepted: up to 3.4e38; predict its logarithm, or use another unit"
        )
    return numbers


def _zero_or_one(y: Array, part: str, source: str) -> npt.NDArray[np.float32]:
    """float32 [N, K]."""
    if y.dtype.kind not in "uifb":
        raise DataError(f"{source}: y_{part} holds {y.dtype}; accepted: {_TAKEN['multi']}; give each label a column")
    wrong = (y != 0) & (y != 1) if y.dtype.kind != "b" else np.zeros(y.shape, bool)
    if wrong.any():
        index = int(np.argmax(wrong))
        raise DataError(
            f"{source}: y_{part}[{labels.position(index, y.shape)}] is {y.flat[index]}; accepted: {_TAKEN['multi']}; "
            "correct it"
        )
    return np.ascontiguousarray(y, dtype=np.float32)


def _label_names(names: tuple[str, ...], count: int, source: str) -> tuple[str, ...]:
    if names and len(names) != count:
        raise DataError(
            f"{source}: class_names has {len(names)} names and y_train {count} labels; as many are needed; correct one"
        )
    return names or tuple(map(str, range(count)))


def _masks(parts: dict[str, Array], source: str, say: Say, ignore: int | None) -> dict[str, npt.NDArray[np.int32]]:
    """Masks as int32, -1 where a pixel does not count; 0 and 255, as images hold them, become 0 and 1."""
    numbered = {part: _counted(y, part, source, ignore) for part, y in parts.items()}
    high = max(int(y.max()) for y in numbered.values() if y.size)
    if high != _BINARY_MASK or not all(((y <= 0) | (y == high)).all() for y in numbered.values()):
        return numbered
    say(f"{source}: masks of 0 and 255 are read as classes 0 and 1")
    return {part: np.where(y == high, 1, y).astype(np.int32) for part, y in numbered.items()}


def _steps(
    parts: dict[str, Array], names: tuple[str, ...] | None, source: str, ignore: int | None
) -> tuple[dict[str, npt.NDArray[np.int32]], tuple[str, ...] | None]:
    """Classes of steps as int32, -1 where a step does not count; of texts, that is the empty one."""
    if labels.is_text(parts["train"]):
        known = names or labels.sort_names([str(name) for name in np.unique(parts["train"].astype(str)) if name])
        # The empty text is numbered last, where it does not shift the others.
        coded, _ = labels.number(parts, (*known, ""), source)
        return {part: np.where(y == len(known), IGNORED, y).astype(np.int32) for part, y in coded.items()}, known
    return {part: _counted(y, part, source, ignore) for part, y in parts.items()}, names


def _counted(y: Array, part: str, source: str, ignore: int | None) -> npt.NDArray[np.int32]:
    """Whole numbers as int32, -1 where they do not count."""
    if y.dtype.kind not in "uifb":
        return labels.class_numbers(y, part, source)  # which refuses it
    counts = (y != IGNORED) & (y != ignore) if ignore is not None else y != IGNORED
    if part == "train" and not counts.any():
        raise DataError(f"{source}: y_train holds {y.flat[0]} alone, which does not count; give some a class")
    return np.where(counts, _whole(np.where(counts, y, 0), part, source), IGNORED).astype(np.int32)


def _of(ignore: Ignore, output: str | None = None) -> int | None:
    if isinstance(ignore, Mapping):
        return None if output is None else ignore.get(output)
    return ignore


def _whole(y: Array, part: str, source: str) -> npt.NDArray[np.int32]:
    if y.dtype.kind == "f" and (y == np.rint(y)).all():
        y = y.astype(np.int64)
    return labels.class_numbers(y, part, source)


def _alike(parts: dict[str, Any], source: str) -> dict[str, Any]:
    for part, y in parts.items():
        if y.shape[1:] != parts["train"].shape[1:]:
            raise DataError(
                f"{source}: y_{part} has {y.shape[1]} columns and y_train {parts['train'].shape[1]}; as many are "
                "needed; correct one"
            )
    return parts


def _reshaped(y: Array, kind: Kind) -> str:
    """What to do about targets of another rank."""
    if kind == "multi" and y.ndim == 1:
        return "use y[:, None] for one label, or set task: binary"
    if kind == "masks" and y.ndim == 4:
        return "use y.argmax(-1) where the last axis holds a share of each class"
    return "set the task that such targets are for, or reshape them"
