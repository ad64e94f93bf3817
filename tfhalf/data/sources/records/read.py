"""``records:PATH`` from its shards to `Arrays`: `read`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from tfhalf import config
from tfhalf.data import memory
from tfhalf.data.check import Arrays
from tfhalf.data.decode.fit import Fit
from tfhalf.data.lazy import Array
from tfhalf.data.sources import images
from tfhalf.data.sources.records import shards
from tfhalf.data.sources.records.index import Indexer
from tfhalf.data.sources.records.items import Joined, Records
from tfhalf.data.storage.base import Storage, is_url, joined, said
from tfhalf.data.storage.open import storage_of
from tfhalf.errors import DataError

Say = Callable[[str], None]

CLASSES = ("classes.txt", "class_names.txt", "label.labels.txt", "labels.txt")
"""Files beside the shards that are read for the names of classes; the third is what TFDS writes."""
_NAMES = 1 << 24  # bytes


def read(
    path: str, settings: config.Records, base: Path, fit: Fit | None, source: str, say: Say, decode: str
) -> Arrays:
    """Images and labels of shards.

    Args:
        path: a folder, a shard, a glob, or a URL; paths are relative to ``base``.
        settings: the pipeline's ``data.records``.
        base: the pipeline file's folder.
        fit: how images come to one size.
        source: for messages.
        say: called with lines of progress.
        decode: ``data.decode``.

    Raises:
        DataError: naming the shard and the record at fault.
    """
    path = joined(base, path)
    storage = storage_of(path, source)
    globs = {part: glob for part in ("train", "val", "test") if (glob := getattr(settings, part)) is not None}
    listed = shards.parts(storage, path, globs, source)
    root = path if globs or not shards.is_one(path) else path.rpartition("/")[0]
    names = _names(storage, root, settings.classes, base, source)
    indexer = Indexer(storage, root, (settings.image, settings.label), settings.first_label, source, say)
    parts = {}
    for part, entries in listed.items():
        entries = shards.brought_up(storage, entries, source)
        parts[part] = Records(storage, entries, indexer.index(entries), root, source)
    _check_labels(parts, names, settings.first_label, source)
    return arrays(parts, fit, source, say, decode, names)


def arrays(
    parts: Mapping[str, Records],
    fit: Fit | None,
    source: str,
    say: Say,
    decode: str,
    names: tuple[str, ...] | None,
) -> Arrays:
    """``parts`` by name, ``train`` among them, decoded where that fits or is asked for; held-out parts always are.

    Raises:
        DataError: they do not fit into the memory, or an image is damaged.
    """
    items = Joined(list(parts.values()))
    whole = images.lazy(items, source, fit)
    ranges, start = {}, 0
    for part, records in parts.items():
        ranges[part] = whole.subset(np.arange(start, start + len(records)))
        start += len(records)
    train = ranges.pop("train")
    stays = decode == "lazy" or (decode == "auto" and not memory.fits(2 * whole.nbytes))
    if stays:
        say(f"{source}: {len(train)} training images stay encoded and are decoded while training goes on")
    x: dict[str, Array] = {part: images_of[:] for part, images_of in ranges.items()}
    return Arrays(
        train if stays else train[:],
        parts["train"].labels,
        x.get("test"),
        parts["test"].labels if "test" in parts else None,
        x.get("val"),
        parts["val"].labels if "val" in parts else None,
        class_names=names,
        declared=names is not None,
    )


def _check_labels(parts: Mapping[str, Records], names: tuple[str, ...] | None, first: int, source: str) -> None:
    """Refuse labels without a class, by shard and record.

    Raises:
        DataError: names the first.
    """
    train = parts["train"].labels
    count = len(names) if names else int(train.max()) + 1
    for records in parts.values():
        wrong = records.labels >= count
        if wrong.any():
            item = int(np.argmax(wrong))
            whence = f"{count} classes have names" if names else f"the training part has {count} classes"
            raise DataError(
                f"{source}: {records.name(item)} has the label {int(records.labels[item]) + first}, and {whence}; "
                f"accepted: {first} to {count - 1 + first}; correct the label or add the class"
            )
    if not first and not names and train.min() == 1:
        raise DataError(
            f"{source}: labels begin with 1, the lowest of {parts['train'].name(int(np.argmin(train)))}; accepted: "
            "classes from 0 on; set data.records.first_label: 1, which takes 1 off each"
        )


def _names(storage: Storage, root: str, named: str | None, base: Path, source: str) -> tuple[str, ...] | None:
    """Names of classes, one a line, from the file that the pipeline names, else one beside the shards."""
    if named is None and (storage.is_remote or not Path(root).is_dir()):
        return None
    beside = [str(Path(root) / name) for name in CLASSES if (Path(root) / name).is_file()] if named is None else []
    path = joined(base, named) if named is not None else next(iter(beside), None)
    if path is None:
        return None
    try:
        text = (storage_of(path, source) if is_url(path) else storage_of("", source)).read_whole(path, _NAMES).decode()
    except OSError as error:
        raise DataError(
            f"{source}: {path} cannot be read ({said(error)}); accepted: a file of the names of classes, one a line; "
            "correct data.records.classes"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: {path} is not UTF-8 ({error.reason}); convert it") from error
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    twice = next((name for name in set(names) if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None or len(names) < 2:
        what = f"holds {twice!r} twice" if twice is not None else f"names {len(names)} classes"
        raise DataError(f"{source}: {path} {what}; accepted: two names or more, each once, one a line; correct it")
    return names
