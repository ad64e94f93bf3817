"""``masks:PATH``: images, and for each a mask of its pixels' classes, of the same name."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfhalf.data import memory
from tfhalf.data.check import Arrays
from tfhalf.data.decode.fit import Fit
from tfhalf.data.decode.pillow import Reader
from tfhalf.data.image_formats import WORDS, is_image
from tfhalf.data.lazy import Array
from tfhalf.data.resize import nearest
from tfhalf.data.sources import images
from tfhalf.errors import DataError

PARTS = {"train": ("train",), "val": ("val", "validation"), "test": ("test",)}
FOLDERS = (("image", "images"), ("label", "labels", "mask", "masks"))
LAYOUT = "PATH/image/* with PATH/label/* (or images/ and masks/), the same below train/, val/ and test/ of PATH"
_THREADS = min(32, os.cpu_count() or 1)


def read(path: Path, fit: Fit | None, source: str, say: Callable[[str], None]) -> Arrays:
    """x as `tfhalf.data.sources.folder` reads images; y [N, H, W] of the masks' own numbers. Pairs are
    files of one stem, in the order of their names as people count (2 before 10).

    Args:
        path: PATH.
        fit: how they come to one size: images antialiased bilinear, masks by the nearest pixel; None where all have
            one.
        source: for messages.
        say: called with progress messages.

    Raises:
        DataError: naming the folder or file at fault.
    """
    if not path.is_dir():
        kind = "is a file" if path.exists() else "does not exist"
        raise DataError(f"{source}: {path} {kind}; accepted: a folder {LAYOUT}; correct the path")
    pairs = {part: _pairs(folder, path, source) for part, folder in _parts(path, source).items()}
    files = [pair for listed in pairs.values() for pair in listed]
    say(f"{source}: reading {len(files)} images and their masks")
    decoded = images.Images([image for image, _ in files], path, fit, source)
    x = decoded.read(range(len(files)))
    memory.guard(8 * x.shape[0] * x.shape[1] * x.shape[2], source, "set a smaller data.image_size")
    y = _Masks(path, decoded.item[:2], fit is not None, source).read(files)
    arrays: dict[str, Any] = {}
    start = 0
    for part, listed in pairs.items():
        arrays |= {f"x_{part}": x[start : start + len(listed)], f"y_{part}": y[start : start + len(listed)]}
        start += len(listed)
    return Arrays(**arrays, items=tuple(image.stem for image, _ in pairs["train"]))


def _parts(path: Path, source: str) -> dict[str, Path]:
    if not (path / "train").is_dir():
        return {"train": path}
    parts: dict[str, Path] = {}
    for part, names in PARTS.items():
        folders = [path / name for name in names if (path / name).is_dir()]
        if len(folders) > 1:
            raise DataError(f"{source}: {path} holds val/ and validation/; one of the two is accepted; join them")
        if folders:
            parts[part] = folders[0]
    return parts


def _pairs(folder: Path, root: Path, source: str) -> list[tuple[Path, Path]]:
    listed = []
    for names in FOLDERS:
        folders = [folder / name for name in names if (folder / name).is_dir()]
        if len(folders) != 1:
            has = f"holds {folders[0].name}/ and {folders[1].name}/" if folders else f"holds no folder {names[0]}/"
            raise DataError(f"{source}: {folder} {has}; accepted: {LAYOUT}; correct it")
        listed.append((folders[0], _by_stem(folders[0], root, source)))
    (image_folder, image_files), (mask_folder, mask_files) = listed
    for stem in sorted(set(image_files) ^ set(mask_files)):
        file, lacks = (image_files[stem], mask_folder) if stem in image_files else (mask_files[stem], image_folder)
        raise DataError(
            f"{source}: {file.relative_to(root)} has no partner named {stem!r} in {lacks.relative_to(root)}/; each "
            f"image needs a mask of the same name; add it, or take the file out"
        )
    return [(image_files[stem], mask_files[stem]) for stem in sorted(image_files, key=_as_counted)]


def _by_stem(folder: Path, root: Path, source: str) -> dict[str, Path]:
    files: dict[str, Path] = {}
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{source}: {folder} cannot be listed ({error.strerror}); make it readable") from error
    for file in entries:
        if file.name.startswith(".") or not is_image(file):
            continue  # notes and lists lie beside images
        if not file.resolve().is_relative_to(root.resolve()):
            raise DataError(
                f"{source}: {file.relative_to(root)} is a link that leaves {root}; accepted: files inside it; copy the "
                "file there"
            )
        if file.stem in files:
            raise DataError(
                f"{source}: {file.relative_to(root)} has the name of {files[file.stem].name}; one of the two is "
                "accepted; rename one"
            )
        files[file.stem] = file
    if not files:
        raise DataError(f"{source}: {folder.relative_to(root)}/ holds no image; accepted: {WORDS}; add some")
    return files


def _as_counted(stem: str) -> tuple[tuple[int, str], ...]:
    """A key that sorts 2 before 10: runs of digits by length, then as they are."""
    parts, run = [], ""
    for character in f"{stem}\0":
        if run and run[-1].isdigit() != character.isdigit():
            parts.append((len(run.lstrip("0")) if run.isdigit() else 0, run.lstrip("0") if run.isdigit() else run))
            run = ""
        run += character
    return tuple(parts)


@dataclass(frozen=True)
class _Masks:
    root: Path
    sides: tuple[int, ...]
    resize: bool
    source: str

    def read(self, pairs: list[tuple[Path, Path]]) -> Array:
        """[N, H, W] of an integer dtype."""
        with ThreadPoolExecutor(_THREADS) as pool:
            masks = list(pool.map(self._one, pairs))
        return np.stack(masks)

    def _one(self, pair: tuple[Path, Path]) -> Array:
        image, file = pair
        mask = self._plain(file)
        if self.resize:
            return nearest(mask[None], (self.sides[0], self.sides[1])).reshape(self.sides)
        if mask.shape != self.sides:
            raise DataError(
                f"{self.source}: {file.relative_to(self.root)} is {mask.shape[0]} x {mask.shape[1]} and its image "
                f"{image.name} {self.sides[0]} x {self.sides[1]} (height x width); both must be alike; correct one"
            )
        return mask

    def _plain(self, file: Path) -> npt.NDArray[np.int32]:
        """The numbers that a mask holds, int32 [H, W]: of RGB those that all three channels hold."""
        mask = Reader(self.source).plain(file, str(file.relative_to(self.root)))
        if mask.ndim == 3 and (mask[..., :3] == mask[..., :1]).all():
            mask = mask[..., 0]
        if mask.ndim != 2:
            raise DataError(
                f"{self.source}: {file.relative_to(self.root)} has colours; accepted: masks of one channel, each pixel "
                "the number of its class; make a palette or gray image of it"
            )
        return mask.astype(np.int32)
