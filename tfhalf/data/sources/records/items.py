"""The images of shards, by number: `Records`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tfhalf.data.sources.records import example, tfrecord
from tfhalf.data.sources.records.arrayrecord import Readers
from tfhalf.data.sources.records.index import TFRECORD, Index
from tfhalf.data.storage.base import Entry, Storage, relative, said
from tfhalf.errors import DataError
from tfhalf.text import printable


class Records:
    """The images of one part, encoded (`tfhalf.data.encoded.Encoded`): shard after shard, or in ``order``.

    Args:
        storage: where the shards lie.
        entries: the shards.
        index: of them.
        root: the folder that messages leave out of their names.
        source: for messages.
        order: a permutation of the records' numbers, where items are numbered otherwise.
    """

    def __init__(
        self,
        storage: Storage,
        entries: Sequence[Entry],
        index: Index,
        root: str,
        source: str,
        order: npt.NDArray[np.intp] | None = None,
    ) -> None:
        self.storage, self.entries, self.index, self.root, self.source = storage, entries, index, root, source
        self._order = order
        self._starts = np.concatenate([[0], np.cumsum(index.counts)]).tolist()
        self._readers = Readers()

    def __len__(self) -> int:
        return len(self.index.labels)

    @property
    def parallel(self) -> int:
        """How many reads are worth having under way at once."""
        return self.storage.parallel

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """The classes of the items, int32 [N]."""
        return self.index.labels if self._order is None else self.index.labels[self._order]

    def read(self, index: int) -> bytes:
        """The bytes of one image.

        Raises:
            DataError: its shard cannot be read, or holds another record there by now, or a damaged one.
        """
        shard, position, record = self._at(index)
        path = self.entries[shard].path
        try:
            if self.index.format == TFRECORD:
                where = int(self.index.offsets[record]), int(self.index.lengths[record])
                data = tfrecord.read(self.storage, path, *where)
            else:
                data = self._readers.read(path, position)
            return example.image(data, self.index.image_key)
        except OSError as error:
            raise DataError(
                f"{self.source}: {self.name(index)} cannot be read ({said(error)}); {self.storage.advice}"
            ) from error
        except ValueError as error:
            raise DataError(
                f"{self.source}: {self.name(index)} {error}; bring the shard back as it was, or copy it again"
            ) from error

    def name(self, index: int) -> str:
        """``record 17 of train-00003-of-01024``."""
        shard, position, _ = self._at(index)
        return printable(f"record {position} of {relative(self.entries[shard].path, self.root)}", 240)

    def _at(self, index: int) -> tuple[int, int, int]:
        """The shard of an item, its number within it, and among all records."""
        record = int(index if self._order is None else self._order[index])
        shard = bisect_right(self._starts, record) - 1
        return shard, record - self._starts[shard], record


class Joined:
    """Several parts' items one after another, as `tfhalf.data.encoded.Encoded`."""

    def __init__(self, parts: Sequence[Records]) -> None:
        self.parts = parts
        self._starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).tolist()

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def parallel(self) -> int:
        """How many reads are worth having under way at once."""
        return self.parts[0].parallel

    def read(self, index: int) -> bytes:
        """The bytes of one image.

        Raises:
            DataError: as `Records.read`.
        """
        part = bisect_right(self._starts, index) - 1
        return self.parts[part].read(index - self._starts[part])

    def name(self, index: int) -> str:
        """As `Records.name`."""
        part = bisect_right(self._starts, index) - 1
        return self.parts[part].name(index - self._starts[part])
