"""A net of two inputs and two outputs, and data for it that needs no download: the digits that scikit-learn carries,
two at a time, whose difference and larger one are learnt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers


def load(pairs: int = 6000, seed: int = 0) -> dict[str, Any]:
    """Two images of digits, ``left`` and ``right`` uint8 [N, 8, 8, 1]; ``larger``, which of them is (0, 1; 2 where they
    are equal), int32 [N]; ``difference``, left less right, float32 [N]. Images of the test part are in no pair of the
    training part."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    parts = {"train": (order[:1400], pairs), "test": (order[1400:], pairs // 4)}
    arrays: dict[str, Any] = {}
    for part, (indices, count) in parts.items():
        left, right = rng.choice(indices, (2, count))
        a, b = digits.target[left].astype(np.int32), digits.target[right].astype(np.int32)
        arrays[f"x_{part}"] = {"left": images[left], "right": images[right]}
        larger = np.where(a > b, 0, np.where(a < b, 1, 2)).astype(np.int32)
        arrays[f"y_{part}"] = {"larger": larger, "difference": (a - b).astype(np.float32)}
    return arrays


def build(
    *, input_shape: Mapping[str, tuple[int, int, int]], num_outputs: Mapping[str, int], width: int = 32
) -> keras.Model:
    """``left`` and ``right`` [N, H, W, 1], read by the same layers; ``larger`` logits [N, 3], ``difference`` [N, 1]."""
    reader = keras.Sequential(
        [
            layers.Conv2D(width, 3, padding="same", activation="relu", name="conv1"),
            layers.MaxPooling2D(name="pool"),
            layers.Conv2D(2 * width, 3, padding="same", activation="relu", name="conv2"),
            layers.Flatten(name="flat"),
            layers.Dense(2 * width, activation="relu", name="dense"),
        ],
        name="reader",
    )
    inputs = {name: keras.Input(shape, name=name) for name, shape in input_shape.items()}
    x = layers.Concatenate(name="pair")([reader(image) for image in inputs.values()])
    x = layers.Dense(2 * width, activation="relu", name="joint")(x)
    return keras.Model(
        inputs, {name: layers.Dense(size, name=name)(x) for name, size in num_outputs.items()}, name="pair"
    )
