"""Rows of several requests joined into the arrays of one batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfhalf.serve.batching.request import Arrays, Chunk


class Joiner:
    """Joins chunks of one key. With a ``ladder`` the batch is padded with zeros to the next size on it."""

    def __init__(self, ladder: Sequence[int] | None) -> None:
        self._ladder = ladder

    def __call__(self, chunks: Sequence[Chunk]) -> tuple[Arrays, int]:
        """The inputs of the batch, and its number of rows with padding."""
        rows = sum([chunk.rows for chunk in chunks])
        size = next((step for step in self._ladder if step >= rows), rows) if self._ladder else rows
        first = chunks[0]
        if len(chunks) == 1 and size == rows:
            if rows == first.job.rows:
                return first.job.feeds, size
            stop = first.start + rows
            return {name: array[first.start : stop] for name, array in first.job.feeds.items()}, size
        return {name: _joined(name, chunks, rows, size) for name in first.job.feeds}, size


def _joined(name: str, chunks: Sequence[Chunk], rows: int, size: int) -> np.ndarray:
    like = chunks[0].job.feeds[name]
    batch = np.empty((size, *like.shape[1:]), like.dtype)
    at = 0
    for chunk in chunks:
        batch[at : at + chunk.rows] = chunk.job.feeds[name][chunk.start : chunk.start + chunk.rows]
        at += chunk.rows
    batch[rows:] = 0
    return batch
