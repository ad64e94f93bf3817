"""A small vision transformer: patches as tokens, pre-norm blocks, the mean of the tokens before the logits.

A. Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv:2010.11929, with the mean in place of the class token and
the tanh form of GELU (D. Hendrycks, K. Gimpel, arXiv:1606.08415), which every runtime has.
"""

from __future__ import annotations

import keras
from keras import layers


@keras.saving.register_keras_serializable("vit_small")
class Positions(layers.Layer):
    """Adds a learned vector to each token. Input and output [N, tokens, width]."""

    def build(self, input_shape):
        self.table = self.add_weight(
            shape=input_shape[1:], initializer=keras.initializers.RandomNormal(stddev=0.02), name="table"
        )

    def call(self, x):
        return x + self.table


def build(
    *,
    input_shape: tuple[int, int, int],
    num_classes: int,
    patch: int = 4,
    width: int = 64,
    depth: int = 4,
    heads: int = 4,
) -> keras.Model:
    """Input [N, H, W, C] with sides that ``patch`` divides, output logits [N, num_classes]."""
    rows, columns = input_shape[0] // patch, input_shape[1] // patch
    image = keras.Input(input_shape, name="image")
    x = layers.Conv2D(width, patch, patch, name="patches")(image)
    x = Positions(name="positions")(layers.Reshape((rows * columns, width), name="tokens")(x))
    for index in range(1, depth + 1):
        y = layers.LayerNormalization(epsilon=1e-6, name=f"block{index}_norm1")(x)
        y = layers.MultiHeadAttention(heads, width // heads, name=f"block{index}_attention")(y, y)
        x = layers.Add(name=f"block{index}_add1")([x, y])
        y = layers.LayerNormalization(epsilon=1e-6, name=f"block{index}_norm2")(x)
        y = layers.Dense(4 * width, name=f"block{index}_wide")(y)
        y = layers.Activation(gelu, name=f"block{index}_gelu")(y)
        y = layers.Dense(width, name=f"block{index}_narrow")(y)
        x = layers.Add(name=f"block{index}_add2")([x, y])
    x = layers.LayerNormalization(epsilon=1e-6, name="norm")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(image, layers.Dense(num_classes, name="logits")(x), name=f"vit{depth}x{width}")


@keras.saving.register_keras_serializable("vit_small")
def gelu(x):
    """The tanh form; the exact one needs an error function."""
    return keras.activations.gelu(x, approximate=True)
