"""Training images that are decoded when they are asked for: what stands for an array that the memory cannot hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tfhalf.data import memory
from tfhalf.data.decode import Array as Array
from tfhalf.data.decode import Indices as Indices
from tfhalf.data.decode.canvas import Canvas
from tfhalf.data.encoded import Encoded

SAMPLE = 10_000
_SAMPLE_BYTES = 2**30
# Statistics are those of the set, whatever seed trains on it.
_SAMPLE_SEED = 1797
_REMEDY = "set data.image_size, for example [64, 64], or take fewer images into validation and test"


@dataclass(frozen=True, eq=False)
class LazyImages:
    """[N, H, W, C] of ``dtype``, encoded.

    ``decode(indices, out)`` fills ``out`` [n, H, W, C] with the source's images at ``indices`` [n], on all cores; it
    raises `DataError` with the name of the first image that cannot be decoded, or has another shape. ``indices`` are
    those of the source's images that belong to this part. ``items`` are all of its images, where it has their bytes.

    With a ``canvas`` training decodes each image at its own size onto one, and ``item`` is what the model takes: images
    come out so wherever they are indexed.
    """

    decode: Callable[[Indices, Array], None]
    indices: Indices
    item: tuple[int, ...]
    dtype: np.dtype[Any]
    source: str
    items: Encoded | None = None
    canvas: Canvas | None = None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, C)."""
        return (len(self), *self.item)

    @property
    def ndim(self) -> int:
        """4."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all images decoded."""
        return len(self) * self.item_bytes

    @property
    def item_bytes(self) -> int:
        """Bytes of one image decoded."""
        return int(np.prod(self.item)) * self.dtype.itemsize

    def __getitem__(self, index: Any) -> Array:
        """The images of a slice or an index array, decoded: what an array holding them would give.

        Raises:
            DataError: one cannot be decoded, or together they do not fit into the memory.
        """
        indices = np.asarray(self.indices[index])
        memory.guard(indices.size * self.item_bytes, self.source, _REMEDY)
        out = np.empty((*indices.shape, *self.item), self.dtype)
        self.decode(indices.reshape(-1), out.reshape(-1, *self.item))
        return out

    @property
    def training_item(self) -> tuple[int, ...]:
        """(height, width, channels) of what training gets of an image."""
        return self.item if self.canvas is None else self.canvas.item

    def fill(self, index: Array, out: Array) -> None:
        """Decode the images at ``index`` [n] of this part into ``out`` [n, H, W, C].

        Raises:
            DataError: one cannot be decoded.
        """
        self.decode(self.indices[index], out)

    def subset(self, index: Array) -> LazyImages:
        """The part of these images at ``index`` [n], still encoded."""
        return replace(self, indices=self.indices[index])

    @property
    def sampled(self) -> int:
        """How many images `sample` decodes: at most 10,000, and no more than 1 GiB."""
        return min(len(self), SAMPLE, max(1, _SAMPLE_BYTES // self.item_bytes))

    def sample(self) -> Array:
        """`sampled` of the images, drawn evenly and the same ones each time, in the order of the set; all where they
        are few."""
        drawn = np.random.default_rng(_SAMPLE_SEED).permutation(len(self))[: self.sampled]
        return self[np.sort(drawn)]


def subset(x: Array | LazyImages, index: Array) -> Array | LazyImages:
    """``x[index]``, not decoded where ``x`` is not."""
    return x.subset(index) if isinstance(x, LazyImages) else x[index]
