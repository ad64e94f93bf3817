"""``folder:PATH``: image files, one folder a class."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tfhalf.data import memory
from tfhalf.data.check import Arrays
from tfhalf.data.image_formats import SUFFIXES, WORDS, is_image
from tfhalf.data.lazy import Array, LazyImages
from tfhalf.data.sources import images
from tfhalf.errors import DataError

METADATA = (".txt", ".json", ".md", ".csv", ".yaml", ".yml", ".ini", ".db")
LAYOUT = "PATH/CLASS/*.jpg, or PATH/train/CLASS/* with val/ (or validation/) and test/ beside train/"
VALIDATION = ("val", "validation")

ClassFiles = dict[str, list[Path]]


def read(
    path: Path,
    size: tuple[int, int] | None,
    source: str,
    say: Callable[[str], None],
    decode: Literal["auto", "eager", "lazy"] = "auto",
) -> Arrays:
    """Images of PATH/CLASS/*, or of PATH/train/CLASS/* with PATH/val/CLASS/* (or validation/) and PATH/test/CLASS/*, in
    the order of their names. Either of the two may be missing: then it is drawn from the training images, as without
    parts. What is in val/ is never used for the test, since it chooses among checkpoints.

    x is uint8 [N, H, W, 3], or [N, H, W, 1] where every image is gray; uint16 where all are gray of 16 bits. EXIF
    orientation is applied, transparency dropped. Classes are numbered in the sorted order of their names. Hidden files
    and metadata (txt, json, md, ...) are skipped.

    Args:
        path: PATH.
        size: (height, width) that images are resized to, antialiased bilinear; None where all have one size.
        source: for messages.
        say: called with progress messages.
        decode: whether training images are decoded here or when they are asked for; ``auto`` goes by the memory.

    Raises:
        DataError: naming the folder or file at fault.
    """
    if not path.is_dir():
        kind = "is a file" if path.exists() else "does not exist"
        raise DataError(f"{source}: {path} {kind}; accepted: a folder {LAYOUT}; correct the path")
    parts = _Tree(path, source).parts()
    _check_same_classes(parts, source)
    names = list(parts["train"])
    files = [file for classes in parts.values() for listed in classes.values() for file in listed]
    say(f"{source}: reading {len(files)} images of {len(names)} classes")
    encoded = images.Images(files, path, size, source)
    labels = {part: _labels(names, listed) for part, listed in parts.items()}
    held_out = next((part for part in VALIDATION if part in parts), "")
    count = len(labels["train"])
    x_train = _training(encoded, count, decode, say)
    x: dict[str, Array] = {}
    for part in [part for part in parts if part != "train"]:
        x[part] = encoded.read(range(count, count + len(labels[part])))
        count += len(labels[part])
    return Arrays(
        x_train,
        labels["train"],
        x.get("test"),
        labels.get("test"),
        x.get(held_out),
        labels.get(held_out),
        class_names=tuple(names),
        items=tuple(file.stem for listed in parts["train"].values() for file in listed),
    )


def _check_same_classes(parts: dict[str, ClassFiles], source: str) -> None:
    """Raise DataError where another part has other classes than ``train``."""
    names = set(parts["train"])
    for part in [part for part in parts if part != "train"]:
        for name in sorted(names ^ set(parts[part])):
            has, lacks = ("train", part) if name in names else (part, "train")
            raise DataError(
                f"{source}: class {name!r} is in {has}/ and not in {lacks}/; both must have the same classes; "
                f"add {lacks}/{name} or remove {has}/{name}"
            )


def _labels(names: list[str], listed: ClassFiles) -> np.ndarray:
    """The number of its class for each file, class after class; int32 [N]."""
    return np.repeat(np.arange(len(names), dtype=np.int32), [len(listed[name]) for name in names])


def _training(encoded: images.Images, count: int, decode: str, say: Callable[[str], None]) -> Array | LazyImages:
    """The first ``count`` images."""
    if decode == "lazy" or (decode == "auto" and not memory.fits(2 * len(encoded) * encoded.bytes_each)):
        say(f"{encoded.source}: {count} training images stay encoded and are decoded while training goes on")
        return encoded.lazy(range(count))
    return encoded.read(range(count))


@dataclass(frozen=True)
class _Tree:
    """The files below ``path``, by part and class."""

    path: Path
    source: str

    def parts(self) -> dict[str, ClassFiles]:
        folders = self._entries(self.path, folders=True)
        if self.path / "train" not in folders:
            return {"train": self._classes(self.path, folders)}
        names = {folder.name for folder in folders}
        other = [folder for folder in folders if folder.name not in ("train", "test", *VALIDATION)]
        if other:
            raise self._error(
                other[0],
                f"stands beside 'train'; accepted: {LAYOUT}; rename it, move its images into train/, or take it away",
            )
        if names.issuperset(VALIDATION):
            raise self._error(self.path / "validation", "stands beside 'val'; one of the two is accepted; join them")
        parts = [part for part in ("train", *VALIDATION, "test") if part in names]
        return {part: self._classes(self.path / part, self._entries(self.path / part, folders=True)) for part in parts}

    def _classes(self, where: Path, folders: list[Path]) -> ClassFiles:
        if not folders:
            raise DataError(
                f"{self.source}: {where} holds no class folder; accepted: {LAYOUT}; add one folder for each class"
            )
        files = {folder.name: self._entries(folder, folders=False) for folder in folders}
        for folder in folders:
            if not files[folder.name]:
                raise self._error(folder, f"holds no image; accepted: {WORDS}; add some or remove the folder")
        return files

    def _entries(self, where: Path, *, folders: bool) -> list[Path]:
        """Sorted subfolders or image files of ``where``; whatever else lies there is metadata or an error."""
        try:
            with os.scandir(where) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            raise self._error(where, f"cannot be listed ({error.strerror}); make it readable or remove it") from error
        return [file for entry in entries if (file := self._entry(entry, folders)) is not None]

    def _entry(self, entry: os.DirEntry[str], folders: bool) -> Path | None:
        file = Path(entry.path)
        suffix = file.suffix.lower()
        if entry.name.startswith("."):
            return None
        if entry.is_symlink() and not file.resolve().is_relative_to(self.path.resolve()):
            raise self._error(
                file, f"is a link that leaves {self.path}; accepted: files inside it; copy the file there"
            )
        if not entry.is_dir() and suffix in METADATA:
            return None
        if folders != entry.is_dir():
            wrong = "is a file where class folders stand" if folders else "is a folder inside a class folder"
            raise self._error(file, f"{wrong}; accepted: {LAYOUT}; move or remove it")
        if not folders and not is_image(file):
            raise self._error(file, f"is not an image; accepted: {' '.join(SUFFIXES)}; convert or remove it")
        return file

    def _error(self, file: Path, problem: str) -> DataError:
        return DataError(f"{self.source}: {file.relative_to(self.path)} {problem}")
