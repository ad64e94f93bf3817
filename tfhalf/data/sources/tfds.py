"""``tfds:NAME[/CONFIG][:VERSION]``: image-classification sets of TensorFlow Datasets.

Prepared data is read without touching the network; what is not prepared is downloaded once, by
`tfhalf.data.sources.fetch`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tfhalf.data import memory
from tfhalf.data.check import Arrays
from tfhalf.data.decode.fit import Fit
from tfhalf.data.lazy import Array, LazyImages
from tfhalf.data.sources import encoded, fetch
from tfhalf.data.storage.base import is_url
from tfhalf.data.storage.open import storage_of
from tfhalf.errors import DataError
from tfhalf.text import first_line, printable

Progress = Callable[[str], None]

_NAME = re.compile(r"^([a-z0-9_]+)(/[A-Za-z0-9_.+-]+)?(:[0-9*]+(\.[0-9*]+){0,2})?$")
_BATCH = 256


def read(
    name: str,
    data_dir: str | None,
    fit: Fit | None,
    source: str,
    say: Progress,
    decode: Literal["auto", "eager", "lazy"] = "auto",
    on_validation: bool = False,
) -> Arrays:
    """Read a set by its name, downloading it first if it is not prepared.

    Args:
        name: ``NAME``, ``NAME/CONFIG``, either with ``:VERSION``.
        data_dir: where sets are prepared; else ``TFDS_DATA_DIR``, else TFDS's default.
        fit: how images come to one size, antialiased bilinear; needed where they vary.
        source: for messages.
        say: called with progress messages.
        decode: whether training images are decoded here or when they are asked for; ``auto`` goes by the memory.
        on_validation: read the set's part ``validation``, as such, in place of a test part.

    Raises:
        DataError: unknown name, no image-classification set, not to be had, damaged, or too large for the memory.
    """
    return read_builder(_builder(name, data_dir, source), fit, source, say, decode, on_validation)


def read_builder(
    builder: Any,
    fit: Fit | None,
    source: str,
    say: Progress,
    decode: str = "auto",
    on_validation: bool = False,
) -> Arrays:
    """The same for a ``tfds.core.DatasetBuilder``: parts ``train`` and ``test``, else ``validation`` as the test."""
    image_key, label_key = _keys(builder, source)
    fetch.prepare(builder, source, say)
    splits = builder.info.splits
    if "train" not in splits:
        raise DataError(f"{source}: has the parts {', '.join(splits)}; a part 'train' is needed; use another source")
    test = next((part for part in ("test", "validation")[on_validation:] if part in splits), None)
    if on_validation and test and "test" in splits:
        say(f"{source}: the part 'test' is not read, since data.test names 'validation'")
    names = tuple(builder.info.features[label_key].names)
    parts = ["train"] + ([test] if test else [])
    say(f"{source}: reading {' and '.join(parts)} from {builder.data_path}")
    item = _item(builder, image_key, fit, source)
    lazy = decode == "lazy" or (decode == "auto" and not memory.fits(_needed(builder, parts, image_key, item)))
    needed = _needed(builder, parts[1:] if lazy else parts, image_key, item)
    memory.guard(needed, source, "set a smaller data.image_size, or use a smaller set")
    x: Array | LazyImages
    if lazy:
        say(f"{source}: training images stay encoded and are decoded while training goes on")
        with _readable(builder, "train", source):
            x, y = encoded.read(builder, "train", (image_key, label_key), item, fit, source, say)
    else:
        x, y = _read_part(builder, "train", image_key, fit, source, say)
    x_test, y_test = _read_part(builder, test, image_key, fit, source, say) if test else (None, None)
    if y_test is not None and (y_test < 0).any():
        # Contest sets publish their test part without labels: all are -1.
        other = "" if on_validation or "validation" not in splits else "set data.test: validation, or "
        raise DataError(
            f"{source}: the part {test!r} has no labels; a labelled one is needed; {other}use another source"
        )
    arrays = Arrays(x, y, class_names=names, declared=True)
    if on_validation:
        return replace(arrays, x_val=x_test, y_val=y_test)
    return replace(arrays, x_test=x_test, y_test=y_test)


def check_at_hand(name: str, data_dir: str | None, source: str) -> None:
    """Find out without TensorFlow, in a second, whether a set can be had at all.

    Raises:
        DataError: it is unknown, or neither prepared nor to be downloaded.
    """
    root, matched = _root(data_dir), _NAME.match(name)
    if matched and any((_folder(root) / matched[1]).rglob("dataset_info.json")):
        return  # the usual case; whether it is the version asked for is told when it is read
    fetch.prepared(_builder(name, data_dir, source), source)


# --- which set -------------------------------------------------------------------------------------------------------


def _builder(name: str, data_dir: str | None, source: str) -> Any:
    import tensorflow_datasets as tfds

    matched = _NAME.match(name)
    if not matched:
        raise DataError(
            f"{source}: {name!r} is not the name of a set; accepted: tfds:NAME, tfds:NAME/CONFIG, tfds:NAME:VERSION"
        )
    root = _root(data_dir)
    _check_root(root, source)
    # Without community sets, whose list lies on the network.
    known = tfds.list_builders(with_community_datasets=False)
    if matched[1] not in known and "://" not in str(root) and not (_folder(root) / matched[1]).is_dir():
        near = difflib.get_close_matches(matched[1], known, n=3, cutoff=0.6)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise DataError(
            f"{source}: TFDS knows no set {matched[1]!r}{hint}; accepted: the names of tfds.list_builders(); correct "
            "data.source"
        )
    try:
        return tfds.builder(name, data_dir=root, try_gcs=False)
    except _faults(root) as error:
        raise DataError(f"{source}: TFDS cannot open it: {first_line(error)}; correct the config or version") from error


def _root(data_dir: str | None) -> str | None:
    root = data_dir or os.environ.get("TFDS_DATA_DIR") or None
    return str(Path(root).expanduser()) if root and "://" not in root else root


def _check_root(root: str | None, source: str) -> None:
    """Refuse a URL that TFDS does not read.

    Raises:
        DataError: its scheme is another than that of Google's buckets, or its library is not installed.
    """
    if root is None or not is_url(root):
        return
    if root.partition("://")[0].lower() != "gs":  # TFDS reads its descriptions through TensorFlow, which has no other
        raise DataError(
            f"{source}: the folder of prepared sets is {printable(root, 80)}; accepted: a path or gs://...; read such "
            "a set by its folder: data.source: records:URL/NAME/VERSION"
        )
    storage_of(root, source)


def _faults(root: str | None) -> tuple[type[Exception], ...]:
    """What opening a set raises; the errors of libraries that read buckets have no base but Exception."""
    in_bucket = root is not None and is_url(root)
    return (Exception,) if in_bucket else (AssertionError, ValueError, RuntimeError, OSError)


def _folder(root: str | None) -> Path:
    return Path(root or "~/tensorflow_datasets").expanduser()


def _keys(builder: Any, source: str) -> tuple[str, str]:
    from tensorflow_datasets.core import features

    keys, known = builder.info.supervised_keys, builder.info.features
    if keys and len(keys) == 2 and all(isinstance(key, str) for key in keys):
        image, label = keys
        if isinstance(known[image], features.Image) and isinstance(known[label], features.ClassLabel):
            return str(image), str(label)
    raise DataError(
        f"{source}: is not an image-classification set (supervised keys {keys}); accepted: sets with one image and one "
        "class label; use another set, or file.py:load"
    )


# --- reading ---------------------------------------------------------------------------------------------------------


def _item(builder: Any, key: str, fit: Fit | None, source: str) -> tuple[int, ...]:
    """(height, width, channels) of a decoded image: the first one's, where neither the set nor ``fit`` tells."""
    shape = builder.info.features[key].shape
    item = (*(fit.size if fit else shape[:2]), shape[2])
    if None not in item:
        return item
    with _readable(builder, "train", source):
        if encoded.needs_records(builder):
            keys = builder.info.supervised_keys
            return encoded.read(builder, "train", keys, None, fit, source, lambda line: None)[0].item
        for images, _ in _dataset(builder, "train", shape, fit, 1).take(1).as_numpy_iterator():
            return tuple(int(side) for side in images.shape[1:])
    raise encoded.short("train", 0, int(builder.info.splits["train"].num_examples), source)


def _needed(builder: Any, parts: list[str], key: str, item: tuple[int, ...]) -> int:
    """Bytes of ``parts`` decoded, twice: beside them stands one copy, made when validation is drawn."""
    count = sum(int(builder.info.splits[part].num_examples) for part in parts)
    return 2 * count * int(np.prod(item)) * int(np.dtype(builder.info.features[key].np_dtype).itemsize)


@contextmanager
def _readable(builder: Any, part: str, source: str) -> Iterator[None]:
    """Within the block ``part`` is read, on the CPU; what TensorFlow cannot read is told as a `DataError`."""
    import tensorflow as tf

    try:
        # Accelerators have no part in this.
        with tf.device("CPU:0"):
            yield
    except tf.errors.OpError as error:
        raise DataError(
            f"{source}: the part {part!r} in {builder.data_path} cannot be read ({first_line(error)}); delete that "
            "folder and prepare it again"
        ) from error


def _read_part(
    builder: Any, part: str, image_key: str, fit: Fit | None, source: str, say: Progress
) -> tuple[Array, Array]:
    if encoded.needs_records(builder):
        with _readable(builder, part, source):
            x, y = encoded.read(builder, part, builder.info.supervised_keys, None, fit, source, say)
            return x[:], y
    count = int(builder.info.splits[part].num_examples)
    known = builder.info.features[image_key].shape
    # Images that may differ cannot be stacked: they come one by one, and the first that differs is named.
    batch = 1 if fit is None and None in known else _BATCH
    with _readable(builder, part, source):
        return _fill(_dataset(builder, part, known, fit, batch), part, count, source)


def _dataset(builder: Any, part: str, known: tuple[int | None, ...], fit: Fit | None, batch: int) -> Any:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    def resized(images: Any, labels: Any) -> tuple[Any, Any]:
        assert fit is not None
        return encoded.resized(images, fit), labels

    parallel = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}
    as_stored = fit is None or fit.leaves(*known[:2])
    if batch > 1 and as_stored and _in_one_file(builder, part):
        return _of_one_file(builder, part, batch).prefetch(tf.data.AUTOTUNE)
    plain = tfds.ReadConfig(try_autocache=False)
    # TFDS decodes in parallel and keeps the order of the files.
    dataset = builder.as_dataset(split=part, shuffle_files=False, as_supervised=True, read_config=plain)
    if as_stored:
        return dataset.batch(batch, **parallel).prefetch(tf.data.AUTOTUNE)
    if None in known:
        return dataset.map(resized, **parallel).batch(batch, **parallel).prefetch(tf.data.AUTOTUNE)
    return dataset.batch(batch, **parallel).map(resized, **parallel).prefetch(tf.data.AUTOTUNE)


def _in_one_file(builder: Any, part: str) -> bool:
    """Whether ``part`` is one file of records that hold an image and a label as they are."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    stored = builder.info.features.get_serialized_info()
    kinds = {(stored[key].shape, tf.as_dtype(stored[key].dtype).name) for key in builder.info.supervised_keys}
    records = builder.info.file_format == tfds.core.FileFormat.TFRECORD
    return records and len(builder.info.splits[part].filepaths) == 1 and kinds == {((), "string"), ((), "int64")}


def _of_one_file(builder: Any, part: str, batch: int) -> Any:
    """What TFDS gives, read by the batch: in half the time for small images, of which each costs TFDS a few calls."""
    import tensorflow as tf

    image, label = builder.info.supervised_keys
    kinds = {image: tf.io.FixedLenFeature([], tf.string), label: tf.io.FixedLenFeature([], tf.int64)}

    def parsed(records: Any) -> tuple[Any, Any]:
        parsed_records = tf.io.parse_example(records, kinds)
        return builder.info.features[image].decode_batch_example(parsed_records[image]), parsed_records[label]

    files = [str(path) for path in builder.info.splits[part].filepaths]
    records = tf.data.TFRecordDataset(files).batch(batch)
    return records.map(parsed, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _fill(dataset: Any, part: str, count: int, source: str) -> tuple[Array, Array]:
    x: Array | None = None
    y = np.empty(count, np.int64)
    done = 0
    for images, labels in dataset.as_numpy_iterator():
        if x is None:
            x = np.empty((count, *images.shape[1:]), images.dtype)
        if images.shape[1:] != x.shape[1:]:
            raise DataError(
                f"{source}: image 0 of {part!r} has shape {x.shape[1:]} and image {done} {images.shape[1:]}; all must "
                f"have one size; set data.image_size, for example [{x.shape[1]}, {x.shape[2]}]"
            )
        x[done : done + len(labels)] = images
        y[done : done + len(labels)] = labels
        done += len(labels)
    if x is None or done != count:
        raise encoded.short(part, done, count, source)
    return x, y
