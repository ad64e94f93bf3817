"""Arrays of images brought to ``data.image_size``, with Pillow's antialiased bilinear filter."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfhalf.data.check import PARTS, Arrays
from tfhalf.data.columns import Columns
from tfhalf.data.decode.fit import Fit
from tfhalf.data.image_formats import DEEP
from tfhalf.data.lazy import Array, LazyImages
from tfhalf.data.types import Kinds
from tfhalf.errors import DataError


def resize(arrays: Arrays, fit: Fit | None, source: str, kind: Kinds = "classes") -> Arrays:
    """The same arrays with every image [N, H, W, C] brought to a size; unchanged where it is so already.

    The dtype stays. Integers are rounded and clipped to their range; each channel is resized by itself, so any number
    of channels is taken. Of several inputs the images are resized. Masks [N, H, W] take the nearest pixel's class.

    Raises:
        DataError: a size is asked for and the items are not images of rank 4.
    """
    if fit is None:
        return arrays
    x_train = arrays.x_train
    ranks = [array.ndim for array in x_train.arrays.values()] if isinstance(x_train, Columns) else [x_train.ndim]
    if 4 not in ranks:
        shape = f"shape {x_train.shape}" if not isinstance(x_train, Columns) else "no images"
        raise DataError(
            f"{source}: x_train has {shape} and data.image_size is set; it is for images [N, H, W, C]; reshape x or "
            "leave image_size out"
        )
    changed: dict[str, Any] = {f"x_{part}": _resized(getattr(arrays, f"x_{part}"), fit) for part in PARTS}
    changed |= {f"y_{part}": _resized_masks(getattr(arrays, f"y_{part}"), fit.size, kind) for part in PARTS}
    return dataclasses.replace(arrays, **changed)


def nearest(masks: Array, size: tuple[int, int]) -> Array:
    """Masks [N, H, W] at ``size`` (height, width): each pixel that of the nearest centre."""
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.intp), old - 1)
        for new, old in zip(size, masks.shape[1:3], strict=True)
    )
    return masks[:, rows[:, None], columns]


def fitted(image: Any, shape: Sequence[int], center: float | None = None, *, exact: bool = False) -> np.ndarray:
    """A Pillow image as a model takes it: upright, grey or RGB, brought to ``shape`` (height, width, 1 or 3) as `Fit`
    says with ``center``, uint8.

    What `tfhalf predict` and `tfhalf serve` make of the same file is the same. Gray images of 16 bits are brought to
    0..255; with ``exact`` as float32, which loses nothing of them.
    """
    from PIL import Image, ImageOps

    height, width, channels = shape
    fit = Fit((height, width), center)
    upright = ImageOps.exif_transpose(image)
    if upright.mode in DEEP:
        plane = fit.pillow(Image.fromarray(np.asarray(upright).astype(np.float32) / 257))  # 65535 is 255
        values = np.asarray(plane)[..., None].repeat(channels, axis=-1)
        return values if exact else np.rint(values).astype(np.uint8)
    plain = fit.pillow(upright.convert("L" if channels == 1 else "RGB"), reducing_gap=3.0)
    return np.asarray(plain, np.uint8).reshape(height, width, channels)


def _resized(x: Any, fit: Fit) -> Any:
    if isinstance(x, Columns):
        return x.map(lambda array: _images(array, fit) if array.ndim == 4 else array)
    if x is None or isinstance(x, LazyImages):  # which are decoded at that size
        return x
    return _images(x, fit)


def _resized_masks(y: Any, size: tuple[int, int], kind: Kinds) -> Any:
    """``y`` with its masks resized: those of the outputs, where there are several."""
    if isinstance(y, Columns):
        masks = {name for name in y if (kind if isinstance(kind, str) else kind[name]) == "masks"}
        return Columns({name: nearest(array, size) if name in masks else array for name, array in y.arrays.items()})
    return nearest(y, size) if y is not None and kind == "masks" else y


def _images(x_NHWC: Array, fit: Fit) -> Array:
    from PIL import Image

    if fit.leaves(*x_NHWC.shape[1:3]):
        return x_NHWC
    resized = np.empty((len(x_NHWC), *fit.size, x_NHWC.shape[3]), x_NHWC.dtype)
    if x_NHWC.dtype == np.uint8:
        for image, target in zip(x_NHWC, resized, strict=True):
            for channel in range(image.shape[2]):
                plane = Image.fromarray(np.ascontiguousarray(image[..., channel]))
                target[..., channel] = np.asarray(fit.pillow(plane))
        return resized
    whole = x_NHWC.dtype.kind in "ui"
    for image, target in zip(x_NHWC, resized, strict=True):
        for channel in range(image.shape[2]):
            plane = Image.fromarray(np.ascontiguousarray(image[..., channel], dtype=np.float32))
            values = np.asarray(fit.pillow(plane))
            if whole:
                limits = np.iinfo(x_NHWC.dtype)
                values = np.clip(np.rint(values.astype(np.float64)), limits.min, limits.max)
            target[..., channel] = values
    return resized
