"""Shards of records as tests write them: TFRecord and ArrayRecord files of images and labels."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable
from pathlib import Path

import google_crc32c
import numpy as np
from PIL import Image

from tfhalf.data.sources.records.example import _example

IMAGENET = ("image/encoded", "image/class/label")
TFDS = ("image", "label")


def masked(data: bytes) -> int:
    """The checksum of TFRecord."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def example(image: bytes, label: int | bytes | None, keys: tuple[str, str] = IMAGENET) -> bytes:
    """A serialized tf.train.Example."""
    message = _example()()
    message.features.feature[keys[0]].bytes_list.value.append(image)
    message.features.feature["file_name"].bytes_list.value.append(b"a.jpg")
    if isinstance(label, int):
        message.features.feature[keys[1]].int64_list.value.append(label)
    elif label is not None:
        message.features.feature[keys[1]].bytes_list.value.append(label)
    return bytes(message.SerializeToString())


def framed(record: bytes) -> bytes:
    """A record as it stands in a TFRecord file."""
    length = struct.pack("<Q", len(record))
    return length + struct.pack("<I", masked(length)) + record + struct.pack("<I", masked(record))


def tfrecord(path: Path, records: Iterable[bytes]) -> Path:
    """A TFRecord file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for record in records:
            file.write(framed(record))
    return path


def array_record(path: Path, records: Iterable[bytes], group: int = 1) -> Path:
    """An ArrayRecord file, as TFDS writes them where ``group`` is 1."""
    from array_record.python import array_record_module

    path.parent.mkdir(parents=True, exist_ok=True)
    writer = array_record_module.ArrayRecordWriter(str(path), f"group_size:{group}")
    for record in records:
        writer.write(record)
    writer.close()
    return path


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """An image file's bytes."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


def pixels(count: int, seed: int = 0, height: int = 12, width: int = 10) -> list[np.ndarray]:
    """Random images, uint8 [H, W, 3]."""
    draw = np.random.default_rng(seed)
    return [draw.integers(0, 256, (height, width, 3)).astype(np.uint8) for _ in range(count)]
