"""What a server and the processes that read for it say to each other: values as JSON, with arrays and bytes beside it.

Nothing is unpickled: what can be said is plain values, bytes, numpy arrays and dtypes, and the dataclasses in `TYPES`.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import orjson

from tfhalf.serve.http.forms import Files
from tfhalf.serve.protocols.oip import Parsed, RequestedOutput
from tfhalf.serve.protocols.tfserving_codec import Predict
from tfhalf.serve.settings import Limits
from tfhalf.serve.signature import Recent, Signature, Tensor

TYPES: dict[str, Callable[..., Any]] = {
    kind.__name__: kind for kind in (Files, Limits, Parsed, Predict, Signature, Tensor, RequestedOutput)
}
_SIZE = struct.Struct("<Q")
_SMALL = 1 << 16  # bytes that are joined to be sent at once


def send(connection: socket.socket, value: Any) -> None:
    """Send one value.

    Raises:
        OSError: the other side has ended, or takes nothing within the connection's timeout.
    """
    blobs: list[memoryview] = []
    content = _plain(value, blobs)
    head = orjson.dumps([content, [blob.nbytes for blob in blobs]])
    waiting = bytearray(_SIZE.pack(len(head)) + head)
    for blob in blobs:
        if len(waiting) + blob.nbytes > _SMALL:
            connection.sendall(waiting)
            waiting = bytearray()
        if blob.nbytes > _SMALL:
            connection.sendall(blob)
        else:
            waiting += blob
    connection.sendall(waiting)


def receive(connection: socket.socket) -> Any:
    """The next value. Bytes come as memoryviews.

    Raises:
        EOFError: the other side has ended.
        OSError: nothing comes within the connection's timeout.
    """
    (size,) = _SIZE.unpack(_exactly(connection, _SIZE.size))
    content, sizes = orjson.loads(_exactly(connection, size))
    return _value(content, [_exactly(connection, size) for size in sizes])


def _exactly(connection: socket.socket, size: int) -> memoryview:
    held = memoryview(np.empty(size, np.uint8))  # type: ignore[arg-type]  # a bytearray would be filled with zeros first
    at = 0
    while at < size:
        count = connection.recv_into(held[at:])
        if not count:
            raise EOFError
        at += count
    return held


def _plain(value: Any, blobs: list[memoryview]) -> Any:
    """``value`` as JSON: a list is of a tag and what belongs to it, anything else is itself."""
    if isinstance(value, bytes | bytearray | memoryview):
        blobs.append(memoryview(value))
        return ["bytes", len(blobs) - 1]
    if isinstance(value, np.ndarray):
        flat = np.ascontiguousarray(value).reshape(-1)
        blobs.append(memoryview(flat.view(np.uint8)))  # type: ignore[arg-type]
        return ["array", value.dtype.str, value.shape, len(blobs) - 1]
    if isinstance(value, np.dtype):
        return ["dtype", value.str]
    if isinstance(value, list | tuple):
        return [type(value).__name__, [_plain(item, blobs) for item in value]]
    if isinstance(value, Recent):
        return None
    if isinstance(value, dict):
        return {key: _plain(item, blobs) for key, item in value.items()}
    if is_dataclass(value):
        named = {field.name: _plain(getattr(value, field.name), blobs) for field in fields(value) if field.init}
        return [type(value).__name__, named]
    return value


def _value(content: Any, blobs: Sequence[memoryview]) -> Any:
    if isinstance(content, dict):
        return {key: _value(item, blobs) for key, item in content.items()}
    if not isinstance(content, list):
        return content
    tag, *rest = content
    if tag == "bytes":
        return blobs[rest[0]]
    if tag == "array":
        return np.frombuffer(blobs[rest[2]], rest[0]).reshape(rest[1])
    if tag == "dtype":
        return np.dtype(rest[0])
    if tag in ("list", "tuple"):
        items = [_value(item, blobs) for item in rest[0]]
        return items if tag == "list" else tuple(items)
    return TYPES[tag](**_value(rest[0], blobs))
