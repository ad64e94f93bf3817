"""Image files to one uint8 array, decoded by Pillow in parallel."""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf.data import memory
from tfhalf.data.check import Array
from tfhalf.errors import DataError

_GRAY = ("1", "L", "LA")
# What Pillow raises on bytes that are no image, or on half of one.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error)


def read(files: Sequence[Path], root: Path, size: tuple[int, int] | None, source: str) -> Array:
    """Every file as uint8 [N, H, W, 3], or [N, H, W, 1] where all are gray.

    Args:
        files: PNG or JPEG files below ``root``, at least one.
        root: names in messages start from here.
        size: (height, width) to resize to; None where all have one size.
        source: for messages.

    Raises:
        DataError: a file is damaged, has too many pixels or more than 8 bits a channel, or sizes differ; or all
            together do not fit into the memory.
    """
    from PIL import Image

    reader = _Reader(root, size, source)
    with warnings.catch_warnings():
        # An image above Pillow's pixel limit is refused below, by name.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            # The whole list is walked, so that each header is checked before anything is decoded.
            gray = all(list(pool.map(reader.is_gray, files)))
            first = reader.decode(files[0], gray)
            memory.guard(2 * len(files) * first.nbytes, source, "set data.image_size, for example [64, 64]")
            x = np.empty((len(files), *first.shape), np.uint8)

            def fill(index: int) -> None:
                image = reader.decode(files[index], gray)
                if image.shape != first.shape:
                    raise reader.error(files[0], _differs(first, image, files[index].relative_to(root)))
                x[index] = image

            # Results come in the order of the files, so the first file at fault is the one named.
            for _ in pool.map(fill, range(len(files))):
                pass
    return x


@dataclass(frozen=True)
class _Reader:
    root: Path
    size: tuple[int, int] | None
    source: str

    def is_gray(self, file: Path) -> bool:
        from PIL import Image

        with self._open(file) as image:
            pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
            if limit is not None and pixels > limit:
                raise self.error(
                    file, f"has {image.width} x {image.height} = {pixels} pixels; accepted: up to {limit}; shrink it"
                )
            if image.mode.startswith(("I", "F")):
                raise self.error(
                    file,
                    f"has more than 8 bits a channel (mode {image.mode}); accepted: 8 bits; convert it, or load the "
                    "images with a file.py:load of your own",
                )
            return image.mode in _GRAY

    def decode(self, file: Path, gray: bool) -> Array:
        """uint8 [H, W, 3] or [H, W, 1]."""
        from PIL import Image, ImageOps

        with self._open(file) as image:
            try:
                turned = ImageOps.exif_transpose(image)
                if "transparency" in turned.info and not gray:
                    # Pillow warns where it goes from a palette with transparency to RGB in one step.
                    turned = turned.convert("RGBA")
                turned = turned.convert("L" if gray else "RGB")
            except _DAMAGE as error:
                raise self._damaged(file, error) from error
            if self.size is not None and turned.size != self.size[::-1]:
                turned = turned.resize(self.size[::-1], Image.Resampling.BILINEAR)
            array = np.asarray(turned, np.uint8)
        return array[..., None] if gray else array

    def error(self, file: Path, problem: str) -> DataError:
        return DataError(f"{self.source}: {file.relative_to(self.root)} {problem}")

    def _open(self, file: Path) -> Any:
        from PIL import Image, UnidentifiedImageError

        try:
            return Image.open(file, formats=("PNG", "JPEG"))
        except Image.DecompressionBombError as error:
            limit = Image.MAX_IMAGE_PIXELS
            raise self.error(file, f"has far too many pixels; accepted: up to {limit}; shrink it") from error
        except UnidentifiedImageError as error:
            raise self.error(file, "holds neither PNG nor JPEG data; accepted: those; convert or remove it") from error
        except PermissionError as error:
            raise self.error(file, "cannot be read; make it readable or remove it") from error
        except _DAMAGE as error:
            raise self._damaged(file, error) from error

    def _damaged(self, file: Path, error: BaseException) -> DataError:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        return self.error(file, f"is damaged ({first}); a whole PNG or JPEG is needed; replace or remove it")


def _differs(first: Array, image: Array, name: Path) -> str:
    height, width = first.shape[:2]
    return (
        f"is {height} x {width} and {name} {image.shape[0]} x {image.shape[1]} (height x width); all must have one "
        f"size; set data.image_size, for example [{height}, {width}]"
    )
