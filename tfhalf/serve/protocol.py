"""uvicorn's HTTP protocol with a limit on how long a client may take to send a request."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tfhalf.serve.settings import Limits

_RATE = 1024  # bytes a second that a body has to keep up with

_TIMED_OUT = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\ncontent-length: 46\r\nconnection: close\r\n\r\n"
    b'{"error":"the request was sent far too slowly"}'
).replace(b"length: 46", b"length: 47")


def protocol_class(limits: Limits) -> type[HttpToolsProtocol]:
    """The protocol with these limits, for `uvicorn.Config`.

    The headers of a request have ``header_seconds`` from the connection, or from their first byte. Its body is looked
    at every ``body_seconds``, and has to have come at 1 KiB/s or more. Otherwise the answer is 408 and the connection
    ends.
    """

    class Protocol(HttpToolsProtocol):
        """`HttpToolsProtocol` with a timer."""

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self._timer: asyncio.TimerHandle | None = None
            self._body = 0

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
            super().on_headers_complete()
            self._arm(limits.body_seconds)

        def on_body(self, body: bytes) -> None:
            self._body += len(body)
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._disarm()
            super().on_message_complete()

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
            if self.cycle is None or not self.cycle.response_started:
                self.transport.write(_TIMED_OUT)
            self.transport.close()

    return Protocol
