"""An npz file read with a bound: `read_npz`. numpy makes room for what an array's header claims before it looks at what
the file holds, and a small archive may unpack into any size."""

from __future__ import annotations

import math
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.lib import format as npy

from tfhalf.files import open_regular
from tfhalf.text import one_line, printable

MAX_RATIO = 20
SMALL = 256 << 20
"""Bytes that any archive may unpack into; a larger result is held to `MAX_RATIO` times its file."""
_KINDS = "biufcSU"
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, KeyError, RuntimeError, MemoryError)


def read_npz(path: Path, select: Callable[[str], bool] = lambda name: True) -> dict[str, np.ndarray]:
    """Every array of an npz file whose name ``select`` takes: numbers, truth values and text; no Python objects.

    Raises:
        OSError: the file cannot be opened, or is not a regular one.
        ValueError: it is damaged, or claims other sizes than it holds; one line says what.
    """
    with open_regular(path) as file:
        bound = max(SMALL, MAX_RATIO * os.fstat(file.fileno()).st_size)
        try:
            with zipfile.ZipFile(file) as archive:
                total = sum(info.file_size for info in archive.infolist())
                if total > bound:
                    raise ValueError(f"it unpacks into {total:,} bytes, more than the {bound:,} that are read")
                names = [info.filename.removesuffix(".npy") for info in archive.infolist()]
                if len(set(names)) != len(names):
                    raise ValueError("two arrays of it have one name")
                return {
                    name: _array(archive, info, name)
                    for name, info in zip(names, archive.infolist(), strict=True)
                    if select(name)
                }
        except _DAMAGE as error:
            raise ValueError(one_line(error, 160)) from None


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file, or the one of an npy file as ``x``.

    Raises:
        OSError, ValueError: as `read_npz` does.
    """
    with open_regular(path) as file:
        if file.read(6) != b"\x93NUMPY":
            return read_npz(path)
        file.seek(0)
        _check(file, os.fstat(file.fileno()).st_size, "the array")
        file.seek(0)
        return {"x": npy.read_array(file, allow_pickle=False)}


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> np.ndarray:
    with archive.open(info) as member:
        _check(member, info.file_size, repr(printable(name, 60)))
    with archive.open(info) as member:
        array: np.ndarray = npy.read_array(member, allow_pickle=False)
    return array


def _check(member: Any, size: int, shown: str) -> None:
    """Hold an array's header against the ``size`` of all of it, and what it may hold."""
    dtype, shape = _header(member, shown)
    if dtype.hasobject:
        raise ValueError(f"{shown} holds Python objects, which would run code when loaded")
    if any(side < 0 for side in shape):
        raise ValueError(f"{shown} has the shape {printable(str(shape), 40)}")
    if dtype.kind not in _KINDS or not dtype.itemsize:
        raise ValueError(f"{shown} has the dtype {printable(str(dtype), 40)}, not numbers or text")
    claimed, held = math.prod(shape) * dtype.itemsize, size - member.tell()
    if claimed != held:
        raise ValueError(f"{shown} claims {claimed:,} bytes and holds {held:,}")


def _header(member: Any, shown: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    try:
        reader = _HEADERS[npy.read_magic(member)]
        shape, _, dtype = reader(member)
    except (ValueError, KeyError, SyntaxError, TypeError, RecursionError, MemoryError, TokenError):
        # numpy quotes the header, which may be anything
        raise ValueError(f"{shown} has no readable header of an array") from None
    return dtype, shape
