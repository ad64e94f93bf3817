"""Image files as one array, decoded in parallel: all at once, or when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tfhalf.data import memory
from tfhalf.data.decode.fit import Fit
from tfhalf.data.decode.pillow import GRAY, Reader, quiet
from tfhalf.data.decode.threads import THREADS, at_once, parallel
from tfhalf.data.encoded import Encoded
from tfhalf.data.image_formats import DEEP
from tfhalf.data.lazy import Array, Indices, LazyImages
from tfhalf.errors import DataError
from tfhalf.files import read_bytes

LARGEST = 2**30
"""Bytes of an image file that are read at most."""
_USUAL = 2**18  # bytes, more than most files have: they are read in one call, for each costs a thread its turn
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe is read as an empty file, and not waited for
_PROBED = 256  # images whose headers say whether a set is gray


class Files:
    """Image files below ``root`` as `Encoded`; names in messages start from there."""

    def __init__(self, files: Sequence[Path], root: Path, source: str) -> None:
        self.files, self._root, self._reader = files, root, Reader(source)
        self._paths = list(map(str, files))

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> bytes:
        """The bytes of one file.

        Raises:
            DataError: it cannot be read, or has more than 1 GiB.
        """
        try:
            handle = os.open(self._paths[index], _FLAGS)
            try:
                data = os.read(handle, _USUAL)
                if len(data) < _USUAL:
                    return data
            finally:
                os.close(handle)
            return read_bytes(self.files[index], LARGEST)
        except OSError as error:
            raise self._reader.unreadable(self.name(index), error) from error

    def name(self, index: int) -> str:
        """Its path below ``root``."""
        return str(self.files[index].relative_to(self._root))


class Decoder:
    """Images of one size as `LazyImages` has them: that of ``fit``, else that of the first image, which all must
    have."""

    def __init__(self, items: Encoded, source: str, fit: Fit | None, gray: bool) -> None:
        self.items, self.gray, self.fit, self._reader = items, gray, fit, Reader(source)
        first = self._decode(0)
        self.item, self.dtype = first.shape, first.dtype

    def __call__(self, indices: Indices, out: Array) -> None:
        """Fill ``out``, [n, H, W, C] of `dtype`, with the images at ``indices`` [n].

        Raises:
            DataError: names the first that is damaged or has another shape than the first image.
        """

        def fill(i: int) -> None:
            image = self._decode(int(indices[i]))
            if image.dtype != self.dtype:
                bits = 8 * image.dtype.itemsize
                raise self._reader.error(
                    self.items.name(int(indices[i])),
                    f"has {bits} bits a channel, and {self.items.name(0)} {8 * self.dtype.itemsize}; all must have as "
                    "many; convert one",
                )
            if image.shape != self.item:
                raise self.differs(int(indices[i]), image.shape)
            out[i] = image

        parallel(fill, len(indices), threads=at_once(self.items))

    def differs(self, index: int, shape: tuple[int, ...]) -> DataError:
        """What to raise where the image at ``index`` has another ``shape`` than the first."""
        height, width = self.item[:2]
        return self._reader.error(
            self.items.name(0),
            f"is {height} x {width} and {self.items.name(index)} {shape[0]} x {shape[1]} (height x width); all must "
            f"have one size; set data.image_size, for example [{height}, {width}]",
        )

    def _decode(self, index: int) -> Array:
        return self._reader.decode(self.items.read(index), self.items.name(index), self.gray, self.fit)


def lazy(items: Encoded, source: str, fit: Fit | None, *, channels: int | None = None) -> LazyImages:
    """Images of any source that has their bytes, to be decoded when they are asked for.

    Args:
        items: at least one.
        source: for messages.
        fit: how they come to one size, bilinear and antialiased; None where all have one.
        channels: 1 or 3; None for 1 where all headers say gray, of which the rest is read where a sample of 256 do.

    Raises:
        DataError: one that is looked at is damaged.
    """
    if channels is None:
        channels = 1 if _gray(items, Reader(source)) else 3
    decoder = Decoder(items, source, fit, channels == 1)
    every = np.arange(len(items), dtype=np.intp)
    return LazyImages(decoder, every, decoder.item, decoder.dtype, source, items)


def _gray(items: Encoded, reader: Reader) -> bool:
    few = np.unique(np.linspace(0, len(items) - 1, min(_PROBED, len(items))).astype(np.intp))
    return _all_gray(items, few, reader) and _all_gray(items, np.arange(len(items)), reader)


def _all_gray(items: Encoded, probed: Indices, reader: Reader) -> bool:
    gray, deep = np.zeros(len(probed), bool), np.zeros(len(probed), bool)

    def look(i: int) -> None:
        index = int(probed[i])
        mode, _ = reader.header(items.read(index), items.name(index))
        gray[i], deep[i] = mode in GRAY or mode in DEEP, mode in DEEP

    with quiet():
        parallel(look, len(probed), threads=at_once(items))
    if deep.any() and not deep[gray].all():
        raise reader.error(
            items.name(int(probed[int(deep.argmax())])),
            "has 16 bits a channel where others have not; accepted: 8 bits, or gray of 16 bits in all; convert it",
        )
    return bool(gray.all())


class Images:
    """Image files (`image_formats.FORMATS`) that make one uint8 array [N, H, W, 3], or [N, H, W, 1] where all are gray;
    uint16 [N, H, W, 1] where all are gray of 16 bits.

    Args:
        files: files below ``root``, at least one.
        root: names in messages start from here.
        fit: how they come to one size; None where all have one.
        source: for messages.

    Raises:
        DataError: a file's header is damaged, tells of too many pixels, of more bits a channel than others have, or of
            another size than the first file's where ``fit`` is None; or the first file cannot be decoded.
    """

    def __init__(self, files: Sequence[Path], root: Path, fit: Fit | None, source: str) -> None:
        self.source, self._files, self._reader = source, Files(files, root, source), Reader(source)
        with quiet(), ThreadPoolExecutor(THREADS) as pool:
            # The whole list is walked, so that each header is checked before anything is decoded.
            headers = list(pool.map(self._header, range(len(files))))
        modes = [mode for mode, _ in headers]
        self.gray = all(mode in GRAY or mode in DEEP for mode in modes)
        self._one_depth(modes)
        self._decoder = Decoder(self._files, source, fit, self.gray)
        self.item, self.dtype = self._decoder.item, self._decoder.dtype
        if fit is None:
            self._one_size([sides for _, sides in headers])

    def __len__(self) -> int:
        return len(self._files)

    @property
    def bytes_each(self) -> int:
        """Bytes of one decoded image."""
        return int(np.prod(self.item)) * self.dtype.itemsize

    def read(self, indices: range) -> Array:
        """The images at ``indices``, [n, H, W, C].

        Raises:
            DataError: one is damaged or has another shape than the first, or they do not fit into the memory.
        """
        memory.guard(2 * len(indices) * self.bytes_each, self.source, "set data.image_size, for example [64, 64]")
        x = np.empty((len(indices), *self.item), self.dtype)
        self._decoder(np.asarray(indices), x)
        return x

    def lazy(self, indices: range) -> LazyImages:
        """The images at ``indices``, to be decoded when they are asked for."""
        return LazyImages(self._decoder, np.asarray(indices, np.intp), self.item, self.dtype, self.source, self._files)

    def _header(self, index: int) -> tuple[str, tuple[int, int]]:
        return self._reader.header(self._files.files[index], self._files.name(index))

    def _one_depth(self, modes: list[str]) -> None:
        """Refuse images of 16 bits among others."""
        deep = [mode in DEEP for mode in modes]
        if any(deep) and not all(deep):
            other = self._files.name(deep.index(False))
            raise self._reader.error(
                self._files.name(deep.index(True)),
                f"has 16 bits a channel, and {other} 8 or colours; accepted: 8 bits, or gray of 16 bits in all; "
                "convert one",
            )

    def _one_size(self, sides: list[tuple[int, int]]) -> None:
        """Refuse what differs by its header alone; a header does not always tell whether its image is to be turned."""
        for index, (height, width) in enumerate(sides):
            if sorted((height, width)) != sorted(self.item[:2]):
                raise self._decoder.differs(index, (height, width))
