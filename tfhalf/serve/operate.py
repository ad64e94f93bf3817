"""What every HTTP request passes: its id, trace, token, count and log line; and errors become answers."""

from __future__ import annotations

import hmac
import re
import secrets
import time
import traceback
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tfhalf.errors import RequestError
from tfhalf.serve.infer import Engine
from tfhalf.serve.jsons import dumps
from tfhalf.serve.log import Log
from tfhalf.serve.metrics import Metrics

FACTS = "tfhalf"  # the scope's key under which a handler leaves what the log line is to tell

_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_TRACE = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_OPEN = ("/", "/page.css", "/page.js", "/v2/health/live", "/v2/health/ready")
_BEARER = b"bearer "


class Operate:
    """ASGI middleware round everything."""

    def __init__(self, app: ASGIApp, engine: Engine, metrics: Metrics, log: Log) -> None:
        self._app, self._engine, self._metrics, self._log = app, engine, metrics, log
        self._statuses: dict[int, Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = dict(scope["headers"])
        extra, trace = _identity(headers)
        facts: dict[str, Any] = {}
        scope[FACTS] = facts
        seen = {"status": 0, "bytes": 0}

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
                message["headers"] = [*message.get("headers", ()), *extra]
                if self._engine.draining:
                    message["headers"].append((b"connection", b"close"))
            else:
                seen["bytes"] += len(message.get("body", b""))
            await send(message)

        self._engine.in_flight += 1
        try:
            self._authorise(scope["path"], headers.get(b"authorization"))
            await self._app(scope, receive, observed)
        except RequestError as error:
            await send_error(error, observed)
        except Exception as error:  # noqa: BLE001  # a fault of the server's: it is logged, and the client told no more than that
            self._log.event("fault", error=repr(error), trace=traceback.format_exc(limit=20))
            if not seen["status"]:
                await send_error(RequestError(500, "the server failed; its log says why"), observed)
        finally:
            self._engine.in_flight -= 1
            status = seen["status"] or 499
            self._count(status)
            if self._log.access:
                client = scope.get("client")
                self._log.request(
                    {
                        "id": extra[0][1].decode(),
                        **trace,
                        "client": client[0] if client else None,
                        "method": scope["method"],
                        "path": scope["path"],
                        "status": status,
                        "ms": round((time.perf_counter() - started) * 1e3, 3),
                        "bytes_out": seen["bytes"],
                        **facts,
                    }
                )

    def _authorise(self, path: str, given: bytes | None) -> None:
        token = self._engine.settings.token
        if token is None or path in _OPEN:
            return
        there = (given or b"")[len(_BEARER) :] if (given or b"").lower().startswith(_BEARER) else b""
        if not hmac.compare_digest(there.strip(), token.encode()):
            raise RequestError(401, "this server asks for a token: send the header Authorization: Bearer TOKEN")

    def _count(self, status: int) -> None:
        counter = self._statuses.get(status)
        if counter is None:
            counter = self._statuses[status] = self._metrics.http.labels(str(status))
        counter.inc()


async def send_error(error: RequestError, send: Send) -> None:
    """``{"error": ...}`` with the error's status."""
    body, headers = error_parts(error)
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def error_parts(error: RequestError) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Body and headers of an error's answer."""
    body = dumps({"error": str(error).encode("utf-8", "replace").decode()})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status in (408, 413):
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    return body, headers


def _identity(headers: dict[bytes, bytes]) -> tuple[list[tuple[bytes, bytes]], dict[str, str]]:
    """Headers that an answer carries, the request's id first; and the trace for the log.

    A W3C ``traceparent`` is passed on with a span of its own, ``tracestate`` unchanged.
    """
    given = headers.get(b"x-request-id")
    identity = given if given and _ID.fullmatch(given) else secrets.token_hex(8).encode()
    extra = [(b"x-request-id", identity)]
    match = _TRACE.fullmatch(headers.get(b"traceparent", b""))
    if match is None or match[1] == b"ff" or not match[2].strip(b"0") or not match[3].strip(b"0"):
        return extra, {}
    span = secrets.token_hex(8).encode()
    extra.append((b"traceparent", b"-".join((b"00", match[2], span, match[4]))))
    if b"tracestate" in headers:
        extra.append((b"tracestate", headers[b"tracestate"]))
    return extra, {"trace_id": match[2].decode(), "span_id": span.decode(), "parent_id": match[3].decode()}
