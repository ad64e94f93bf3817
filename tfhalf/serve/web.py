"""What the HTTP routes share: answers, and running an inference for a request."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from tfhalf.errors import RequestError
from tfhalf.serve import body as bodies
from tfhalf.serve.infer import Engine, Inference, counting_failures
from tfhalf.serve.job import Arrays
from tfhalf.serve.jsons import dumps
from tfhalf.serve.operate import FACTS
from tfhalf.serve.version import Loaded

JSON = "application/json"
TIMEOUT = "x-request-timeout-ms"

_LARGE = 1 << 16  # bytes of a body, or of arrays, above which these are made of each other beside the event loop
_HUGE = 1 << 22  # above which one is read at a time: a JSON parser lets no other thread run before its end


def engine_of(request: Request) -> Engine:
    """The app's engine."""
    engine: Engine = request.app.state.engine
    return engine


def answer(request: Request, content: Any, status: int = 200) -> Response:
    """``content`` as JSON, compressed where the client asks for it."""
    return send(request, dumps(content), JSON, {}, status)


def send(request: Request, body: bytes, kind: str, headers: Mapping[str, str], status: int = 200) -> Response:
    """``body``, compressed where the client asks for it."""
    plain = dict(headers)
    body, encoding = bodies.compress(body, request.headers.get("accept-encoding"))
    if encoding is not None:
        plain |= {"content-encoding": encoding, "vary": "accept-encoding"}
    response = Response(body, status, plain)
    response.headers["content-type"] = kind
    return response


async def run(
    request: Request,
    read: Callable[[bytes, Loaded], Any],
    inference_of: Callable[[Any, Loaded], Inference],
    write: Callable[[Any, Arrays, Loaded], Response],
) -> Response:
    """An inference from body to answer.

    Args:
        read: the body as a protocol's request; for a large one called in another thread.
        inference_of: that request as what is to be computed.
        write: the outputs as the protocol's answer.
    """
    started = time.perf_counter()
    engine, path = engine_of(request), request.path_params
    version = path.get("version")
    loaded = engine.choose(path["name"], version)
    facts = request.scope[FACTS]
    facts |= {"model": loaded.model, "version": loaded.version}
    with counting_failures(loaded), engine.bodies.held() as held:
        loaded.batcher.check_room()
        body = await held.read(request)
        facts["bytes_in"] = len(body)
        parsed: Any
        if len(body) < _LARGE:
            parsed = read(body, loaded)
        else:
            async with engine.bodies.huge if len(body) > _HUGE else nullcontext():
                parsed = await asyncio.to_thread(read, body, loaded)
        if isinstance(parsed, Awaitable):
            parsed = await parsed
        inference = inference_of(parsed, loaded)
        inference.started, inference.asked_version = started, version
        outputs = await engine.run(inference, lambda: _gone(request))
        large = sum(array.nbytes for array in outputs.values()) > _LARGE
        arguments = (parsed, outputs, inference.loaded)
        response = await asyncio.to_thread(write, *arguments) if large else write(*arguments)
    engine.count(inference, time.perf_counter())
    job = inference.job
    assert job is not None
    facts |= {"version": inference.loaded.version, "rows": job.rows, "batch": job.batch}
    facts |= {"queue_ms": round(job.queue_ns / 1e6, 3), "compute_ms": round(job.run_ns / 1e6, 3)}
    return response


def timeout_of(request: Request) -> float | None:
    """Seconds of the header ``X-Request-Timeout-Ms``; None where there is none.

    Raises:
        RequestError: 400, it is no number above 0.
    """
    told = request.headers.get(TIMEOUT)
    if told is None:
        return None
    try:
        milliseconds = float(told)
    except ValueError:
        milliseconds = math.nan
    if not milliseconds > 0:
        raise RequestError(400, f"X-Request-Timeout-Ms is {told[:30]!r}; accepted: milliseconds, a number above 0")
    return milliseconds / 1000


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
