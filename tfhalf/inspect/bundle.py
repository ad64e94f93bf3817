"""``variables.index`` of a SavedModel or checkpoint: which tensor lies where.

A sorted table as in LevelDB (github.com/google/leveldb, doc/table_format.md), which TensorFlow writes uncompressed; its
values are BundleEntryProto, and the entry with the empty key is the header.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from tfhalf.files import open_regular, read_bytes
from tfhalf.inspect import tf_messages
from tfhalf.inspect.facts import Tensor, bytes_of, checked_shape, damaged

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
MAX_BYTES = 1 << 29
MAX_ENTRIES = 2_000_000
MAX_KEY = 1 << 14  # keys share their starts: a small file could hold any number of long ones


@dataclass(frozen=True)
class Entry:
    """A tensor, and its bytes in ``file``. ``crc`` is that of its bytes."""

    tensor: Tensor
    file: Path
    offset: int
    crc: int


def read(index: Path) -> list[Entry]:
    """The numeric tensors of a bundle, in the order of their keys.

    Raises:
        ArtifactError: it is none, or its data files are missing or shorter than it says.
    """
    try:
        return list(_entries(index, read_bytes(index, MAX_BYTES)))
    except OSError as error:
        raise damaged(index, f"cannot be read: {error.strerror}") from None
    except (ValueError, IndexError, DecodeError) as error:
        raise damaged(index, f"cannot be read as an index of variables: {error}") from None


def _entries(index: Path, data: bytes) -> Iterator[Entry]:
    if len(data) < _FOOTER or int.from_bytes(data[-8:], "little") != _MAGIC:
        raise ValueError("it does not end in a table's mark")
    footer = data[-_FOOTER:]
    _, position = _handle(footer, 0)
    where, _ = _handle(footer, position)
    shards, sizes, count = 1, dict[Path, int](), 0
    for _, handle in _block(data, *where):
        count += 1
        for key, value in _block(data, *_handle(handle, 0)[0]):
            count += 1
            if count > MAX_ENTRIES:
                raise ValueError(f"it has more than {MAX_ENTRIES:,} entries")
            if not key:
                header = tf_messages.parse("Header", value)
                shards = header.shards
                if header.endianness:
                    raise ValueError("it is big-endian")
                continue
            entry = _entry(index, key.decode("utf-8", "replace"), tf_messages.parse("Entry", value), shards)
            if entry.file not in sizes:
                sizes[entry.file] = entry.file.stat().st_size if entry.file.is_file() else -1
            if entry.offset < 0 or entry.offset + entry.tensor.bytes > sizes[entry.file]:
                raise damaged(entry.file, f"does not hold all of {entry.tensor.name!r}")
            if entry.tensor.dtype == "string":
                _check_text(entry)
            elif entry.tensor.dtype:
                yield entry


def _entry(index: Path, key: str, entry: Any, shards: int) -> Entry:
    dtype = tf_messages.dtype_name(entry.dtype)
    dtype = "" if dtype in ("resource", "variant") else dtype
    shape = checked_shape(index, key, [dim.size for dim in entry.shape.dims])
    tensor = Tensor(key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE"), dtype, shape, entry.size)
    expected = 0 if entry.slices else bytes_of(dtype, tensor.count)  # slices have entries of their own
    if entry.size < 0 or (dtype not in ("", "string") and entry.size != expected):
        raise ValueError(f"{key!r} has {entry.size:,} bytes, not {expected:,}")
    file = index.with_name(f"{index.stem}.data-{entry.shard:05d}-of-{shards:05d}")
    return Entry(tensor, file, entry.offset, entry.crc)


def _check_text(entry: Entry) -> None:
    """Strings lie behind their lengths, which TensorFlow believes when it makes room for them.

    Raises:
        ValueError: they claim more than there is.
    """
    if entry.tensor.count > entry.tensor.bytes:
        raise ValueError(f"{entry.tensor.name!r} claims {entry.tensor.count:,} strings")
    with open_regular(entry.file) as file:
        file.seek(entry.offset)
        data = file.read(min(entry.tensor.bytes, 10 * entry.tensor.count))
    position = total = 0
    for _ in range(entry.tensor.count):
        length, position = varint(data, position)
        total += length
    if position + total > entry.tensor.bytes:
        raise ValueError(f"{entry.tensor.name!r} claims {total:,} bytes of strings")


def varint(data: bytes | memoryview, position: int) -> tuple[int, int]:
    """A number of protobuf and LevelDB, seven bits in a byte, and the position behind it.

    Raises:
        ValueError, IndexError: it does not end.
    """
    value = shift = 0
    while shift < 64:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("a number does not end")


def _handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    offset, position = varint(data, position)
    size, position = varint(data, position)
    return (offset, size), position


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; each key is stored as what it adds to the start of the one before."""
    if offset + size + 5 > len(data) or size < 4:
        raise ValueError("a block lies outside of it")
    if data[offset + size]:
        raise ValueError("it is compressed; TensorFlow writes it uncompressed")
    block = memoryview(data)[offset : offset + size]
    end = size - 4 - 4 * int.from_bytes(block[-4:], "little")
    if end < 0:
        raise ValueError("a block's restarts lie outside of it")
    position, key = 0, b""
    while position < end:
        shared, position = varint(block, position)
        fresh, position = varint(block, position)
        length, position = varint(block, position)
        if shared > len(key) or position + fresh + length > end:
            raise ValueError("an entry lies outside of its block")
        if shared + fresh > MAX_KEY:
            raise ValueError(f"a key has {shared + fresh:,} bytes")
        key = key[:shared] + block[position : position + fresh]
        position += fresh
        yield key, bytes(block[position : position + length])
        position += length
