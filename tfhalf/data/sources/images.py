"""Image files as one array, decoded by Pillow in parallel: all at once, or when they are asked for."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfhalf.data import memory
from tfhalf.data.encoded import Encoded
from tfhalf.data.image_formats import DAMAGE, DEEP, FORMATS, WORDS
from tfhalf.data.lazy import Array, LazyImages
from tfhalf.errors import DataError
from tfhalf.files import check_regular

_GRAY = ("1", "L", "LA")
_THREADS = min(32, os.cpu_count() or 1)
_TASK = 8  # images that a thread decodes in a row
_SAMPLED = 256  # images whose headers say whether there are colours


class Images:
    """Image files (`image_formats.FORMATS`) that make one uint8 array [N, H, W, 3], or [N, H, W, 1] where all are gray;
    uint16 [N, H, W, 1] where all are gray of 16 bits.

    Args:
        files: files below ``root``, at least one.
        root: names in messages start from here.
        size: (height, width) to resize to; None where all have one size.
        source: for messages.

    Raises:
        DataError: a file's header is damaged, tells of too many pixels, of more bits a channel than others have, or of
            another size than the first file's where ``size`` is None; or the first file cannot be decoded.
    """

    def __init__(self, files: Sequence[Path], root: Path, size: tuple[int, int] | None, source: str) -> None:
        from PIL import Image

        self.files, self.source, self._reader = files, source, _Reader(root, size, source)
        with warnings.catch_warnings():
            # An image above Pillow's pixel limit is refused by name.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with ThreadPoolExecutor(_THREADS) as pool:
                # The whole list is walked, so that each header is checked before anything is decoded.
                headers = list(pool.map(self._reader.header, files))
        modes = [mode for mode, _ in headers]
        self.gray = all(mode in _GRAY or mode in DEEP for mode in modes)
        self._one_depth(modes)
        self.dtype = np.dtype(np.uint16 if modes[0] in DEEP else np.uint8)
        self.item = self._reader.decode(files[0], self.gray).shape
        if size is None:
            self._one_size([sides for _, sides in headers])

    def __len__(self) -> int:
        return len(self.files)

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
        self.decode(np.asarray(indices), x)
        return x

    def lazy(self, indices: range) -> LazyImages:
        """The images at ``indices``, to be decoded when they are asked for."""
        return LazyImages(self.decode, np.asarray(indices, np.intp), self.item, self.dtype, self.source)

    def decode(self, indices: npt.NDArray[np.intp], out: Array) -> None:
        """Fill ``out``, [n, H, W, C] of `dtype`, with the images at ``indices`` [n].

        Raises:
            DataError: names the first that is damaged or has another shape than the first file.
        """

        def fill(start: int) -> None:
            for i in range(start, min(start + _TASK, len(indices))):
                file = self.files[indices[i]]
                image = self._reader.decode(file, self.gray)
                if image.shape != self.item:
                    raise self._differs(file, image.shape)
                out[i] = image

        with ThreadPoolExecutor(_THREADS) as pool:
            # Results come in the order of the indices, so the first file at fault is the one named.
            for _ in pool.map(fill, range(0, len(indices), _TASK)):
                pass

    def _one_depth(self, modes: list[str]) -> None:
        """Refuse images of 16 bits among others."""
        deep = [mode in DEEP for mode in modes]
        if any(deep) and not all(deep):
            other = self.files[deep.index(False)].relative_to(self._reader.root)
            raise self._reader.error(
                self.files[deep.index(True)],
                f"has 16 bits a channel, and {other} 8 or colours; accepted: 8 bits, or gray of 16 bits in all; "
                "convert one",
            )

    def _one_size(self, sides: list[tuple[int, int]]) -> None:
        """Refuse what differs by its header alone; a header does not always tell whether its image is to be turned."""
        for file, (height, width) in zip(self.files, sides, strict=True):
            if sorted((height, width)) != sorted(self.item[:2]):
                raise self._differs(file, (height, width))

    def _differs(self, file: Path, shape: tuple[int, ...]) -> DataError:
        height, width = self.item[:2]
        return self._reader.error(
            self.files[0],
            f"is {height} x {width} and {file.relative_to(self._reader.root)} {shape[0]} x {shape[1]} (height x "
            f"width); all must have one size; set data.image_size, for example [{height}, {width}]",
        )


def plain(file: Path, root: Path, source: str) -> Array:
    """The numbers that an image file holds, [H, W] or [H, W, C], upright: of a palette the indices.

    Raises:
        DataError: it is damaged, or has too many pixels.
    """
    from PIL import Image, ImageOps

    reader = _Reader(root, None, source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with reader.open(file) as image:
            reader.check_pixels(file, image)
            try:
                array = np.asarray(ImageOps.exif_transpose(image))
            except DAMAGE as error:
                raise reader.damaged(file, error) from error
    return array


def lazy(items: Encoded, size: tuple[int, int] | None, source: str) -> LazyImages:
    """The images of ``items``, to be decoded when they are asked for: the pixels that `Images` makes of the same files.

    A few headers are read, and all of them only where those are of gray images: what is wrong with an image is said,
    by its name, when it is decoded.

    Args:
        items: at least one.
        size: (height, width) to resize to; None where all have one size.
        source: for messages.

    Raises:
        DataError: one of those few is damaged, or has more bits a channel than others.
    """
    reader = _ItemReader(Path(), size, source, items)
    few = sorted({0, *np.random.default_rng(0).integers(0, len(items), _SAMPLED).tolist()})
    threads = min(32, max(_THREADS, getattr(items, "parallel", 1)))
    with ThreadPoolExecutor(threads) as pool:
        modes = [mode for mode, _ in pool.map(reader.header, few)]
        if all(mode in _GRAY or mode in DEEP for mode in modes):
            few = list(range(len(items)))
            modes = [mode for mode, _ in pool.map(reader.header, few)]
    deep = [mode in DEEP for mode in modes]
    if any(deep) and not all(deep):
        raise reader.not_alike(few[deep.index(True)])
    gray = all(mode in _GRAY or mode in DEEP for mode in modes)
    first = reader.decode(0, gray)

    def decode(indices: npt.NDArray[np.intp], out: Array) -> None:
        def fill(start: int) -> None:
            for i in range(start, min(start + _TASK, len(indices))):
                item = int(indices[i])
                image = reader.decode(item, gray)
                if image.dtype != first.dtype:
                    raise reader.not_alike(item)
                if image.shape != first.shape:
                    (height, width), sides = first.shape[:2], image.shape
                    raise reader.error(
                        0,
                        f"is {height} x {width} and {items.name(item)} {sides[0]} x {sides[1]} (height x width); all "
                        f"must have one size; set data.image_size, for example [{height}, {width}]",
                    )
                out[i] = image

        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(fill, range(0, len(indices), _TASK)):
                pass

    return LazyImages(decode, np.arange(len(items), dtype=np.intp), first.shape, first.dtype, source)


@dataclass(frozen=True)
class _Reader:
    root: Path
    size: tuple[int, int] | None
    source: str

    def header(self, file: Any) -> tuple[str, tuple[int, int]]:
        """Pillow's mode of the image, and its (height, width) before it is turned or resized."""
        with self.open(file) as image:
            self.check_pixels(file, image)
            self.check_bits(file, image)
            return image.mode, (image.height, image.width)

    def decode(self, file: Any, gray: bool) -> Array:
        """uint8 [H, W, 3] or [H, W, 1]; uint16 [H, W, 1] of gray images of 16 bits."""
        from PIL import Image, ImageOps

        with self.open(file) as image:
            try:
                turned = ImageOps.exif_transpose(image)
                if turned.mode in DEEP:
                    return self._deep(turned)
                if "transparency" in turned.info and not gray:
                    # Pillow warns where it goes from a palette with transparency to RGB in one step.
                    turned = turned.convert("RGBA")
                turned = turned.convert("L" if gray else "RGB")
            except DAMAGE as error:
                raise self.damaged(file, error) from error
            if self.size is not None and turned.size != self.size[::-1]:
                turned = turned.resize(self.size[::-1], Image.Resampling.BILINEAR)
            array = np.asarray(turned, np.uint8)
        return array[..., None] if gray else array

    def _deep(self, image: Any) -> Array:
        """A gray image of 16 bits as uint16 [H, W, 1]."""
        from PIL import Image

        values = np.asarray(image).astype(np.uint16)
        if self.size is not None and values.shape != self.size:
            plane = Image.fromarray(values.astype(np.float32))
            resized = np.asarray(plane.resize(self.size[::-1], Image.Resampling.BILINEAR))
            values = np.rint(resized).astype(np.uint16)
        return values[..., None]

    def check_pixels(self, file: Any, image: Any) -> None:
        from PIL import Image

        pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
        if limit is not None and pixels > limit:
            raise self.error(
                file, f"has {image.width} x {image.height} = {pixels} pixels; accepted: up to {limit}; shrink it"
            )

    def check_bits(self, file: Any, image: Any) -> None:
        if image.mode.startswith(("I", "F")) and image.mode not in DEEP:
            raise self.error(
                file,
                f"has more than 16 bits a channel (mode {image.mode}); accepted: 8 bits, or gray of 16 bits in "
                "all; convert it, or load the images with a file.py:load of your own",
            )

    def error(self, file: Any, problem: str) -> DataError:
        return DataError(f"{self.source}: {file.relative_to(self.root)} {problem}")

    def open(self, file: Any) -> Any:
        from PIL import Image, UnidentifiedImageError

        try:
            return Image.open(self.opened(file), formats=FORMATS)
        except Image.DecompressionBombError as error:
            limit = Image.MAX_IMAGE_PIXELS
            raise self.error(file, f"has far too many pixels; accepted: up to {limit}; shrink it") from error
        except UnidentifiedImageError as error:
            raise self.error(file, f"holds no {WORDS.replace(' and ', ' or ')} data; convert or remove it") from error
        except PermissionError as error:
            raise self.error(file, "cannot be read; make it readable or remove it") from error
        except DAMAGE as error:
            raise self.damaged(file, error) from error

    def opened(self, file: Any) -> Any:
        """What Pillow opens for ``file``."""
        check_regular(file)
        return file

    def damaged(self, file: Any, error: BaseException) -> DataError:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        return self.error(file, f"is damaged ({first}); a whole image is needed; replace or remove it")


@dataclass(frozen=True)
class _ItemReader(_Reader):
    """Reads items by their numbers, where `_Reader` reads files by their paths."""

    items: Encoded

    def opened(self, file: Any) -> Any:
        return io.BytesIO(self.items.read(file))

    def open(self, file: Any) -> Any:
        image = super().open(file)
        self.check_pixels(file, image)
        self.check_bits(file, image)
        return image

    def error(self, file: Any, problem: str) -> DataError:
        return DataError(f"{self.source}: {self.items.name(file)} {problem}")

    def not_alike(self, file: int) -> DataError:
        return self.error(
            file,
            "has 16 bits a channel where others have not, or the other way round; accepted: 8 bits, or gray of 16 bits "
            "in all; convert it",
        )
