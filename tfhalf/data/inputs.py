"""What models take, checked: an array, texts, or several of these by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfhalf.data.columns import Columns
from tfhalf.data.lazy import Array, LazyImages
from tfhalf.errors import DataError
from tfhalf.text import one_line

_CHUNK = 1024
_MOST = 16  # a longer list is one array


def as_values(value: Any, name: str, source: str) -> Array | Columns:
    """``value`` as an array, or as `Columns` where it is a dict of arrays, or a list of arrays of several shapes.

    Raises:
        DataError: it makes no array, for example because its items differ in length; or the arrays differ in length.
    """
    parts = _several(value, "output" if name.startswith("y") else "input")
    if not parts:
        return as_array(value, name, source)
    arrays = {key: as_array(part, f"{name}/{key}", source) for key, part in parts.items()}
    scalar = next((key for key, array in arrays.items() if not array.ndim), None)
    if scalar is not None:
        raise DataError(f"{source}: {name}/{scalar} is one value; accepted: an array [N, ...]; give one value an item")
    lengths = {key: len(array) for key, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{key}: {length}" for key, length in lengths.items())
        raise DataError(f"{source}: {name} holds arrays of several lengths ({listed}); all must be as long; check them")
    return Columns(arrays)


def as_array(value: Any, name: str, source: str) -> Array:
    """``value`` as a numpy array that holds no Python objects but texts, objects of str [N].

    Raises:
        DataError: it makes none, for example because its items differ in length.
    """
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{source}: {name} is a {type(value).__name__} that makes no array ({one_line(error, 120)}); "
            "accepted: a numeric array; pad or convert the items"
        ) from error
    if array.dtype == object and not is_text(array):
        raise DataError(f"{source}: {name} holds Python objects; accepted: a numeric array; pad or convert the items")
    return array


def is_text(x: Array | LazyImages) -> bool:
    """Whether ``x`` is one text an item: str or bytes [N], or objects of str [N]."""
    if x.ndim != 1 or isinstance(x, LazyImages):
        return False
    return x.dtype.kind in "US" or (x.dtype == object and len(x) > 0 and all(isinstance(item, str) for item in x))


def texts(x: Array, name: str, source: str) -> Array:
    """Texts as objects of str [N]: an array of numpy's own str takes four bytes times the longest text for each.

    Raises:
        DataError: bytes that are not UTF-8.
    """
    if x.dtype.kind != "S":
        return x.astype(object)
    try:
        return np.char.decode(x, "utf-8").astype(object)
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: {name} holds bytes that are not UTF-8 ({error.reason}); decode them") from error


def check_inputs(x: Array | LazyImages | Columns, part: str, source: str) -> None:
    """Refuse inputs of a dtype or rank that no model takes.

    Args:
        x: an array of any shape and dtype, or several.
        part: for messages.
        source: for messages.

    Raises:
        DataError: names the input.
    """
    if isinstance(x, Columns):
        for name, array in x.arrays.items():
            _check(array if array.ndim != 1 else array[:, None], f"{part}/{name}", source, text=is_text(array))
    else:
        _check(x, part, source, text=is_text(x))


def native(x: Array | Columns, part: str, source: str, empty_cells: bool) -> Array | Columns:
    """``x`` in native byte order and C-contiguous; texts as objects of str; an array [N] beside others as [N, 1].

    Raises:
        DataError: a value is not finite, and is not an empty cell either.
    """
    if not isinstance(x, Columns):
        return _native(x, part, source, empty_cells)
    arrays = {}
    for name, array in x.arrays.items():
        array = _native(array, f"{part}/{name}", source, empty_cells)
        arrays[name] = array[:, None] if array.ndim == 1 and array.dtype != object else array
    return Columns(arrays)


def check_alike(x: Array | Columns, x_train: Array | LazyImages | Columns, part: str, source: str) -> None:
    """Refuse a part whose items are of another shape, dtype or names than the training part's.

    Raises:
        DataError: names both.
    """
    if isinstance(x, Columns) and isinstance(x_train, Columns):
        if set(x) != set(x_train):
            raise DataError(
                f"{source}: x_{part} holds {', '.join(x)}, x_train {', '.join(x_train)}; both must be alike; rename one"
            )
        for name, array in x.arrays.items():
            _check_alike(array, x_train.arrays[name], f"{part}/{name}", f"train/{name}", source)
    elif isinstance(x, Columns) or isinstance(x_train, Columns):
        raise DataError(f"{source}: one of x_{part} and x_train holds several arrays; both must be alike; convert one")
    else:
        _check_alike(x, x_train, part, "train", source)


def _several(value: Any, noun: str) -> dict[str, Any]:
    """Several arrays by name, as Keras takes them for a model of several inputs or outputs; none where it is one. Those
    of a list are called ``noun`` and their number."""
    if isinstance(value, Columns):
        return dict(value.arrays)
    if isinstance(value, Mapping):
        return {str(key): part for key, part in value.items()}
    if not isinstance(value, list | tuple) or not 2 <= len(value) <= _MOST:
        return {}
    shapes: list[tuple[int, ...]] = [tuple(getattr(part, "shape", ())) for part in value]
    alike = all(len(shape) >= 2 and shape[0] == shapes[0][0] for shape in shapes)
    return {f"{noun}_{index}": part for index, part in enumerate(value)} if alike and len(set(shapes)) > 1 else {}


def _check(x: Array | LazyImages, part: str, source: str, *, text: bool) -> None:
    if text:
        return
    if x.dtype.kind not in "uif":
        raise DataError(f"{source}: x_{part} holds {x.dtype}; accepted: integers or floats; {_converted(x.dtype.kind)}")
    if x.ndim < 2 or 0 in x.shape[1:]:
        raise DataError(
            f"{source}: x_{part} has shape {x.shape}; accepted: [N, ...] of rank 2 or more, images [N, H, W, C]; "
            "reshape it"
        )


def _converted(kind: str) -> str:
    """What to do about inputs of another kind of dtype."""
    if kind in "US":
        return "make whole numbers of the words, for example by keras.layers.TextVectorization, as many for each item"
    if kind in "Mm":
        return "make numbers of dates, for example days since the first: (x - x.min()) / np.timedelta64(1, 'D')"
    return "use x.astype('uint8')" if kind == "b" else "convert it"


def _native(x: Array, part: str, source: str, empty_cells: bool) -> Array:
    if is_text(x):
        return texts(x, f"x_{part}", source)
    x = np.ascontiguousarray(x, dtype=x.dtype.newbyteorder("="))
    if x.dtype.kind == "f":
        check_finite(x, f"x_{part}", source, empty_cells)
    return x


def check_finite(x: Array, name: str, source: str, empty_cells: bool = False) -> None:
    """Refuse NaN (but for empty cells) and infinite values of a float array [N, ...].

    Raises:
        DataError: names the first by its index.
    """
    for start in range(0, len(x), _CHUNK):
        chunk = x[start : start + _CHUNK]
        good = ~np.isinf(chunk) if empty_cells else np.isfinite(chunk)
        if not good.all():
            item, *axes = (int(i) for i in np.argwhere(~good)[0])
            raise DataError(
                f"{source}: {name}[{', '.join(map(str, [start + item, *axes]))}] is {chunk[(item, *axes)]}; "
                "accepted: finite values; clean or drop the item"
            )


def _check_alike(x: Array, x_train: Array | LazyImages, part: str, train: str, source: str) -> None:
    if x.shape[1:] != x_train.shape[1:] or x.dtype != x_train.dtype:
        raise DataError(
            f"{source}: x_{part} holds {x.dtype} items of shape {x.shape[1:]}, x_{train} {x_train.dtype} of "
            f"{x_train.shape[1:]}; both must be alike; convert one"
        )
