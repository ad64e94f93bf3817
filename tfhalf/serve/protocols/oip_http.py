"""The Open Inference Protocol, version 2, over HTTP, with Triton's repository, configuration and statistics."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tfhalf._version import __version__
from tfhalf.errors import RequestError
from tfhalf.serve.batching.request import Arrays
from tfhalf.serve.engine import Inference
from tfhalf.serve.http.headers import header
from tfhalf.serve.http.inference import JSON, Reading, answer, engine_of, run, send, timeout_of
from tfhalf.serve.models.version import Loaded
from tfhalf.serve.protocols import describe, oip, oip_answer

SERVER = "tfhalf"
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "statistics",
)
_MOST = 1 << 16  # bytes of a request that says what to do with the repository
_HEADER = "inference-header-content-length"


async def infer(request: Request) -> Response:
    """POST .../infer"""
    engine = engine_of(request)
    limits = engine.settings.limits
    length, accepted = header(request, _HEADER.encode()), timeout_of(request)

    def inference_of(parsed: oip.Parsed, loaded: Loaded) -> Inference:
        seconds = accepted if parsed.timeout is None else parsed.timeout
        deadline = engine.deadline(seconds)
        return Inference(loaded, parsed.rows, parsed.feeds, deadline, parsed.encoded)

    def write(parsed: oip.Parsed, outputs: Arrays, loaded: Loaded) -> Response:
        body, size = oip_answer.answer(parsed, outputs, loaded, nan=limits.allow_nan)
        if size is None:
            return send(request, body, JSON, {})
        return send(request, body, "application/octet-stream", {_HEADER: str(size)})

    size = int(length) if length is not None and length.isdecimal() and len(length) < 12 else None
    return await run(request, Reading("infer", {"header": length}, size), inference_of, write)


async def server(request: Request) -> Response:
    """GET /v2"""
    return answer(request, {"name": SERVER, "version": __version__, "extensions": list(EXTENSIONS)})


async def live(request: Request) -> Response:
    """GET /v2/health/live"""
    return answer(request, {"live": True})


async def ready(request: Request) -> Response:
    """GET /v2/health/ready; 400 is the protocol's word for no."""
    yes = engine_of(request).ready
    return answer(request, {"ready": yes}, 200 if yes else 400)


async def model_ready(request: Request) -> Response:
    """GET .../ready"""
    engine, path = engine_of(request), request.path_params
    model = engine.repository.model(path["name"])
    try:
        model.choose(path.get("version"))
        yes = not engine.draining
    except RequestError as error:
        if error.status == 404:
            raise
        yes = False
    return answer(request, {"name": model.name, "ready": yes}, 200 if yes else 400)


async def metadata(request: Request) -> Response:
    """GET /v2/models/M[/versions/V]"""
    model = engine_of(request).repository.model(request.path_params["name"])
    if not model.loaded and "version" not in request.path_params:
        return answer(request, describe.unloaded(model))
    return answer(request, describe.metadata(model, model.choose(request.path_params.get("version"))))


async def config(request: Request) -> Response:
    """GET .../config"""
    engine = engine_of(request)
    loaded = engine.repository.model(request.path_params["name"]).choose(request.path_params.get("version"))
    return answer(request, describe.config(loaded, engine.settings))


async def stats(request: Request) -> Response:
    """GET /v2/models[/M[/versions/V]]/stats"""
    engine, path = engine_of(request), request.path_params
    if "name" not in path:
        chosen = [one for model in engine.repository.models.values() for one in model.loaded.values()]
    elif "version" in path:
        chosen = [engine.repository.model(path["name"]).choose(path["version"])]
    else:
        chosen = list(engine.repository.model(path["name"]).loaded.values())
    totals = request.app.state.metrics.totals()
    return answer(request, {"model_stats": [describe.statistics(loaded, totals) for loaded in chosen]})


async def index(request: Request) -> Response:
    """POST /v2/repository/index"""
    body = await _object(request)
    rows = engine_of(request).repository.index()
    if body.get("ready") is True:
        rows = [row for row in rows if row["state"] == "READY"]
    return answer(request, rows)


async def load(request: Request) -> Response:
    """POST /v2/repository/models/M/load"""
    return await _control(request, True)


async def unload(request: Request) -> Response:
    """POST /v2/repository/models/M/unload"""
    return await _control(request, False)


async def _control(request: Request, loaded: bool) -> Response:
    engine = engine_of(request)
    if not engine.settings.repository_control:
        raise RequestError(403, "models are loaded by this server alone; start it with --allow-repository-control")
    parameters = (await _object(request)).get("parameters") or {}
    foreign = [key for key in parameters if key != "unload_dependents"] if isinstance(parameters, dict) else ["?"]
    if foreign:
        raise RequestError(400, f"parameter {foreign[0][:50]!r}: models come from the exports folders as they are")
    await engine.repository.set_loaded(request.path_params["name"], loaded)
    return answer(request, {})


async def _object(request: Request) -> dict[str, Any]:
    with engine_of(request).bodies.held() as held:
        body = await held.read(request, _MOST)
    if not body.strip():
        return {}
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestError(400, "the body is not JSON") from None
    if not isinstance(value, dict):
        raise RequestError(400, "the body is not a JSON object")
    return value


def routes() -> list[Route]:
    """All of them, the ones that are asked most first."""
    inferences, handlers = [], []
    for prefix in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        inferences.append(Route(f"{prefix}/infer", infer, methods=["POST"]))
        handlers += [
            Route(prefix, metadata, methods=["GET"]),
            Route(f"{prefix}/ready", model_ready, methods=["GET"]),
            Route(f"{prefix}/config", config, methods=["GET"]),
            Route(f"{prefix}/stats", stats, methods=["GET"]),
        ]
    return [
        inferences[0],
        Route("/v2/health/live", live, methods=["GET"]),
        Route("/v2/health/ready", ready, methods=["GET"]),
        Route("/v2/models/stats", stats, methods=["GET"]),
        *inferences[1:],
        *handlers,
        Route("/v2", server, methods=["GET"]),
        Route("/v2/", server, methods=["GET"]),
        Route("/v2/repository/index", index, methods=["POST"]),
        Route("/v2/repository/models/{name}/load", load, methods=["POST"]),
        Route("/v2/repository/models/{name}/unload", unload, methods=["POST"]),
    ]
