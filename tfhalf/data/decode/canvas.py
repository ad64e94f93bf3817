"""Encoded images, decoded at their own sizes into the corners of arrays of one size: the device cuts and resizes them.

How large such a canvas is depends on what the set holds and what crops need of it, so that memory is known before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tfhalf.data.decode import Array, Indices, fast
from tfhalf.data.decode.header import Jpeg, jpeg
from tfhalf.data.decode.pillow import Reader, quiet
from tfhalf.data.decode.threads import at_once, parallel
from tfhalf.data.encoded import Encoded

MOST = 512
"""Pixels a side, or twice what the model takes where that is more: of ImageNet's images, which are 500 x 375 on the
whole, few are larger, and those are scaled down by libjpeg while they are decoded."""
_MULTIPLE = 16  # of sides: matrix products are fast at such
_PROBED = 512  # images whose headers say how large a set's images are

Decoder = Literal["auto", "cpu", "gpu"]


@dataclass(frozen=True, eq=False)
class Canvas:
    """``sides``: (height, width) of a canvas; ``channels`` 1 or 3. ``decoder``: what is to decode them in training."""

    items: Encoded
    source: str
    sides: tuple[int, int]
    channels: int
    decoder: Decoder = "auto"

    @property
    def item(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return (*self.sides, self.channels)

    def fill(self, indices: Indices, out: Array, sides: Array) -> None:
        """Decode the images at ``indices`` [n], each into a corner of ``out``, uint8 [n, *item]; ``sides`` int32 [n, 2]
        get their heights and widths. What lies beyond stays as it was.

        Raises:
            DataError: names the first image that cannot be decoded.
        """

        def one(i: int) -> None:
            image = self.image(int(indices[i]))
            height, width = image.shape[:2]
            out[i, :height, :width] = image
            sides[i] = height, width

        parallel(one, len(indices), threads=at_once(self.items))

    def pack(self, indices: Indices, out: Array, sides: Array) -> None:
        """As `fill`, but each image lies at the beginning of its row of ``out``, uint8 [n, height * width * channels],
        contiguous: nothing is copied after it is decoded.

        Raises:
            DataError: names the first image that cannot be decoded.
        """

        def one(i: int) -> None:
            image = self.image(int(indices[i]), None, out[i])
            sides[i] = image.shape[:2]
            if not np.may_share_memory(image, out):
                out[i, : image.size] = image.reshape(-1)

        parallel(one, len(indices), threads=at_once(self.items))

    def image(self, index: int, data: bytes | None = None, buffer: Array | None = None) -> Array:
        """One image as uint8 [h, w, channels], scaled down until it fits. ``data`` are its bytes, where they are read;
        it may come to lie in ``buffer``, uint8 [at least height * width * channels].

        Raises:
            DataError: it cannot be decoded, or has 16 bits a channel.
        """
        data = self.items.read(index) if data is None else data
        header = jpeg(data)
        if header is not None and header.plain:
            if self.fits(header):
                pixels = fast.decode(data, header, self.channels, buffer=buffer)
            else:
                Reader(self.source).check_pixels(header.height, header.width, self.items.name(index))
                eighths = fast.largest(header.height, header.width, self.sides) or 1
                pixels = fast.decode(data, header, self.channels, eighths)
            if pixels is not None:
                return self._fitted(pixels)
        reader, name = Reader(self.source), self.items.name(index)
        pixels = reader.decode(data, name, self.channels == 1, None)
        if pixels.dtype != np.uint8:
            raise reader.error(
                name, "has 16 bits a channel; data.augment.resized_crop takes 8; convert it, or leave resized_crop out"
            )
        return self._fitted(pixels)

    def fits(self, header: Jpeg | None) -> bool:
        """Whether a plain JPEG has its own size on a canvas, and as many channels."""
        return (
            header is not None
            and header.plain
            and header.channels == self.channels
            and header.height <= self.sides[0]
            and header.width <= self.sides[1]
        )

    def _fitted(self, image: Array) -> Array:
        from PIL import Image

        height, width = image.shape[:2]
        if height <= self.sides[0] and width <= self.sides[1]:
            return image
        share = min(self.sides[0] / height, self.sides[1] / width)
        size = max(1, int(width * share)), max(1, int(height * share))
        whole = Image.fromarray(np.ascontiguousarray(image[..., 0] if self.channels == 1 else image))
        return np.asarray(whole.resize(size, Image.Resampling.BILINEAR), np.uint8).reshape(size[1], size[0], -1)


def measured(
    items: Encoded, indices: Indices, source: str, size: tuple[int, int], scale: float, ratio: tuple[float, float]
) -> tuple[int, int]:
    """The sides of a canvas for the images at ``indices``.

    No more than the largest of 512 of them has (those beyond are scaled down), than a crop of ``scale`` of the area
    needs to fill ``size``, or than `MOST`.

    Raises:
        DataError: one that is looked at is damaged.
    """
    probed = indices[np.unique(np.linspace(0, len(indices) - 1, min(_PROBED, len(indices))).astype(np.intp))]
    reader, seen = Reader(source), np.zeros((len(probed), 2), np.int64)

    def look(i: int) -> None:
        index = int(probed[i])
        data, name = items.read(index), items.name(index)
        header = jpeg(data)
        if header is not None and header.plain:
            seen[i] = header.height, header.width
        else:
            _, sides = reader.header(data, name)
            seen[i] = max(sides)  # it may be turned

    with quiet():
        parallel(look, len(probed), threads=at_once(items))
    needed = math.sqrt(max(ratio[1], 1 / ratio[0]) / scale)
    limits = (min(math.ceil(side * needed), max(MOST, 2 * side)) for side in size)
    height, width = (
        _MULTIPLE * math.ceil(min(limit, largest) / _MULTIPLE)
        for limit, largest in zip(limits, seen.max(0).tolist(), strict=True)
    )
    return height, width
