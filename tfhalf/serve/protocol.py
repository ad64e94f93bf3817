"""uvicorn's HTTP protocol with a limit on how long a client may take to send a request, and refusals on sight."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tfhalf.serve.settings import Limits

# Status, headers and body for a POST with this path, these headers and this client; None lets it in.
Refuse = Callable[[str, list[tuple[bytes, bytes]], Any], "tuple[int, list[tuple[bytes, bytes]], bytes] | None"]

_RATE = 1024  # bytes a second that a body has to keep up with

_TIMED_OUT = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\ncontent-length: 47\r\nconnection: close\r\n\r\n"
    b'{"error":"the request was sent far too slowly"}'
)


def protocol_class(limits: Limits, refuse: Refuse) -> type[HttpToolsProtocol]:
    """The protocol with these limits, for `uvicorn.Config`.

    The headers of a request have ``header_seconds`` from the connection, or from their first byte. Its body is looked
    at every ``body_seconds``, and has to have come at 1 KiB/s or more. Otherwise the answer is 408 and the connection
    ends.

    What ``refuse`` refuses is answered once its headers are there; its body is thrown away as it comes, and the
    connection is kept.
    """

    class Protocol(HttpToolsProtocol):
        """`HttpToolsProtocol` with a timer and a short way out."""

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self._timer: asyncio.TimerHandle | None = None
            self._body = 0
            self._refused = False  # the request that is being read has its answer

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.max_connections:
                transport.abort()
                return
            self._arm(limits.header_seconds)

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._body = 0
            self._arm(limits.header_seconds)

        def on_headers_complete(self) -> None:
            answer = self._refusal()
            self._refused = answer is not None
            if answer is None:
                super().on_headers_complete()
            else:
                self.transport.write(answer)
            self._arm(limits.body_seconds)

        def on_body(self, body: bytes) -> None:
            self._body += len(body)
            if not self._refused:
                super().on_body(body)

        def on_message_complete(self) -> None:
            self._disarm()
            if self._refused:
                self._refused = False
                self.on_response_complete()
            else:
                super().on_message_complete()

        def _refusal(self) -> bytes | None:
            """The bytes of an answer that needs no app; None for all that is not a plain request to be refused."""
            busy = self.pipeline or not (self.cycle is None or self.cycle.response_complete)
            parser = self.parser
            if busy or self.expect_100_continue or parser.get_method() != b"POST" or parser.should_upgrade():
                return None
            path = self.url.partition(b"?")[0]
            if b"%" in path or parser.get_http_version() != "1.1" or not parser.should_keep_alive():
                return None
            refused = refuse(path.decode("ascii", "replace"), self.headers, self.client)
            if refused is None:
                return None
            status, headers, body = refused
            lines = [b"HTTP/1.1 %d %b" % (status, HTTPStatus(status).phrase.encode())]
            lines += [b"%b: %b" % header for header in (*self.server_state.default_headers, *headers)]
            return b"\r\n".join([*lines, b"", body])

        def _arm(self, seconds: float) -> None:
            self._disarm()
            self._timer = self.loop.call_later(seconds, self._late)

        def _disarm(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _late(self) -> None:
            if self._body >= _RATE * limits.body_seconds or self.flow.read_paused:  # the server itself is not reading
                self._body = 0
                self._arm(limits.body_seconds)
                return
            if self.transport.is_closing():
                return
            if not self._refused and (self.cycle is None or not self.cycle.response_started):
                self.transport.write(_TIMED_OUT)
            self.transport.close()

    return Protocol
