"""Images of a TFDS set as the bytes they are stored in, decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from tfhalf.data import memory
from tfhalf.data.decode.fit import Fit
from tfhalf.data.encoded import Encoded, Held
from tfhalf.data.lazy import Array, LazyImages
from tfhalf.data.sources.records import shards
from tfhalf.data.sources.records.index import Indexer
from tfhalf.data.sources.records.items import Records
from tfhalf.data.storage.base import Entry, is_url
from tfhalf.data.storage.open import storage_of
from tfhalf.errors import DataError

Keys = tuple[str, str]
Item = tuple[int, ...]

_BATCH = 256  # images that are read, or decoded, together
_CYCLE, _BLOCK = 16, 16  # shards that TFDS reads in turn, and records of each at a time


def read(
    builder: Any, part: str, keys: Keys, item: Item | None, fit: Fit | None, source: str, say: Callable[[str], None]
) -> tuple[LazyImages, Array]:
    """The images of ``part``, encoded, and their labels, int [N], in the order that TFDS gives them decoded.

    Args:
        keys: of image and label.
        item: (height, width, channels) of a decoded, resized image; None where the first image is to say.
        fit: how images come to one size; None where all have one.
        source: for messages.
        say: called with lines of progress.

    Raises:
        DataError: some are missing or damaged, or they are stored in a format that is kept in memory, which they do not
            fit into.
        tf.errors.OpError: the files cannot be read.
    """
    items: Encoded
    if is_direct(builder):
        items = _records(builder, part, keys, source, say)
        labels: Array = items.labels
    else:
        items, labels = _held(builder, part, keys, source)
    count = int(builder.info.splits[part].num_examples)
    if len(items) != count:
        raise short(part, len(items), count, source)
    feature = builder.info.features[keys[0]]
    name = f"{source}: image {{}} of {part!r} in {builder.data_path}"
    item = item or _shape(items, feature, fit, name)
    decode = _Decode(items, feature, item, fit, name)
    every = np.arange(count, dtype=np.intp)
    return LazyImages(decode, every, item, np.dtype(feature.np_dtype), source, items), labels


def is_direct(builder: Any) -> bool:
    """Whether single records of a set's files can be read."""
    import tensorflow_datasets as tfds

    formats = tfds.core.FileFormat
    return builder.info.file_format in (formats.TFRECORD, formats.ARRAY_RECORD)


def needs_records(builder: Any) -> bool:
    """Whether a set's files can be read by the record alone: TensorFlow reads no ArrayRecord, and no bucket of S3."""
    import tensorflow_datasets as tfds

    stored = builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD
    return stored or (is_url(str(builder.data_path)) and is_direct(builder))


def resized(images: Any, fit: Fit) -> Any:
    """``images`` [..., H, W, C] at the size of ``fit`` by antialiased bilinear interpolation; the dtype stays."""
    import tensorflow as tf

    kind = images.dtype
    if fit.center is None:
        images = tf.image.resize(images, fit.size, method="bilinear", antialias=True)
    else:
        images = _middle(images, fit)
    return tf.saturate_cast(tf.round(images), kind) if kind.is_integer else images


def _middle(images: Any, fit: Fit) -> Any:
    """What `Fit.box` keeps, resized, in float32."""
    import tensorflow as tf

    sides, size = tf.cast(tf.shape(images)[-3:-1], tf.float32), tf.constant(fit.size, tf.float32)
    scale = 1 / (tf.reduce_min(sides / size) * tf.constant(fit.center, tf.float32))
    corner = (sides - size / scale) / 2
    batch = tf.reshape(images, tf.concat([[-1], tf.shape(images)[-3:]], 0))
    scales = tf.stack([scale, scale])
    middle = tf.raw_ops.ScaleAndTranslate(
        images=batch, size=fit.size, scale=scales, translation=-corner * scales, kernel_type="triangle", antialias=True
    )
    return tf.reshape(middle, tf.concat([tf.shape(images)[:-3], fit.size, tf.shape(images)[-1:]], 0))


def short(part: str, held: int, count: int, source: str) -> DataError:
    """What to raise where ``part`` holds ``held`` items instead of ``count``."""
    return DataError(
        f"{source}: the part {part!r} holds {held} of the {count} items that its description promises; delete its "
        "folder and prepare it again"
    )


def interleaved(counts: Sequence[int], cycle: int = _CYCLE, block: int = _BLOCK) -> npt.NDArray[np.intp]:
    """The order in which `tf.data.Dataset.interleave` gives the items of shards that hold ``counts``, as their numbers
    shard after shard.

    So many shards, ``cycle``, are open; in turn each gives ``block`` items. One that has no more makes way, when its
    turn comes again, for the next that has not begun.
    """
    starts = np.concatenate([[0], np.cumsum(counts)])
    passed = [0] * len(counts)
    slots: list[int | None] = [None] * cycle
    parts, begun, turn, left = [np.arange(0)], 0, 0, int(starts[-1])
    while left:
        if slots[turn] is None and begun < len(counts):
            slots[turn], begun = begun, begun + 1
        shard = slots[turn]
        if shard is not None:
            taken = min(block, counts[shard] - passed[shard])
            parts.append(np.arange(taken) + starts[shard] + passed[shard])
            passed[shard] += taken
            left -= taken
            if taken < block:
                slots[turn] = None
        turn = (turn + 1) % cycle
    return np.concatenate(parts).astype(np.intp)


def _records(builder: Any, part: str, keys: Keys, source: str, say: Callable[[str], None]) -> Records:
    """The part's records, where they lie."""
    import tensorflow_datasets as tfds

    paths = [str(one.filename) for one in builder.info.splits[part].file_instructions]
    root, storage = str(builder.data_path), storage_of(paths[0], source)
    entries = shards.brought_up(storage, [Entry(path, -1, "") for path in paths], source)
    index = Indexer(storage, root, keys, 0, source, say, unlabelled=True).index(entries)
    in_turn = builder.info.file_format == tfds.core.FileFormat.TFRECORD and not builder.info.disable_shuffling
    order = interleaved(index.counts.tolist()) if in_turn and len(paths) > 1 else None
    return Records(storage, entries, index, root, source, order)


def _held(builder: Any, part: str, keys: Keys, source: str) -> tuple[Held, Array]:
    """The part in memory, encoded, of a format that TFDS alone reads."""
    import tensorflow_datasets as tfds

    memory.guard(int(builder.info.splits[part].num_bytes), source, "use a machine with more, or a smaller set")
    dataset = builder.as_dataset(
        split=part,
        shuffle_files=False,
        as_supervised=True,
        decoders={keys[0]: tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(try_autocache=False),
    )
    images: list[bytes] = []
    labels: list[Array] = [np.zeros(0, np.int64)]
    for encoded, label in dataset.batch(_BATCH).as_numpy_iterator():
        images += encoded.tolist()
        labels.append(label)
    return Held(images, lambda index: f"image {index} of {part!r} in {builder.data_path}"), np.concatenate(labels)


def _shape(items: Encoded, feature: Any, fit: Fit | None, name: str) -> Item:
    """(height, width, channels) of the first image, decoded and resized."""
    import tensorflow as tf

    try:
        shape = feature.decode_example(items.read(0)).shape
    except tf.errors.OpError as error:
        what = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise DataError(f"{name.format(0)} is damaged ({what}); prepare the set again") from error
    return (*(fit.size if fit else tuple(map(int, shape[:2]))), int(shape[2]))


class _Decode:
    """Decodes ``items`` as `LazyImages` wants it, by the operations that decode the whole set: the same pixels."""

    def __init__(self, items: Encoded, feature: Any, item: Item, fit: Fit | None, name: str) -> None:
        import tensorflow as tf

        self.items, self.name = items, name

        def one(encoded: Any) -> Any:
            image = feature.decode_example(encoded)
            if fit is not None and not fit.leaves(*feature.shape[:2]):
                image = resized(image, fit)
            return tf.ensure_shape(image, item)

        def many(encoded: Any) -> Any:
            return tf.map_fn(one, encoded, fn_output_signature=tf.TensorSpec(item, feature.tf_dtype))

        signature = [tf.TensorSpec([None], tf.string)]
        self._many: Callable[[Any], Any] = tf.function(many, input_signature=signature, autograph=False)

    def __call__(self, indices: npt.NDArray[np.intp], out: Array) -> None:
        import tensorflow as tf

        with ThreadPoolExecutor(getattr(self.items, "parallel", 1)) as pool:
            for start in range(0, len(indices), _BATCH):
                part = indices[start : start + _BATCH].tolist()
                images = list(pool.map(self.items.read, part))
                try:
                    with tf.device("CPU:0"):  # accelerators have no part in this
                        out[start : start + len(part)] = self._many(images)
                except tf.errors.OpError as error:
                    raise self._fault(part, images, error) from error

    def _fault(self, indices: list[int], images: list[bytes], error: Exception) -> DataError:
        """The first of ``indices`` that cannot be decoded by itself."""
        import tensorflow as tf

        for index, image in zip(indices, images, strict=True):
            try:
                self._many([image])
            except tf.errors.OpError as cause:
                what = next(iter(str(cause).splitlines()), type(cause).__name__)[:200]
                return DataError(
                    f"{self.name.format(index)} is damaged or of another shape ({what}); prepare the set again, or "
                    "set data.image_size, for example [64, 64]"
                )
        return DataError(f"{self.name.format(indices[0])} or one after it cannot be decoded ({error})"[:400])
