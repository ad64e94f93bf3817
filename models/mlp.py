"""The classic multi-layer perceptron of CIFAR-10 tutorials: 3072-128-64-10 with ReLU and He initialisation.

402,250 parameters on 32x32x3 images and ten classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers


def build(
    *, input_shape: tuple[int, ...], num_classes: int, units: Sequence[int] = (128, 64), dropout: float = 0.0
) -> keras.Model:
    """Flatten, one dense layer per entry of ``units``, logits. Input [N, *input_shape], output [N, num_classes]."""
    image = keras.Input(input_shape, name="image")
    x = layers.Flatten(name="flatten")(image)
    for index, width in enumerate(units, 1):
        x = layers.Dense(width, activation="relu", kernel_initializer="he_normal", name=f"hidden{index}")(x)
        if dropout:
            x = layers.Dropout(dropout, name=f"dropout{index}")(x)
    logits = layers.Dense(num_classes, name="logits")(x)
    return keras.Model(image, logits, name="mlp")
