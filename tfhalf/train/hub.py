"""A classifier of KerasHub out of the folder of a preset: ``keras_hub:FOLDER``, with the optional extra ``hub``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from tfhalf.errors import RefError

PREFIX = "keras_hub:"


def builder(ref: str, base: Path) -> Callable[..., Any]:
    """The builder that ``ref`` names: an image classifier with the preset's weights, and a head for the data's classes.

    Args:
        ref: ``keras_hub:FOLDER``, of `save_to_preset` or downloaded before; nothing is downloaded here.
        base: the folder that a relative path starts from.

    Raises:
        RefError: there is no such folder, or KerasHub is not installed.
    """
    folder = (base / ref.removeprefix(PREFIX)).resolve()
    if not (folder / "config.json").is_file():
        raise RefError(
            f"model.build: {ref}: {folder} is not the folder of a preset (it has no config.json); download one before, "
            "and name its folder: the path starts from the pipeline file's"
        )
    try:
        hub = importlib.import_module("keras_hub")
    except ImportError as error:
        raise RefError(
            f"model.build: {ref}: KerasHub cannot be imported ({error}); pip install 'tfhalf[hub]'"
        ) from None

    def build(*, input_shape: tuple[int, ...], num_classes: int, **args: Any) -> Any:
        return hub.models.ImageClassifier.from_preset(
            str(folder),
            num_classes=num_classes,
            activation=None,  # logits
            preprocessor=None,  # data.normalize does that
            image_shape=input_shape,
            dtype=keras.config.dtype_policy().name,  # a preset names the one that it was saved under
            **args,
        )

    return build
