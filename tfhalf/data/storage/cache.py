"""Small files that save reading a data set once more: where its items are, kept beside the user's other caches.

What lies there is a hint, never trusted: one that does not fit the set, is damaged or cannot be read is built anew, and
one that cannot be written is done without.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf.system.cache import cache_folder, make_folder
from tfhalf.system.npz import read_npz
from tfhalf.text import one_line

VERSION = 1
_KEY = "key"


def digest(parts: Sequence[str]) -> str:
    """A hash of texts, each apart from the next."""
    total = hashlib.sha256()
    for part in (str(VERSION), *parts):
        encoded = part.encode("utf-8", "surrogateescape")
        total.update(len(encoded).to_bytes(8, "little") + encoded)
    return total.hexdigest()


def load(name: str, key: str) -> dict[str, np.ndarray] | None:
    """The arrays kept under ``name``, where they were kept with the same ``key``; they may hold anything still."""
    path = cache_folder() / f"{name}.npz"
    try:
        arrays = read_npz(path)
    except (OSError, ValueError):
        return None
    kept = arrays.pop(_KEY, None)
    return arrays if kept is not None and kept.dtype.kind == "U" and kept.shape == () and str(kept) == key else None


def store(name: str, key: str, arrays: Mapping[str, np.ndarray], say: Callable[[str], None]) -> None:
    """Keep ``arrays`` under ``name``, whole or not at all; a disk that does not take them is said."""
    there = cache_folder()
    try:
        make_folder(there)
        # Several processes may keep the same at once: each writes a file of its own, and the last one stays.
        handle, written = tempfile.mkstemp(prefix=f".{name[:40]}.", dir=there)
        try:
            with os.fdopen(handle, "wb") as file:
                named: Any = {_KEY: np.array(key), **arrays}
                np.savez(file, **named)
            Path(written).replace(there / f"{name}.npz")
        except BaseException:
            Path(written).unlink(missing_ok=True)
            raise
    except OSError as error:
        why = error.strerror or one_line(error, 120)
        say(f"{there} does not keep where the items are ({why}): it is read again the next time")
