"""Residual networks: the CIFAR family (ResNet-20, 32, 44, 56, 110) and ResNet-18.

K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", arXiv:1512.03385 (2015).
CIFAR family: section 4.2. Three stages of n blocks with 16, 32 and 64 channels, depth 6n + 2, identity shortcuts that
subsample and pad with zero channels (option A). Paper: ResNet-20 91.25 %, ResNet-32 92.49 %, ResNet-56 93.03 %.
ResNet-18: table 1, projection shortcuts (option B). ``stem: small`` replaces its 7x7/2 convolution and pooling by a
3x3/1 convolution, the usual change for 32x32 images.
"""

from __future__ import annotations

from typing import Literal

import keras
from keras import layers


def build(
    *,
    input_shape: tuple[int, int, int],
    num_classes: int,
    depth: Literal[18, 20, 32, 44, 56, 110] = 20,
    stem: Literal["small", "large"] = "small",
) -> keras.Model:
    """Input [N, H, W, C], output logits [N, num_classes]. ``stem`` is read by depth 18 alone."""
    image = keras.Input(input_shape, name="image")
    if depth == 18:
        x = _stem18(image, stem)
        widths, blocks, projection = (64, 128, 256, 512), 2, True
    elif depth in (20, 32, 44, 56, 110):
        x = _conv_bn(image, 16, 3, 1, "stem")
        x = layers.ReLU(name="stem_relu")(x)
        widths, blocks, projection = (16, 32, 64), (depth - 2) // 6, False
    else:
        raise ValueError(f"depth {depth}: choose 18, 20, 32, 44, 56 or 110")
    for stage, width in enumerate(widths, 1):
        for block in range(1, blocks + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            x = _block(x, width, stride, projection, f"stage{stage}_block{block}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    logits = layers.Dense(num_classes, kernel_initializer="he_normal", name="logits")(x)
    return keras.Model(image, logits, name=f"resnet{depth}")


def _conv_bn(x, filters: int, size: int, stride: int, name: str):
    x = layers.Conv2D(
        filters, size, stride, padding="same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv"
    )(x)
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(x)


def _stem18(image, stem: str):
    if stem == "small":
        return layers.ReLU(name="stem_relu")(_conv_bn(image, 64, 3, 1, "stem"))
    x = layers.ReLU(name="stem_relu")(_conv_bn(image, 64, 7, 2, "stem"))
    return layers.MaxPooling2D(3, 2, padding="same", name="stem_pool")(x)


def _block(x, filters: int, stride: int, projection: bool, name: str):
    """Two 3x3 convolutions and a shortcut; the last ReLU follows the addition."""
    y = layers.ReLU(name=f"{name}_relu1")(_conv_bn(x, filters, 3, stride, f"{name}_a"))
    y = _conv_bn(y, filters, 3, 1, f"{name}_b")
    if x.shape[-1] != filters or stride != 1:
        x = _conv_bn(x, filters, 1, stride, f"{name}_shortcut") if projection else _pad(x, filters, stride, name)
    return layers.ReLU(name=f"{name}_relu2")(layers.Add(name=f"{name}_add")([x, y]))


def _pad(x, filters: int, stride: int, name: str):
    """Option A: every second pixel, and zero channels on both sides; no parameters."""
    missing = filters - x.shape[-1]
    x = layers.MaxPooling2D(1, stride, name=f"{name}_subsample")(x)
    x = layers.Permute((3, 1, 2), name=f"{name}_channels_first")(x)
    x = layers.ZeroPadding2D(((missing // 2, missing - missing // 2), (0, 0)), name=f"{name}_pad")(x)
    return layers.Permute((2, 3, 1), name=f"{name}_channels_last")(x)
