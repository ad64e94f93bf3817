"""The ASGI application: every route behind one middleware."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tfhalf.errors import RequestError
from tfhalf.serve.engine import Engine
from tfhalf.serve.http import page
from tfhalf.serve.http.middleware import AccessLog, RequestMiddleware, error_parts
from tfhalf.serve.log import Log
from tfhalf.serve.metrics import CONTENT_TYPE, Metrics
from tfhalf.serve.models.open import OpenVersion, open_version
from tfhalf.serve.models.repository import Repository
from tfhalf.serve.protocols import classify, oip_http, tfserving
from tfhalf.serve.settings import Settings

_DRAIN_SECONDS = 30.0  # under a host that is not `tfhalf serve`


def create_app(settings: Settings, *, opener: OpenVersion = open_version, log: Log | None = None) -> Starlette:
    """The app; its models are loaded by the host's startup event, unless ``app.state.engine`` has been started.

    Args:
        opener: what makes a runtime of a checked version directory, and answers for what it computes.
        log: where lines go; standard error unless given.
    """
    metrics = Metrics()
    log = log or Log(access=settings.access_log)
    engine = Engine(Repository(settings, metrics, log, opener), settings)

    access = AccessLog(engine, metrics, log)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        if not engine.repository.started:
            await engine.repository.start()
        try:
            yield
        finally:
            await engine.drain(_DRAIN_SECONDS)

    app = Starlette(
        routes=[
            *oip_http.routes(),
            *classify.routes(),
            *tfserving.routes(),
            Route("/metrics", _metrics, methods=["GET"]),
            *page.routes(),
        ],
        middleware=[Middleware(RequestMiddleware, access=access)],
        exception_handlers={HTTPException: _unknown_path},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.engine, app.state.metrics, app.state.log, app.state.access = engine, metrics, log, access
    return app


async def _metrics(request: Request) -> Response:
    metrics: Metrics = request.app.state.metrics
    return Response(metrics.text(), headers={"content-type": CONTENT_TYPE})


async def _unknown_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        message = f"{request.method} is not for this path; accepted: {(error.headers or {}).get('Allow', '')}"
    else:
        message = f"{request.url.path[:200]} is not a path of this server; GET /openapi.json lists them"
    body, headers = error_parts(RequestError(error.status_code, message))
    response = Response(body, error.status_code)
    for name, value in [*headers, *((k.encode(), v.encode()) for k, v in (error.headers or {}).items())]:
        response.headers[name.decode()] = value.decode()
    return response
