"""TensorFlow Serving's REST dialect: model status, metadata and predict, in row and in column form."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tfhalf.errors import RequestError
from tfhalf.serve import oip, tensors
from tfhalf.serve.infer import Inference
from tfhalf.serve.job import Arrays
from tfhalf.serve.jsons import dumps, loads
from tfhalf.serve.model import Model
from tfhalf.serve.signature import Signature, Tensor
from tfhalf.serve.version import Loaded
from tfhalf.serve.web import JSON, answer, engine_of, run, send, timeout_of

SIGNATURE = "serving_default"

_DTYPES = {
    "FP16": "DT_HALF",
    "FP32": "DT_FLOAT",
    "FP64": "DT_DOUBLE",
    "BOOL": "DT_BOOL",
    "UINT8": "DT_UINT8",
    "UINT16": "DT_UINT16",
    "UINT32": "DT_UINT32",
    "UINT64": "DT_UINT64",
    "INT8": "DT_INT8",
    "INT16": "DT_INT16",
    "INT32": "DT_INT32",
    "INT64": "DT_INT64",
}


@dataclass(frozen=True)
class Predict:
    """A predict request. ``by_row``: it came as ``instances``, and its answer goes as ``predictions``."""

    by_row: bool
    rows: int
    feeds: Arrays
    encoded: dict[str, list[bytes]]


async def predict(request: Request) -> Response:
    """POST .../M[/versions/V|/labels/L]:predict"""
    engine = engine_of(request)
    limits, seconds = engine.settings.limits, timeout_of(request)

    def read(body: bytes, loaded: Loaded) -> Predict:
        return parse(loads(body, nan=limits.allow_nan), loaded.signature)

    def inference_of(parsed: Predict, loaded: Loaded) -> Inference:
        return Inference(loaded, None, parsed.rows, parsed.feeds, engine.deadline(seconds), parsed.encoded)

    def write(parsed: Predict, outputs: Arrays, loaded: Loaded) -> Response:
        return send(request, dumps(_result(parsed, outputs, nan=limits.allow_nan), nan=limits.allow_nan), JSON, {})

    return await run(request, read, inference_of, write)


def parse(message: Any, signature: Signature) -> Predict:
    """Read the body of a predict request.

    Raises:
        RequestError: 400, it is not what the dialect or the model asks for.
    """
    if not isinstance(message, dict):
        raise RequestError(400, "the request is no JSON object")
    name = message.get("signature_name", SIGNATURE)
    if name not in (SIGNATURE, ""):
        raise RequestError(400, f"signature_name is {str(name)[:100]!r}; the model has {SIGNATURE}")
    if ("instances" in message) == ("inputs" in message):
        raise RequestError(400, "give instances (row form) or inputs (column form), one of them")
    if "instances" in message:
        columns, count = _columns(message["instances"], signature)
        return _predict(True, columns, signature, count)
    given = message["inputs"]
    named = isinstance(given, dict) and "b64" not in given
    if not named and len(signature.inputs) > 1:
        raise RequestError(400, f"inputs must name each of {', '.join(signature.inputs)}")
    return _predict(False, given if named else {next(iter(signature.inputs)): given}, signature, None)


def _columns(instances: Any, signature: Signature) -> tuple[dict[str, list[Any]], int]:
    if not isinstance(instances, list) or not instances:
        raise RequestError(400, "instances is no list, or empty")
    if isinstance(instances[0], dict) and "b64" not in instances[0]:
        names = set(instances[0])
        if not all(isinstance(row, dict) and set(row) == names for row in instances):
            raise RequestError(400, "instances differ in the inputs that they name")
        return {name: [row[name] for row in instances] for name in names}, len(instances)
    if len(signature.inputs) > 1:
        raise RequestError(400, f"each instance must name {', '.join(signature.inputs)}")
    return {next(iter(signature.inputs)): instances}, len(instances)


def _predict(by_row: bool, columns: Mapping[str, Any], signature: Signature, count: int | None) -> Predict:
    feeds: Arrays = {}
    encoded: dict[str, list[bytes]] = {}
    rows = count or 0
    for name, data in columns.items():
        tensor = oip.input_tensor(name, signature, feeds, encoded)
        found = _images(data, tensor)
        if found is not None:
            encoded[tensor.name] = found
            size = len(found)
        else:
            feeds[tensor.name] = _values(data, tensor)
            size = len(feeds[tensor.name])
        if rows not in (0, size):
            raise RequestError(400, f"input {name!r} has a batch of {size}, another one {rows}; they must agree")
        rows = size
    missing = [name for name in signature.inputs if name not in feeds and name not in encoded]
    if missing:
        raise RequestError(400, f"input {missing[0]!r} is missing; the model takes {', '.join(signature.inputs)}")
    return Predict(by_row, rows, feeds, encoded)


def _images(data: Any, tensor: Tensor) -> list[bytes] | None:
    """The images of ``{"b64": ...}`` values; None where ``data`` is numbers."""
    values = data if isinstance(data, list) else [data]
    if not values or not isinstance(values[0], dict):
        return None
    if tensor.image is None:
        raise RequestError(400, f"input {tensor.name!r} is no image, so it takes no b64")
    found = []
    for value in values:
        text = value.get("b64") if isinstance(value, dict) and len(value) == 1 else None
        if not isinstance(text, str):
            raise RequestError(400, f'input {tensor.name!r}: encoded images are {{"b64": "..."}}, each of them')
        try:
            found.append(base64.b64decode(text, validate=True))
        except ValueError:
            raise RequestError(400, f"input {tensor.name!r}: b64 is no base64") from None
    return found


def _values(data: Any, tensor: Tensor) -> np.ndarray:
    if not isinstance(data, list):
        raise RequestError(400, f"input {tensor.name!r} is no list of values")
    values = tensors.array_of(data, tensor.name)
    tensor.check_shape(values.shape)
    return tensors.cast(values, tensor.dtype, tensor)


def _result(parsed: Predict, outputs: Arrays, *, nan: bool) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name, values in outputs.items():
        tensors_ = values.astype(np.float32) if values.dtype == np.float16 else np.ascontiguousarray(values)
        oip.check_finite(tensors_, name, nan=nan)
        plain[name] = tensors_.tolist() if nan or parsed.by_row else tensors_
    if parsed.by_row:
        if len(plain) == 1:
            return {"predictions": next(iter(plain.values()))}
        return {"predictions": [{name: column[k] for name, column in plain.items()} for k in range(parsed.rows)]}
    return {"outputs": next(iter(plain.values())) if len(plain) == 1 else plain}


async def other(request: Request) -> Response:
    """POST ...:classify and :regress"""
    verb = request.path_params["verb"]
    raise RequestError(
        400, f"{verb[:20]!r} is for signatures of tf.Example; the models here have {SIGNATURE}: use :predict"
    )


async def status(request: Request) -> Response:
    """GET /v1/models/M[/versions/V|/labels/L]"""
    model = engine_of(request).repository.model(request.path_params["name"])
    version = request.path_params.get("version")
    rows = [_state(model, number) for number in sorted({*model.loaded, *model.failures}, reverse=True)]
    if version is not None:
        chosen = str(model.labelled(version).version) if not version.isdigit() else str(int(version[:20]))
        rows = [row for row in rows if row["version"] == chosen]
        if not rows:
            raise RequestError(404, f"model {model.name!r} has no version {version[:20]}")
    return answer(request, {"model_version_status": rows})


def _state(model: Model, number: int) -> dict[str, Any]:
    failure = model.failures.get(number)
    if failure is None:
        state, code, message = "AVAILABLE", "OK", ""
    else:
        state, code, message = "END", "FAILED_PRECONDITION", failure.message
    return {"version": str(number), "state": state, "status": {"error_code": code, "error_message": message}}


async def metadata(request: Request) -> Response:
    """GET .../metadata"""
    path = request.path_params
    loaded = engine_of(request).repository.model(path["name"]).choose(path.get("version"))
    signature = {
        "inputs": {t.name: _info(t, f"{SIGNATURE}_{t.name}:0") for t in loaded.signature.inputs.values()},
        "outputs": {
            t.name: _info(t, f"StatefulPartitionedCall:{place}")
            for place, t in enumerate(loaded.signature.outputs.values())
        },
        "method_name": "tensorflow/serving/predict",
    }
    spec = {"name": loaded.model, "signature_name": "", "version": str(loaded.version)}
    return answer(
        request,
        {"model_spec": spec, "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}}},
    )


def _info(tensor: Tensor, name: str) -> dict[str, Any]:
    dims = [{"size": str(size), "name": ""} for size in tensor.open_shape]
    return {
        "dtype": _DTYPES[tensor.datatype],
        "tensor_shape": {"dim": dims, "unknown_rank": False},
        "name": name,
    }


def routes() -> list[Route]:
    """All of them."""
    found = []
    for prefix in ("/v1/models/{name}", "/v1/models/{name}/versions/{version}", "/v1/models/{name}/labels/{version}"):
        found += [
            Route(f"{prefix}:predict", predict, methods=["POST"]),
            Route(f"{prefix}:{{verb}}", other, methods=["POST"]),
            Route(f"{prefix}/metadata", metadata, methods=["GET"]),
            Route(prefix, status, methods=["GET"]),
        ]
    return found
