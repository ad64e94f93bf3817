"""What sources of encoded items need of where their files lie: `Storage`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

LARGEST = 1 << 28
"""Bytes that an encoded image, or the record that holds it, may have: what a hostile length makes nobody allocate."""
DEEPEST = 6
"""Folders below one another that are walked: links may lead in circles."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class Entry(NamedTuple):
    """A file: its path or URL, its bytes, and ``stamp``, a text that changes when its content does (as far as where it
    lies tells). ``size`` is -1 where a listing does not tell."""

    path: str
    size: int
    stamp: str


class Storage(Protocol):
    """Files that are read by the range, by many threads at once; none holds Python's lock while it waits.

    Every method raises OSError whose ``strerror`` says what went wrong, and nothing else. ``advice`` says what to do
    about it, ``parallel`` how many reads are worth having under way at once.
    """

    advice: str
    parallel: int
    is_remote: bool

    def read(self, path: str, start: int, count: int) -> bytes:
        """The ``count`` bytes from ``start`` on, all of them: a file that ends before is an OSError."""

    def read_whole(self, path: str, limit: int) -> bytes:
        """A file's content of at most ``limit`` bytes; a larger one is an OSError."""

    def entry(self, path: str) -> Entry:
        """What a file is now."""

    def walk(self, folder: str) -> Iterator[Entry]:
        """Every file below ``folder``, in no particular order."""


def is_url(path: str) -> bool:
    """Whether ``path`` is a URL, and no path of this machine's."""
    return _URL.match(path) is not None


def joined(base: Path, path: str) -> str:
    """``path`` as it is where it is a URL; else as one of this machine's, relative to ``base``."""
    return path if is_url(path) else str(base / Path(path).expanduser())


def relative(path: str, root: str) -> str:
    """How messages name ``path``: below ``root`` where it lies there."""
    return path.removeprefix(root.rstrip("/") + "/") or path


def said(error: OSError) -> str:
    """What an error of a `Storage` says, without the path that it is about."""
    return error.strerror or str(error) or type(error).__name__
