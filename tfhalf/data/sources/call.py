"""``file.py:load`` and ``package.module:load``: a function of the user's own hands over the arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfhalf import refs
from tfhalf.data.check import ACCEPTED, Arrays, as_array, from_mapping
from tfhalf.errors import DataError


def read(source: str, base: Path, args: Mapping[str, Any]) -> Arrays:
    """Call the function with ``args`` and take its dict (keys as in an npz file) or its `Splits`.

    Raises:
        RefError: the reference leads to no callable.
        DataError: the function raises, or returns something else.
    """
    from tfhalf.data.splits import Splits

    function = refs.resolve(source, base)
    called = f"{getattr(function, '__name__', 'load')}({', '.join(args)})"
    with refs.user_code(f"{source}: {called} fails", DataError, "; correct the function or data.args"):
        found = function(**args)
    if isinstance(found, Splits):
        return _from_splits(found, source)
    if not isinstance(found, Mapping):
        raise DataError(
            f"{source}: returned a {type(found).__name__}; accepted: Splits or a dict of {ACCEPTED}; return one"
        )
    return from_mapping(found, source)


def _from_splits(splits: Any, source: str) -> Arrays:
    keys = [f"{kind}_{part}" for part in ("train", "val", "test") for kind in ("x", "y")]
    arrays = {key: as_array(getattr(splits, key), key, source) for key in keys}
    drawn = bool(arrays["x_val"].shape and len(arrays["x_val"]))
    return Arrays(
        arrays["x_train"],
        arrays["y_train"],
        arrays["x_test"],
        arrays["y_test"],
        arrays["x_val"] if drawn else None,
        arrays["y_val"] if drawn else None,
        class_names=tuple(splits.class_names),
    )
