"""A deep residual net without normalisation inside, whose activations outgrow float16.

Each block adds a branch of about the variance of what it gets, so the variance doubles from block to block: after 36 of
them the numbers are 2^18 times as large (H. Zhang, Y. Dauphin, T. Ma, "Fixup Initialization: Residual Learning Without
Normalization", arXiv:1901.09321, section 2). One LayerNormalization before the logits makes that harmless in float32,
and float16 overflows on the way: a net to try ``precision.keep_float32: auto`` on.
"""

from __future__ import annotations

import keras
from keras import layers


def build(*, input_shape: tuple[int, ...], num_classes: int, width: int = 64, blocks: int = 36) -> keras.Model:
    """Input [N, *input_shape], output logits [N, num_classes]; two dense layers in each of the ``blocks``."""
    image = keras.Input(input_shape, name="image")
    x = layers.Dense(width, name="stem")(layers.Flatten(name="flatten")(image))
    for index in range(1, blocks + 1):
        y = layers.Dense(width, activation="relu", kernel_initializer="he_normal", name=f"block{index}_in")(x)
        y = layers.Dense(width, kernel_initializer="lecun_normal", name=f"block{index}_out")(y)
        x = layers.Add(name=f"block{index}_add")([x, y])
    x = layers.LayerNormalization(name="norm")(x)
    logits = layers.Dense(num_classes, name="logits")(x)
    return keras.Model(image, logits, name=f"deep_residual{blocks}")
