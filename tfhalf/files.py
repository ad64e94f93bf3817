"""Files that must be what they were, and stay once they are there."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tfhalf.errors import ConfigError
from tfhalf.text import one_line

_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading bytes, without ever waiting for a pipe's other end.

    Raises:
        OSError: it cannot be opened, or is a pipe, a socket, a device or a folder, which ``strerror`` says.
    """
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "a null byte in its name")
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        kind = stat.S_IFMT(os.fstat(handle).st_mode)
        if kind != stat.S_IFREG:
            raise OSError(errno.EINVAL, f"it is {_KINDS.get(kind, 'something else')}, not a file")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def check_regular(path: Path) -> None:
    """For a library that opens ``path`` itself.

    Raises:
        OSError: as `open_regular` does.
    """
    open_regular(path).close()


def read_bytes(path: Path, limit: int) -> bytes:
    """A regular file's content of at most ``limit`` bytes.

    Raises:
        OSError: as `open_regular` does, or it has more bytes.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1) if size <= limit else b""  # room is made for as much as is asked for
        # What /proc holds has no size before it is read.
        while content and len(content) <= limit and (more := file.read(1 << 16)):
            content += more
    if max(size, len(content)) > limit:
        raise OSError(
            errno.EOVERFLOW, f"it has {max(size, len(content)):,} bytes, more than the {limit:,} that are read"
        )
    return content


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_writable(folder: Path, option: str) -> None:
    """Before long work whose result goes there: a file is made in it, or above it where it is not there yet.

    Raises:
        ConfigError: ``folder`` is none that can be written to, nor can become one.
    """
    path = folder.absolute()
    there = next(above for above in (path, *path.parents) if os.path.lexists(above))
    try:
        longest = os.pathconf(there, "PC_NAME_MAX") if there.is_dir() else 0
        if not longest:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if any(len(os.fsencode(part)) > longest for part in path.parts):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise ConfigError(
            f"{folder}: {there} is not a folder that can be written to ({why}); choose another {option}"
        ) from None


def open_lock(path: Path) -> BinaryIO:
    """A file to lock, which is made where there is none; its content stays as it is.

    Raises:
        OSError: it cannot be opened, or is a link, a folder, or anything else than a file.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is not a file", str(path))
    return os.fdopen(handle, "r+b")


def disk_fault(error: BaseException | None) -> str | None:
    """What a disk that is full or fails says, where ``error`` or what caused it comes from one."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_FAULTS:
            return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        if any(os.strerror(number) in str(error) for number in _DISK_FAULTS):  # of a library that words errors itself
            return one_line(error, 200)
        error = error.__cause__ or error.__context__
    return None


def sync(path: Path) -> None:
    """Have the disk take a file's content, or a folder's list of names: after that a power cut does not undo it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path, *, synced: bool = False) -> Iterator[Path]:
    """A name beside ``path`` for a file or a folder, which after the block takes its name, whole or not at all.

    Nothing is left of it where the block raises. What a killed process left there goes before; only one process at a
    time may write ``path``. A link is replaced; what it leads to stays as it is.

    Args:
        synced: the disk has all of it before it appears, and its name before this returns.
    """
    beside = path.with_name(f".{path.name}")
    beside.unlink(missing_ok=True)
    try:
        yield beside
        if synced:
            for written in (*beside.rglob("*"), beside):
                sync(written)
        beside.replace(path)
    finally:
        if beside.is_dir() and not beside.is_symlink():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            beside.unlink(missing_ok=True)
    if synced:
        sync(path.parent)
