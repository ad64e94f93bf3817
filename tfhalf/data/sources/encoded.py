"""Training images of a TFDS set as the bytes they are stored in, decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tfhalf.data import memory
from tfhalf.data.encoded import Held
from tfhalf.data.lazy import Array, LazyImages
from tfhalf.errors import DataError

Keys = tuple[str, str]

_BATCH = 256  # images that are read, or decoded, together


def read(
    builder: Any, part: str, keys: Keys, item: tuple[int, ...], size: Any, source: str
) -> tuple[LazyImages, Array]:
    """The images of ``part``, encoded, and their labels, int64 [N], in the order that TFDS gives them decoded.

    Args:
        keys: of image and label.
        item: (height, width, channels) of a decoded, resized image.
        size: (height, width) to resize to, or None.
        source: for messages.

    Raises:
        DataError: the encoded images do not fit into the memory, or some are missing.
        tf.errors.OpError: the files cannot be read.
    """
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
    labels: list[Array] = []
    for encoded, label in dataset.batch(_BATCH).as_numpy_iterator():
        images += encoded.tolist()
        labels.append(label)
    count = int(builder.info.splits[part].num_examples)
    if len(images) != count:
        raise short(part, len(images), count, source)
    feature = builder.info.features[keys[0]]
    decode = _Decode(images, feature, item, size, f"{source}: image {{}} of {part!r} in {builder.data_path}")
    items = Held(images, lambda index: f"image {index} of {part!r} in {builder.data_path}")
    every = np.arange(count, dtype=np.intp)
    lazy = LazyImages(decode, every, item, np.dtype(feature.np_dtype), source, items)
    return lazy, np.concatenate(labels)


def resized(images: Any, size: tuple[int, int]) -> Any:
    """``images`` [..., H, W, C] at ``size`` (height, width) by antialiased bilinear interpolation; the dtype stays."""
    import tensorflow as tf

    kind = images.dtype
    images = tf.image.resize(images, size, method="bilinear", antialias=True)
    return tf.saturate_cast(tf.round(images), kind) if kind.is_integer else images


def short(part: str, held: int, count: int, source: str) -> DataError:
    """What to raise where ``part`` holds ``held`` items instead of ``count``."""
    return DataError(
        f"{source}: the part {part!r} holds {held} of the {count} items that its description promises; delete its "
        "folder and prepare it again"
    )


class _Decode:
    """Decodes ``images`` as `LazyImages` wants it, by the operations that decode the whole set: the same pixels."""

    def __init__(
        self, images: list[bytes], feature: Any, item: tuple[int, ...], size: tuple[int, int] | None, name: str
    ) -> None:
        import tensorflow as tf

        self.images, self.name = images, name

        def one(encoded: Any) -> Any:
            image = feature.decode_example(encoded)
            if size is not None and size != feature.shape[:2]:
                image = resized(image, size)
            return tf.ensure_shape(image, item)

        def many(encoded: Any) -> Any:
            return tf.map_fn(one, encoded, fn_output_signature=tf.TensorSpec(item, feature.tf_dtype))

        signature = [tf.TensorSpec([None], tf.string)]
        self._many: Callable[[Any], Any] = tf.function(many, input_signature=signature, autograph=False)

    def __call__(self, indices: npt.NDArray[np.intp], out: Array) -> None:
        import tensorflow as tf

        for start in range(0, len(indices), _BATCH):
            part = indices[start : start + _BATCH]
            try:
                with tf.device("CPU:0"):  # accelerators have no part in this
                    out[start : start + len(part)] = self._many([self.images[index] for index in part])
            except tf.errors.OpError as error:
                raise self._fault(part, error) from error

    def _fault(self, indices: npt.NDArray[np.intp], error: Exception) -> DataError:
        """The first of ``indices`` that cannot be decoded by itself."""
        import tensorflow as tf

        for index in indices:
            try:
                self._many([self.images[index]])
            except tf.errors.OpError as cause:
                what = next(iter(str(cause).splitlines()), type(cause).__name__)[:200]
                return DataError(
                    f"{self.name.format(index)} is damaged or of another shape ({what}); prepare the set again, or "
                    "set data.image_size, for example [64, 64]"
                )
        return DataError(f"{self.name.format(int(indices[0]))} or one after it cannot be decoded ({error})"[:400])
