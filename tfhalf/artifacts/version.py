"""Version directories that appear whole or not at all.

An export is written into ``exports/NAME/.staging-*``, compared there, synced to disk, and renamed to the next number. A
killed run leaves a staging folder that no server reads; the next export removes it.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tfhalf.errors import ArtifactError, ConfigError
from tfhalf.files import check_writable, open_lock, replacing, sync

_STAGING = ".staging-"
_LOCK = ".lock"


def check(base: Path) -> None:
    """Before work that ends in a version of ``base`` (``exports/NAME``).

    Raises:
        ConfigError: no version can be written there, or one of the files beside the versions.
    """
    check_writable(base, "name, or another --exports")
    lock = base / _LOCK
    if os.path.lexists(lock) and (lock.is_symlink() or not lock.is_file()):
        raise ConfigError(f"{lock}: is not a file of tfhalf's; take it away, or choose another --exports")
    for path in (base / "config.pbtxt", base / ".config.pbtxt"):
        if path.is_dir() and not path.is_symlink():
            raise ConfigError(
                f"{path}: is a folder; a file is written there: take it away, or choose another --exports"
            )


@contextmanager
def staging(base: Path) -> Iterator[Path]:
    """A new folder below ``base`` (``exports/NAME``) to export into; gone after the block unless it was published."""
    check(base)
    base.mkdir(parents=True, exist_ok=True)
    folder = base / f"{_STAGING}{uuid.uuid4().hex[:12]}"
    with _alone(base):
        remove_leftovers(base)
        folder.mkdir()
        # This lock tells others that whoever writes here is alive; the kernel frees it when that process dies.
        lock = open_lock(folder / _LOCK)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with lock:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _alone(base: Path) -> Iterator[None]:
    """No other process makes, publishes or clears away a folder of ``base`` within the block."""
    with open_lock(base / _LOCK) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def remove_leftovers(base: Path) -> list[Path]:
    """Remove staging folders of dead processes; returns them. Only within `_alone`: a living process whose folder has
    no lock, because it is being made or published, would count as dead."""
    gone = []
    for folder in sorted(base.glob(f"{_STAGING}*")):
        if folder.is_symlink() or not folder.is_dir():
            continue  # none that `staging` made
        try:
            lock = open_lock(folder / _LOCK)
        except OSError:
            continue  # its process has just removed it, or it is a link, which none made
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(folder, ignore_errors=True)
            gone.append(folder)
    return gone


@contextmanager
def numbered(base: Path) -> Iterator[int]:
    """The next free version number; no other export can take it within the block."""
    with _alone(base):
        yield max([0, *versions(base), *_failed(base)]) + 1


def publish(folder: Path, base: Path, number: int, *, failed: bool = False) -> Path:
    """Rename a staged ``folder`` to ``base/number``, or ``base/failed-number``, with everything on disk before."""
    (folder / _LOCK).unlink(missing_ok=True)
    for path in [*folder.rglob("*"), folder]:
        sync(path)
    target = base / (f"failed-{number}" if failed else str(number))
    os.rename(folder, target)  # fails where a version stands: nothing published is ever replaced
    sync(base)
    return target


def replace_file(path: Path, text: str) -> None:
    """Write a small file that is at every instant the old one or the new one; leaves an equal one alone. Only within
    `numbered`."""
    if path.is_file() and not path.is_symlink() and path.read_text(encoding="utf-8", errors="replace") == text:
        return
    with replacing(path, synced=True) as beside, beside.open("x", encoding="utf-8") as file:
        file.write(text)


def versions(base: Path) -> list[int]:
    """Published version numbers below ``base``, rising."""
    if not base.is_dir():
        return []
    return sorted(int(p.name) for p in base.iterdir() if re.fullmatch(r"[1-9][0-9]{0,9}", p.name) and p.is_dir())


def find_version(path: Path) -> Path:
    """The version directory that ``path`` means: itself, or the newest below ``exports/NAME``.

    Raises:
        ArtifactError: there is none; it says what is there.
    """
    if not path.exists():
        raise ArtifactError(f"{path}: does not exist; give exports/NAME or exports/NAME/VERSION")
    if (path / "manifest.json").is_file():
        return path
    numbers = versions(path)
    if numbers:
        return path / str(numbers[-1])
    inside = sorted(p.name for p in path.iterdir() if versions(p)) if path.is_dir() else []
    if inside:
        raise ArtifactError(f"{path}: holds the exports {', '.join(inside[:8])}; give one of them")
    raise ArtifactError(f"{path}: holds no exported version; `tfhalf train PIPELINE` makes one")


def _failed(base: Path) -> list[int]:
    matches = (re.fullmatch(r"failed-([0-9]{1,10})", path.name) for path in base.iterdir())
    return [int(match.group(1)) for match in matches if match]
