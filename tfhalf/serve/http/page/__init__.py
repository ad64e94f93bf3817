"""The page for people at ``/``, and what it asks for."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tfhalf._version import __version__
from tfhalf.serve.http.inference import JSON, answer, engine_of, send
from tfhalf.serve.http.page import form as forms
from tfhalf.serve.models.model import Model
from tfhalf.serve.protocols import describe
from tfhalf.serve.protocols.json_codec import dumps
from tfhalf.serve.protocols.openapi import document
from tfhalf.serve.settings import Settings

_HERE = Path(__file__).resolve().parent
_KINDS = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "answers.js": "text/javascript",
}
# The page runs its own script and style and nothing else; images are those that a person drops.
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:"


def _file(name: str) -> Route:
    content = (_HERE / name).read_bytes()
    headers = {
        "content-type": _KINDS[name],
        "content-security-policy": f"{_POLICY}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }

    async def file(_: Request) -> Response:
        return Response(content, headers=headers)

    return Route("/" if name == "index.html" else f"/{name}", file, methods=["GET"])


async def status(request: Request) -> Response:
    """GET /status: what the page shows."""
    engine = engine_of(request)
    totals = request.app.state.metrics.totals()
    models = [_status(model, totals) for model in engine.repository.models.values()]
    facts = {"server": "tfhalf", "version": __version__, "ready": engine.ready, "now": time.time(), "models": models}
    return answer(request, facts)


def _status(model: Model, totals: describe.Totals) -> dict[str, Any]:
    """A model's status, with a word on which versions the page can ask."""
    facts = describe.status(model, totals)
    usable = {number for number, loaded in model.loaded.items() if forms.takes_people(loaded)}
    return {**facts, "versions": [{**row, "page": row["version"] in usable} for row in facts["versions"]]}


async def form(request: Request) -> Response:
    """GET /form/NAME: what the page asks the model for, and how it shows the answer."""
    loaded = engine_of(request).repository.choose(request.path_params["name"], None)
    return answer(request, forms.form(loaded))


async def openapi(request: Request) -> Response:
    """GET /openapi.json"""
    return send(request, _openapi(engine_of(request).settings), JSON, {})


@functools.cache
def _openapi(settings: Settings) -> bytes:
    return dumps(document(settings))


def routes() -> list[Route]:
    """The page's three files, its data, and the OpenAPI document."""
    return [
        *(_file(name) for name in _KINDS),
        Route("/status", status, methods=["GET"]),
        Route("/form/{name}", form, methods=["GET"]),
        Route("/openapi.json", openapi, methods=["GET"]),
    ]
