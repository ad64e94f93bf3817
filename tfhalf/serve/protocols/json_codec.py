"""JSON as requests and answers carry it. NaN and Infinity are no JSON; they are read and written only when allowed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import orjson

from tfhalf.errors import RequestError

_MANY = 1 << 15  # values


def are_large(arrays: Iterable[np.ndarray]) -> bool:
    """Whether writing them ought to be `dumps`'s ``large``."""
    return any(array.size > _MANY for array in arrays)


def loads(text: bytes | memoryview, *, nan: bool = False) -> Any:
    """The value of ``text``, which is UTF-8.

    Raises:
        RequestError: 400, it is not JSON, or is nested deeper than the parser goes.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if nan:
            return _loads_nan(bytes(text))
        raise RequestError(400, f"the body is not JSON: {str(error)[:150]}") from None


def _loads_nan(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body is not JSON: {str(error)[:150]}") from None


def dumps(value: Any, *, nan: bool = False, large: bool = False) -> bytes:
    """``value`` as UTF-8; numpy arrays as lists, unless ``nan``, which takes plain values only.

    Args:
        large: write arrays some thousand values at a time, since no other thread runs while orjson writes.
    """
    if nan:
        return json.dumps(value, separators=(",", ":")).encode()
    if not large:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    buffer = bytearray()
    _write(value, buffer)
    return bytes(buffer)


def _write(value: Any, buffer: bytearray) -> None:
    if isinstance(value, dict):
        buffer += b"{"
        for index, (key, item) in enumerate(value.items()):
            buffer += (b"," if index else b"") + orjson.dumps(key) + b":"
            _write(item, buffer)
        buffer += b"}"
    elif isinstance(value, list) or (isinstance(value, np.ndarray) and value.size > _MANY):
        rows = 1 if isinstance(value, list) else max(1, _MANY * len(value) // value.size)
        buffer += b"["
        for at in range(0, len(value), rows):
            buffer += b"," if at else b""
            if rows == 1:
                _write(value[at], buffer)
            else:
                buffer += orjson.dumps(value[at : at + rows], option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
        buffer += b"]"
    else:
        buffer += orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
