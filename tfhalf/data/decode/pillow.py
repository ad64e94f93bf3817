"""Images of any format by Pillow, exactly as training, `tfhalf predict` and `tfhalf serve` have them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf.data.decode import Array, fast
from tfhalf.data.decode.fit import Fit
from tfhalf.data.decode.header import jpeg
from tfhalf.data.image_formats import DAMAGE, DEEP, FORMATS, WORDS
from tfhalf.errors import DataError
from tfhalf.files import check_regular

GRAY = ("1", "L", "LA")
"""Pillow's modes of gray images of 8 bits, or fewer."""


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block Pillow does not warn of an image above its pixel limit, which is refused by name."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


@dataclass(frozen=True)
class Reader:
    """Reads files, or their bytes, whose ``name`` stands in messages behind ``source``; see `decode`."""

    source: str

    def header(self, content: Path | bytes, name: str) -> tuple[str, tuple[int, int]]:
        """Pillow's mode of the image, and its (height, width) before it is turned or resized.

        Raises:
            DataError: it is damaged, has too many pixels or more than 16 bits a channel.
        """
        with self.open(content, name) as image:
            self.check_pixels(image.height, image.width, name)
            self.check_bits(image.mode, name)
            return image.mode, (image.height, image.width)

    def check_bits(self, mode: str, name: str) -> None:
        """Refuse what has more bits than are read.

        Raises:
            DataError: an image of Pillow's ``mode`` has more than 16 a channel.
        """
        if mode.startswith(("I", "F")) and mode not in DEEP:
            raise self.error(
                name,
                f"has more than 16 bits a channel (mode {mode}); accepted: 8 bits, or gray of 16 bits in all; convert "
                "it, or load the images with a file.py:load of your own",
            )

    def decode(self, data: bytes, name: str, gray: bool, fit: Fit | None) -> Array:
        """Uint8 [H, W, 3] or [H, W, 1]; uint16 [H, W, 1] of gray images of 16 bits. Upright by its Exif.

        Args:
            gray: one channel.
            fit: how it comes to a size, bilinear and antialiased; None for its own.

        Raises:
            DataError: it is damaged, or holds too many pixels.
        """
        from PIL import Image

        header = jpeg(data)
        if header is not None and header.plain and (not gray or header.channels == 1):
            self.check_pixels(header.height, header.width, name)
            pixels = fast.decode(data, header, 1 if gray else 3)
            if pixels is not None:
                if fit is None or fit.leaves(*pixels.shape[:2]):
                    return pixels
                image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if gray else pixels))
                return _array(fit.pillow(image), gray)
        with self.open(data, name) as image:
            self.check_pixels(image.height, image.width, name)
            self.check_bits(image.mode, name)
            return self._whole(image, name, gray, fit)

    def _whole(self, image: Any, name: str, gray: bool, fit: Fit | None) -> Array:
        from PIL import ImageOps

        try:
            turned = ImageOps.exif_transpose(image)
            if turned.mode in DEEP:
                return _deep(turned, fit)
            if "transparency" in turned.info and not gray:
                # Pillow warns where it goes from a palette with transparency to RGB in one step.
                turned = turned.convert("RGBA")
            turned = turned.convert("L" if gray else "RGB")
        except DAMAGE as error:
            raise self.damaged(name, error) from error
        return _array(turned if fit is None else fit.pillow(turned), gray)

    def plain(self, file: Path, name: str) -> Array:
        """The numbers that an image file holds, [H, W] or [H, W, C], upright: of a palette the indices.

        Raises:
            DataError: it is damaged, or has too many pixels.
        """
        from PIL import ImageOps

        with quiet(), self.open(file, name) as image:
            self.check_pixels(image.height, image.width, name)
            try:
                array = np.asarray(ImageOps.exif_transpose(image))
            except DAMAGE as error:
                raise self.damaged(name, error) from error
        return array

    def open(self, content: Path | bytes, name: str) -> Any:
        """Pillow's image, not decoded yet.

        Raises:
            DataError: it is none of the formats, or cannot be read.
        """
        from PIL import Image, UnidentifiedImageError

        try:
            if isinstance(content, Path):
                check_regular(content)
                return Image.open(content, formats=FORMATS)
            return Image.open(io.BytesIO(content), formats=FORMATS)
        except Image.DecompressionBombError as error:
            limit = Image.MAX_IMAGE_PIXELS
            raise self.error(name, f"has far too many pixels; accepted: up to {limit}; shrink it") from error
        except UnidentifiedImageError as error:
            raise self.error(name, f"holds no {WORDS.replace(' and ', ' or ')} data; convert or remove it") from error
        except DAMAGE as error:
            raise self.unreadable(name, error) from error

    def check_pixels(self, height: int, width: int, name: str) -> None:
        """Refuse more pixels than Pillow's limit.

        Raises:
            DataError: there are more.
        """
        from PIL import Image

        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and height * width > limit:
            raise self.error(
                name, f"has {width} x {height} = {height * width} pixels; accepted: up to {limit}; shrink it"
            )

    def error(self, name: str, problem: str) -> DataError:
        """What to raise where ``name`` has a ``problem``."""
        return DataError(f"{self.source}: {name} {problem}")

    def unreadable(self, name: str, error: BaseException) -> DataError:
        """What to raise where ``name`` cannot be opened or read."""
        if isinstance(error, PermissionError):
            return self.error(name, "cannot be read; make it readable or remove it")
        return self.damaged(name, error)

    def damaged(self, name: str, error: BaseException) -> DataError:
        """What to raise where ``name`` cannot be decoded."""
        first = next(iter(str(error).splitlines()), type(error).__name__)
        return self.error(name, f"is damaged ({first}); a whole image is needed; replace or remove it")


def _array(image: Any, gray: bool) -> Array:
    array = np.asarray(image, np.uint8)
    return array[..., None] if gray else array


def _deep(image: Any, fit: Fit | None) -> Array:
    """A gray image of 16 bits as uint16 [H, W, 1]."""
    from PIL import Image

    values = np.asarray(image).astype(np.uint16)
    if fit is not None and not fit.leaves(*values.shape):
        resized = np.asarray(fit.pillow(Image.fromarray(values.astype(np.float32))))
        values = np.rint(resized).astype(np.uint16)
    return values[..., None]
