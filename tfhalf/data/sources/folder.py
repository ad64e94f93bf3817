"""``folder:PATH``: PNG and JPEG files, one folder a class."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tfhalf.data import memory
from tfhalf.data.check import Arrays
from tfhalf.data.lazy import Array, LazyImages
from tfhalf.data.sources import images
from tfhalf.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg")
METADATA = (".txt", ".json", ".md", ".csv", ".yaml", ".yml", ".ini", ".db")
LAYOUT = "PATH/CLASS/*.png|jpg or PATH/train/CLASS/* with PATH/test/CLASS/*"

Found = dict[str, list[Path]]


def read(
    path: Path,
    size: tuple[int, int] | None,
    source: str,
    say: Callable[[str], None],
    decode: Literal["auto", "eager", "lazy"] = "auto",
) -> Arrays:
    """Images of PATH/CLASS/* (no test set) or of PATH/train/CLASS/* and PATH/test/CLASS/*, in the order of their names.

    x is uint8 [N, H, W, 3], or [N, H, W, 1] where every image is gray. EXIF orientation is applied, transparency
    dropped. Classes are numbered in the sorted order of their names. Hidden files and metadata (txt, json, md, ...) are
    skipped.

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
    names = list(parts["train"])
    for name in sorted(set(names) ^ set(parts.get("test", names))):
        has, lacks = ("train", "test") if name in names else ("test", "train")
        raise DataError(
            f"{source}: class {name!r} is in {has}/ and not in {lacks}/; both must have the same classes; "
            f"add {lacks}/{name} or remove {has}/{name}"
        )
    files = [file for found in parts.values() for listed in found.values() for file in listed]
    say(f"{source}: reading {len(files)} images of {len(names)} classes")
    found = images.Images(files, path, size, source)
    labels = {
        part: np.repeat(np.arange(len(names), dtype=np.int32), [len(listed[name]) for name in names])
        for part, listed in parts.items()
    }
    count = len(labels["train"])
    x_train, x_test = _decoded(found, count, decode, say)
    return Arrays(x_train, labels["train"], x_test, labels.get("test"), class_names=tuple(names))


def _decoded(
    found: images.Images, count: int, decode: str, say: Callable[[str], None]
) -> tuple[Array | LazyImages, Array | None]:
    """The first ``count`` images as the training part and what is left, if anything, as the test part."""
    whole = range(len(found))
    if decode == "lazy" or (decode == "auto" and not memory.fits(2 * len(found) * found.bytes_each)):
        say(f"{found.source}: {count} training images stay encoded and are decoded while training goes on")
        return found.lazy(whole[:count]), found.read(whole[count:]) if count < len(found) else None
    x = found.read(whole)
    return x[:count], x[count:] if count < len(found) else None


@dataclass(frozen=True)
class _Tree:
    """The files below ``path``, by part and class."""

    path: Path
    source: str

    def parts(self) -> dict[str, Found]:
        folders = self._entries(self.path, folders=True)
        if self.path / "train" not in folders:
            return {"train": self._classes(self.path, folders)}
        other = [folder for folder in folders if folder.name not in ("train", "test")]
        if other:
            raise self._error(
                other[0],
                f"stands beside 'train'; accepted: {LAYOUT}; move its images into train/ (validation is drawn from "
                "there) or take it away",
            )
        parts = ("train", "test") if self.path / "test" in folders else ("train",)
        return {part: self._classes(self.path / part, self._entries(self.path / part, folders=True)) for part in parts}

    def _classes(self, where: Path, folders: list[Path]) -> Found:
        if not folders:
            raise DataError(
                f"{self.source}: {where} holds no class folder; accepted: {LAYOUT}; add one folder for each class"
            )
        found = {folder.name: self._entries(folder, folders=False) for folder in folders}
        for folder in folders:
            if not found[folder.name]:
                raise self._error(folder, "holds no image; accepted: PNG and JPEG files; add some or remove the folder")
        return found

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
        if not folders and suffix not in SUFFIXES:
            raise self._error(file, "is no PNG or JPEG file; accepted: .png .jpg .jpeg; convert or remove it")
        return file

    def _error(self, file: Path, problem: str) -> DataError:
        return DataError(f"{self.source}: {file.relative_to(self.path)} {problem}")
