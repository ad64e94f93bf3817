"""``file.py:load`` and ``package.module:load``: a function of the user's own hands over the arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tfhalf.config import refs
from tfhalf.data.check import ACCEPTED, PARTS, Arrays, from_mapping
from tfhalf.data.inputs import as_array, as_values
from tfhalf.data.sources import stream
from tfhalf.data.types import Splits
from tfhalf.errors import DataError

_FORMS = (
    f"a dict of {ACCEPTED}; (x, y), ((x, y), (x_test, y_test)) or three of them with validation second; a "
    "tf.data.Dataset or a generator of (x, y) or (x, y, weight), or two or three of these, or a dict of these by "
    "train, val and test; or Splits"
)
_NAMED = {"train": "train", "val": "val", "validation": "val", "test": "test"}


def read(source: str, base: Path, args: Mapping[str, Any], say: Callable[[str], None]) -> Arrays:
    """Call the function with ``args`` and take its dict (keys as in an npz file, whose values may be dicts), its
    pairs (x, y), datasets, generators, or its `Splits`.

    Raises:
        RefError: the reference leads to no callable.
        DataError: the function raises, or returns something else.
    """
    function = refs.resolve(source, base)
    called = f"{getattr(function, '__name__', 'load')}({', '.join(args)})"
    with refs.user_code(f"{source}: {called} fails", DataError, "; correct the function or data.args"):
        returned = function(**args)
    if isinstance(returned, Splits):
        return _from_splits(returned, source)
    if isinstance(returned, Mapping) and not (returned and set(returned) <= set(_NAMED)):
        return from_mapping(returned, source)
    parts = _parts(returned, source)
    keys: dict[str, Any] = {}
    for name, part in parts.items():
        with refs.user_code(f"{source}: {called} fails", DataError, "; correct the function or data.args"):
            values = _values(part, name, source, say)
        keys |= {f"{letter}_{name}": value for letter, value in zip("xyw", values, strict=False)}
    return from_mapping(keys, source)


def _parts(returned: Any, source: str) -> dict[str, Any]:
    """Pairs and streams by the name of their part.

    Raises:
        DataError: ``returned`` is neither one of them nor several, or two of them are one part.
    """
    if isinstance(returned, Mapping):
        parts = {_NAMED[name]: part for name, part in returned.items()}
        if len(parts) == len(returned) and all(map(_is_part, parts.values())):
            return parts
    elif isinstance(returned, list | tuple) and 1 <= len(returned) <= 3 and all(map(_is_part, returned)):
        names = PARTS if len(returned) == 3 else ("train", "test")
        return dict(zip(names, returned, strict=False))
    elif _is_pair(returned) or stream.is_stream(returned):
        return {"train": returned}
    raise DataError(f"{source}: returned a {type(returned).__name__}; accepted: {_FORMS}; return one of them")


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and 2 <= len(value) <= 3


def _is_part(value: Any) -> bool:
    """Whether ``value`` holds items with their targets: a stream, or a pair of arrays (with weights: three)."""
    if isinstance(value, list | tuple):
        return _is_pair(value) and all(
            hasattr(part, "shape") or isinstance(part, list | tuple | Mapping) for part in value
        )
    return stream.is_stream(value)


def _values(part: Any, name: str, source: str, say: Callable[[str], None]) -> tuple[Any, ...]:
    return stream.read(part, name, source, say) if stream.is_stream(part) else tuple(part)


def _from_splits(splits: Splits, source: str) -> Arrays:
    keys = [f"{letter}_{part}" for part in PARTS for letter in "xy"]
    arrays: dict[str, Any] = {key: as_values(getattr(splits, key), key, source) for key in keys}
    weights = {f"w_{part}": getattr(splits, f"w_{part}") for part in PARTS}
    arrays |= {key: as_array(w, key, source) for key, w in weights.items() if w is not None}
    if not len(arrays["x_val"]):
        arrays |= {"x_val": None, "y_val": None, "w_val": None}
    return Arrays(
        **arrays,
        class_names=tuple(splits.class_names) or None,
        targets=splits.targets,
        columns=splits.columns,
        vocabularies=splits.vocabularies,
    )
