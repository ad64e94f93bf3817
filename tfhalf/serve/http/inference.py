"""What the HTTP routes share: answers, and running an inference for a request."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from tfhalf.errors import RequestError
from tfhalf.serve.batching.request import Arrays
from tfhalf.serve.engine import Engine, Inference
from tfhalf.serve.http import body as bodies
from tfhalf.serve.http.disconnect import disconnect_of
from tfhalf.serve.http.headers import header
from tfhalf.serve.http.middleware import FACTS
from tfhalf.serve.models.version import Loaded
from tfhalf.serve.protocols.json_codec import dumps
from tfhalf.serve.reading.tasks import READ

JSON = "application/json"
TIMEOUT = b"x-request-timeout-ms"

_SMALL = 1 << 16  # bytes of a body above which it is read beside the event loop
_LARGE = 1 << 19  # above which that is done in another process: a JSON parser lets no other thread run before its end
_HUGE = 1 << 22  # and above which one process is left to others
_QUICK = ("infer", "predict", "file")


def engine_of(request: Request) -> Engine:
    """The app's engine."""
    engine: Engine = request.app.state.engine
    return engine


def answer(request: Request, content: Any, status: int = 200) -> Response:
    """``content`` as JSON, compressed where the client asks for it."""
    return send(request, dumps(content), JSON, {}, status)


def send(request: Request, body: bytes, kind: str, headers: Mapping[str, str], status: int = 200) -> Response:
    """``body``, compressed where the client asks for it."""
    all_headers = {"content-type": kind, **headers}
    body, encoding = bodies.compress(body, header(request, b"accept-encoding"))
    if encoding is not None:
        all_headers |= {"content-encoding": encoding, "vary": "accept-encoding"}
    return Response(body, status, all_headers)


@dataclass(frozen=True)
class Reading:
    """How a body becomes a protocol's request: by the function called ``task`` in `tfhalf.serve.reading.tasks`, with
    ``named`` arguments. ``parsed``: how many of its bytes are parsed at most; None: all. The others lie there as they
    are used."""

    task: str
    named: Mapping[str, Any] = field(default_factory=dict)
    parsed: int | None = None


async def run(
    request: Request,
    reading: Reading,
    inference_of: Callable[[Any, Loaded], Inference],
    write: Callable[[Any, Arrays, Loaded], Response],
) -> Response:
    """An inference from body to answer.

    Args:
        reading: the body as a protocol's request.
        inference_of: that request as what is to be computed.
        write: the outputs as the protocol's answer.
    """
    engine, path, facts = engine_of(request), request.path_params, request.scope[FACTS]
    with engine.bodies.held() as held:

        async def read(loaded: Loaded) -> Any:
            body, encoding = await held.read_small(request, _LARGE)
            facts["bytes_in"] = len(body)
            return await _read(engine, reading, body, encoding, loaded)

        return await engine.infer(
            path["name"],
            path.get("version"),
            facts,
            read=read,
            inference_of=inference_of,
            write=write,
            disconnect_of=functools.partial(disconnect_of, request),
        )


async def _read(engine: Engine, reading: Reading, body: bytes | bytearray, encoding: str | None, loaded: Loaded) -> Any:
    size = len(body) if reading.parsed is None else min(reading.parsed, len(body))
    arguments = (body, loaded.signature, engine.settings.limits)
    if encoding is not None:
        named = {"encoding": encoding, "task": reading.task, "named": dict(reading.named)}
        return await engine.readers.read_huge("encoded", *arguments, **named)
    if size > _LARGE:
        away = engine.readers.read_huge if size > _HUGE else engine.readers.read
        return await away(reading.task, *arguments, **reading.named)
    read = functools.partial(READ[reading.task], *arguments, **reading.named)
    return read() if len(body) < _SMALL and reading.task in _QUICK else await asyncio.to_thread(read)


def timeout_of(request: Request) -> float | None:
    """Seconds of the header ``X-Request-Timeout-Ms``; None where there is none.

    Raises:
        RequestError: 400, it is not a number above 0.
    """
    text = header(request, TIMEOUT)
    if text is None:
        return None
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = math.nan
    if not milliseconds > 0:
        raise RequestError(400, f"X-Request-Timeout-Ms is {text[:30]!r}; accepted: milliseconds, a number above 0")
    return milliseconds / 1000
