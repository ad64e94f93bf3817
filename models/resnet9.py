"""ResNet-9, a nine-layer residual network for CIFAR-10 that trains fast.

D. Page, "How to Train Your ResNet" (2019), made for Stanford's DAWNBench and since then the usual small network for
comparing training speed. A 3x3 convolution, three stages of which the first and the last end in a
residual pair of convolutions, the largest value of each channel, and logits scaled by 1/8.

6,573,120 trainable parameters on 32x32x3 images and ten classes: kernels 9 * (3 * 64 + 64 * 128 + 2 * 128 * 128 +
128 * 256 + 256 * 512 + 2 * 512 * 512) = 6,563,520, norms 2 * (64 + 3 * 128 + 256 + 3 * 512) = 4,480, head 512 * 10.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers


def build(
    *,
    input_shape: tuple[int, int, int],
    num_classes: int,
    widths: Sequence[int] = (64, 128, 256, 512),
    logit_scale: float = 0.125,
) -> keras.Model:
    """Input [N, H, W, C] (normalised), output logits [N, num_classes]. ``widths``: first layer, then one per stage."""
    prep, *stages = widths
    image = keras.Input(input_shape, name="image")
    x = _conv(image, prep, "prep")
    for index, width in enumerate(stages, 1):
        x = _conv(x, width, f"layer{index}")
        x = layers.MaxPooling2D(2, name=f"layer{index}_pool")(x)
        if index in (1, len(stages)):
            y = _conv(_conv(x, width, f"layer{index}_res1"), width, f"layer{index}_res2")
            x = layers.Add(name=f"layer{index}_add")([x, y])
    x = layers.GlobalMaxPooling2D(name="pool")(x)
    x = layers.Dense(num_classes, use_bias=False, kernel_initializer="he_normal", name="head")(x)
    logits = layers.Rescaling(logit_scale, name="logits")(x)
    return keras.Model(image, logits, name="resnet9")


def _conv(x, filters: int, name: str):
    """3x3 convolution, norm, ReLU."""
    plain = {"padding": "same", "use_bias": False, "kernel_initializer": "he_normal"}
    x = layers.Conv2D(filters, 3, **plain, name=f"{name}_conv")(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)
