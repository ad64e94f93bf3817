"""Bodies of requests: read up to a limit, decompressed up to the same limit; and answers, compressed."""

from __future__ import annotations

import asyncio
import math
import time
import zlib
from typing import Any

from starlette.requests import Request

from tfhalf.errors import RequestError
from tfhalf.serve.http.headers import header
from tfhalf.serve.settings import Limits

ENDED = "tfhalf.ended"  # the scope's key under which the HTTP protocol leaves why it reads no more of a request

_STEP = 1 << 18
_OWN = 1 << 20  # bytes of each body for which there is room that large bodies cannot take
_NEEDED_RATE = 1 << 20  # bytes a second that keep a body where room is short
_LARGE = 1 << 12  # above this, decompressing, which can give a thousand times as much, leaves the event loop
_MOST_MEMBERS = 10_000  # of a gzip: blocks of 64 KiB, as bgzip writes them, are 1,024 of them at the usual limit
SMALLEST = 1024  # answers below are not worth compressing
_LEVEL = 1


class Bodies:
    """Reads bodies within `Limits`, and knows how many bytes of them are held.

    Room is taken as bytes arrive. Of what ``max_bodies`` allows, a quarter is for the first MiB of each body, so that
    few large ones leave room for many small ones; and where there is none left, a body that comes at less than 1 MiB/s
    makes way, the largest first.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._most_beyond = max(limits.max_body, limits.max_bodies * 3 // 4)
        self._held = self._beyond = 0  # bytes, and of them those that are behind the first MiB of a body
        self._reading: set[BodyReader] = set()

    def stop(self) -> None:
        """Have no request wait any longer for the rest of its body: it gets 503."""
        for held in list(self._reading):
            held.end(RequestError(503, "the server is stopping, and the body was not there yet; ask another one", 1))

    def held(self) -> BodyReader:
        """A context: within the block what is read counts towards ``max_bodies``."""
        return BodyReader(self)

    def _hold(self, held: BodyReader, count: int) -> None:
        if held.bytes + count <= _OWN and self._held + count <= self._limits.max_bodies:  # nearly always
            self._held += count
            held.bytes += count
            return
        beyond = _beyond(held.bytes + count) - _beyond(held.bytes)
        while not self._fits(count, beyond):
            slow = [other for other in self._reading if other is not held and other.rate < _NEEDED_RATE and other.bytes]
            if not slow:
                raise RequestError(429, "the bodies of requests fill the memory set aside for them; ask again later", 1)
            victim = max(slow, key=lambda other: other.bytes)
            self._count(victim, -victim.bytes)
            victim.end(RequestError(408, "the body came at less than 1 MiB/s while others needed its room"))
        self._count(held, count)

    def _fits(self, count: int, beyond: int) -> bool:
        if self._held + count > self._limits.max_bodies:
            return False
        return not beyond or self._beyond + beyond <= self._most_beyond

    def _count(self, held: BodyReader, count: int) -> None:
        self._beyond += _beyond(held.bytes + count) - _beyond(held.bytes)
        self._held += count
        held.bytes += count


def _beyond(count: int) -> int:
    return max(0, count - _OWN)


class BodyReader:
    """The bytes of one request, which count until its ``with`` block ends."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._task: asyncio.Task[Any] | None = None
        self._ended: RequestError | None = None
        self.bytes = 0
        self._since, self._before = time.monotonic(), 0  # when the rate was measured last, and how many there were
        self._rate = math.inf

    def __enter__(self) -> BodyReader:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bytes:
            self._bodies._count(self, -self.bytes)

    @property
    def rate(self) -> float:
        """Bytes a second that came of late; infinite in the first second."""
        passed = time.monotonic() - self._since
        if passed >= 1:
            self._rate = (self.bytes - self._before) / passed
            self._since, self._before = time.monotonic(), self.bytes
        return self._rate

    def end(self, error: RequestError) -> None:
        """Have `read` raise ``error``."""
        if self._task is not None and self._ended is None:
            self._ended = error
            self._bodies._reading.discard(self)
            self._task.cancel()

    async def read(self, request: Request, most: int) -> bytes | bytearray:
        """The whole body, decompressed, of at most ``most`` bytes.

        Raises:
            RequestError: 413, it is larger than the limit; 415, an encoding that is not known; 400, it is damaged; 429,
                there is no room; 408, it came too slowly while others had none; 503, the server stops before it is
                whole.
        """
        body, encoding = await self._received(request, most)
        return body if encoding is None else await _decompressed(body, encoding, most)

    async def read_small(self, request: Request, large: int) -> tuple[bytes | bytearray, str | None]:
        """As `read`, up to ``max_body``; but what has more than ``large`` bytes is left as it came, with its encoding.

        Raises:
            RequestError: as `read`.
        """
        most = self._bodies._limits.max_body
        body, encoding = await self._received(request, most)
        if encoding is None:
            return body, None
        try:
            if len(body) <= large:
                return await _decompressed(body, encoding, min(most, large)), None
        except RequestError as error:
            if error.status != 413 or most <= large:
                raise
        return body, encoding

    async def _received(self, request: Request, most: int) -> tuple[bytes | bytearray, str | None]:
        """The body as it came, and its encoding if it has one. One coroutine, and no generators: a small body is there
        already, and each would cost more than to take it."""
        length = header(request, b"content-length")
        if length is not None and (not length.isdecimal() or int(length) > most):
            raise _too_large(most)
        self._task = asyncio.current_task()
        self._bodies._reading.add(self)
        body: bytes | bytearray = b""
        more = True
        try:
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise _disconnected(request)
                part, more = message.get("body", b""), message.get("more_body", False)
                if len(body) + len(part) > most:
                    raise _too_large(most)
                self._bodies._hold(self, len(part))
                if not body:
                    body = part
                elif part:  # one growing buffer: a list of small parts takes many times their size
                    body = body if isinstance(body, bytearray) else bytearray(body)
                    body += part
        except asyncio.CancelledError:
            if self._ended is None:
                raise
            raise self._ended from None
        finally:
            self._bodies._reading.discard(self)
        encoding = header(request, b"content-encoding")
        # The body is passed on as it is: to copy a large one would hold up everybody.
        return body, None if encoding is None else _known(encoding)

    def take(self, count: int) -> None:
        """Count so many bytes more.

        Raises:
            RequestError: 429, there is no memory left for them.
        """
        self._bodies._hold(self, count)


async def _decompressed(body: bytes | bytearray, encoding: str, most: int) -> bytearray:
    if len(body) > _LARGE:
        return await asyncio.to_thread(decompress, body, encoding, most)
    return decompress(body, encoding, most)


def _known(encoding: str) -> str | None:
    """The value of Content-Encoding, or None for one that leaves the body as it is."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return None
    if name not in ("gzip", "x-gzip", "deflate"):
        raise RequestError(415, f"Content-Encoding {name[:50]!r} is not known; accepted: gzip, deflate, identity")
    return name


def _disconnected(request: Request) -> RequestError:
    """Why the body ends before it is whole: the HTTP protocol's word for it, if that ended it."""
    known: RequestError | None = request.scope.get(ENDED)
    return known or RequestError(400, "the client went away before the request was complete")


def decompress(body: bytes | bytearray, encoding: str, most: int) -> bytearray:
    """``body`` without its gzip or deflate ``encoding``: members of gzip, one after the other (RFC 1952), or deflate in
    zlib's form or the raw one.

    Raises:
        RequestError: 413, more than ``most`` bytes come out; 400, it is damaged or goes on after its end.
    """
    if encoding == "deflate":
        raw = len(body) < 2 or body[0] & 0x0F != 8 or int.from_bytes(body[:2], "big") % 31
        window = -zlib.MAX_WBITS if raw else zlib.MAX_WBITS
    else:
        window = zlib.MAX_WBITS | 16
    plain = bytearray()  # it grows in place: joining parts would hold Python's lock for long
    at = members = 0
    while at < len(body) or not members:
        members += 1
        if members > (_MOST_MEMBERS if encoding != "deflate" else 1):
            raise RequestError(400, f"the body is not valid {encoding}: it goes on after its end")
        machine = zlib.decompressobj(window)
        try:
            while not machine.eof:
                rest: bytes | bytearray = machine.unconsumed_tail
                if not rest:
                    rest, at = body[at : at + _STEP], min(at + _STEP, len(body))
                part = machine.decompress(rest, _STEP)
                if not rest and not part:
                    raise RequestError(400, f"the body is not valid {encoding}: it ends early")
                if len(plain) + len(part) > most:
                    raise _too_large(most)
                plain += part
        except zlib.error as error:
            raise RequestError(400, f"the body is not valid {encoding}: {error}") from None
        at -= len(machine.unused_data)
    return plain


def compress(body: bytes, accepted: str | None) -> tuple[bytes, str | None]:
    """``body`` in the encoding of the ``Accept-Encoding`` header, and the encoding; None where it stays as it is."""
    if accepted is None or len(body) < SMALLEST:
        return body, None
    encodings = {part.split(";")[0].strip().lower() for part in accepted.split(",") if not _refused(part)}
    if "gzip" in encodings:
        machine = zlib.compressobj(_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        return machine.compress(body) + machine.flush(), "gzip"
    if "deflate" in encodings:
        return zlib.compress(body, _LEVEL), "deflate"
    return body, None


def _refused(part: str) -> bool:
    return part.replace(" ", "").lower().endswith((";q=0", ";q=0.0", ";q=0.00", ";q=0.000"))


def _too_large(most: int) -> RequestError:
    return RequestError(413, f"the body is larger than {most:,} bytes, after decompression where it is compressed")
