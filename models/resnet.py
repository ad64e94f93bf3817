"""Residual networks: the CIFAR family (ResNet-20, 32, 44, 56, 110), ResNet-18 and ResNet-50.

K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", arXiv:1512.03385 (2015).
CIFAR family: section 4.2. Three stages of n blocks with 16, 32 and 64 channels, depth 6n + 2, identity shortcuts that
subsample and pad with zero channels (option A). Paper: ResNet-20 91.25 %, ResNet-32 92.49 %, ResNet-56 93.03 %.
ResNet-18 and 50: table 1, projection shortcuts (option B). ``stem: small`` replaces their 7x7/2 convolution and pooling
by a 3x3/1 convolution, the usual change for 32x32 images. ResNet-50 is "v1.5", as in torchvision: where a bottleneck
halves the image, its 3x3 convolution does (the paper's first 1x1 skips three pixels of four). Padding is Keras'
``same``: a strided window on an even side has its odd pixel of padding behind the image, torchvision's before it.
"""

from __future__ import annotations

from typing import Literal

import keras
from keras import layers


def build(
    *,
    input_shape: tuple[int, int, int],
    num_classes: int,
    depth: Literal[18, 20, 32, 44, 50, 56, 110] = 20,
    stem: Literal["small", "large"] = "small",
) -> keras.Model:
    """Input [N, H, W, C], output logits [N, num_classes]. ``stem`` is read by depths 18 and 50 alone."""
    image = keras.Input(input_shape, name="image")
    if depth in (18, 50):
        x = _stem(image, stem)
        widths, projection = (64, 128, 256, 512), True
        blocks = (2, 2, 2, 2) if depth == 18 else (3, 4, 6, 3)
    elif depth in (20, 32, 44, 56, 110):
        x = _conv_bn(image, 16, 3, 1, "stem")
        x = layers.ReLU(name="stem_relu")(x)
        widths, projection = (16, 32, 64), False
        blocks = ((depth - 2) // 6,) * 3
    else:
        raise ValueError(f"depth {depth}: choose 18, 20, 32, 44, 50, 56 or 110")
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True), 1):
        for block in range(1, count + 1):
            stride, name = 2 if stage > 1 and block == 1 else 1, f"stage{stage}_block{block}"
            x = _bottleneck(x, width, stride, name) if depth == 50 else _block(x, width, stride, projection, name)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    logits = layers.Dense(num_classes, kernel_initializer="he_normal", name="logits")(x)
    return keras.Model(image, logits, name=f"resnet{depth}")


def _conv_bn(x, filters: int, size: int, stride: int, name: str):
    x = layers.Conv2D(
        filters, size, stride, padding="same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv"
    )(x)
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(x)


def _stem(image, stem: str):
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


def _bottleneck(x, filters: int, stride: int, name: str):
    """1x1 to ``filters``, 3x3, 1x1 to four times as many, and a shortcut; the last ReLU follows the addition."""
    y = layers.ReLU(name=f"{name}_relu1")(_conv_bn(x, filters, 1, 1, f"{name}_a"))
    y = layers.ReLU(name=f"{name}_relu2")(_conv_bn(y, filters, 3, stride, f"{name}_b"))
    y = _conv_bn(y, 4 * filters, 1, 1, f"{name}_c")
    if x.shape[-1] != 4 * filters or stride != 1:
        x = _conv_bn(x, 4 * filters, 1, stride, f"{name}_shortcut")
    return layers.ReLU(name=f"{name}_relu3")(layers.Add(name=f"{name}_add")([x, y]))


def _pad(x, filters: int, stride: int, name: str):
    """Option A: every second pixel, and zero channels on both sides; no parameters."""
    missing = filters - x.shape[-1]
    x = layers.MaxPooling2D(1, stride, name=f"{name}_subsample")(x)
    x = layers.Permute((3, 1, 2), name=f"{name}_channels_first")(x)
    x = layers.ZeroPadding2D(((missing // 2, missing - missing // 2), (0, 0)), name=f"{name}_pad")(x)
    return layers.Permute((2, 3, 1), name=f"{name}_channels_last")(x)
