"""Training images that are cut on the device: each is decoded at its own size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tfhalf import config
from tfhalf.data.check import Arrays
from tfhalf.data.decode.canvas import Canvas, measured
from tfhalf.data.lazy import LazyImages
from tfhalf.errors import DataError


def on_canvas(arrays: Arrays, data: config.Data, say: Callable[[str], None]) -> Arrays:
    """With training images on a canvas, where ``data.augment.resized_crop`` is set; else as they are.

    Raises:
        DataError: they are not encoded images of 8 bits with 1 or 3 channels.
    """
    crop, x = data.augment.resized_crop, arrays.x_train
    if crop is None:
        return arrays
    assert data.image_size is not None  # which the section's check has seen to
    if not isinstance(x, LazyImages) or x.items is None:
        raise DataError(
            f"{data.source}: data.augment.resized_crop is set, and this source holds no encoded images; accepted: "
            "folder:, records: and tfds:; leave data.augment.resized_crop out"
        )
    if x.dtype != np.uint8 or x.item[2] not in (1, 3):
        raise DataError(
            f"{data.source}: images are {x.dtype} of {x.item[2]} channels; data.augment.resized_crop takes uint8 of 1 "
            "or 3; convert them, or leave data.augment.resized_crop out"
        )
    sides = measured(x.items, x.indices, data.source, data.image_size, crop.scale[0], crop.ratio)
    say(f"{data.source}: training images are decoded onto a canvas of {sides[0]} x {sides[1]} pixels")
    return replace(arrays, x_train=replace(x, canvas=Canvas(x.items, data.source, sides, x.item[2], data.decoder)))
