"""A folder of the cache that holds the programs compiled for one machine's GPUs, versions and flags: `ProgramKey`."""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tfhalf.files import open_lock, read_bytes

PROGRAMS = "programs"
"""The folder in the cache that holds one for each key."""
KERNELS = "kernels"
_BEING_WRITTEN = os.path.join(KERNELS, "tmp")
_FACTS, _LOCK = "key.json", "lock"
_MOST_FACTS = 1 << 16  # bytes
_NAME = re.compile(r"[0-9a-f]{16}")
_UNFINISHED = 24 * 3600.0  # seconds after which nobody goes on with a file
# By folder within a key's: what XLA writes there, under names of its own while it does, and what tfhalf does.
_OURS = {
    "": re.compile(r".+\.pb|.+\.tmp|\.?key\.json(\.\d+)?"),
    KERNELS: re.compile(r".+\.textproto"),
    _BEING_WRITTEN: re.compile(r"tmp_cache_.+"),
}


@dataclass(frozen=True)
class KeptFile:
    """A file of a key: its size in bytes, and when it was last used, in nanoseconds since the epoch."""

    path: Path
    size: int
    used: int


@dataclass(frozen=True)
class ProgramKey:
    """``folder`` and what lies in it. What another process removes meanwhile is as good as never there."""

    folder: Path

    def begin(self, facts: dict[str, Any]) -> BinaryIO:
        """Have the folder there, and say what the key stands for; its date is the key's last use.

        Returns:
            a lock that other processes may hold too; until it is closed none of them removes the key.

        Raises:
            OSError: it cannot be written.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.alone() as alone:
            if alone:
                self._forget_reading()
        lock = self._shared()
        try:
            (self.folder / KERNELS).mkdir(mode=0o700, exist_ok=True)
            beside = self.folder / f".{_FACTS}.{os.getpid()}"
            beside.write_text(json.dumps(facts) + "\n", encoding="utf-8")
            beside.replace(self.folder / _FACTS)
        except BaseException:
            lock.close()
            raise
        return lock

    def _forget_reading(self) -> None:
        """Have the file system note the next reading of each program, as it does where the one before is older than the
        content; and remove the empty files that a power cut leaves: XLA takes them for damaged programs and fails."""
        for file in self.programs():
            with suppress(FileNotFoundError):
                if file.size:
                    os.utime(file.path, ns=(file.used - 10**9, file.used))
                else:
                    file.path.unlink()

    def _shared(self) -> BinaryIO:
        for _ in range(100):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = open_lock(self.lock_path)
            if self._holds(lock, fcntl.LOCK_SH):
                return lock
            lock.close()
            time.sleep(0.05)
        raise TimeoutError(0, "another process is trimming it", str(self.folder))

    def facts(self) -> dict[str, Any]:
        """What the key stands for; empty where that cannot be read."""
        with suppress(OSError, ValueError):
            facts = json.loads(read_bytes(self.folder / _FACTS, _MOST_FACTS))
            if isinstance(facts, dict):
                return facts
        return {}

    def files(self) -> list[KeptFile]:
        """All that XLA and tfhalf left there, the lock apart, without following links."""
        return [file for part in _OURS for file in self._part(part)]

    def programs(self) -> list[KeptFile]:
        """The compiled programs."""
        return [file for file in self._part("") if file.path.suffix == ".pb"]

    def kernels(self) -> list[KeptFile]:
        """The choices of kernels."""
        return self._part(KERNELS)

    @property
    def lock_path(self) -> Path:
        """The file that processes lock which use the key."""
        return self.folder / _LOCK

    @property
    def last_used(self) -> int:
        """Nanoseconds since the epoch."""
        return max((file.used for file in self.files()), default=0)

    def note_used(self, since: int) -> None:
        """Date the programs that were read after ``since``, nanoseconds since the epoch, by now."""
        for file in self.programs():
            with suppress(FileNotFoundError):
                if file.path.stat().st_atime_ns >= since > file.used:
                    os.utime(file.path)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Within the block no other process uses the key, which is what is yielded; it is False where one does."""
        try:
            lock = open_lock(self.lock_path)
        except FileNotFoundError:
            yield False
            return
        with lock:
            yield self._holds(lock, fcntl.LOCK_EX)

    def _holds(self, lock: BinaryIO, how: int) -> bool:
        """Whether ``lock`` could be locked, and is still that of the key: who held it alone before may have removed the
        folder, and the lock with it."""
        with suppress(FileNotFoundError):
            return _locked(lock, how) and os.path.samestat(os.fstat(lock.fileno()), self.lock_path.stat())
        return False

    def remove(self) -> int:
        """Remove what XLA and tfhalf wrote, and the folder where nothing else lies in it; bytes. For whoever is
        `alone` with it.

        Raises:
            OSError: a file cannot be removed.
        """
        total = 0
        for file in self.files():
            file.path.unlink(missing_ok=True)
            total += file.size
        self.lock_path.unlink(missing_ok=True)
        for part in sorted(_OURS, reverse=True):
            with suppress(OSError):  # what is not ours stays, and its folder with it
                (self.folder / part).rmdir()
        return total

    def remove_oldest(self, count: int, since: int) -> int:
        """Remove what was never finished, and programs, those first that were not used for the longest time, until
        ``count`` bytes are free; none that was used after ``since``. Bytes."""
        unfinished = [file for file in self._part("") + self._part(_BEING_WRITTEN) if _is_unfinished(file, since)]
        oldest = [file for file in sorted(self.programs(), key=lambda file: file.used) if file.used < since]
        total = 0
        for file in unfinished + oldest:
            if total < count:
                file.path.unlink(missing_ok=True)
                total += file.size
        return total

    def _part(self, part: str) -> list[KeptFile]:
        folder = self.folder / part
        if folder.is_symlink() or (folder.parent.is_symlink() and part):
            return []
        result = []
        with suppress(FileNotFoundError, NotADirectoryError):
            for entry in os.scandir(folder):
                with suppress(FileNotFoundError):
                    facts = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(facts.st_mode) and _OURS[part].fullmatch(entry.name):
                        result.append(KeptFile(Path(entry.path), facts.st_size, facts.st_mtime_ns))
        return result


def keys_in(cache: Path) -> list[ProgramKey]:
    """The keys of a cache folder, the one first that was not used for the longest time."""
    folder = cache / PROGRAMS
    keys = []
    if not folder.is_symlink():
        with suppress(FileNotFoundError, NotADirectoryError):
            for entry in os.scandir(folder):
                if _NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                    keys.append(ProgramKey(Path(entry.path)))
    return sorted(keys, key=lambda key: key.last_used)


def _is_unfinished(file: KeptFile, since: int) -> bool:
    name = file.path.name
    return not name.endswith((".pb", _FACTS)) and file.used < since - _UNFINISHED * 1e9


def _locked(lock: BinaryIO, how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
