"""Some of CIFAR-10's classes, as a data set of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def load(classes: Sequence[int]) -> dict[str, Any]:
    """CIFAR-10 (A. Krizhevsky, 2009) by TensorFlow Datasets, from ``TFDS_DATA_DIR``: the images of ``classes``, uint8
    [N, 32, 32, 3], numbered anew from 0 in their order."""
    import tensorflow_datasets as tfds

    builder = tfds.builder("cifar10")
    builder.download_and_prepare()
    names = builder.info.features["label"].names
    number = np.full(len(names), -1, np.int32)
    number[list(classes)] = np.arange(len(classes))
    arrays: dict[str, Any] = {"class_names": np.array([names[index] for index in classes])}
    for part in ("train", "test"):
        items = tfds.as_numpy(builder.as_dataset(split=part, batch_size=-1))
        labels = number[items["label"]]
        arrays[f"x_{part}"], arrays[f"y_{part}"] = items["image"][labels >= 0], labels[labels >= 0]
    return arrays
