"""``folder:PATH``: image files, one folder a class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from tfhalf.data import memory
from tfhalf.data.check import Arrays
from tfhalf.data.decode.fit import Fit
from tfhalf.data.lazy import Array, LazyImages
from tfhalf.data.sources import images, listing
from tfhalf.data.sources.listing import LAYOUT, VALIDATION, Listing
from tfhalf.data.storage.base import LARGEST, Storage, said
from tfhalf.data.storage.open import storage_of
from tfhalf.errors import DataError
from tfhalf.text import printable

_WALKED = 10_000
"""Files of which every header is read before training; of more, an image is looked at when it is decoded."""


def read(
    path: str | Path,
    fit: Fit | None,
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
        path: PATH, or a URL.
        fit: how images come to one size, antialiased bilinear; None where all have one.
        source: for messages.
        say: called with progress messages.
        decode: whether training images are decoded here or when they are asked for; ``auto`` goes by the memory.

    Raises:
        DataError: naming the folder or file at fault.
    """
    storage = storage_of(str(path), source)
    if storage.is_remote:
        files = listing.remote(storage, str(path).rstrip("/"), source, say)
    else:
        path = Path(path)
        if not path.is_dir():
            kind = "is a file" if path.exists() else "does not exist"
            raise DataError(f"{source}: {path} {kind}; accepted: a folder {LAYOUT}; correct the path")
        files = listing.local(path, source, say)
    _check_same_classes(files, source)
    counts = files.counts()
    say(f"{source}: reading {len(files)} images of {len(files.classes['train'])} classes")
    labels = {part: np.repeat(np.arange(len(each), dtype=np.int32), each) for part, each in counts.items()}
    x = _images(storage, files, {part: len(y) for part, y in labels.items()}, fit, source, say, decode)
    held_out = next((part for part in VALIDATION if part in labels), "")
    return Arrays(
        x["train"],
        labels["train"],
        x.get("test"),
        labels.get("test"),
        x.get(held_out),
        labels.get(held_out),
        class_names=files.classes["train"],
        items=_Stems(files, len(labels["train"])),
    )


class Files:
    """A folder's files, encoded (`tfhalf.data.encoded.Encoded`)."""

    def __init__(self, storage: Storage, files: Listing, source: str) -> None:
        self.storage, self.files, self.source = storage, files, source

    def __len__(self) -> int:
        return len(self.files)

    @property
    def parallel(self) -> int:
        """How many reads are worth having under way at once."""
        return self.storage.parallel

    def read(self, index: int) -> bytes:
        """The bytes of one image.

        Raises:
            DataError: the file cannot be read, or has more than `LARGEST` bytes.
        """
        try:
            return self.storage.read_whole(self.files.path(index), LARGEST)
        except OSError as error:
            raise DataError(
                f"{self.source}: {self.name(index)} cannot be read ({said(error)}); {self.storage.advice}"
            ) from error

    def name(self, index: int) -> str:
        """``train/cat/7.jpg``."""
        return printable(self.files.relative(index), 240)


class _Stems(Sequence[str]):
    """The names of the first so many files without their endings, each when it is needed."""

    def __init__(self, files: Listing, count: int) -> None:
        self.files, self.total = files, count

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.total))]
        return PurePosixPath(self.files.relative(range(self.total)[index])).stem


def _check_same_classes(files: Listing, source: str) -> None:
    """Raise DataError where another part has other classes than ``train``."""
    names = set(files.classes["train"])
    for part in [part for part in files.classes if part != "train"]:
        for name in sorted(names ^ set(files.classes[part])):
            has, lacks = ("train", part) if name in names else (part, "train")
            raise DataError(
                f"{source}: class {name!r} is in {has}/ and not in {lacks}/; both must have the same classes; "
                f"add {lacks}/{name} or remove {has}/{name}"
            )


def _images(
    storage: Storage,
    files: Listing,
    parts: dict[str, int],
    fit: Fit | None,
    source: str,
    say: Callable[[str], None],
    decode: str,
) -> dict[str, Any]:
    """The images of each part, so many in a row of ``files``; those to train on encoded still where they are to be."""
    whole, stays = _whole(storage, files, fit, source, decode)
    if stays:
        say(f"{source}: {parts['train']} training images stay encoded and are decoded while training goes on")
    x: dict[str, Array | LazyImages] = {}
    start = 0
    for part, count in parts.items():
        some = range(start, start + count)
        if part == "train" and stays:
            x[part] = whole.lazy(some) if isinstance(whole, images.Images) else whole.subset(np.asarray(some))
        else:
            x[part] = whole.read(some) if isinstance(whole, images.Images) else whole.subset(np.asarray(some))[:]
        start += count
    return x


def _whole(
    storage: Storage, files: Listing, fit: Fit | None, source: str, decode: str
) -> tuple[LazyImages | images.Images, bool]:
    """All images, and whether those to train on stay encoded. Of many, and of those behind a URL, no header is read but
    a few."""

    def stays(bytes_decoded: int) -> bool:
        return decode == "lazy" or (decode == "auto" and not memory.fits(2 * bytes_decoded))

    if storage.is_remote or (len(files) > _WALKED and decode != "eager"):
        encoded = images.lazy(Files(storage, files, source), source, fit)
        if storage.is_remote or stays(encoded.nbytes):
            return encoded, stays(encoded.nbytes)
    checked = images.Images([Path(files.path(i)) for i in range(len(files))], Path(files.root), fit, source)
    return checked, stays(len(checked) * checked.bytes_each)
