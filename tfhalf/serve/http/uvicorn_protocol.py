"""uvicorn's HTTP protocol with bounds on what one connection may send and take, and refusals on sight.

httptools collects an unfinished header, and uvicorn the list of headers, without any bound, and both hand on what they
have only when the head of a request is whole. So the bytes are counted here as they arrive, before they are collected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tfhalf.errors import RequestError
from tfhalf.serve.http.answers import RATE, AnsweringProtocol
from tfhalf.serve.http.body import ENDED
from tfhalf.serve.settings import Limits
from tfhalf.text import one_line

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]  # status, headers, body
# The answer to a POST with this path, these headers and this client; None lets it in.
Refuse = Callable[[str, list[tuple[bytes, bytes]], Any], "Answer | None"]
# The answer to a client whose bytes end a connection; the flag says whether nobody else counts and logs it.
Reject = Callable[[Any, RequestError, bool], Answer]

_SLICE = 1 << 10  # bytes of heads or chunks that are parsed at a time: some fifty of the smallest requests
_TURN = 1 << 14  # and before other connections have their turn
_END = b"\r\n\r\n"  # of a head
_SMALL_CHUNK = 64  # bytes: smaller ones cost more than they bring, and have shorter turns
_FRAMING = 24  # bytes that a chunk may take beside its content
_UPGRADE = (b"upgrade", b"http2-settings")
# For a rejected client to read why: to close while it sends would throw the answer away.
_LINGER_SECONDS = 2.0
_DISCARD = 1 << 20  # bytes of it that are received in that time
_DISCARD_HEAD = 1 << 16  # and of a head, or of trailers, that are too large: what goes on for ever is soon read no more


class _Protocol(AnsweringProtocol):
    """`HttpToolsProtocol` with bounds, timers and a short way out.

    The head of a request has ``header_seconds`` from the connection, or from its first byte, and at most ``max_head``
    bytes, ``max_headers`` headers and ``max_url`` bytes of URL. Its body is looked at every ``body_seconds``, and has
    to have come at 1 KiB/s or more; so does the reading of an answer. Heads, chunks and requests that come ahead of an
    answer are parsed a few KiB at a time.

    What ``refuse`` refuses is answered once its headers are there; its body is thrown away as it comes, and the
    connection is kept. What is not a request is answered by ``reject``, and the connection ends.
    """

    hooks: ClassVar[tuple[Refuse, Reject]]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._refuse, self._reject = self.hooks
        self._timer: asyncio.TimerHandle | None = None
        self._due: float | None = None  # seconds that what has begun may take, where the timer for it is not set yet
        self._linger: asyncio.TimerHandle | None = None
        self._ended = False  # nothing that comes is parsed any more
        self._discarded, self._discard = 0, _DISCARD
        self._refused = False  # the request that is being read has its answer
        self._clear()

    def _clear(self) -> None:
        """Before a request."""
        self._in_head = True
        self._fed = 0  # bytes of this head, or behind it, but for those that were parsed together with its first
        self._head = self._headers = 0  # bytes and number of what the parser made of the head
        self._body = self._seen = self._chunks = 0
        self._left = 0  # bytes of the body that are still to come, where its length is known
        self._reread: list[bytes] = []  # the head again, as it is to be read

    # --- bytes --------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections and not self._end_an_idle_one():
            transport.abort()
            return
        self._arm(self.limits.header_seconds)

    def _end_an_idle_one(self) -> bool:
        """End another connection that waits for a request, so that idle ones never keep others out."""
        others = (other for other in self.connections if isinstance(other, _Protocol) and other is not self)
        victim = next((other for other in others if other._in_head and not other._unanswered()), None)
        if victim is not None:
            victim._abort()
        return victim is not None

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._timer, self._linger):
            if timer is not None:
                timer.cancel()
        self._ended, self._backlog = True, b""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._ended:
            self._discarded += len(data)
            if self._discarded > self._discard:
                self._flow.hold()
            return
        self._unset_keepalive_if_required()
        if self._backlog:
            self._backlog += data
            self._flow.hold()
            return
        self._parse(data)
        self._arm_due()
        if self._timer is None and self._in_head and not self._ended and not self._unanswered():
            self._arm(self.limits.header_seconds)  # empty lines between requests do not keep a connection

    def _parse(self, data: bytes) -> None:
        """Parse some of it, and what is the plain body behind that; keep the rest until others have had their turn."""
        at = parsed = 0
        if self._in_head and len(data) <= _TURN and not self.pipeline:  # nearly always: one request, or a part of one
            at = len(data) if len(data) <= _SLICE else data.find(_END) + len(_END)
            if at < len(_END) or at == len(data):
                self._feed(data)
                return
            self._feed(data[:at])
            if self._is_body(len(data) - at):
                self._feed(memoryview(data)[at:])
                return
            parsed = at
        while at < len(data) and not self._ended:
            plain = not self._in_head and self._left > 0
            small = not self._in_head and self._chunks * _SMALL_CHUNK > self._body
            if self.pipeline or (parsed >= (_SLICE if small else _TURN) and not plain):
                self._backlog = data[at:]
                self._flow.hold()
                if not self.pipeline:  # else the next answer goes on with it
                    self.loop.call_soon(self._go_on)
                return
            size = min(len(data) - at, self._left if plain else _SLICE)
            self._feed(data if size == len(data) else data[at : at + size])
            at += size
            parsed += 0 if plain else size

    def _is_body(self, size: int) -> bool:
        """Whether the next so many bytes are plain body."""
        return not self._ended and not self._in_head and size <= self._left

    def _go_on(self) -> None:
        data, self._backlog = self._backlog, b""
        if self._ended or self.transport.is_closing():
            return
        self._parse(data)
        self._arm_due()
        if not self._backlog and not self._ended and not self.flow.write_paused:
            self._flow.release()

    def _feed(self, data: bytes | memoryview) -> None:
        self._fed += len(data)
        most = self.limits.max_head
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:  # there is nothing to upgrade to: it is a request like others
            rest = data[upgrade.args[0] :]
            if self._reread:
                self.parser = httptools.HttpRequestParser(self)
                rest = b"".join([*self._reread, rest])
            if rest:
                self._feed(rest)
        except httptools.HttpParserError as error:
            cause = error.__context__
            if not isinstance(cause, RequestError):
                cause = RequestError(400, f"this is not an HTTP/1.1 request: {one_line(cause or error, 100)}")
            self._end(cause)
        else:
            if self._in_head and self._fed > most:
                self._end(RequestError(431, f"the headers have more than the {most:,} bytes that are accepted"))
            elif not self._in_head and self._fed - self._body - self._chunks * _FRAMING > most:
                self._end(RequestError(400, f"the chunks of the body have more than {most:,} bytes beside it"))

    # --- what the parser calls ----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._clear()
        self._disarm()
        self._due = self.limits.header_seconds

    def on_url(self, url: bytes) -> None:
        self._head += len(url)
        if self._head > self.limits.max_url:
            raise RequestError(414, f"the URL has more than the {self.limits.max_url:,} bytes that are accepted")
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head += len(name) + len(value) + 4
        self._headers += 1
        limits = self.limits
        if self._head > limits.max_head:
            raise RequestError(431, f"the headers have more than the {limits.max_head:,} bytes that are accepted")
        if self._headers > limits.max_headers:
            raise RequestError(431, f"there are more than the {limits.max_headers} headers that are accepted")
        if not self._in_head:
            return  # a trailer: what comes behind the body is not a header of the request
        if name.lower() == b"content-length":
            self._left = int(value)  # the parser refuses what is not a length
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.get_method() == b"CONNECT":
            raise RequestError(400, "CONNECT is for proxies; accepted: GET and POST")
        if self.parser.should_upgrade() and self._has_body():
            self._reread = self._plain_head()
            return
        answer = self._refusal()
        self._refused = answer is not None
        if answer is None:
            super().on_headers_complete()
        else:
            self.transport.write(_response(answer, self.server_state.default_headers))
        self._in_head, self._fed = False, 0
        self._disarm()
        self._due = self.limits.body_seconds

    def _has_body(self) -> bool:
        return self._left > 0 or any(name == b"transfer-encoding" for name, _ in self.headers)

    def _plain_head(self) -> list[bytes]:
        """The head without what asks for an upgrade. The parser takes a body behind that for another protocol's, and
        Java's client asks for HTTP/2 with every first request."""
        lines = [b"%b %b HTTP/1.1\r\n" % (self.parser.get_method(), self.url)]
        for name, value in self.headers:
            if name == b"connection":
                value = b",".join(part for part in value.split(b",") if part.strip().lower() not in _UPGRADE)
            if name not in _UPGRADE:
                lines.append(b"%b: %b\r\n" % (name, value))
        return [*lines, b"\r\n"]

    def on_chunk_header(self) -> None:
        """Count the chunks of a body."""
        self._chunks += 1

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        self._left -= len(body)
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._reread:
            return
        self._disarm()
        refused, self._refused = self._refused, False
        self._clear()
        if refused:
            self.on_response_complete()
        else:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._backlog and not self.pipeline:
            self.loop.call_soon(self._go_on)

    def _refusal(self) -> Answer | None:
        """An answer that needs no app; None for all that is not a plain request to be refused."""
        parser = self.parser
        if self._unanswered() or self.expect_100_continue or parser.get_method() != b"POST" or parser.should_upgrade():
            return None
        path = self.url.partition(b"?")[0]
        if b"%" in path or parser.get_http_version() != "1.1" or not parser.should_keep_alive():
            return None
        return self._refuse(path.decode("ascii", "replace"), self.headers, self.client)

    # --- ends ---------------------------------------------------------------------------------------------------------

    def _end(self, error: RequestError) -> None:
        """Parse nothing more, say why, and close."""
        self._ended, self._backlog = True, b""
        self._discard = _DISCARD_HEAD if error.status in (414, 431) else _DISCARD
        self._disarm()
        if self._in_head and self._unanswered():
            self.cycle.keep_alive = False  # the requests before this one get their answers, and the last of them closes
            return
        seen = not self._in_head and not self._refused  # by the app
        if seen and (self.pipeline or self.cycle.response_started):
            self.transport.close()  # another answer would be taken for that of an earlier request
            return
        if seen:
            self.scope[ENDED] = error  # type: ignore[literal-required]  # for the app's log
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if not self._refused:
            answer = self._reject(self.client, error, not seen)
            self.transport.write(_response(answer, self.server_state.default_headers))
        self._flow.release()
        self._flow.resume_reading()  # and throw it away
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._linger = self.loop.call_later(_LINGER_SECONDS, self._abort)
        else:
            self.transport.close()

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, self._late)

    def _arm_due(self) -> None:
        """Set the timer for a request that is not whole yet: most are whole at once, and need none."""
        if self._due is not None and not self._ended:
            self._arm(self._due)

    def _disarm(self) -> None:
        self._due = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        came, self._seen = self._body - self._seen, self._body
        if came >= RATE * self.limits.body_seconds or self.flow.read_paused or self._flow.held:
            self._arm(self.limits.body_seconds)  # fast enough, or the server itself is not reading
        elif not self.transport.is_closing():
            self._end(RequestError(408, "the request was sent far too slowly"))


def _response(answer: Answer, default: list[tuple[bytes, bytes]]) -> bytes:
    status, headers, body = answer
    lines = [b"HTTP/1.1 %d %b" % (status, HTTPStatus(status).phrase.encode())]
    lines += [b"%b: %b" % header for header in (*default, *headers)]
    return b"\r\n".join([*lines, b"", body])


def protocol_class(limits: Limits, refuse: Refuse, reject: Reject) -> type[HttpToolsProtocol]:
    """`HttpToolsProtocol` with these bounds and hooks, for `uvicorn.Config`."""
    return type("LimitedProtocol", (_Protocol,), {"limits": limits, "hooks": (refuse, reject)})
