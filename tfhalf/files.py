"""Files that must be what they were, and stay once they are there."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from tfhalf.errors import ConfigError


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_writable(folder: Path, option: str) -> None:
    """Before long work whose result goes there.

    Raises:
        ConfigError: ``folder`` is none that can be written to, nor can become one.
    """
    there = next(above for above in (folder, *folder.absolute().parents) if above.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{folder}: {there} is no folder that can be written to; choose another {option}")


def sync(path: Path) -> None:
    """Have the disk take a file's content, or a folder's list of names: after that a power cut does not undo it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
