"""``file.py:load`` and ``package.module:load``: a function of the user's own hands over the arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfhalf.config import refs
from tfhalf.data.check import ACCEPTED, Arrays, as_array, from_mapping
from tfhalf.data.types import Splits
from tfhalf.errors import DataError


def read(source: str, base: Path, args: Mapping[str, Any]) -> Arrays:
    """Call the function with ``args`` and take its dict (keys as in an npz file) or its `Splits`.

    Raises:
        RefError: the reference leads to no callable.
        DataError: the function raises, or returns something else.
    """
    function = refs.resolve(source, base)
    called = f"{getattr(function, '__name__', 'load')}({', '.join(args)})"
    with refs.user_code(f"{source}: {called} fails", DataError, "; correct the function or data.args"):
        found = function(**args)
    if isinstance(found, Splits):
        return _from_splits(found, source)
    if not isinstance(found, Mapping):
        what = f"returned a {type(found).__name__}; accepted: Splits or a dict of {ACCEPTED}"
        raise DataError(f"{source}: {what}; {_as_a_dict(found)}")
    return from_mapping(found, source)


def _as_a_dict(found: Any) -> str:
    """How to make a dict of what people return."""
    if hasattr(found, "as_numpy_iterator"):
        batched = ".unbatch()" if "_BatchDataset" in type(found).__name__ else ""
        return f"x, y = map(np.stack, zip(*dataset{batched}.as_numpy_iterator())) makes arrays of a tf.data.Dataset"
    pairs = isinstance(found, list | tuple) and all(isinstance(part, list | tuple) and len(part) == 2 for part in found)
    if pairs and len(found) == 2:
        return "of ((x, y), (x_test, y_test)): dict(x_train=x, y_train=y, x_test=x_test, y_test=y_test)"
    if isinstance(found, list | tuple) and len(found) == 2:
        return "of (x, y): dict(x=x, y=y)"
    return "return one"


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
