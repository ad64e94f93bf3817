"""Where each record of a part is, and its label: one pass over its shards, kept for the next time."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tfhalf.data.sources.records import arrayrecord, example, tfrecord
from tfhalf.data.storage import cache
from tfhalf.data.storage.base import LARGEST, Entry, Storage, relative, said
from tfhalf.errors import DataError
from tfhalf.progress import duration, size
from tfhalf.text import printable

Say = Callable[[str], None]

TFRECORD, ARRAY_RECORD = "TFRecord", "ArrayRecord"
_EVERY = 5.0  # seconds between lines of progress
_ANNOUNCED = 1 << 28  # bytes that take long enough to read for a line before
_PACKED = 8  # records in a group that cost little to unpack for one
_DTYPES = {"counts": np.int64, "offsets": np.uint64, "lengths": np.uint32, "labels": np.int32}
_LARGEST_LABEL = 2**31 - 1


@dataclass(frozen=True)
class Index:
    """Of S shards with N records in all: how many each holds, int64 [S]; where each record begins, uint64 [N], how many
    bytes it has, uint32 [N] (both empty for ArrayRecord, whose files know that themselves); labels, int32 [N]."""

    format: str
    image_key: str
    counts: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.uint64]
    lengths: npt.NDArray[np.uint32]
    labels: npt.NDArray[np.int32]


class _Rows:
    """What is known of one shard, a few bytes for each record."""

    def __init__(self) -> None:
        self.offsets, self.lengths, self.labels = array("Q"), array("I"), array("i")

    def arrays(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32], npt.NDArray[np.int32]]:
        return np.array(self.offsets, np.uint64), np.array(self.lengths, np.uint32), np.array(self.labels, np.int32)


class _Meter:
    """Says how far a pass is, and how long it is going to take, every few seconds."""

    def __init__(self, total: int, shards: int, source: str, say: Say) -> None:
        self.total, self.source, self.say = total, source, say
        self.done, self.start = 0, time.monotonic()
        self.last = self.start
        self.lock = threading.Lock()
        if total > _ANNOUNCED:
            say(f"{source}: reading {size(total)} in {shards} shards once, for where each record is, and its label")

    def add(self, count: int) -> None:
        """``count`` more bytes are read."""
        with self.lock:
            self.done += count
            now = time.monotonic()
            if now - self.last < _EVERY:
                return
            self.last, rate = now, self.done / (now - self.start)
            left = duration(max(0, self.total - self.done) / rate)
            line = f"{self.source}: {size(self.done)} of {size(self.total)} read, {size(rate)}/s, about {left} to go"
        self.say(line)


@dataclass(frozen=True)
class Indexer:
    """Reads shards for their index.

    Args:
        storage: where they lie.
        root: the folder that messages leave out of their names.
        keys: of image and label, where the pipeline sets them.
        first_label: what the lowest label is; labels less that are classes.
        source: for messages.
        say: called with lines of progress.
        unlabelled: the label -1, none, is accepted.
    """

    storage: Storage
    root: str
    keys: tuple[str | None, str | None]
    first_label: int
    source: str
    say: Say
    unlabelled: bool = False

    def index(self, entries: Sequence[Entry]) -> Index:
        """That of shards, at least one, whose sizes are known: from the cache where it fits, else by reading them all.

        Raises:
            DataError: a shard or a record is damaged, or lacks image or label; names both.
        """
        form = self._format(entries[0])
        image_key, label_key = self._keys(entries, form)
        facts = [form, image_key, label_key, str(self.first_label)]
        name = f"records-{cache.digest([entry.path for entry in entries] + facts)[:32]}"
        key = cache.digest([*facts, *(str(part) for entry in entries for part in entry)])
        if form == ARRAY_RECORD:
            self._say_packed(entries[0])
        kept = _checked(cache.load(name, key), form, image_key, entries)
        if kept is not None:
            return kept
        index = self._built(entries, form, image_key, label_key)
        cache.store(name, key, {column: getattr(index, column) for column in _DTYPES}, self.say)
        return index

    def shown(self, entry: Entry, position: int) -> str:
        """How messages name a record."""
        return f"record {position} of {relative(entry.path, self.root)}"

    def _say_packed(self, entry: Entry) -> None:
        """Say where records are packed together."""
        try:
            packed = arrayrecord.group(entry)
        except OSError as error:
            raise self._unreadable(entry, error) from error
        except ValueError as error:
            raise self._fault(entry, 0, error) from error
        if packed > _PACKED:
            self.say(
                f"{self.source}: {relative(entry.path, self.root)} packs {packed} records together, and each read of "
                "one unpacks them all; shards that are written with group_size:1 are read faster"
            )

    def _format(self, entry: Entry) -> str:
        """What a shard holds, by how it begins.

        Raises:
            DataError: neither of the two formats, or a compressed file.
        """
        count = min(entry.size, tfrecord.HEADER.size)
        try:
            start = self.storage.read(entry.path, 0, count)
        except OSError as error:
            raise self._unreadable(entry, error) from error
        if start.startswith(arrayrecord.SIGNATURE):
            if self.storage.is_remote:
                raise self._error(
                    entry, "is ArrayRecord, which is read from a disk alone; copy the set, or use its TFRecord form"
                )
            return ARRAY_RECORD
        if tfrecord.starts_as(start):
            return TFRECORD
        if tfrecord.is_packed(start):
            raise self._error(
                entry, "is compressed as a whole, so that no record can be read by itself; unpack it, for example with "
                "gunzip"
            )  # fmt: skip
        what = "is empty" if not entry.size else "is not TFRecord or ArrayRecord, or is damaged at its start"
        raise self._error(entry, f"{what}; accepted: shards of one of these; copy it again, or take it out")

    def _keys(self, entries: Sequence[Entry], form: str) -> tuple[str, str]:
        """The keys of image and label, as the first record has them."""
        if self.keys[0] is not None and self.keys[1] is not None:
            return self.keys[0], self.keys[1]
        for entry in entries:
            for data in self._records(entry, form, _Rows()):
                try:
                    return example.keys(data, *self.keys)
                except ValueError as error:
                    raise self._fault(entry, 0, error) from error
        raise DataError(f"{self.source}: its shards hold no record; at least one is needed; copy them again")

    def _built(self, entries: Sequence[Entry], form: str, image_key: str, label_key: str) -> Index:
        meter = _Meter(sum(entry.size for entry in entries), len(entries), self.source, self.say)

        def rows(entry: Entry) -> Any:
            known = _Rows()
            for position, data in enumerate(self._records(entry, form, known)):
                known.labels.append(self._label(entry, position, data, image_key, label_key))
                meter.add(len(data) + tfrecord.AROUND)
            return known.arrays()

        with ThreadPoolExecutor(min(self.storage.parallel, 8, len(entries))) as pool:
            try:
                shards = list(pool.map(rows, entries))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        counts = np.array([len(labels) for _, _, labels in shards], np.int64)
        offsets, lengths, labels = (np.concatenate(columns) for columns in zip(*shards, strict=True))
        if not len(labels):
            raise DataError(f"{self.source}: its shards hold no record; at least one is needed; copy them again")
        return Index(form, image_key, counts, offsets, lengths, labels)

    def _records(self, entry: Entry, form: str, rows: _Rows) -> Iterator[bytes]:
        """Every record of a shard; where each lies is added to ``rows``."""
        position = 0
        try:
            if form == ARRAY_RECORD:
                for data in arrayrecord.scan(entry):
                    yield data
                    position += 1
                return
            for record in tfrecord.scan(self.storage, entry):
                rows.offsets.append(record.offset)
                rows.lengths.append(record.length)
                yield record.data
                position += 1
        except OSError as error:
            raise self._unreadable(entry, error) from error
        except ValueError as error:
            raise self._fault(entry, position, error) from error

    def _label(self, entry: Entry, position: int, data: bytes, image_key: str, label_key: str) -> int:
        """The class of a record."""
        try:
            label = example.label(data, image_key, label_key)
        except ValueError as error:
            raise self._fault(entry, position, error) from error
        if not -self.unlabelled <= label - self.first_label <= _LARGEST_LABEL:
            low = self.first_label
            remedy = "correct it, or set data.records.first_label"
            if label == -1:
                remedy = "-1 often stands for none: leave such shards out"
            raise self._error(
                entry,
                f"has the label {label}; accepted: from {low} on; {remedy}",
                position,
            )
        return label - self.first_label

    def _fault(self, entry: Entry, position: int, error: ValueError) -> DataError:
        said_of = str(error)
        remedy = "copy it again, or take it out"
        if said_of.startswith(("lacks", "holds")):
            remedy = "name the keys of image and label in data.records, or correct the shard"
        return self._error(entry, f"{said_of}; {remedy}", None if said_of == arrayrecord.NOT_WHOLE else position)

    def _unreadable(self, entry: Entry, error: OSError) -> DataError:
        return self._error(entry, f"cannot be read ({said(error)}); {self.storage.advice}")

    def _error(self, entry: Entry, problem: str, position: int | None = None) -> DataError:
        name = relative(entry.path, self.root) if position is None else self.shown(entry, position)
        return DataError(f"{self.source}: {printable(name, 200)} {problem}")


def _checked(
    arrays: Mapping[str, np.ndarray] | None, form: str, image_key: str, entries: Sequence[Entry]
) -> Index | None:
    """What the cache holds as an `Index`; None where that could not be one of these shards: it is a file like any
    other, and nobody reads beyond a shard's end for it."""
    if arrays is None or set(arrays) != set(_DTYPES):
        return None
    if any(arrays[name].dtype != dtype or arrays[name].ndim != 1 for name, dtype in _DTYPES.items()):
        return None
    counts, offsets, lengths, labels = (arrays[name] for name in _DTYPES)
    items = len(labels)
    # Within these bounds their sum cannot overflow.
    if len(counts) != len(entries) or not items or counts.min() < 0 or counts.max() > items or counts.sum() != items:
        return None
    if labels.min() < -1 or len(offsets) != len(lengths) or len(offsets) != (items if form == TFRECORD else 0):
        return None
    if form == TFRECORD:
        sizes = np.repeat(np.array([entry.size for entry in entries], np.uint64), counts)
        if lengths.max() > LARGEST or (offsets > sizes).any():
            return None
        if (offsets + lengths + np.uint64(tfrecord.AROUND) > sizes).any():
            return None
    return Index(form, image_key, counts, offsets, lengths, labels)
