"""TFRecord: a record's length, a checksum of it, the record, and a checksum of that.

The format is that of TensorFlow's ``lib/io/record_writer.h``: uint64 length, uint32 masked CRC-32C of the length, the
bytes, uint32 masked CRC-32C of them, all little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

from tfhalf.data.storage.base import LARGEST, Entry, Storage

HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")
AROUND = HEADER.size + FOOTER.size
"""Bytes that a record takes beside its own."""
_BLOCK, _FAR = 1 << 20, 1 << 22  # bytes that a pass over a shard reads at a time, and of a URL
_PACKED = (b"\x1f\x8b", b"\x78\x01", b"\x78\x9c", b"\x78\xda")  # gzip and zlib, which TFRecord writers offer


class Record(NamedTuple):
    """A record within its shard: where it begins, how long it is without what stands around it, and its bytes."""

    offset: int
    length: int
    data: bytes


def starts_as(start: bytes) -> bool:
    """Whether a file that begins with ``start``, 12 bytes, begins with a record."""
    return len(start) == HEADER.size and HEADER.unpack(start)[1] == _masked(start[:8])


def is_packed(start: bytes) -> bool:
    """Whether a file that begins with ``start`` looks compressed as a whole."""
    return start.startswith(_PACKED)


def read(storage: Storage, path: str, offset: int, length: int) -> bytes:
    """The record of ``length`` bytes at ``offset``.

    Raises:
        OSError: the file cannot be read there.
        ValueError: another record stands there, or it is damaged.
    """
    block = storage.read(path, offset, length + AROUND)
    size = _length(block, 0)
    if size != length:
        raise ValueError(f"has {size:,} bytes, where it had {length:,} when the set was first read")
    return _record(block, 0, length)


def scan(storage: Storage, entry: Entry) -> Iterator[Record]:
    """Every record of a shard, in one pass, with a few megabytes of it in memory at a time.

    Raises:
        OSError: the file cannot be read.
        ValueError: a record is damaged, longer than `LARGEST`, or the file ends within it.
    """
    offset = start = 0
    block, usual = b"", _FAR if storage.is_remote else _BLOCK
    while offset < entry.size:
        if offset + HEADER.size > start + len(block):
            start, block = offset, _next(storage, entry, offset, usual)
        at = offset - start
        length = _length(block, at)
        if offset + length + AROUND > entry.size:
            raise ValueError(
                f"needs {length + AROUND:,} bytes, and its file ends after {entry.size - offset:,} of them"
            )
        if at + length + AROUND > len(block):
            start, block, at = offset, _next(storage, entry, offset, max(usual, length + AROUND)), 0
        yield Record(offset, length, _record(block, at, length))
        offset += length + AROUND


def _next(storage: Storage, entry: Entry, start: int, count: int) -> bytes:
    return storage.read(entry.path, start, min(count, entry.size - start))


def _length(block: bytes, at: int) -> int:
    """The length of the record at ``at``, once its checksum says that it is one."""
    if len(block) - at < HEADER.size:
        raise ValueError(f"needs {HEADER.size} bytes for its length, and its file ends after {len(block) - at} of them")
    length, checksum = HEADER.unpack_from(block, at)
    if _masked(block[at : at + 8]) != checksum:
        raise ValueError("is damaged (the checksum of its length does not fit)")
    if length > LARGEST:
        raise ValueError(f"has {length:,} bytes, more than the {LARGEST:,} that are read")
    return int(length)


def _record(block: bytes, at: int, length: int) -> bytes:
    data = block[at + HEADER.size : at + HEADER.size + length]
    if _masked(data) != FOOTER.unpack_from(block, at + HEADER.size + length)[0]:
        raise ValueError("is damaged (the checksum of its bytes does not fit)")
    return data


def _masked(data: bytes) -> int:
    """CRC-32C, rotated and moved by a constant, so that checksums may stand in what has one itself."""
    crc = _crc32c()(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@cache
def _crc32c() -> Callable[[bytes], int]:
    import google_crc32c

    checksum: Callable[[bytes], int] = google_crc32c.value
    return checksum
