"""uvicorn's HTTP protocol with bounds on answers: they wait for a client that reads, and not for ever."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tfhalf.serve.http.disconnect import DISCONNECT, Disconnect
from tfhalf.serve.settings import Limits

_CONTINUE = b"HTTP/1.1 100"
_LARGE = 1 << 16  # bytes of a body
RATE = 1024  # bytes a second that a body, and the reading of an answer, has to keep up with


class Flow(FlowControl):
    """Reads nothing more while ``held``, whoever asks for it."""

    held = False

    def resume_reading(self) -> None:
        """Unless held."""
        if self.read_paused:
            self.read_paused = False
            self._read()

    def hold(self) -> None:
        """Read nothing."""
        self.held = True
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def release(self) -> None:
        """Read again, unless it is paused."""
        if self.held:
            self.held = False
            self._read()

    def _read(self) -> None:
        if not self.held and not self.read_paused and not self._transport.is_closing():
            self._transport.resume_reading()


class Together:
    """What an answer is written to: its head goes out with the first part of its body, in one packet."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._head, self._began = transport, b"", False

    def write(self, data: bytes) -> None:
        """Send it, but for a head."""
        if not self._began and not data.startswith(_CONTINUE):
            self._began, self._head = True, data
            return
        self.flush(data)

    def flush(self, data: bytes = b"") -> None:
        """Send what is kept, and ``data``."""
        if self._head and len(data) > _LARGE:  # to join them would copy it
            self._transport.write(self._head)
        elif self._head:
            data = self._head + data
        self._head = b""
        if data:
            self._transport.write(data)

    def close(self) -> None:
        """Send what is kept, and close."""
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether nothing more is sent."""
        return self._transport.is_closing()


class AnsweringProtocol(HttpToolsProtocol):
    """Reads no more requests while the answers to earlier ones are not read, and ends a connection where these are read
    more slowly than 1 KiB/s over ``body_seconds``."""

    limits: ClassVar[Limits]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._writing: asyncio.TimerHandle | None = None
        self._unsent = 0
        self._active: RequestResponseCycle | None = None  # whose answer is being made
        self._answer: Together | None = None
        self._backlog = b""  # was received, and is parsed when others have had their turn

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self.flow = self._flow = Flow(transport)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope[DISCONNECT] = Disconnect()  # type: ignore[literal-required]

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        if self._writing is not None:
            self._writing.cancel()
        self._disconnect()
        super().connection_lost(exc)

    def _unanswered(self) -> bool:
        return bool(self.pipeline) or not (self.cycle is None or self.cycle.response_complete)

    def _disconnect(self) -> None:
        """Have every request of the connection, and not the last one alone, write nothing more."""
        for cycle in (self._active, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
                cycle.scope[DISCONNECT].set()  # type: ignore[literal-required]
        self.pipeline.clear()

    def _abort(self) -> None:
        self._disconnect()
        self.transport.abort()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._active = cycle
        self._answer = cycle.transport = Together(self.transport)  # type: ignore[assignment]
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """An answer is complete, which may have no body."""
        if self._answer is not None:
            self._answer.flush()
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """End a connection that waits for its next request too long."""
        if self.transport.get_write_buffer_size():
            self._abort()  # closing would wait for a client that does not read
        super().timeout_keep_alive_handler()

    def pause_writing(self) -> None:
        """The client is slow to read, or does not."""
        super().pause_writing()
        self._flow.hold()  # requests whose answers nobody reads would fill the memory with them
        self._unsent = self.transport.get_write_buffer_size()
        self._writing = self.loop.call_later(self.limits.body_seconds, self._check_reader)

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        if not self._backlog:
            self._flow.release()

    def _check_reader(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent > self._unsent - RATE * self.limits.body_seconds:
            self._abort()
            return
        self._unsent = unsent
        self._writing = self.loop.call_later(self.limits.body_seconds, self._check_reader)
