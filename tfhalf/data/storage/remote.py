"""Files behind ``http(s)://``, ``s3://`` and ``gs://``: `Remote`.

By fsspec, which TFDS brings along: one interface to all of these, kept by many (dask, pandas and Hugging Face read
through it), with range reads that many threads may have under way. etils.epath, which TFDS itself uses, has no range
reads but through an open file of its own for each reader.
"""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

from tfhalf.data.storage.base import DEEPEST, LARGEST, Entry
from tfhalf.errors import DataError
from tfhalf.text import one_line, printable

SCHEMES = ("gs", "s3", "http", "https")
TRIES = 4
TIMEOUT = 30.0
"""Seconds that one request may take; a slow network is to bring 4 MiB in them."""
PAUSE = 1.0
"""Seconds before the second try; before each further one twice as many."""
_SLOWEST = 1 << 17  # bytes a second: a large range gets more time
_FIRST = 1 << 20  # bytes that are asked for where a size is not known: few images have more
_LATER = (408, 425, 429, 500, 502, 503, 504)


class Remote:
    """A `Storage` of files behind URLs of one scheme.

    Args:
        url: any of them.
        source: for messages.

    Raises:
        DataError: the scheme is not one that is read, or its library is not installed.
    """

    advice = (
        "check the network and the address; a run that was training goes on from its last checkpoint: tfhalf train "
        "PIPELINE --resume"
    )
    parallel = 32
    is_remote = True

    def __init__(self, url: str, source: str) -> None:
        self.scheme = url.partition("://")[0].lower()
        if self.scheme not in SCHEMES:
            raise DataError(
                f"{source}: {printable(url, 80)} has the scheme {printable(self.scheme, 20)!r}; accepted: "
                f"{', '.join(f'{scheme}://' for scheme in SCHEMES)}, or a path; copy the files to one of these"
            )
        self._files = _filesystem(self.scheme, source)

    def read(self, path: str, start: int, count: int) -> bytes:
        """``count`` bytes from ``start`` on, by one request for that range, tried again where that may help.

        Raises:
            OSError: the server cannot be reached, refuses, answers no ranges, or the file ends before.
        """
        if not count:
            return b""
        seconds = TIMEOUT + count / _SLOWEST
        data: bytes = self._tried(lambda: self._range(path, start, start + count), seconds)
        if len(data) != count:
            raise OSError(errno.EIO, f"it ends at byte {start + len(data):,}, before {start + count:,}")
        return data

    def read_whole(self, path: str, limit: int) -> bytes:
        """A file's content.

        Raises:
            OSError: as `read`, or it has more than ``limit`` bytes.
        """
        first = min(limit + 1, _FIRST)
        data: bytes = self._tried(lambda: self._range(path, 0, first, to_end=True), TIMEOUT + first / _SLOWEST)
        if len(data) == first <= limit:
            size = self.entry(path).size
            data += self.read(path, first, min(size, limit + 1) - first)
        if len(data) > limit:
            raise OSError(errno.EOVERFLOW, f"it has more than the {limit:,} bytes that are read")
        return data

    def entry(self, path: str) -> Entry:
        """A file's size and, where the server gives one, its ETag or the time of its last change.

        Raises:
            OSError: as `read`, or the server gives no size.
        """
        known = self._tried(lambda: self._files._info(path), TIMEOUT)
        if known.get("type") == "directory" or known.get("size") is None:
            raise OSError(errno.EINVAL, "its server gives no size of it")
        return self._entry(path, known)

    def walk(self, folder: str) -> Iterator[Entry]:
        """Every file below ``folder``: of a bucket from its list of objects, over HTTP from index pages.

        Raises:
            OSError: as `read`.
        """
        if self.scheme in ("http", "https"):
            yield from self._pages(folder.rstrip("/") + "/", DEEPEST)
            return
        listed = self._tried(lambda: self._files._find(folder, detail=True), 20 * TIMEOUT)
        for path, known in listed.items():
            yield self._entry(f"{self.scheme}://{path}", known)

    def _pages(self, folder: str, deeper: int) -> Iterator[Entry]:
        """Files below an index page, which are links that go one step further down; those that end in ``/`` are pages,
        read down to a depth of so many."""
        links = _Links(folder)
        page: bytes = self._tried(lambda: self._range(folder, 0, LARGEST, to_end=True), 4 * TIMEOUT)
        links.feed(page.decode("utf-8", "replace"))
        for inner in sorted(links.inner):
            if not inner.endswith("/"):
                yield Entry(folder + inner, -1, "")
            elif deeper:
                yield from self._pages(folder + inner, deeper - 1)

    def _entry(self, path: str, known: dict[str, Any]) -> Entry:
        stamps = ("ETag", "etag", "generation", "LastModified", "updated", "mtime", "last_modified")
        stamp = next((str(known[name]) for name in stamps if known.get(name)), "")
        return Entry(path, int(known["size"]), stamp)

    def _range(self, path: str, start: int, end: int, *, to_end: bool = False) -> Awaitable[bytes]:
        if self.scheme in ("http", "https"):
            return _http_range(self._files, path, start, end, to_end)
        ranged: Awaitable[bytes] = self._files._cat_file(path, start=start, end=end)
        return ranged

    def _tried(self, call: Callable[[], Awaitable[Any]], seconds: float) -> Any:
        """What ``call`` gives, tried up to `TRIES` times of so many ``seconds``.

        Raises:
            OSError: it gives nothing.
        """
        for left in reversed(range(TRIES)):
            try:
                return self._once(call, seconds)
            except FileNotFoundError as error:
                raise OSError(errno.ENOENT, "it does not exist") from error
            except PermissionError as error:
                raise OSError(errno.EACCES, f"its server refuses ({one_line(error, 120)})") from error
            except _Refused as error:
                raise OSError(errno.EINVAL, one_line(error, 160)) from error
            except Exception as error:  # each of the libraries raises errors of its own
                timed_out = isinstance(error, TimeoutError | asyncio.TimeoutError)
                why = f"no answer within {seconds:.0f} s" if timed_out else one_line(error, 160)
                if not left:
                    raise OSError(errno.EIO, f"{why}, {TRIES} tries") from error
            time.sleep(PAUSE * 2 ** (TRIES - 1 - left))
        raise AssertionError("unreachable")

    def _once(self, call: Callable[[], Awaitable[Any]], seconds: float) -> Any:
        from fsspec.asyn import sync

        async def run() -> Any:
            return await call()

        return sync(self._files.loop, run, timeout=seconds)


class _Links(HTMLParser):
    """The names that a page links to, one step further down than it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.page, self.inner = page, set[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note where a link leads."""
        link = dict(attrs).get("href") if tag == "a" else None
        try:
            whole = urljoin(self.page, link or "").partition("#")[0].partition("?")[0]
        except ValueError:  # no URL
            return
        inner = whole.removeprefix(self.page)
        if whole != inner and inner and not inner.startswith((".", "/")) and "/" not in inner.rstrip("/"):
            self.inner.add(inner)


class _Refused(Exception):  # noqa: N818  # it ends in an OSError
    """What no further try makes better."""


async def _http_range(files: Any, url: str, start: int, end: int, to_end: bool) -> bytes:
    """Bytes ``start`` to ``end`` of ``url``, never more, whatever the server sends; with ``to_end`` fewer where the
    file ends before."""
    session = await files.set_session()
    headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    async with session.get(files.encode_url(url), headers=headers) as answer:
        status = answer.status
        if status in (404, 410):
            raise FileNotFoundError(url)
        if status in (401, 403):
            raise PermissionError(f"HTTP {status}")
        if status in _LATER:
            raise ConnectionError(f"HTTP {status}")
        if status == 416:
            return b""
        if status == 200 and not (to_end or start == 0):
            raise _Refused("its server answers no requests for a range of bytes, HTTP 200 instead of 206")
        if status not in (200, 206):
            raise _Refused(f"HTTP {status}")
        if status == 206 and not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise _Refused("its server answers another range of bytes than the one requested")
        parts, left = [], end - start
        while left and (part := await answer.content.read(left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)


_FILESYSTEMS: dict[str, Any] = {}
_LOCK = threading.Lock()


def _filesystem(scheme: str, source: str) -> Any:
    """fsspec's file system of ``scheme``, one for the process: threads share its connections.

    Raises:
        DataError: what it needs is not installed.
    """
    with _LOCK:
        if scheme not in _FILESYSTEMS:
            try:
                import fsspec

                # Listings of millions of files are not kept a second time.
                _FILESYSTEMS[scheme] = fsspec.filesystem(scheme, use_listings_cache=False)
            except ImportError as error:
                raise DataError(
                    f"{source}: {scheme}:// needs a library that is not installed ({one_line(error, 120)}); install "
                    "it: pip install 'tfhalf[remote]'"
                ) from error
        return _FILESYSTEMS[scheme]
