"""Tensors as requests carry them: JSON numbers, raw bytes, or encoded images; and as answers carry them back."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from tfhalf.errors import RequestError
from tfhalf.serve.signature import BYTES, DATATYPES, Tensor

_MAX_RANK = 16
_PACKED = 1 << 15  # values that are made into an array at a time
_KINDS = {"b": "true and false", "i": "whole numbers", "u": "whole numbers", "f": "numbers"}


def check_shape(shape: Any, name: str) -> tuple[int, ...]:
    """A shape out of JSON as it must be.

    Raises:
        RequestError: 400, it is not a list of whole numbers above 0 that fits memory.
    """
    fits = isinstance(shape, list) and 0 < len(shape) <= _MAX_RANK
    if not fits or not all(type(size) is int and 0 <= size < 2**31 for size in shape) or math.prod(shape) >= 2**40:
        raise RequestError(400, f"input {name!r} has shape {str(shape)[:100]}; accepted: a list of sizes, batch first")
    return tuple(shape)


def from_json(data: Any, shape: tuple[int, ...], datatype: str, tensor: Tensor) -> np.ndarray:
    """``data``, flat or nested, as the model's dtype and ``shape``.

    Raises:
        RequestError: 400, ragged, too many or too few values, values that are not numbers or do not fit the datatype.
    """
    dtype = dtype_of(datatype, tensor)
    count = math.prod(shape)
    if not isinstance(data, list):
        raise RequestError(400, f"input {tensor.name!r}: data is {_kind(data)}; accepted: a list of {count} values")
    if len(data) not in (count, shape[0]):
        raise RequestError(
            400, f"input {tensor.name!r}: data has {len(data)} items; its shape {list(shape)} has {count}"
        )
    values = array_of(data, tensor.name, dtype)
    if values.shape not in ((count,), shape):
        raise RequestError(
            400, f"input {tensor.name!r}: data has shape {list(values.shape)}, not {list(shape)} or flat"
        )
    return cast(values.reshape(shape), dtype, tensor)


def array_of(data: Any, name: str, dtype: np.dtype[Any]) -> np.ndarray:
    """Nested lists of numbers as an array: float64 where the request's ``dtype`` is one of floats, else what numpy
    makes of them.

    Raises:
        RequestError: 400, ragged lists or other things than numbers.
    """
    values = _floats(data) if dtype.kind == "f" else None
    if values is not None:
        return values
    try:
        values = _array(data)
    except (ValueError, OverflowError, RecursionError):
        raise RequestError(400, f"input {name!r}: data is ragged; every list of one depth must be as long") from None
    if values is None or values.dtype.kind not in _KINDS or values.size == 0:
        raise RequestError(400, f"input {name!r}: data holds other things than numbers")
    return values


def _floats(data: Any) -> np.ndarray | None:
    """Numbers as float64, at a quarter of the time that numpy takes; None for what `_array` has to look at."""
    shape, level = [len(data)], data
    try:
        while level and type(level[0]) is list:
            width = len(level[0])
            if set(map(len, level)) != {width}:
                return None
            shape.append(width)
            level = list(chain.from_iterable(level))
        if not level or type(level[0]) is bool:
            return None
        values = np.empty(len(level))
        for at in range(0, len(level), _PACKED):
            part = level[at : at + _PACKED]
            struct.pack_into(f"{len(part)}d", values.data, 8 * at, *part)
        return values.reshape(shape)
    except (TypeError, ValueError, OverflowError, struct.error):
        return None


def _array(data: Any) -> np.ndarray | None:
    """None for other things than numbers; a ValueError for ragged lists."""
    # numpy would make texts of all values, each as wide in memory as the longest.
    level: Any = data if isinstance(data, list) else [data]
    while (kinds := set(map(type, level))) == {list}:
        level = list(chain.from_iterable(level))
    if list in kinds:
        raise ValueError("ragged")
    return np.array(data) if kinds <= {int, float, bool} else None


def cast(values: np.ndarray, dtype: np.dtype[Any], tensor: Tensor) -> np.ndarray:
    """JSON's ``values`` as ``dtype`` (what the request says), and then as the model's.

    Raises:
        RequestError: 400, a fraction or a value out of range for an integer, or true and false mixed up with numbers.
    """
    kind = values.dtype.kind
    if (dtype.kind == "b") != (kind == "b") or (dtype.kind in "iu" and kind == "f"):
        raise RequestError(400, f"input {tensor.name!r}: data holds {_KINDS[kind]}; {dtype} takes {_KINDS[dtype.kind]}")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if int(values.min()) < limits.min or int(values.max()) > limits.max:
            raise RequestError(
                400, f"input {tensor.name!r}: a value is outside of {dtype} ({limits.min} to {limits.max})"
            )
    with np.errstate(over="ignore"):
        narrow = values.astype(dtype)
    if dtype.kind == "f" and not np.isfinite(narrow).all() and np.isfinite(values).all():
        raise RequestError(400, f"input {tensor.name!r}: a value is too large for {dtype}")
    return convert(narrow, tensor)


def from_bytes(raw: memoryview, shape: tuple[int, ...], datatype: str, tensor: Tensor) -> np.ndarray:
    """Little-endian values in C order as the model's dtype; a view of ``raw`` where that is what the model takes.

    Raises:
        RequestError: 400, another number of bytes than shape and datatype ask for.
    """
    dtype = dtype_of(datatype, tensor)
    needed = math.prod(shape) * dtype.itemsize
    if len(raw) != needed:
        raise RequestError(
            400, f"input {tensor.name!r} has {len(raw):,} bytes; {datatype} of shape {list(shape)} is {needed:,}"
        )
    values = np.frombuffer(raw, dtype.newbyteorder("<")).reshape(shape)
    if dtype.kind == "b" and values.view(np.uint8).max(initial=0) > 1:
        raise RequestError(400, f"input {tensor.name!r}: a BOOL is 0 or 1")
    return convert(values if values.flags.aligned else values.copy(), tensor)


def convert(values: np.ndarray, tensor: Tensor) -> np.ndarray:
    """``values`` of a request's dtype as the model's: numbers to floats, and whole numbers to wider ones.

    Raises:
        RequestError: 400, that would lose what they say.
    """
    have, want = values.dtype, tensor.dtype
    if have == want:
        return values
    if want.kind == "f" and have.kind in "fiu":
        with np.errstate(over="ignore"):
            return values.astype(want)
    if np.can_cast(have, want, "safe") and have.kind != "b":
        return values.astype(want)
    raise RequestError(400, f"input {tensor.name!r} is {have}; accepted: {tensor.datatype}, or what fits into it")


def split_bytes(raw: memoryview, count: int, name: str) -> list[bytes]:
    """Elements of a BYTES tensor: each four bytes of length, little-endian, and then so many bytes.

    Raises:
        RequestError: 400, they do not come out even.
    """
    items: list[bytes] = []
    at = 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "little")
        stop = at + 4 + size
        if at + 4 > len(raw) or stop > len(raw) or len(items) == count:
            raise RequestError(400, f"input {name!r}: the lengths of its BYTES do not fit its {len(raw):,} bytes")
        items.append(bytes(raw[at + 4 : stop]))
        at = stop
    if len(items) != count:
        raise RequestError(400, f"input {name!r} holds {len(items)} BYTES; its shape asks for {count}")
    return items


def join_bytes(values: list[bytes]) -> bytes:
    """The inverse of `split_bytes`."""
    return b"".join(len(value).to_bytes(4, "little") + value for value in values)


def to_bytes(values: np.ndarray) -> bytes:
    """Little-endian, C order."""
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()


def classes(values: np.ndarray, count: int, labels: Sequence[str]) -> list[list[bytes]]:
    """Triton's classification: for each row its ``count`` largest as ``value:index`` or ``value:index:label``."""
    flat = values.reshape(len(values), -1)
    count = min(count, flat.shape[1])
    rows = []
    for row in flat:
        best = np.argsort(-row, kind="stable")[:count]
        rows.append([f"{row[k]:f}:{k}{f':{labels[k]}' if k < len(labels) else ''}".encode() for k in best])
    return rows


def dtype_of(datatype: str, tensor: Tensor) -> np.dtype[Any]:
    """The dtype that a request names.

    Raises:
        RequestError: 400, there is no such one.
    """
    dtype = DATATYPES.get(datatype)
    if dtype is None:
        known = ", ".join(DATATYPES) + _encoded(tensor)
        raise RequestError(400, f"input {tensor.name!r} has datatype {datatype[:30]!r}; accepted: {known}")
    return dtype


def _encoded(tensor: Tensor) -> str:
    return f", and {BYTES} for texts" if tensor.words else f", and {BYTES} for encoded images" if tensor.image else ""


def _kind(value: Any) -> str:
    names = {dict: "an object", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")
