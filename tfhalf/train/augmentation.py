"""What of ``data.augment`` goes with which images and targets; the rest is refused before training."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from tfhalf import config
from tfhalf.data import Splits
from tfhalf.errors import ConfigError


def check_augment(augment: config.Augment, splits: Splits, kinds: Collection[str]) -> None:
    """Refuse changes that would be wrong, or mean something else, for these items.

    Args:
        kinds: what the targets of each output are (`tfhalf.tasks.Targets`).

    Raises:
        ConfigError: naming the key, and what to do.
    """
    for key in ("mixup", "cutmix"):
        if not getattr(augment, key):
            continue
        if not splits.has_images:
            raise ConfigError(f"data.augment.{key}: mixes images, and the data is {splits.noun}; leave it out")
        for kind in ("masks", "steps"):
            if kind in kinds:
                raise ConfigError(
                    f"data.augment.{key}: mixes images that have one target each, and the targets are {kind}; leave it "
                    "out"
                )
    if not splits.has_images:
        return
    if augment.rand_augment and "masks" in kinds:
        raise ConfigError(
            "data.augment.rand_augment: moves images and not their masks; leave it out of a segmentation, where flip "
            "and crop move both"
        )
    for key in ("colour", "rand_augment"):
        if getattr(augment, key) and splits.x_train.dtype != "uint8":
            raise ConfigError(
                f"data.augment.{key}: the images are of {splits.x_train.dtype}; accepted: uint8, from 0 to 255; store "
                "them so, or leave it out"
            )
    channels = splits.input_shape[-1]
    if augment.rand_augment and channels not in (1, 3):
        raise ConfigError(
            f"data.augment.rand_augment: the images have {channels} channels; accepted: 1 or 3; leave it out"
        )


def remarks(augment: config.Augment, splits: Splits) -> Iterator[str]:
    """What of ``augment`` changes nothing, though it is written there, a line each."""
    if augment.mix_probability != 1 and not augment.mixes:
        yield "data.augment: mix_probability has no effect: there is neither mixup nor cutmix"
    colour = augment.colour
    if colour and splits.has_images and splits.input_shape[-1] != 3 and (colour.saturation or colour.hue):
        yield "data.augment.colour: saturation and hue have no effect: they are for images of three channels"
