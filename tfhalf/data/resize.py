"""Arrays of images brought to ``data.image_size``, with Pillow's antialiased bilinear filter."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfhalf.data.check import Arrays
from tfhalf.data.lazy import Array, LazyImages
from tfhalf.errors import DataError


def resize(arrays: Arrays, size: tuple[int, int] | None, source: str) -> Arrays:
    """The same arrays with every image [N, H, W, C] at ``size`` (height, width); unchanged where it is so already.

    The dtype stays. Integers are rounded and clipped to their range; each channel is resized by itself, so any number
    of channels is taken.

    Raises:
        DataError: a size is asked for and the items are not images of rank 4.
    """
    if size is None:
        return arrays
    if arrays.x_train.ndim != 4:
        raise DataError(
            f"{source}: x_train has shape {arrays.x_train.shape} and data.image_size is set; it is for images "
            "[N, H, W, C]; reshape x or leave image_size out"
        )
    if arrays.x_train.shape[1:3] == size or isinstance(arrays.x_train, LazyImages):  # which are decoded at that size
        return arrays
    parts = {"x_train": arrays.x_train, "x_val": arrays.x_val, "x_test": arrays.x_test}
    resized: dict[str, Any] = {key: None if x is None else _images(x, size) for key, x in parts.items()}
    return dataclasses.replace(arrays, **resized)


def fitted(image: Any, shape: Sequence[int]) -> np.ndarray:
    """A Pillow image as a model takes it: upright, grey or RGB, resized to ``shape`` (height, width, 1 or 3), uint8.

    What `tfhalf predict` and `tfhalf serve` make of the same file is the same.
    """
    from PIL import Image, ImageOps

    height, width, channels = shape
    plain = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    if plain.size != (width, height):
        plain = plain.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
    return np.asarray(plain, np.uint8).reshape(height, width, channels)


def _images(x_NHWC: Array, size: tuple[int, int]) -> Array:
    from PIL import Image

    resized = np.empty((len(x_NHWC), *size, x_NHWC.shape[3]), x_NHWC.dtype)
    target_size = size[::-1]
    if x_NHWC.dtype == np.uint8:
        for image, target in zip(x_NHWC, resized, strict=True):
            for channel in range(image.shape[2]):
                plane = Image.fromarray(np.ascontiguousarray(image[..., channel]))
                target[..., channel] = np.asarray(plane.resize(target_size, Image.Resampling.BILINEAR))
        return resized
    whole = x_NHWC.dtype.kind in "ui"
    for image, target in zip(x_NHWC, resized, strict=True):
        for channel in range(image.shape[2]):
            plane = Image.fromarray(np.ascontiguousarray(image[..., channel], dtype=np.float32))
            values = np.asarray(plane.resize(target_size, Image.Resampling.BILINEAR))
            if whole:
                limits = np.iinfo(x_NHWC.dtype)
                values = np.clip(np.rint(values.astype(np.float64)), limits.min, limits.max)
            target[..., channel] = values
    return resized
