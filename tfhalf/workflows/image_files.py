"""Image files and folders of them for `tfhalf predict`, and the masks that it writes beside them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf.artifacts.ports import Port
from tfhalf.artifacts.record import Manifest
from tfhalf.data.image_formats import DAMAGE, FORMATS, SUFFIXES, WORDS, is_image
from tfhalf.errors import ArtifactError, InputError
from tfhalf.files import open_regular
from tfhalf.tasks.colours import colours
from tfhalf.text import one_line, printable

MAX_VALUES = 1 << 26
"""Of one image: what a manifest says of its size is bounded before room is made for it."""
MAX_IMAGES = 100_000
RAW = (0.0, 255.0)
MAX_CLASSES = 256
"""Of a mask: a pixel of a PNG file with a palette is a byte."""


@dataclass(frozen=True)
class ImageFile:
    """An image's path; whether it was ``listed`` itself; its path within the folder that was listed instead."""

    path: Path
    listed: bool
    relative: Path


@dataclass(frozen=True)
class ImageInput:
    """An input that takes images: ``shape`` is (height, width, channels), where None takes any size; ``center``: how
    much is kept of one of another size (`tfhalf.data.decode.fit.Fit`)."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, int | None, int]
    center: float | None = None

    @classmethod
    def of(cls, port: Port, manifest: Manifest, directory: Path) -> ImageInput:
        """Of what the ``manifest`` in ``directory`` says of a ``port``, [N, H, W, 1 or 3].

        Raises:
            ArtifactError: its images are larger than any that are read.
        """
        sides = port.shape[1:]
        if (count := math.prod(side or 1 for side in sides)) > MAX_VALUES:
            raise ArtifactError(
                f"{directory}: its manifest says images of {printable(str(port.dims()[1:]), 60)}, {count:,} values, "
                f"more than the {MAX_VALUES:,} that are made ready; it is damaged, export again"
            )
        center = manifest.center_crop if sides[0] and sides[1] else None
        return cls(port.name, np.dtype(port.dtype), (sides[0], sides[1], sides[2] or 1), center)

    @property
    def values(self) -> int | None:
        """How many values an image has; None where each has a size of its own."""
        height, width, channels = self.shape
        return height * width * channels if height and width else None

    def read(self, path: Path, value_range: tuple[float, float]) -> np.ndarray:
        """`read_image` for this input."""
        return read_image(path, self.shape, self.dtype, value_range, self.center)


def image_files(images: Sequence[Path], most: int = MAX_IMAGES) -> Iterator[ImageFile]:
    """Every image file, and those below folders.

    Raises:
        InputError: a folder has none, or there are more than ``most``.
    """
    count = 0
    for path in images:
        inside = _inside(path, most) if path.is_dir() else [path]
        for file in inside:
            count += 1
            if count > most:
                raise InputError(f"{path}: more than {most:,} images; give fewer at a time")
            listed = inside == [path]
            yield ImageFile(file, listed, Path(file.name) if listed else file.relative_to(path))


def _inside(folder: Path, most: int) -> list[Path]:
    """The images below a folder, in the order of their names; hidden ones and links to folders are left out."""

    def fail(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be listed: {error.strerror}; make it readable") from None

    files: list[Path] = []
    for where, folders, names in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(where) / name for name in names if is_image(Path(name)) and not name.startswith(".")]
        if len(files) > most:
            raise InputError(f"{folder}: holds more than {most:,} images; give fewer at a time")
    if not files:
        raise InputError(f"{folder}: holds no image; {WORDS} are read, by the suffixes {' '.join(SUFFIXES)}")
    return sorted(files)


def read_image(
    path: Path,
    shape: tuple[int | None, int | None, int],
    dtype: np.dtype[Any],
    value_range: tuple[float, float],
    center: float | None = None,
) -> np.ndarray:
    """[H, W, C] of ``dtype``, resized to ``shape`` where that is fixed, of which ``center`` is kept, black and white as
    ``value_range`` says.

    Raises:
        InputError: the file is not an image, or has too many pixels.
    """
    from PIL import Image

    from tfhalf.data.resize import fitted

    height, width, channels = shape
    try:
        with open_regular(path) as file, Image.open(file, formats=FORMATS) as image:
            size = (height or image.height, width or image.width, channels)
            if math.prod(size) > MAX_VALUES:
                raise InputError(f"{path}: has {image.width} x {image.height} pixels; make it smaller")
            values = fitted(image, size, center, exact=value_range != RAW)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such image") from None
    except Image.DecompressionBombError:
        raise InputError(f"{path}: has more pixels than is safe to decode; make it smaller") from None
    except DAMAGE as error:
        raise InputError(f"{path}: cannot be read as an image ({one_line(error, 120)}); {WORDS} can") from None
    low, high = value_range
    scaled = values if value_range == RAW else values * ((high - low) / 255.0) + low
    return scaled.astype(dtype)


@dataclass
class MaskFolder:
    """Masks as PNG files of ``folder``, as large as their images and under their names: a pixel's value is its class,
    and a palette colours it. ``images`` are never written over."""

    folder: Path
    images: Sequence[Path]
    _written: dict[Path, Path] = field(default_factory=dict)
    _taken: set[Path] = field(init=False)

    def __post_init__(self) -> None:
        self._taken = {path.resolve() for path in self.images}

    def write(self, image: ImageFile, mask: np.ndarray, classes: int, output: str = "") -> Path:
        """Write ``mask``, int [H, W], of ``image``; of several outputs behind the ``output``'s name.

        Raises:
            InputError: the file would replace an image or another mask, or cannot be written.
        """
        from PIL import Image, ImageOps

        path = self.folder / output / image.relative.with_suffix(".png")
        if path.resolve() in self._taken:
            raise InputError(f"{path}: is one of the images; give --masks another folder")
        if other := self._written.get(path):
            raise InputError(f"{path}: would be the mask of {other} and of {image.path}; give them in two calls")
        self._written[path] = image.path
        try:
            with Image.open(image.path, formats=FORMATS) as opened:
                size = ImageOps.exif_transpose(opened).size
            picture = Image.fromarray(mask.astype(np.uint8), "P").resize(size, Image.Resampling.NEAREST)
            picture.putpalette([part for colour in colours(classes) for part in colour])
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
        except OSError as error:
            raise InputError(
                f"{path}: cannot be written: {one_line(error, 120)}; give --masks another folder"
            ) from None
        return path
