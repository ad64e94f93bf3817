"""ResNet-50 v1.5 as recipes for ImageNet train it.

K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", arXiv:1512.03385, table 1, with the
stride in the 3x3 convolution of a bottleneck ("v1.5": torchvision, NVIDIA's DeepLearningExamples). The last
BatchNormalization of each block begins with a gamma of 0, so that each block begins as its shortcut (P. Goyal et al.,
"Accurate, Large Minibatch SGD", arXiv:1706.02677, section 5.1); convolutions begin as K. He et al., arXiv:1502.01852,
by fan-out. ``width`` 64 and ``blocks`` [3, 4, 6, 3] are the paper's, 25.6 million parameters with 1,000 classes.

Padding is Keras' ``same``: a strided window on an even side has its odd pixel of padding behind the image,
torchvision's before it. Pooled globally, the net takes images of any size, as `train.stages` needs.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers


def build(
    *,
    input_shape: tuple[int, int, int],
    num_classes: int,
    width: int = 64,
    blocks: Sequence[int] = (3, 4, 6, 3),
    zero_gamma: bool = True,
) -> keras.Model:
    """Input [N, H, W, C], output logits [N, num_classes]."""
    image = keras.Input(input_shape, name="image")
    x = layers.ReLU(name="stem_relu")(_conv_bn(image, width, 7, 2, "stem"))
    x = layers.MaxPooling2D(3, 2, padding="same", name="stem_pool")(x)
    for stage, count in enumerate(blocks):
        for block in range(count):
            stride = 2 if stage and not block else 1
            x = _bottleneck(x, width * 2**stage, stride, zero_gamma, f"stage{stage + 1}_block{block + 1}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    logits = layers.Dense(num_classes, kernel_initializer=keras.initializers.RandomNormal(stddev=0.01), name="logits")(
        x
    )
    return keras.Model(image, logits, name="resnet50")


def _bottleneck(x, filters: int, stride: int, zero_gamma: bool, name: str):
    """1x1 to ``filters``, 3x3, 1x1 to four times as many, and a shortcut; the last ReLU follows the addition."""
    y = layers.ReLU(name=f"{name}_relu1")(_conv_bn(x, filters, 1, 1, f"{name}_a"))
    y = layers.ReLU(name=f"{name}_relu2")(_conv_bn(y, filters, 3, stride, f"{name}_b"))
    y = _conv_bn(y, 4 * filters, 1, 1, f"{name}_c", gamma="zeros" if zero_gamma else "ones")
    if x.shape[-1] != 4 * filters or stride != 1:
        x = _conv_bn(x, 4 * filters, 1, stride, f"{name}_shortcut")
    return layers.ReLU(name=f"{name}_relu3")(layers.Add(name=f"{name}_add")([x, y]))


def _conv_bn(x, filters: int, size: int, stride: int, name: str, gamma: str = "ones"):
    begin = keras.initializers.VarianceScaling(2.0, mode="fan_out", distribution="untruncated_normal")
    x = layers.Conv2D(
        filters, size, stride, padding="same", use_bias=False, kernel_initializer=begin, name=f"{name}_conv"
    )(x)
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, gamma_initializer=gamma, name=f"{name}_bn")(x)
