"""HDF5 files read as data that may mean harm: hard links alone, values within the file, sizes that the file can hold.

HDF5 can name other files (external and soft links, external storage, virtual datasets), load filters from shared
libraries, and claim any size for values that it does not store. None of that is followed; it is refused by name.
Format: docs.hdfgroup.org, "HDF5 File Format Specification Version 3.0".
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from tfhalf.artifacts.tensors import Tensor, checked_shape, damaged
from tfhalf.files import check_regular
from tfhalf.text import printable

MAGIC = b"\x89HDF\r\n\x1a\n"
MAX_OBJECTS = 200_000
MAX_DEPTH = 60
MAX_ATTRIBUTE = 64 << 20
MAX_RATIO = 200  # of the values to the file: compressed zeros reach 1,000, compressed weights 2
SLACK = 64 << 20
MAX_UNPACKED = 4 << 30  # of weights that are compressed in an archive; Keras stores them as they are
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}
# What h5py raises on bytes that are no HDF5.
DAMAGE = (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError, UnicodeError)


@dataclass(frozen=True)
class Stored:
    """A dataset: what is known of it without reading its values, and those."""

    tensor: Tensor
    _dataset: Any

    def read(self) -> np.ndarray:
        """Read the values, of the dtype and shape that ``tensor`` says.

        Raises:
            ValueError: they are not numbers, or cannot be read.
        """
        if self._dataset.dtype.kind not in "biufV":
            raise ValueError(f"{self.tensor.name!r} holds {self._dataset.dtype}, not numbers")
        try:
            return np.asarray(h5py.Dataset(self._dataset)[()])
        except (OSError, RuntimeError, TypeError) as error:
            raise ValueError(f"{self.tensor.name!r} cannot be read: {error}") from None


@dataclass(frozen=True)
class Contents:
    """An open HDF5 file that was looked through: its datasets by path, and its root group."""

    path: Path
    datasets: dict[str, Stored]
    root: Any

    def texts(self, group: str, name: str) -> list[str]:
        """Read the attribute ``name`` of ``group`` as strings: one, a list, or a list in parts ``name0``, ``name1``.

        Returns:
            The strings; none where there is no such attribute.

        Raises:
            ValueError: it is not text, or too large.
        """
        where = self.root[group].id if group else self.root.id
        whole = _texts(where, name)
        if whole is not None:
            return whole
        parts: list[str] = []
        for number in range(MAX_OBJECTS):
            part = _texts(where, f"{name}{number}")
            if part is None:
                break
            parts += part
        return parts


@contextmanager
def opened(path: Path, file: Any = None) -> Iterator[Contents]:
    """Open an HDF5 file and look through it.

    Args:
        path: the file, or what is named in messages where ``file`` is given.
        file: a binary file object that is read instead.

    Raises:
        ArtifactError: it is damaged, or holds what is not followed.
    """
    try:
        if file is None:
            check_regular(path)
        h5 = h5py.File(path if file is None else file, "r")
    except DAMAGE as error:
        raise damaged(path, f"cannot be read as an HDF5 file: {error}") from None
    with h5:
        size = path.stat().st_size if file is None else file.seek(0, 2)
        yield Contents(path, _datasets(path, h5, size), h5)


def datasets(path: Path, file: Any = None) -> list[Tensor]:
    """Describe every dataset of an HDF5 file, in the order of their names; no values are read.

    Raises:
        ArtifactError: as `opened`.
    """
    with opened(path, file) as contents:
        return sorted((stored.tensor for stored in contents.datasets.values()), key=lambda tensor: tensor.name)


def _datasets(path: Path, h5: Any, size: int) -> dict[str, Stored]:
    try:
        stored_by_name = dict(_walk(path, h5))
    except DAMAGE as error:
        raise damaged(path, f"cannot be read as an HDF5 file: {error}") from None
    claimed = sum(stored.tensor.bytes for stored in stored_by_name.values())
    if claimed > MAX_RATIO * size + SLACK:
        raise damaged(path, f"its values claim {claimed:,} bytes and the file has {size:,}")
    return stored_by_name


def _walk(path: Path, h5: Any) -> Iterator[tuple[str, Stored]]:
    seen: set[Any] = set()
    todo = [("", h5.id, 0)]
    while todo:
        prefix, group, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"its groups lie more than {MAX_DEPTH} deep")
        for raw in group:
            name = prefix + raw.decode("utf-8", "replace")
            if group.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
                raise ValueError(f"{printable(name, 60)!r} links to elsewhere; Keras writes no such links")
            inner = h5py.h5o.open(group, raw)
            where = h5py.h5o.get_info(inner)
            if (where.fileno, where.addr) in seen:
                continue
            seen.add((where.fileno, where.addr))
            if len(seen) > MAX_OBJECTS:
                raise ValueError(f"it holds more than {MAX_OBJECTS:,} groups and datasets")
            if isinstance(inner, h5py.h5g.GroupID):
                todo.append((f"{name}/", inner, depth + 1))
            elif isinstance(inner, h5py.h5d.DatasetID):
                yield name, Stored(_tensor(path, name, inner), inner)


def _tensor(path: Path, name: str, dataset: Any) -> Tensor:
    shape = checked_shape(path, name, list(dataset.shape or ()))
    try:
        dtype = dataset.dtype
    except TypeError:
        raise ValueError(f"{printable(name, 60)!r} has a type that numpy lacks") from None
    record = Tensor(printable(name), str(dtype), shape, 0)
    size = record.count * dtype.itemsize
    plan = dataset.get_create_plist()
    if plan.get_external_count() or plan.get_layout() == h5py.h5d.VIRTUAL:
        raise ValueError(f"{printable(name, 60)!r} has its values in another file; Keras writes no such datasets")
    filters = {plan.get_filter(number)[0] for number in range(plan.get_nfilters())}
    if filters - _FILTERS:
        raise ValueError(f"{printable(name, 60)!r} is compressed by filter {max(filters - _FILTERS)}; gzip is accepted")
    if not filters and dataset.get_storage_size() < size:
        raise ValueError(f"{printable(name, 60)!r} claims {size:,} bytes and has {dataset.get_storage_size():,}")
    written = "bfloat16" if dtype.kind == "V" and dtype.itemsize == 2 else str(dtype)  # numpy has none of its own
    optimizer = name.startswith(("optimizer/", "optimizer_weights/"))
    role = "optimizer" if optimizer else "state" if "seed_generator" in name else "weight"
    return Tensor(record.name, written, shape, size, role)


def _texts(group: Any, name: str) -> list[str] | None:
    """One attribute as strings; None where there is none."""
    if not h5py.h5a.exists(group, name.encode()):
        return None
    attribute = h5py.h5a.open(group, name.encode())
    if 0 in attribute.shape:
        return []
    if attribute.get_storage_size() > MAX_ATTRIBUTE:
        raise ValueError(f"its attribute {name!r} has {attribute.get_storage_size():,} bytes")
    try:
        value = h5py.AttributeManager(h5py.Group(group))[name]
    except TypeError as error:
        raise ValueError(f"its attribute {name!r} cannot be read: {error}") from None
    values = [value] if np.ndim(value) == 0 else list(np.ravel(value))
    texts = [item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in values]
    if not all(isinstance(item, str) for item in texts):
        raise ValueError(f"its attribute {name!r} is not text")
    return [str(item) for item in texts]


# --- within an archive ------------------------------------------------------------------------------------------------


class _Window(io.RawIOBase):
    """A stored member of an archive, read where it lies: ``length`` bytes of ``file`` from ``start`` on."""

    def __init__(self, file: IO[bytes], start: int, length: int) -> None:
        self.file, self.start, self.length, self.position = file, start, length, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place within the window."""
        self.position = offset + (0, self.position, self.length)[whence]
        return self.position

    def tell(self) -> int:
        """The place within the window."""
        return self.position

    def readinto(self, buffer: Any) -> int:
        """Read on, up to the end of the window."""
        count = max(0, min(len(buffer), self.length - self.position))
        self.file.seek(self.start + self.position)
        data = self.file.read(count)
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


@contextmanager
def member(path: Path, archive: zipfile.ZipFile, name: str) -> Iterator[Any]:
    """Open the HDF5 file ``name`` within ``archive``, which ``path`` is: a binary file for `opened`.

    Raises:
        ValueError: it claims more than the archive has.
    """
    info = archive.getinfo(name)
    if info.compress_type == zipfile.ZIP_STORED:
        with archive.open(info), path.open("rb") as file:  # opening checks the member's own header
            file.seek(info.header_offset)
            header = file.read(30)
            start = info.header_offset + 30 + int.from_bytes(header[26:28], "little")
            start += int.from_bytes(header[28:30], "little")
            if info.file_size != info.compress_size or start + info.file_size > path.stat().st_size:
                raise ValueError(f"{name} is not whole")
            yield _Window(file, start, info.file_size)
        return
    if info.file_size > min(MAX_UNPACKED, MAX_RATIO * max(info.compress_size, 1 << 16)):
        raise ValueError(f"{name} claims {info.file_size:,} bytes out of {info.compress_size:,}")
    with archive.open(info) as packed:
        yield io.BytesIO(packed.read(info.file_size))
