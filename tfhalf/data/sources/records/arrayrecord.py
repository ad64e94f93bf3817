"""ArrayRecord: records with an index of their own at the file's end, read by the library of the same name, which TFDS
brings along."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from tfhalf.data.storage.base import LARGEST, Entry
from tfhalf.data.storage.local import most_open
from tfhalf.files import check_regular
from tfhalf.text import one_line

SIGNATURE = bytes.fromhex("83af70d10d884a3f")
"""What every file of Riegeli's records, which ArrayRecord's are, begins with."""
NOT_WHOLE = "is not a whole ArrayRecord file, which ends with an index"
_BYTES = 1 << 22  # about so many are read at once in a pass
_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # as its documentation has it for random access
_BUFFER = 1 << 16


class Readers:
    """Shards that are open, few of them at a time; a reader is closed once no thread uses it."""

    def __init__(self) -> None:
        self.of = lru_cache(maxsize=most_open())(_open)

    def read(self, path: str, position: int) -> bytes:
        """The record of that number.

        Raises:
            OSError: the file cannot be opened.
            ValueError: the record is not there or is damaged.
        """
        reader = self.of(path)
        return _read(reader, [position])[0]


def scan(entry: Entry) -> Iterator[bytes]:
    """Every record of a shard, a few megabytes of them at a time.

    Raises:
        OSError, ValueError: as `Readers.read` does.
    """
    reader = _open(entry.path)
    count, start = reader.num_records(), 0
    at_once = max(1, min(1024, count * _BYTES // max(1, entry.size)))
    while start < count:
        positions = list(range(start, min(count, start + at_once)))
        try:
            yield from _read(reader, positions)
        except ValueError:
            for position in positions:  # those before the damaged one come yet, so that it is the one that is named
                yield _read(reader, [position])[0]
        start += at_once


def _open(path: str) -> Any:
    from array_record.python import array_record_module

    check_regular(Path(path))
    reader = array_record_module.ArrayRecordReader(path, _OPTIONS, file_reader_buffer_size=_BUFFER)
    if not reader.ok():
        raise ValueError(NOT_WHOLE)
    return reader


def _read(reader: Any, positions: list[int]) -> list[bytes]:
    try:
        records: list[bytes] = reader.read(positions)
    except (RuntimeError, IndexError, ValueError) as error:
        raise ValueError(f"is damaged ({one_line(error, 120)})") from None
    if len(records) != len(positions):
        raise ValueError("is damaged (its file holds fewer records than it says)")
    if max(map(len, records)) > LARGEST:
        raise ValueError(f"has more than the {LARGEST:,} bytes that are read")
    return records
