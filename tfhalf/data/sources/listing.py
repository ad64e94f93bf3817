"""The image files of a folder or behind a URL by part and class, a few bytes for each: `Listing`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from tfhalf.data.image_formats import SUFFIXES, WORDS
from tfhalf.data.storage import cache
from tfhalf.data.storage.base import Storage, relative, said
from tfhalf.errors import DataError

Say = Callable[[str], None]
Parts = dict[str, dict[str, bytes]]
"""Of each part, by its classes, the names of files in their order, each followed by a slash, which no name holds."""

METADATA = (".txt", ".json", ".md", ".csv", ".yaml", ".yml", ".ini", ".db")
LAYOUT = "PATH/CLASS/*.jpg, or PATH/train/CLASS/* with val/ (or validation/) and test/ beside train/"
VALIDATION = ("val", "validation")
_KEPT = 10_000  # files from which on a listing is kept
_SETTLED = 2.0  # seconds after which a change of a folder has a time of its own
_EVERY = 5.0  # seconds between lines of progress


class Listing:
    """Files by number: part after part, class after class, in the order of their names.

    Args:
        root: the folder's path or URL.
        parts: the files. The only part ``train`` lies in ``root`` itself where ``nested`` is not set.
        nested: whether parts are folders.
        quoted: names are parts of a URL, where a blank is ``%20``.
    """

    def __init__(self, root: str, parts: Parts, nested: bool, quoted: bool = False) -> None:
        self.root = root.rstrip("/")
        self._shown: Callable[[str], str] = unquote if quoted else str
        self.classes = {part: tuple(map(self._shown, classes)) for part, classes in parts.items()}
        self._folders = [f"{part}/{name}" if nested else name for part, classes in parts.items() for name in classes]
        blobs = [blob for classes in parts.values() for blob in classes.values()]
        self._counts = np.array([blob.count(b"/") for blob in blobs], np.int64)
        self._names = np.frombuffer(b"".join(blobs), np.uint8)
        self._ends = np.flatnonzero(self._names == ord("/"))
        self._firsts = np.cumsum(self._counts) - self._counts

    def __len__(self) -> int:
        return len(self._ends)

    def counts(self) -> dict[str, npt.NDArray[np.int64]]:
        """How many files each class of each part has, int64 [K]."""
        ends = np.cumsum([len(names) for names in self.classes.values()])
        return dict(zip(self.classes, np.split(self._counts, ends[:-1]), strict=True))

    def relative(self, index: int) -> str:
        """A file's path below the root, as messages show it."""
        return self._shown(self._relative(index))

    def path(self, index: int) -> str:
        """A file's path or URL."""
        return f"{self.root}/{self._relative(index)}"

    def _relative(self, index: int) -> str:
        start = int(self._ends[index - 1]) + 1 if index else 0
        name = os.fsdecode(self._names[start : int(self._ends[index])].tobytes())
        return f"{self._folders[int(np.searchsorted(self._firsts, index, 'right')) - 1]}/{name}"


def local(path: Path, source: str, say: Say) -> Listing:
    """The files below a folder of this machine, from the cache where no folder changed since.

    Raises:
        DataError: naming the folder or file at fault.
    """
    return _Tree(path, source, say).listing()


def remote(storage: Storage, url: str, source: str, say: Say) -> Listing:
    """The files below a URL, listed anew each time: nothing tells whether a listing still holds but another one.

    Raises:
        DataError: it cannot be listed, or holds files that are no images of classes.
    """
    names: dict[tuple[str, str], list[str]] = {}
    quoted = url.startswith("http")
    meter = _Meter(source, say)
    try:
        for entry in storage.walk(url):
            steps = relative(entry.path, url).split("/")
            if any(step.startswith(".") for step in steps) or steps[-1].lower().endswith(METADATA):
                continue
            shown = unquote("/".join(steps)) if quoted else "/".join(steps)
            if not steps[-1].lower().endswith(SUFFIXES):
                raise _not_an_image(source, shown)
            if len(steps) not in (2, 3):
                raise DataError(
                    f"{source}: {shown} is not in a folder of a class; accepted: {LAYOUT}; move or remove it"
                )
            names.setdefault(("/".join(steps[:-2]), steps[-2]), []).append(steps[-1])
            meter.add(1)
    except OSError as error:
        raise DataError(f"{source}: {url} cannot be listed ({said(error)}); {storage.advice}") from error
    parts: Parts = {}
    for (part, name), files in sorted(names.items()):
        parts.setdefault(part, {})[name] = "".join(f"{file}/" for file in sorted(files)).encode()
    if not parts:
        raise DataError(f"{source}: {url} holds no image; accepted: {LAYOUT}; correct data.source")
    if set(parts) == {""}:
        return Listing(url, {"train": parts[""]}, False, quoted)
    _check_parts(set(parts), source)
    return Listing(url, _in_order(parts), True, quoted)


def _in_order(parts: Parts) -> Parts:
    return {part: parts[part] for part in ("train", *VALIDATION, "test") if part in parts}


def _check_parts(names: Iterable[str], source: str) -> None:
    """Refuse folders that are not those of parts, where one is ``train``."""
    names = set(names)
    other = sorted(names - {"train", "test", *VALIDATION})
    if other or "train" not in names:
        raise DataError(
            f"{source}: {other[0] if other else 'test'} stands beside 'train'; accepted: {LAYOUT}; rename it, move its "
            "images into train/, or take it away"
        )
    if names.issuperset(VALIDATION):
        raise DataError(f"{source}: validation stands beside 'val'; one of the two is accepted; join them")


def _not_an_image(source: str, shown: str) -> DataError:
    return DataError(f"{source}: {shown} is not an image; accepted: {' '.join(SUFFIXES)}; convert or remove it")


class _Meter:
    """Says every few seconds how many files are listed."""

    def __init__(self, source: str, say: Say) -> None:
        self.source, self.say, self.count, self.last = source, say, 0, time.monotonic()

    def add(self, count: int) -> None:
        self.count += count
        if time.monotonic() - self.last > _EVERY:
            self.last = time.monotonic()
            self.say(f"{self.source}: {self.count:,} files listed")


@dataclass(frozen=True)
class _Tree:
    """The files below ``path``, by part and class."""

    path: Path
    source: str
    say: Say

    def listing(self) -> Listing:
        folders = self._subfolders(self.path)
        nested = "train" in folders
        if nested:
            _check_parts(folders, self.source)
            classes = _in_order({part: dict.fromkeys(self._classes(self.path / part), b"") for part in folders})
        else:
            classes = {"train": dict.fromkeys(self._classes(self.path), b"")}
        before = [self.path / part / name if nested else self.path / name for part in classes for name in classes[part]]
        name, key = f"folder-{cache.digest([str(self.path.resolve())])[:32]}", self._key(before)
        parts = _kept(cache.load(name, key), classes)
        if parts is None:
            parts = self._listed(classes, nested)
            blobs = [blob for by_class in parts.values() for blob in by_class.values()]
            # A folder that changed just now may change once more with the same time.
            settled = all(time.time() - folder.stat().st_mtime > _SETTLED for folder in before)
            if sum(blob.count(b"/") for blob in blobs) >= _KEPT and settled and self._key(before) == key:
                counts = np.array([len(blob) for blob in blobs], np.int64)
                cache.store(name, key, {"lengths": counts, "names": np.frombuffer(b"".join(blobs), np.uint8)}, self.say)
        return Listing(str(self.path), parts, nested)

    def _listed(self, classes: Mapping[str, Mapping[str, bytes]], nested: bool) -> Parts:
        meter = _Meter(self.source, self.say)
        root = self.path.resolve()
        parts: Parts = {}
        for part, names in classes.items():
            parts[part] = {}
            for name in names:
                folder = self.path / part / name if nested else self.path / name
                files = self._files(folder, root)
                parts[part][name] = b"".join(os.fsencode(file) + b"/" for file in files)
                meter.add(len(files))
        return parts

    def _key(self, folders: list[Path]) -> str:
        """What changes when a file is added to one of ``folders``, taken out or renamed."""
        return cache.digest([*(f"{folder}/{folder.stat().st_mtime_ns}" for folder in folders)])

    def _classes(self, where: Path) -> list[str]:
        folders = self._subfolders(where)
        if not folders:
            raise DataError(
                f"{self.source}: {where} holds no class folder; accepted: {LAYOUT}; add one folder for each class"
            )
        return folders

    def _subfolders(self, where: Path) -> list[str]:
        """Sorted subfolders; whatever else lies there is metadata or an error."""
        root = self.path.resolve()
        folders = []
        for entry in self._entries(where, root):
            if entry.is_dir():
                folders.append(entry.name)
            elif not entry.name.lower().endswith(METADATA):
                raise self._error(
                    entry.path, f"is a file where class folders stand; accepted: {LAYOUT}; move or remove it"
                )
        return folders

    def _files(self, folder: Path, root: Path) -> list[str]:
        """Sorted image files, at least one."""
        files = []
        for entry in self._entries(folder, root):
            if entry.is_dir():
                raise self._error(
                    entry.path, f"is a folder inside a class folder; accepted: {LAYOUT}; move or remove it"
                )
            lower = entry.name.lower()
            if lower.endswith(SUFFIXES):
                files.append(entry.name)
            elif not lower.endswith(METADATA):
                raise _not_an_image(self.source, str(Path(entry.path).relative_to(self.path)))
        if not files:
            raise self._error(str(folder), f"holds no image; accepted: {WORDS}; add some or remove the folder")
        return files

    def _entries(self, where: Path, root: Path) -> list[os.DirEntry[str]]:
        """What lies in ``where`` but hidden files, sorted by name."""
        try:
            with os.scandir(where) as scan:
                entries = sorted((one for one in scan if not one.name.startswith(".")), key=lambda one: one.name)
        except OSError as error:
            raise self._error(
                str(where), f"cannot be listed ({error.strerror}); make it readable or remove it"
            ) from error
        for entry in entries:
            if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
                raise self._error(
                    entry.path, f"is a link that leaves {self.path}; accepted: files inside it; copy the file there"
                )
        return entries

    def _error(self, file: str, problem: str) -> DataError:
        return DataError(f"{self.source}: {Path(file).relative_to(self.path)} {problem}")


def _kept(arrays: Mapping[str, np.ndarray] | None, classes: Mapping[str, Mapping[str, bytes]]) -> Parts | None:
    """A listing that was kept; None where it could not be one of ``classes``: each class's names are files in its
    folder, since none holds a slash or begins with a point."""
    if arrays is None or set(arrays) != {"lengths", "names"}:
        return None
    lengths, names = arrays["lengths"], arrays["names"]
    if lengths.dtype != np.int64 or names.dtype != np.uint8 or lengths.ndim != 1 or names.ndim != 1:
        return None
    count = sum(map(len, classes.values()))
    if len(lengths) != count or lengths.min() < 2 or lengths.max() > len(names) or lengths.sum() != len(names):
        return None
    ends, last = names == ord("/"), np.cumsum(lengths) - 1
    starts = np.concatenate([[0], np.flatnonzero(ends)[:-1] + 1])
    if not ends[last].all() or (ends[1:] & ends[:-1]).any() or np.isin(names[starts], (ord("/"), ord("."))).any():
        return None
    if (names == 0).any():
        return None
    blobs = iter(np.split(names, last[:-1] + 1))
    return {part: {name: next(blobs).tobytes() for name in by_class} for part, by_class in classes.items()}
