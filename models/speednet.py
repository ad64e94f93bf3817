"""The whitening network that reaches 94 % on CIFAR-10 in eight epochs, and its larger sister that reaches 96 %.

K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498 (2024), and its public scripts
github.com/KellerJordan/cifar10-airbench (airbench94, airbench96), which build on D. Page, "How to Train Your ResNet"
(2019). Written for Keras from the paper. What makes it fast to train: a frozen first convolution that whitens 2x2
patches (section 3.1), convolutions that start as the identity (3.2), biases of the norms that learn 64 times faster,
and logits scaled by 1/9.

The norms have no scale, so they commute with the pooling before them, and export folds them into the convolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers, ops


def build(
    *,
    input_shape: tuple[int, int, int],
    num_classes: int,
    widths: Sequence[int] = (64, 256, 256),
    convolutions: int = 2,
    norm_momentum: float = 0.6,
    logit_scale: float = 1 / 9,
) -> keras.Model:
    """Input [N, H, W, C] (normalised), output logits [N, num_classes].

    A block has ``convolutions``; those after the first two, with the second, add to what the first gave, as in
    airbench96.
    """
    image = keras.Input(input_shape, name="image")
    x = layers.Conv2D(8 * input_shape[-1], 2, padding="valid", name="whitening")(image)
    x = ops.gelu(x, approximate=True)
    for index, width in enumerate(widths, 1):
        x = _conv(x, width, f"block{index}_conv1")
        x = layers.MaxPooling2D(2, name=f"block{index}_pool")(x)
        first = x = ops.gelu(_norm(x, f"block{index}_norm1", norm_momentum), approximate=True)
        for number in range(2, convolutions + 1):
            x = _norm(_conv(x, width, f"block{index}_conv{number}"), f"block{index}_norm{number}", norm_momentum)
            x = ops.gelu(x + first if number == convolutions > 2 else x, approximate=True)
    x = layers.GlobalMaxPooling2D(name="pool")(x)
    x = layers.Dense(num_classes, use_bias=False, kernel_initializer=_uniform(), name="head")(x)
    logits = layers.Rescaling(logit_scale, name="logits")(x)
    return keras.Model(image, logits, name="speednet")


def adapt(model: keras.Model, x_NHWC: np.ndarray) -> None:
    """Set the first convolution to whiten 2x2 patches of the (normalised) training images ``x_NHWC``, float32.

    Its filters are the eigenvectors of the patches' covariance over the root of their eigenvalues, and their negatives.
    """
    channels = x_NHWC.shape[-1]
    # Of many images every third patch in each direction: 200,000 are plenty for a 12x12 covariance.
    stride = 3 if len(x_NHWC) >= 1000 else 1
    covariance, count = np.zeros((4 * channels, 4 * channels)), 0
    for start in range(0, min(len(x_NHWC), 2000), 250):  # in float32 a few images at a time, added up in float64
        x = x_NHWC[start : start + 250]
        corners = [x[:, i : i - 1 or None : stride, j : j - 1 or None : stride] for i in (0, 1) for j in (0, 1)]
        height, width = corners[-1].shape[1:3]
        patches = np.concatenate([c[:, :height, :width] for c in corners], axis=-1).reshape(-1, 4 * channels)
        covariance += patches.T @ patches
        count += len(patches)
    values, vectors = np.linalg.eigh(covariance / count)
    filters = (vectors / np.sqrt(values + 5e-4))[:, ::-1].reshape(2, 2, channels, 4 * channels)
    layer = model.get_layer("whitening")
    layer.set_weights([np.concatenate([filters, -filters], axis=-1), np.zeros(8 * channels)])


def _uniform():
    """PyTorch's default for convolutions and dense layers, which the recipe was tuned with. A new one each time: an
    initializer draws the same values whenever it is used again."""
    return keras.initializers.VarianceScaling(1 / 3, mode="fan_in", distribution="uniform")


def _conv(x, filters: int, name: str):
    """3x3 convolution whose first filters pass the input channels through; the rest start random."""
    layer = layers.Conv2D(filters, 3, padding="same", use_bias=False, kernel_initializer=_uniform(), name=name)
    channels = x.shape[-1]
    x = layer(x)
    kernel = keras.ops.convert_to_numpy(layer.kernel).copy()
    through = min(channels, filters)
    kernel[..., :through] = 0
    kernel[1, 1, range(through), range(through)] = 1
    layer.kernel.assign(kernel)
    return x


def _norm(x, name: str, momentum: float):
    return layers.BatchNormalization(momentum=momentum, epsilon=1e-12, scale=False, name=name)(x)
