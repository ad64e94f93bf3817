"""ArrayRecord: records with an index of their own at the file's end, read by the library of the same name, which TFDS
brings along."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
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
        return _checked(lambda: bytes(reader.read([position])[0]))


def scan(entry: Entry) -> Iterator[bytes]:
    """Every record of a shard, one after another.

    Raises:
        OSError, ValueError: as `Readers.read` does.
    """
    reader = _open(entry.path)
    for _ in range(reader.num_records()):
        yield _checked(reader.read)


def group(entry: Entry) -> int:
    """How many records are packed together, so that reading one unpacks all of them.

    Raises:
        OSError, ValueError: as `Readers.read` does.
    """
    stated = re.search(r"group_size:(\d{1,9})", _open(entry.path).writer_options_string())
    return int(stated[1]) if stated else 1


def _open(path: str) -> Any:
    from array_record.python import array_record_module

    check_regular(Path(path))
    reader = array_record_module.ArrayRecordReader(path, _OPTIONS, file_reader_buffer_size=_BUFFER)
    if not reader.ok():
        raise ValueError(NOT_WHOLE)
    return reader


def _checked(read: Callable[[], bytes]) -> bytes:
    """The record that ``read`` gives.

    Raises:
        ValueError: it is damaged, or longer than `LARGEST`.
    """
    try:
        record = read()
    except (RuntimeError, IndexError, ValueError) as error:
        raise ValueError(f"is damaged ({one_line(error, 120)})") from None
    if len(record) > LARGEST:
        raise ValueError(f"has more than the {LARGEST:,} bytes that are read")
    return record
