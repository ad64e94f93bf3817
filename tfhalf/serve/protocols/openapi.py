"""The OpenAPI document: every path, what it takes and what it answers."""

from __future__ import annotations

import re
from typing import Any

from tfhalf._version import __version__
from tfhalf.serve.settings import Settings
from tfhalf.serve.signature import BYTES, DATATYPES

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_ANY: Schema = {"type": "object"}
_PLACES = {"V": "versions/{version}", "L": "labels/{version}"}
_ERRORS = {
    "infer": ("400", "404", "408", "413", "415", "422", "429", "500", "503", "504"),
    "model": ("400", "404", "503"),
    "control": ("400", "403", "404", "413", "415"),
    "body": ("400", "413", "415"),
    "server": (),
}


def _object(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


def _list(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def _schemas() -> dict[str, Schema]:
    shape = _list({"type": "integer"}, minItems=1, maxItems=16)
    datatype = {"type": "string", "enum": [*DATATYPES, BYTES]}
    tensor = _object(("name", "datatype", "shape"), name=_TEXT, datatype=datatype, shape=shape)
    data: Schema = {"type": "array", "description": "Flat or nested, in row-major order."}
    sent = _object(
        ("name", "datatype", "shape"), name=_TEXT, datatype=datatype, shape=shape, parameters=_ANY, data=data
    )
    image = _object(("b64",), b64={"type": "string", "contentEncoding": "base64"})
    label = _object(
        ("index", "label", "probability"), index=_COUNT, label=_TEXT, probability={"type": ["number", "null"]}
    )
    prediction = _object(("image", "classes"), image={"type": ["string", "null"]}, classes=_list(label))
    return {
        "Error": _object(("error",), error=_TEXT),
        "Image": image,
        "InferRequest": _object(
            ("inputs",),
            id=_TEXT,
            parameters=_ANY,
            inputs=_list(sent, minItems=1),
            outputs=_list(_object(("name",), name=_TEXT, parameters=_ANY)),
        ),
        "InferResponse": _object(
            ("model_name", "model_version", "outputs"),
            model_name=_TEXT,
            model_version=_TEXT,
            id=_TEXT,
            outputs=_list(sent),
        ),
        "Model": _object(
            ("name", "versions", "platform", "inputs", "outputs"),
            name=_TEXT,
            versions=_list(_TEXT),
            platform=_TEXT,
            inputs=_list(tensor),
            outputs=_list(tensor),
            parameters=_ANY,
        ),
        "Server": _object(("name", "version", "extensions"), name=_TEXT, version=_TEXT, extensions=_list(_TEXT)),
        "Index": _list(
            _object(("name", "version", "state", "reason"), name=_TEXT, version=_TEXT, state=_TEXT, reason=_TEXT)
        ),
        "Predict": {
            "type": "object",
            "properties": {"signature_name": _TEXT, "instances": {"type": "array"}, "inputs": {}},
            "oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
        },
        "Predicted": _object(predictions={"type": "array"}, outputs={}),
        "Classified": _object(
            ("model_name", "model_version", "predictions"),
            model_name=_TEXT,
            model_version=_TEXT,
            predictions=_list(prediction),
        ),
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _operation(
    path: str, summary: str, answer: dict[str, Schema], errors: str, body: dict[str, Schema] | None = None, **more: Any
) -> dict[str, Any]:
    answers = {"200": {"description": "Done.", "content": answer}}
    for status in dict.fromkeys(("401", *_ERRORS[errors], *more.get("statuses", ()))):
        answers[status] = {"description": "See the message.", "content": _json(_ref("Error"))}
    if more.get("no"):
        answers["400"] = {"description": "No.", "content": _json(_ANY)}
    names = re.findall(r"{(\w+)}", path)
    operation: dict[str, Any] = {
        "summary": summary,
        "parameters": [{"name": n, "in": "path", "required": True, "schema": _TEXT} for n in names],
        "responses": answers,
    }
    operation["parameters"] += more.get("parameters", [])
    if body is not None:
        operation["requestBody"] = {"required": more.get("required", True), "content": body}
    return operation


def _query(name: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "required": False, "schema": schema}


_TIMEOUT: Schema = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "required": False,
    "schema": {"type": "number", "exclusiveMinimum": 0},
}


_RAW: Schema = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}

Paths = dict[str, dict[str, Any]]


def _add(
    paths: Paths, path: str, method: str, summary: str, answer: dict[str, Schema], errors: str, **more: Any
) -> None:
    paths.setdefault(path, {})[method] = _operation(path, summary, answer, errors, **more)


def _add_inference(paths: Paths, prefix: str) -> None:
    """The Open Inference Protocol's paths of a model, and those for images, Triton's configuration and statistics."""
    _add(
        paths,
        f"{prefix}/infer",
        "post",
        "Infer; with Inference-Header-Content-Length binary data follows the JSON.",
        {**_json(_ref("InferResponse")), **_RAW},
        "infer",
        body={**_json(_ref("InferRequest")), **_RAW},
        parameters=[_TIMEOUT],
    )
    files = _object((), file=_list({"type": "string", "format": "binary"}))
    picture: Schema = {"schema": {"type": "string", "format": "binary"}}
    _add(
        paths,
        f"{prefix}/classify",
        "post",
        "Labels and probabilities of image files.",
        _json(_ref("Classified")),
        "infer",
        body={"image/png": picture, "image/jpeg": picture, "multipart/form-data": {"schema": files}},
        parameters=[_TIMEOUT, _query("top", {"type": "integer", "minimum": 1, "maximum": 1000})],
    )
    _add(paths, prefix, "get", "Metadata.", _json(_ref("Model")), "model")
    _add(paths, f"{prefix}/ready", "get", "Whether it answers.", _json(_ANY), "model", no=True)
    _add(paths, f"{prefix}/config", "get", "Triton's model configuration.", _json(_ANY), "model")
    _add(paths, f"{prefix}/stats", "get", "Triton's statistics.", _json(_ANY), "model")


def _add_tfserving(paths: Paths, prefix: str) -> None:
    """TensorFlow Serving's paths of a model."""
    _add(
        paths,
        f"{prefix}:predict",
        "post",
        "TensorFlow Serving's predict.",
        _json(_ref("Predicted")),
        "infer",
        body=_json(_ref("Predict")),
        parameters=[_TIMEOUT],
    )
    _add(paths, f"{prefix}/metadata", "get", "TensorFlow Serving's metadata.", _json(_ANY), "model")
    _add(paths, prefix, "get", "TensorFlow Serving's model status.", _json(_ANY), "model")


def _add_server(paths: Paths) -> None:
    """The paths of the server itself, and of its repository of models."""
    _add(paths, "/v2", "get", "The server.", _json(_ref("Server")), "server")
    _add(paths, "/v2/health/live", "get", "Whether the server runs.", _json(_ANY), "server")
    _add(paths, "/v2/health/ready", "get", "Whether it can be sent requests.", _json(_ANY), "server", no=True)
    _add(paths, "/v2/models/stats", "get", "Triton's statistics of every model.", _json(_ANY), "server")
    ready = _json(_object(ready={"type": "boolean"}))
    index = _json(_ref("Index"))
    _add(paths, "/v2/repository/index", "post", "Models and versions.", index, "body", body=ready, required=False)
    for verb in ("load", "unload"):
        path, summary = f"/v2/repository/models/{{name}}/{verb}", f"{verb.capitalize()} a model."
        _add(paths, path, "post", summary, _json(_ANY), "control", body=_json(_ANY), required=False)
    text: dict[str, Schema] = {"text/plain": {"schema": _TEXT}}
    _add(paths, "/metrics", "get", "Prometheus metrics.", text, "server")
    _add(paths, "/status", "get", "What the page shows.", _json(_ANY), "server")
    _add(
        paths,
        "/form/{name}",
        "get",
        "What the page asks a model for, and how it shows the answer.",
        _json(_ANY),
        "model",
    )
    _add(paths, "/openapi.json", "get", "This document.", _json(_ANY), "server")
    _add(paths, "/", "get", "The page for people.", {"text/html": {"schema": _TEXT}}, "server")


def document(settings: Settings) -> dict[str, Any]:
    """OpenAPI 3.1."""
    paths: Paths = {}
    for prefix in ("/v2/models/{name}", f"/v2/models/{{name}}/{_PLACES['V']}"):
        _add_inference(paths, prefix)
    for prefix in ("/v1/models/{name}", *(f"/v1/models/{{name}}/{part}" for part in _PLACES.values())):
        _add_tfserving(paths, prefix)
    _add_server(paths)
    whole: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "tfhalf serve", "version": __version__},
        "paths": paths,
        "components": {"schemas": _schemas()},
    }
    if settings.token is not None:
        whole["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        whole["security"] = [{"token": []}]
    return whole
