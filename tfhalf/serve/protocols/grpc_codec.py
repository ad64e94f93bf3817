"""An inference between gRPC's messages and what is computed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from tfhalf.errors import RequestError
from tfhalf.serve.batching.request import Arrays
from tfhalf.serve.models.version import Loaded
from tfhalf.serve.protocols import oip, oip_answer, tensors
from tfhalf.serve.protocols.grpc_messages import message
from tfhalf.serve.signature import BYTES, Signature

Response = message("ModelInferResponse")

_HEAD = (1, 2, 3)  # fields
_TEXT = 2  # the wire type
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}


def parse_whole(raw: bytes, signature: Signature, model: str, version: str) -> oip.Parsed:
    """Read a ``ModelInferRequest`` from its bytes, whose `head` says ``model`` and ``version``.

    Raises:
        RequestError: 400, as `parse`; or the bytes are none, or say something else further on.
    """
    try:
        request = message("ModelInferRequest").FromString(bytes(raw))
    except DecodeError:
        raise RequestError(400, f"these {len(raw):,} bytes are not a ModelInferRequest") from None
    if (request.model_name, request.model_version) != (model, version):
        raise RequestError(400, "model_name and model_version come first in a large request, once each")
    return parse(request, signature)


def head(raw: bytes) -> tuple[str, str, str]:
    """``model_name``, ``model_version`` and ``id`` of a ``ModelInferRequest``, as far as it begins with them: every
    library writes fields in their order.

    Raises:
        RequestError: 400, one of them is not text.
    """
    fields: dict[int, str] = {}
    at = 0
    while at < len(raw) and raw[at] & 7 == _TEXT and (field := raw[at] >> 3) in _HEAD and field not in fields:
        size = shift = 0
        at += 1
        while at < len(raw) and shift < 35:
            size |= (raw[at] & 127) << shift
            shift += 7
            at += 1
            if raw[at - 1] < 128:
                break
        try:
            fields[field] = raw[at : at + size].decode()
        except UnicodeDecodeError:
            raise RequestError(400, "model_name, model_version and id are texts, which this is not") from None
        at += size
    name, version, identity = (fields.get(field, "") for field in _HEAD)
    return name, version, identity


def parse(request: Any, signature: Signature) -> oip.Parsed:
    """Read a ``ModelInferRequest``.

    Raises:
        RequestError: 400, it is not what the protocol or the model asks for.
    """
    raws = request.raw_input_contents
    if raws and len(raws) != len(request.inputs):
        raise RequestError(400, f"raw_input_contents has {len(raws)} items for {len(request.inputs)} inputs")
    feeds: Arrays = {}
    encoded: dict[str, list[bytes]] = {}
    rows = 0
    for index, row in enumerate(request.inputs):
        tensor = oip.input_tensor(row.name, signature, feeds, encoded)
        shape = tensors.check_shape(list(row.shape), tensor.name)
        if row.datatype == BYTES:
            oip.check_encoded(shape, tensor)
            if raws:
                encoded[tensor.name] = tensors.split_bytes(memoryview(raws[index]), math.prod(shape), tensor.name)
            else:
                encoded[tensor.name] = list(row.contents.bytes_contents)
            if len(encoded[tensor.name]) != math.prod(shape):
                raise RequestError(400, f"input {tensor.name!r}: BYTES and shape {list(shape)} differ in number")
        else:
            tensor.check_shape(shape)
            if raws:
                feeds[tensor.name] = tensors.from_bytes(memoryview(raws[index]), shape, row.datatype, tensor)
            else:
                feeds[tensor.name] = _typed(row, shape, tensor)
        if rows not in (0, shape[0]):
            raise RequestError(400, f"input {tensor.name!r} has a batch of {shape[0]}, another one {rows}")
        rows = shape[0]
    missing = [name for name in signature.inputs if name not in feeds and name not in encoded]
    if missing:
        raise RequestError(400, f"input {missing[0]!r} is missing; the model takes {', '.join(signature.inputs)}")
    parameters = {name: _value(parameter) for name, parameter in request.parameters.items()}
    outputs = [
        oip.requested_output(row.name, {k: _value(v) for k, v in row.parameters.items()}, signature, True)
        for row in request.outputs
    ]
    if len({output.name for output in outputs}) != len(outputs):
        raise RequestError(400, "outputs names one output twice")
    requested = tuple(outputs or (oip.RequestedOutput(name, True) for name in signature.outputs))
    return oip.Parsed(request.id or None, rows, feeds, encoded, requested, oip.timeout_of(parameters), True)


def _typed(row: Any, shape: tuple[int, ...], tensor: Any) -> np.ndarray:
    field = _CONTENTS.get(row.datatype)
    if field is None:
        raise RequestError(400, f"input {tensor.name!r}: {row.datatype[:30]!r} comes in raw_input_contents alone")
    values = np.array(getattr(row.contents, field))
    if len(values) != math.prod(shape):
        raise RequestError(400, f"input {tensor.name!r}: {field} has {len(values)} values; shape {list(shape)}")
    return tensors.cast(values.reshape(shape), tensors.dtype_of(row.datatype, tensor), tensor)


def _value(parameter: Any) -> Any:
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None


def respond(parsed: oip.Parsed, outputs: Arrays, loaded: Loaded) -> Any:
    """The ``ModelInferResponse``, with raw contents."""
    response = Response(model_name=loaded.model, model_version=str(loaded.version), id=parsed.id or "")
    for output in parsed.requested:
        sent = oip_answer.sent(output, outputs, loaded)
        response.outputs.add(name=sent.name, datatype=sent.datatype, shape=sent.shape)
        response.raw_output_contents.append(sent.raw())
    return response
