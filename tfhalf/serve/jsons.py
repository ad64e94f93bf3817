"""JSON as requests and answers carry it. NaN and Infinity are no JSON; they are read and written only when allowed."""

from __future__ import annotations

import json
from typing import Any

import orjson

from tfhalf.errors import RequestError


def loads(text: bytes | memoryview, *, nan: bool = False) -> Any:
    """The value of ``text``, which is UTF-8.

    Raises:
        RequestError: 400, it is no JSON, or nested deeper than the parser goes.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if nan:
            return _loads_nan(bytes(text))
        raise RequestError(400, f"the body is no JSON: {str(error)[:150]}") from None


def _loads_nan(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body is no JSON: {str(error)[:150]}") from None


def dumps(value: Any, *, nan: bool = False) -> bytes:
    """``value`` as UTF-8; numpy arrays as lists, unless ``nan``, which takes plain values only."""
    if nan:
        return json.dumps(value, separators=(",", ":")).encode()
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
