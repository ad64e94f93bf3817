"""Bodies of requests: read up to a limit, decompressed up to the same limit; and answers, compressed."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import ClientDisconnect, Request

from tfhalf.errors import RequestError
from tfhalf.serve.settings import Limits

_STEP = 1 << 20
_LARGE = 1 << 18  # above this, decompressing leaves the event loop
SMALLEST = 1024  # answers below are not worth compressing
_LEVEL = 1


class Bodies:
    """Reads bodies within `Limits`, and knows how many bytes of them are held."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0

    @contextmanager
    def held(self) -> Iterator[Held]:
        """Within the block what is read counts towards ``max_bodies``."""
        held = Held(self)
        try:
            yield held
        finally:
            self._held -= held.bytes

    def _hold(self, count: int) -> None:
        if self._held + count > self._limits.max_bodies:
            raise RequestError(429, "the bodies of requests fill the memory set aside for them; ask again later", 1)
        self._held += count


class Held:
    """The bytes of one request."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self.bytes = 0

    async def read(self, request: Request) -> bytes:
        """The whole body, decompressed.

        Raises:
            RequestError: 413, it is larger than the limit; 415, an encoding that is not known; 400, it is damaged.
        """
        most = self._bodies._limits.max_body
        length = request.headers.get("content-length")
        if length is not None and (not length.isdigit() or int(length) > most):
            raise _too_large(most)
        parts: list[bytes] = []
        count = 0
        async for part in _parts(request):
            count += len(part)
            if count > most:
                raise _too_large(most)
            self._take(len(part))
            parts.append(part)
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding in ("", "identity"):
            return body
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise RequestError(
                415, f"Content-Encoding {encoding[:50]!r} is not known; accepted: gzip, deflate, identity"
            )
        if len(body) > _LARGE:
            plain = await asyncio.to_thread(decompress, body, encoding, most)
        else:
            plain = decompress(body, encoding, most)
        self._take(len(plain))
        return plain

    def _take(self, count: int) -> None:
        self._bodies._hold(count)
        self.bytes += count


async def _parts(request: Request):  # type: ignore[no-untyped-def]
    try:
        async for part in request.stream():
            if part:
                yield part
    except ClientDisconnect:
        raise RequestError(400, "the client went away before the request was complete") from None


def decompress(body: bytes, encoding: str, most: int) -> bytes:
    """``body`` without its gzip or deflate ``encoding`` (of deflate, zlib's form and the raw one).

    Raises:
        RequestError: 413, more than ``most`` bytes come out; 400, it is damaged or goes on after its end.
    """
    if encoding == "deflate":
        raw = len(body) < 2 or body[0] & 0x0F != 8 or int.from_bytes(body[:2], "big") % 31
        window = -zlib.MAX_WBITS if raw else zlib.MAX_WBITS
    else:
        window = zlib.MAX_WBITS | 16
    machine = zlib.decompressobj(window)
    parts, count, rest = [], 0, body
    try:
        while not machine.eof:
            part = machine.decompress(rest, _STEP)
            count += len(part)
            if count > most:
                raise _too_large(most)
            parts.append(part)
            rest = machine.unconsumed_tail
            if not rest and not part:
                break
    except zlib.error as error:
        raise RequestError(400, f"the body is no valid {encoding}: {error}") from None
    if not machine.eof or machine.unused_data:
        raise RequestError(
            400, f"the body is no valid {encoding}: it {'goes on after its end' if machine.eof else 'ends early'}"
        )
    return b"".join(parts)


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
