"""Files of this machine: `Local`."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from tfhalf.data.storage.base import DEEPEST, Entry
from tfhalf.files import open_regular, read_bytes

_ONCE = 1 << 30  # bytes that one call asks for; Linux gives at most 2 GiB


def most_open() -> int:
    """How many files stay open: a quarter of those that a process may have. Reading a shard again then takes one call
    of the system."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 4096 if soft == resource.RLIM_INFINITY else max(16, min(4096, soft // 4))


class _Handle:
    """An open file, closed once nobody reads it any longer: a thread may still do when another needs its turn."""

    def __init__(self, path: str) -> None:
        self.number = -1
        with open_regular(Path(path)) as file:
            self.number = os.dup(file.fileno())

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


class Local:
    """A `Storage` of files of this machine, which are opened when they are first read, and few of them at a time."""

    advice = "bring it back as it was, or begin anew without it"
    parallel = min(32, 2 * (os.cpu_count() or 1))
    is_remote = False

    def __init__(self, most: int | None = None) -> None:
        self._open = lru_cache(maxsize=most or most_open())(_Handle)

    def read(self, path: str, start: int, count: int) -> bytes:
        """``count`` bytes from ``start`` on.

        Raises:
            OSError: the file cannot be read, or ends before.
        """
        handle = self._open(path)
        data = os.pread(handle.number, min(count, _ONCE), start)
        while len(data) < count:
            more = os.pread(handle.number, min(count - len(data), _ONCE), start + len(data))
            if not more:
                raise OSError(errno.EIO, f"it ends at byte {start + len(data):,}, before {start + count:,}")
            data += more
        return data

    def read_whole(self, path: str, limit: int) -> bytes:
        """A file's content.

        Raises:
            OSError: it cannot be read, is not a regular file, or has more than ``limit`` bytes.
        """
        return read_bytes(Path(path), limit)

    def entry(self, path: str) -> Entry:
        """The file's size, and the nanosecond of its last change.

        Raises:
            OSError: there is none.
        """
        known = os.stat(path)
        return Entry(path, known.st_size, str(known.st_mtime_ns))

    def walk(self, folder: str) -> Iterator[Entry]:
        """Every file below ``folder`` but hidden ones, down to a depth of `DEEPEST`, without its size, which would take
        a call for each.

        Raises:
            OSError: a folder cannot be listed.
        """
        yield from self._walk(folder, DEEPEST)

    def _walk(self, folder: str, deeper: int) -> Iterator[Entry]:
        with os.scandir(folder) as scan:
            inner = []
            for entry in scan:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    inner.append(entry.path)
                else:
                    yield Entry(entry.path, -1, "")
        for path in inner if deeper else ():
            yield from self._walk(path, deeper - 1)
