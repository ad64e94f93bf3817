"""Requests of the Open Inference Protocol, with the binary tensor data extension."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tfhalf.errors import RequestError
from tfhalf.serve.batching.request import Arrays
from tfhalf.serve.protocols import tensors
from tfhalf.serve.protocols.json_codec import loads
from tfhalf.serve.settings import Limits
from tfhalf.serve.signature import BYTES, DATATYPES, Recent, Signature, Tensor, called

_SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")
_KEPT = 1 << 10  # bytes of a JSON head that is kept


@dataclass(frozen=True)
class RequestedOutput:
    """A requested output. ``classes``: its so many largest values with their labels instead. ``datatype``: what its
    values are to be sent as; None is the model's. ``alias``: what the request calls it; empty: its ``name``."""

    name: str
    binary: bool
    classes: int = 0
    datatype: str | None = None
    alias: str = ""


@dataclass
class Parsed:
    """A request's content. ``timeout`` in seconds. ``heads`` are those of answers to requests like it, if kept."""

    id: str | None
    rows: int
    feeds: Arrays
    encoded: dict[str, list[bytes]]
    requested: tuple[RequestedOutput, ...]
    timeout: float | None
    binary: bool
    heads: Recent | None = None


class _Input(NamedTuple):
    """An input as the JSON says it: ``data``, or so many bytes behind the JSON."""

    tensor: Tensor
    shape: tuple[int, ...]
    datatype: str
    size: Any
    data: Any


class _Head(NamedTuple):
    """The JSON of a request."""

    id: str | None
    rows: int
    inputs: tuple[_Input, ...]
    requested: tuple[RequestedOutput, ...]
    timeout: float | None
    binary: bool
    answers: Recent | None


def parse(body: bytes, header_length: str | None, signature: Signature, limits: Limits) -> Parsed:
    """Read an inference request.

    Args:
        header_length: the value of ``Inference-Header-Content-Length``; None where ``body`` is JSON alone.

    Raises:
        RequestError: 400, it is not what the protocol or the model asks for.
    """
    size = _header_size(header_length, len(body))
    view = memoryview(body)
    text = bytes(view[:size]) if header_length is not None and size <= _KEPT else None
    head: _Head | None = signature.heads.get(text) if text is not None else None
    if head is None:
        head = _head(loads(view[:size], nan=limits.allow_nan), signature, keep=text is not None)
        if text is not None and head.answers is not None:
            signature.heads.keep(text, head)
    raw = _Raw(view[size:])
    feeds: Arrays = {}
    encoded: dict[str, list[bytes]] = {}
    for row in head.inputs:
        if row.datatype == BYTES:
            encoded[row.tensor.name] = _encoded(row, raw)
        else:
            feeds[row.tensor.name] = _numbers(row, raw)
    raw.check_end()
    return Parsed(head.id, head.rows, feeds, encoded, head.requested, head.timeout, head.binary, head.answers)


def _head(message: Any, signature: Signature, *, keep: bool) -> _Head:
    """All of a request but its values; ``answers`` where it may be kept, since other requests may say the same."""
    if not isinstance(message, dict):
        raise RequestError(400, "the request is not a JSON object")
    parameters = _parameters(message)
    listed = message.get("inputs")
    if not isinstance(listed, list) or not all(isinstance(row, dict) for row in listed):
        raise RequestError(400, "inputs is missing, or no list of objects")
    inputs: dict[str, _Input] = {}
    rows = 0
    for row in listed:
        one = _input(row, signature, inputs)
        count = math.prod(one.shape) if one.datatype == BYTES else one.shape[0]
        if rows not in (0, count):
            raise RequestError(
                400, f"input {one.tensor.name!r} has a batch of {count}, another one {rows}; they must agree"
            )
        rows, inputs[one.tensor.name] = count, one
    missing = [name for name in signature.inputs if name not in inputs]
    if missing:
        raise RequestError(400, f"input {missing[0]!r} is missing; the model takes {', '.join(signature.inputs)}")
    identity = message.get("id")
    if identity is not None and not isinstance(identity, str):
        raise RequestError(400, f"id is {str(identity)[:50]}; accepted: text")
    binary = parameters.get("binary_data_output") is True
    requested = _outputs(message.get("outputs"), signature, binary)
    answers = Recent() if keep and identity is None and all(one.data is None for one in inputs.values()) else None
    return _Head(identity, rows, tuple(inputs.values()), requested, timeout_of(parameters), binary, answers)


def timeout_of(parameters: Mapping[str, Any]) -> float | None:
    """Seconds of the request parameter ``timeout``, which counts microseconds; None where it is missing or 0.

    Raises:
        RequestError: 400, it is not a whole number, or the request is one of a sequence.
    """
    if any(parameters.get(key) for key in _SEQUENCE):
        raise RequestError(400, "sequence_id is set; the models here keep no state between requests")
    timeout = parameters.get("timeout")
    if timeout is None or timeout == 0:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int) or timeout < 0:
        raise RequestError(400, f"parameter timeout is {str(timeout)[:50]}; accepted: microseconds, a whole number")
    return timeout / 1e6


class _Raw:
    """The bytes after the JSON, taken in the order of the inputs."""

    def __init__(self, view: memoryview) -> None:
        self._view, self._at = view, 0

    def take(self, size: Any, name: str) -> memoryview:
        if type(size) is not int or size < 0 or size > len(self._view) - self._at:
            left = len(self._view) - self._at
            raise RequestError(400, f"input {name!r}: binary_data_size is {str(size)[:50]}; {left:,} bytes are left")
        self._at += size
        return self._view[self._at - size : self._at]

    def check_end(self) -> None:
        if self._at != len(self._view):
            raise RequestError(400, f"{len(self._view) - self._at:,} bytes after the last input's binary data")


def _header_size(header: str | None, total: int) -> int:
    if header is None:
        return total
    if not (header.isascii() and header.isdigit() and len(header) < 12 and int(header) <= total):
        raise RequestError(400, f"Inference-Header-Content-Length is {header[:30]!r}; the body has {total:,} bytes")
    return int(header)


def _parameters(row: Mapping[str, Any]) -> dict[str, Any]:
    parameters = row.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise RequestError(400, "parameters is not a JSON object")
    return parameters


def input_tensor(name: Any, signature: Signature, *taken: Mapping[str, Any]) -> Tensor:
    """The model's input of that name.

    Raises:
        RequestError: 400, there is none, or the request gives it twice.
    """
    tensor = called(signature.inputs, name)
    if tensor is None:
        raise RequestError(400, f"there is no input {str(name)[:100]!r}; the model takes {', '.join(signature.inputs)}")
    if any(tensor.name in arrays for arrays in taken):
        raise RequestError(400, f"input {tensor.name!r} is given twice")
    return tensor


def _input(row: dict[str, Any], signature: Signature, taken: Mapping[str, _Input]) -> _Input:
    tensor = input_tensor(row.get("name"), signature, taken)
    shape = tensors.check_shape(row.get("shape"), tensor.name)
    datatype = row.get("datatype")
    if not isinstance(datatype, str):
        raise RequestError(400, f"input {tensor.name!r}: datatype is missing, or no text")
    size = _parameters(row).get("binary_data_size")
    if (size is None) == ("data" not in row):
        raise RequestError(400, f"input {tensor.name!r}: give data or the parameter binary_data_size, one of them")
    if datatype == BYTES:
        check_encoded(shape, tensor)
    else:
        tensor.check_shape(shape)
    return _Input(tensor, shape, datatype, size, row.get("data"))


def _numbers(row: _Input, raw: _Raw) -> np.ndarray:
    if row.size is not None:
        return tensors.from_bytes(raw.take(row.size, row.tensor.name), row.shape, row.datatype, row.tensor)
    return tensors.from_json(row.data, row.shape, row.datatype, row.tensor)


def _encoded(row: _Input, raw: _Raw) -> list[bytes]:
    count, name = math.prod(row.shape), row.tensor.name
    if row.size is not None:
        return tensors.split_bytes(raw.take(row.size, name), count, name)
    return _encoded_json(row.data, count, row.tensor)


def check_encoded(shape: Sequence[int], tensor: Tensor) -> None:
    """BYTES are encoded images or texts, one for each row.

    Raises:
        RequestError: 400, the model takes none, or they are not one a row; 413, there are too many.
    """
    if tensor.image is None and not tensor.words:
        raise RequestError(400, f"input {tensor.name!r} is not an image; accepted: {tensor.datatype}")
    if math.prod(shape) != shape[0] or not shape[0]:
        what = "a text" if tensor.words else "an image"
        raise RequestError(400, f"input {tensor.name!r}: BYTES of shape {list(shape)}; accepted: [N], {what} each")
    tensor.check_encoded(shape[0])


def _encoded_json(data: Any, count: int, tensor: Tensor) -> list[bytes]:
    import base64

    name = tensor.name
    values = [row[0] if isinstance(row, list) and len(row) == 1 else row for row in data] if type(data) is list else []
    if tensor.words:
        return texts_of(values, count, tensor)
    if len(values) != count or not all(isinstance(value, str) for value in values):
        raise RequestError(400, f"input {name!r}: BYTES in JSON are {count} texts, images in base64")
    try:
        return [base64.b64decode(value, validate=True) for value in values]
    except ValueError:
        raise RequestError(400, f"input {name!r}: BYTES in JSON are images in base64, which this is not") from None


def texts_of(values: Sequence[Any], count: int, tensor: Tensor) -> list[bytes]:
    """Texts out of JSON as UTF-8.

    Raises:
        RequestError: 400, they are none, or another number; or one holds half of a character.
    """
    if len(values) != count or not all(isinstance(value, str) for value in values):
        raise RequestError(400, f"input {tensor.name!r}: data holds other things than {count} texts, one a row")
    try:
        return [value.encode("utf-8") for value in values]
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise RequestError(400, f"input {tensor.name!r}: a text holds {half!r}, half of a character") from None


def _outputs(listed: Any, signature: Signature, binary: bool) -> tuple[RequestedOutput, ...]:
    if listed is None or listed == []:
        return tuple(RequestedOutput(name, binary) for name in signature.outputs)
    if not isinstance(listed, list) or not all(isinstance(row, dict) for row in listed):
        raise RequestError(400, "outputs is not a list of objects")
    requested = []
    for row in listed:
        parameters = _parameters(row)
        choice = parameters.get("binary_data", binary)
        requested.append(requested_output(row.get("name"), parameters, signature, choice is True))
    if len({output.name for output in requested}) != len(requested):
        raise RequestError(400, "outputs names one output twice")
    return tuple(requested)


def requested_output(name: Any, parameters: Mapping[str, Any], signature: Signature, binary: bool) -> RequestedOutput:
    """A requested output with its parameters ``classification`` and ``datatype``.

    Raises:
        RequestError: 400, there is no such output, or a parameter is unknown.
    """
    tensor = called(signature.outputs, name)
    if tensor is None:
        raise RequestError(
            400, f"there is no output {str(name)[:100]!r}; the model gives {', '.join(signature.outputs)}"
        )
    classes = parameters.get("classification", 0)
    if type(classes) is not int or classes < 0:
        raise RequestError(400, f"output {name!r}: classification is {str(classes)[:50]}; accepted: a whole number")
    datatype = parameters.get("datatype")
    if datatype is not None and (datatype not in DATATYPES or DATATYPES[datatype].kind != "f"):
        raise RequestError(400, f"output {name!r}: datatype is {str(datatype)[:50]!r}; accepted: FP16, FP32, FP64")
    return RequestedOutput(tensor.name, binary, classes, datatype, name)
