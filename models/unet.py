"""A U-Net for masks of microscopy images.

O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", arXiv:1505.04597
(2015), section 2, with padding, so that masks are as large as images, and batch normalisation before each ReLU (S.
Ioffe and C. Szegedy, arXiv:1502.03167). Widths double with each level; the paper's begin with 64.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers


def build(
    *, input_shape: tuple[int, int, int], num_classes: int, width: int = 16, depth: int = 3, dropout: float = 0.0
) -> keras.Model:
    """Input [N, H, W, C], sides multiples of 2**depth; output logits [N, H, W, num_classes]."""
    x = image = keras.Input(input_shape, name="image")
    skips = []
    for level in range(depth):
        x = _block(x, width * 2**level, f"down{level}")
        skips.append(x)
        x = layers.MaxPooling2D(name=f"pool{level}")(x)
    x = _block(x, width * 2**depth, "bottom")
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    for level in reversed(range(depth)):
        x = layers.UpSampling2D(name=f"up{level}")(x)
        x = layers.Conv2D(width * 2**level, 2, padding="same", name=f"up{level}_conv")(x)
        x = layers.Concatenate(name=f"join{level}")([skips[level], x])
        x = _block(x, width * 2**level, f"level{level}")
    return keras.Model(image, layers.Conv2D(num_classes, 1, name="logits")(x), name="unet")


def _block(x: Any, width: int, name: str) -> Any:
    for part in ("a", "b"):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"{name}_conv_{part}")(x)
        x = layers.BatchNormalization(name=f"{name}_norm_{part}")(x)
        x = layers.ReLU(name=f"{name}_relu_{part}")(x)
    return x
