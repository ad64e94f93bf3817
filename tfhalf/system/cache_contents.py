"""What lies in the user's cache, and how it is emptied: `contents`, `clear`."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfhalf.system.cache import cache_folder, cache_limit
from tfhalf.system.program_key import PROGRAMS, ProgramKey, keys_in

# Where the items of data sets are (`tfhalf.data.storage.cache`), and the names that such a file has until it is whole.
_LISTING = re.compile(r"(folder|records)-[0-9a-f]{32}\.npz|\.(folder|records)-[0-9a-f]{32}\.\w{8}")


@dataclass(frozen=True)
class Part:
    """So many ``files`` of the cache, of ``bytes`` in all."""

    files: int = 0
    bytes: int = 0

    def __add__(self, size: int) -> Part:
        return Part(self.files + 1, self.bytes + size)


@dataclass(frozen=True)
class KeyContents:
    """The programs compiled for what ``facts`` say: versions, GPUs, driver and XLA's flags.

    ``used`` is in seconds since the epoch.
    """

    name: str
    facts: dict[str, Any]
    programs: Part
    kernels: Part
    bytes: int
    used: float


@dataclass(frozen=True)
class Contents:
    """The cache ``folder``. ``limit``: bytes that programs may take. ``others``: files that tfhalf did not write, links
    among them."""

    folder: Path
    limit: int
    keys: tuple[KeyContents, ...]
    listings: Part
    others: Part

    @property
    def programs_bytes(self) -> int:
        """Bytes of all programs and choices of kernels."""
        return sum(key.bytes for key in self.keys)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: sizes in bytes, times in seconds since the epoch."""
        keys = [
            {
                "key": key.name,
                **key.facts,
                "programs": key.programs.files,
                "kernel_choices": key.kernels.files,
                "bytes": key.bytes,
                "last_used": key.used,
            }
            for key in self.keys
        ]
        return {
            "folder": str(self.folder),
            "programs": {"limit_bytes": self.limit, "bytes": self.programs_bytes, "keys": keys},
            "listings": {"files": self.listings.files, "bytes": self.listings.bytes},
            "others": {"files": self.others.files, "bytes": self.others.bytes},
        }


@dataclass(frozen=True)
class Cleared:
    """What `clear` removed, the keys that other processes use, which stay, and what else is left."""

    folder: Path
    removed: Part
    in_use: tuple[str, ...]
    others: Part


def contents() -> Contents:
    """Look through the cache folder, without following links below it.

    Raises:
        ConfigError: TFHALF_CACHE_LIMIT is not a size.
        OSError: it cannot be read.
    """
    folder = cache_folder()
    keys = keys_in(folder)
    ours = {file.path for key in keys for file in key.files()} | {key.lock_path for key in keys}
    listings = others = Part()
    for path, size in _files(folder):
        if path.parent == folder and _LISTING.fullmatch(path.name) and not path.is_symlink():
            listings += size
        elif path not in ours:
            others += size
    return Contents(folder, cache_limit(), tuple(map(_key_contents, reversed(keys))), listings, others)


def clear() -> Cleared:
    """Remove what tfhalf and XLA wrote into the cache folder; links and other files stay, as do the programs that
    another process uses.

    Raises:
        ConfigError: TFHALF_CACHE_LIMIT is not a size.
        OSError: a file cannot be removed.
    """
    folder, removed, in_use = cache_folder(), Part(), []
    for key in keys_in(folder):
        with key.alone() as alone:
            if not alone:
                in_use.append(key.folder.name)
                continue
            files = key.files()
            removed = Part(removed.files + len(files), removed.bytes + key.remove())
    for path, size in _files(folder):
        if path.parent == folder and _LISTING.fullmatch(path.name) and not path.is_symlink():
            path.unlink(missing_ok=True)
            removed += size
    with suppress(OSError):  # keys that are in use, or another's files, are left in it
        (folder / PROGRAMS).rmdir()
    return Cleared(folder, removed, tuple(in_use), contents().others)


def _key_contents(key: ProgramKey) -> KeyContents:
    files, programs, kernels = key.files(), key.programs(), key.kernels()
    return KeyContents(
        key.folder.name,
        key.facts(),
        Part(len(programs), sum(file.size for file in programs)),
        Part(len(kernels), sum(file.size for file in kernels)),
        sum(file.size for file in files),
        key.last_used / 1e9,
    )


def _files(folder: Path) -> list[tuple[Path, int]]:
    """Every file below ``folder``, and every link, with its own size in bytes."""
    result = []
    for where, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(where, name))]
        for name in (*names, *links):
            path = Path(where, name)
            with suppress(FileNotFoundError):
                result.append((path, path.lstat().st_size))
    return result
