"""``npz:PATH``: arrays in one numpy archive. Pickled objects are never loaded."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from tfhalf.data import memory
from tfhalf.data.check import ACCEPTED, KEYS, Arrays, from_mapping
from tfhalf.errors import DataError
from tfhalf.text import first_line

_MAKE = "write it with numpy.savez"
# What zipfile and numpy raise on bytes that are no archive of arrays, or on a packed, encrypted or cut one.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    RuntimeError,
    MemoryError,
    TokenError,  # numpy reads an array's header as Python
)


def read(path: Path, source: str) -> Arrays:
    """The arrays of ``path``, by the keys of `tfhalf.data.check.from_mapping`. A key such as ``x/age`` or
    ``x_train/age`` holds one of several inputs, ``y/...`` one of several outputs.

    Raises:
        DataError: no such file, no npz, truncated, Python objects inside, a missing or unknown key.
    """
    _is_archive(path, source)
    try:
        with zipfile.ZipFile(path) as archive:
            needed = sum(item.file_size for item in archive.infolist())
        memory.guard(2 * needed, source, "store fewer or smaller items, for example as uint8")
        with np.load(path, allow_pickle=False) as archive:
            # Unknown keys are refused by name: what they hold is not read.
            members = {
                key: _member(archive, key, source) if key.partition("/")[0] in KEYS else None for key in archive.files
            }
    except _DAMAGE as error:
        raise DataError(f"{source}: {path} is damaged ({first_line(error)}); copy it again, or {_MAKE}") from error
    return from_mapping(_grouped(members, source), source)


def _grouped(members: dict[str, Any], source: str) -> dict[str, Any]:
    """Members ``x/age``, ``x/sex`` as ``x: {age: ..., sex: ...}``."""
    grouped: dict[str, Any] = {}
    for key, value in members.items():
        name, slash, inner = key.partition("/")
        if not (slash and inner and name in KEYS):
            inner, name = "", key
        if name in grouped and not (inner and isinstance(grouped[name], dict)):
            raise DataError(f"{source}: holds both {name} and {name}/...; accepted: one array, or several; keep one")
        if inner:
            grouped.setdefault(name, {})[inner] = value
        else:
            grouped[name] = value
    return grouped


def _is_archive(path: Path, source: str) -> None:
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{source}: {path} {kind}; accepted: an npz file with {ACCEPTED}; correct the path")
    try:
        with path.open("rb") as file:
            start = file.read(6)
    except OSError as error:
        raise DataError(f"{source}: {path} cannot be read ({error.strerror}); make it readable") from error
    if start == b"\x93NUMPY":
        raise DataError(f"{source}: {path} is a single array (npy); accepted: an npz file with {ACCEPTED}; {_MAKE}")
    if not start.startswith(b"PK"):
        raise DataError(f"{source}: {path} is not an npz file; accepted: an npz file with {ACCEPTED}; {_MAKE}")
    # The directory of a zip file stands at its end.
    if not zipfile.is_zipfile(path):
        raise DataError(f"{source}: {path} is cut short; an npz file must be whole; copy it again, or {_MAKE}")


def _member(archive: Any, key: str, source: str) -> Any:
    try:
        return archive[key]
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{source}: {key} holds Python objects, which would run code when loaded; accepted: numeric arrays "
                "(class_names: text); store it as one"
            ) from error
        raise DataError(f"{source}: {key} is not a readable array ({first_line(error)}); {_MAKE}") from error
    except _DAMAGE as error:
        raise DataError(f"{source}: {key} is damaged ({first_line(error)}); copy the file again, or {_MAKE}") from error
