"""What every HTTP request passes: its id, trace, token, count and log line; and errors become answers."""

from __future__ import annotations

import hmac
import random
import re
import time
import traceback
from collections.abc import Iterable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tfhalf.errors import RequestError
from tfhalf.serve.engine import Engine
from tfhalf.serve.http.headers import HEADERS
from tfhalf.serve.log import Log
from tfhalf.serve.metrics import Metrics
from tfhalf.serve.protocols.json_codec import dumps

FACTS = "tfhalf"  # the scope's key under which a handler leaves what the log line is to tell

_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_TRACE = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_OPEN = ("/", "/page.css", "/page.js", "/v2/health/live", "/v2/health/ready")
_BEARER = b"bearer "
_CLOSE = (b"connection", b"close")

Headers = list[tuple[bytes, bytes]]


class RequestContext:
    """A request from its headers to its log line.

    ``headers`` are its own by name, ``extra`` those that its answer carries, ``facts`` what the log line tells beside
    the usual.
    """

    __slots__ = ("_client", "_method", "_path", "_started", "_trace", "extra", "facts", "headers")

    def __init__(self, method: str, path: str, headers: Iterable[tuple[bytes, bytes]], client: Any) -> None:
        self._started = time.perf_counter()
        self._method, self._path, self.headers, self._client = method, path, dict(headers), client
        self.extra, self._trace = _identity(self.headers)
        self.facts: dict[str, Any] = {}

    def unknown(self, token: str | None) -> RequestError | None:
        """The answer where the server asks for ``token`` and the request carries none, or another one."""
        if token is None or self._path in _OPEN:
            return None
        header = self.headers.get(b"authorization", b"")
        there = header[len(_BEARER) :] if header.lower().startswith(_BEARER) else b""
        if hmac.compare_digest(there.strip(), token.encode()):
            return None
        return RequestError(401, "this server asks for a token: send the header Authorization: Bearer TOKEN")

    def line(self, status: int, bytes_out: int) -> dict[str, Any]:
        """What the log tells of it."""
        return {
            "id": self.extra[0][1].decode(),
            **self._trace,
            "client": self._client[0] if self._client else None,
            "method": self._method,
            "path": self._path,
            "status": status,
            "ms": round((time.perf_counter() - self._started) * 1e3, 3),
            "bytes_out": bytes_out,
            **self.facts,
        }


class AccessLog:
    """Counts and logs requests; and answers those for which there is no room, in the app's place."""

    def __init__(self, engine: Engine, metrics: Metrics, log: Log) -> None:
        self.engine, self.log, self._metrics = engine, log, metrics
        self._statuses: dict[int, Any] = {}

    def ended(self, context: RequestContext, status: int, bytes_out: int) -> None:
        """Count a visit and write its line."""
        counter = self._statuses.get(status)
        if counter is None:
            counter = self._statuses[status] = self._metrics.http.labels(str(status))
        counter.inc()
        if self.log.access:
            self.log.request(context.line(status, bytes_out))

    def refusal(self, path: str, headers: Headers, client: Any) -> tuple[int, Headers, bytes] | None:
        """Status, headers and body for a POST to ``path`` that is refused on sight; None where the app is to see it.

        Under overload most requests end here, for a fraction of what the way through the app costs: what is spent on
        refusing is missing for computing.
        """
        error = self.engine.refusal(path)
        if error is None:
            return None
        context = RequestContext("POST", path, headers, client)
        error = context.unknown(self.engine.settings.token) or error
        body, own = error_parts(error)
        self.ended(context, error.status, len(body))
        return error.status, [*own, *context.extra], body

    def rejection(self, client: Any, error: RequestError, counted: bool) -> tuple[int, Headers, bytes]:
        """Status, headers and body for a client whose connection ends because of ``error``, before the app has its
        request or while the app waits for the rest of it; ``counted`` and logged here in the first case alone."""
        context = RequestContext("", "", (), client)
        body, own = error_parts(error)
        if counted:
            context.facts["error"] = str(error)
            self.ended(context, error.status, len(body))
        close = [] if _CLOSE in own else [_CLOSE]
        return error.status, [*own, *close, *context.extra], body


class RequestMiddleware:
    """ASGI middleware round everything."""

    def __init__(self, app: ASGIApp, access: AccessLog) -> None:
        self._app, self._access, self._engine = app, access, access.engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = RequestContext(scope["method"], scope["path"], scope["headers"], scope.get("client"))
        scope[FACTS], scope[HEADERS] = context.facts, context.headers
        status = sent = 0

        async def observed(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *context.extra]
                if self._engine.draining:
                    message["headers"].append(_CLOSE)
            else:
                sent += len(message.get("body", b""))
            await send(message)

        self._engine.in_flight += 1
        try:
            error = context.unknown(self._engine.settings.token)
            if error is not None:
                raise error
            if b"%2f" in scope.get("raw_path", b"").lower():  # decoded, it would be taken for what separates names
                raise RequestError(404, f"{scope['path'][:200]} has %2F in it: no name here holds a slash")
            await self._app(scope, receive, observed)
        except RequestError as error:
            await send_error(error, observed)
        except Exception as error:  # noqa: BLE001  # a fault of the server's: it is logged, and the client told no more than that
            self._access.log.event("fault", error=repr(error), trace=traceback.format_exc(limit=20))
            if not status:
                await send_error(RequestError(500, "the server failed; its log says why"), observed)
        finally:
            self._engine.in_flight -= 1
            self._access.ended(context, status or 499, sent)


async def send_error(error: RequestError, send: Send) -> None:
    """``{"error": ...}`` with the error's status."""
    body, headers = error_parts(error)
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def error_parts(error: RequestError) -> tuple[bytes, Headers]:
    """Body and headers of an error's answer."""
    body = dumps({"error": str(error).encode("utf-8", "replace").decode()})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status in (408, 413):
        headers.append(_CLOSE)  # the rest of the body is not read
    return body, headers


def _new_id() -> bytes:
    """Sixteen hexadecimal digits; no secret, so the operating system is not asked for each."""
    return b"%016x" % random.getrandbits(64)


def _identity(headers: dict[bytes, bytes]) -> tuple[Headers, dict[str, str]]:
    """Headers that an answer carries, the request's id first; and the trace for the log.

    A W3C ``traceparent`` is passed on with a span of its own, ``tracestate`` unchanged.
    """
    received = headers.get(b"x-request-id")
    identity = received if received and _ID.fullmatch(received) else _new_id()
    extra = [(b"x-request-id", identity)]
    match = _TRACE.fullmatch(headers.get(b"traceparent", b""))
    if match is None or match[1] == b"ff" or not match[2].strip(b"0") or not match[3].strip(b"0"):
        return extra, {}
    span = _new_id()
    extra.append((b"traceparent", b"-".join((b"00", match[2], span, match[4]))))
    if b"tracestate" in headers:
        extra.append((b"tracestate", headers[b"tracestate"]))
    return extra, {"trace_id": match[2].decode(), "span_id": span.decode(), "parent_id": match[3].decode()}
