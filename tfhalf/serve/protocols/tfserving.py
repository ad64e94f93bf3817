"""TensorFlow Serving's REST dialect: model status, metadata and predict, in row and in column form."""

from __future__ import annotations

from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tfhalf.errors import RequestError
from tfhalf.serve.batching.request import Arrays
from tfhalf.serve.engine import Inference
from tfhalf.serve.http.inference import JSON, Reading, answer, engine_of, run, send, timeout_of
from tfhalf.serve.models.model import Model
from tfhalf.serve.models.version import Loaded
from tfhalf.serve.protocols import oip_answer
from tfhalf.serve.protocols.json_codec import are_large, dumps
from tfhalf.serve.protocols.tfserving_codec import SIGNATURE, Predict
from tfhalf.serve.signature import BYTES, Tensor

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
    BYTES: "DT_STRING",
}


async def predict(request: Request) -> Response:
    """POST .../M[/versions/V|/labels/L]:predict"""
    engine = engine_of(request)
    limits, seconds = engine.settings.limits, timeout_of(request)

    def inference_of(parsed: Predict, loaded: Loaded) -> Inference:
        return Inference(loaded, parsed.rows, parsed.feeds, engine.deadline(seconds), parsed.encoded)

    def write(parsed: Predict, outputs: Arrays, loaded: Loaded) -> Response:
        nan, large = limits.allow_nan, are_large(outputs.values())
        return send(request, dumps(_result(parsed, outputs, nan=nan), nan=nan, large=large), JSON, {})

    return await run(request, Reading("predict"), inference_of, write)


def _result(parsed: Predict, outputs: Arrays, *, nan: bool) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name, values in outputs.items():
        tensors_ = values.astype(np.float32) if values.dtype == np.float16 else np.ascontiguousarray(values)
        oip_answer.check_finite(tensors_, name, nan=nan)
        plain[name] = tensors_.tolist() if nan else tensors_
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
            t.name: _info(t, f"StatefulPartitionedCall:{index}")
            for index, t in enumerate(loaded.signature.outputs.values())
        },
        "method_name": "tensorflow/serving/predict",
    }
    spec = {"name": loaded.model, "signature_name": "", "version": str(loaded.version)}
    return answer(
        request,
        {"model_spec": spec, "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}}},
    )


def _info(tensor: Tensor, name: str) -> dict[str, Any]:
    datatype, shape = tensor.described
    dims = [{"size": str(size), "name": ""} for size in shape]
    return {
        "dtype": _DTYPES[datatype],
        "tensor_shape": {"dim": dims, "unknown_rank": False},
        "name": name,
    }


def routes() -> list[Route]:
    """All of them."""
    handlers = []
    for prefix in ("/v1/models/{name}", "/v1/models/{name}/versions/{version}", "/v1/models/{name}/labels/{version}"):
        handlers += [
            Route(f"{prefix}:predict", predict, methods=["POST"]),
            Route(f"{prefix}:{{verb}}", other, methods=["POST"]),
            Route(f"{prefix}/metadata", metadata, methods=["GET"]),
            Route(prefix, status, methods=["GET"]),
        ]
    return handlers
