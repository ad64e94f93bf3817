"""The random resized crop that a pipeline asks for."""

from __future__ import annotations

from tfhalf import config
from tfhalf.data.crop import Crop
from tfhalf.system.device import Device


def crop_of(pipeline: config.Pipeline, device: Device) -> Crop | None:
    """What cuts and resizes training images within the step; None where they come at the model's size.

    Under a policy of half precision it computes in float16, but on a CPU, which emulates that.
    """
    settings, size = pipeline.data.augment.resized_crop, pipeline.data.image_size
    if settings is None or size is None:
        return None
    half = pipeline.precision.policy != "float32" and device.kind != "CPU"
    return Crop(size, settings.scale, settings.ratio, half)
