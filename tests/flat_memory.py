"""Reads every image of a set twice in a shuffled order and prints by how much the process grew: what
`tests/data/test_flat_memory.py` starts, in a process of its own."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import numpy as np

from tfhalf.data.lazy import LazyImages
from tfhalf.data.sources import folder, listing
from tfhalf.data.sources.records import shards
from tfhalf.data.sources.records.index import Indexer
from tfhalf.data.sources.records.items import Records
from tfhalf.data.storage.local import Local

EPOCHS = 2
BATCH = 256


def opened(kind: str, root: str) -> Records | folder.Files:
    """The set's images, encoded."""
    storage = Local()
    if kind == "files":
        return folder.Files(storage, listing.local(Path(root), "s", print), "s")
    entries = shards.brought_up(storage, shards.parts(storage, root, {}, "s")["train"], "s")
    index = Indexer(storage, root, (None, None), 0, "s", lambda line: None).index(entries)
    return Records(storage, entries, index, root, "s")


def peak() -> int:
    """The most memory that this process had, in bytes; getrusage counts that of the process which started it, too."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main(kind: str, root: str) -> None:
    """Each image is its number and random bytes; of an epoch's images the numbers are summed."""
    before = peak()
    items = opened(kind, root)

    def decode(indices: np.ndarray, out: np.ndarray) -> None:
        for i, index in enumerate(indices):
            data = items.read(int(index))
            out[i, 0, 0, 0] = int.from_bytes(data[:4], "little")
            out[i, 0, 0, 1] = zlib.adler32(data)

    images = LazyImages(decode, np.arange(len(items)), (1, 1, 2), np.dtype(np.int64), "s")
    sums = []
    for epoch in range(EPOCHS):
        order = np.random.default_rng((0, epoch)).permutation(len(images))
        seen = [images[order[start : start + BATCH]] for start in range(0, len(order), BATCH)]
        numbers = np.concatenate(seen)[:, 0, 0]
        assert np.array_equal(numbers[:, 0], order)
        sums.append(int(numbers[:, 1].sum()))
    print(len(items), sums[0] == sums[1], peak() - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
