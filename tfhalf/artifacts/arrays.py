"""Arrays of a caller as the inputs of a version: which of them is which input, and in the dtype that it takes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from tfhalf.artifacts.ports import Port
from tfhalf.errors import DataError
from tfhalf.text import one_line, printable

_USUAL = ("x", "x_test")


def keys_of(names: Collection[str], ports: Sequence[Port]) -> dict[str, str]:
    """By the name of an input which of ``names`` stands for it: that name, or one of its aliases; of the only one also
    ``x`` or ``x_test``, or the only one of ``names``. Inputs for which there is none are left out."""
    keys = {}
    for port in ports:
        own = next((name for name in (port.name, *port.aliases) if name in names), None)
        if own is None and len(ports) == 1:
            own = next((name for name in (*_USUAL, *(names if len(names) == 1 else ())) if name in names), None)
        if own is not None:
            keys[port.name] = own
    return keys


def fitted(value: Any, port: Port, where: str) -> np.ndarray:
    """``value`` as the input ``port`` takes it, [N, ...]: numbers are cast to its dtype where that loses nothing but
    digits. ``where`` it comes from begins each error message.

    Raises:
        DataError: its shape, its dtype, or one of its numbers does not fit.
    """
    name = printable(port.name, 60)
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: {name} makes no array: {one_line(error, 120)}") from error
    check_shape(array, port, where)
    if port.dtype == "string":
        if array.dtype.kind in "USO":
            return array.astype(object)
    elif array.dtype != bool and port.dtype != "bool" and array.dtype.kind in "iuf":
        with np.errstate(over="ignore", invalid="ignore"):
            cast = array.astype(port.dtype)
            whole = cast.dtype.kind in "iu"
            holds = np.array_equal(cast, array) if whole else (np.isfinite(cast) == np.isfinite(array)).all()
        if holds:
            return cast
        raise DataError(f"{where}: {name} is {array.dtype}, and holds values that {port.dtype} does not; correct them")
    elif array.dtype == port.dtype:
        return array
    raise DataError(f"{where}: {name} is {array.dtype}; {port.dtype} is accepted; convert it")


def check_shape(array: np.ndarray, port: Port, where: str) -> None:
    """Hold the shape of ``array`` against that of ``port``.

    Raises:
        DataError: it has another rank, or another size where that is fixed.
    """
    fits = array.ndim == len(port.shape) and all(
        size in (None, got) for size, got in zip(port.shape, array.shape, strict=True)
    )
    if not fits:
        raise DataError(f"{where}: {printable(port.name, 60)} has shape {array.shape}; {port.dims()} is accepted")
