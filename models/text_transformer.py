"""A small transformer for texts: words and their positions embedded, pre-norm blocks, the mean of the words' vectors
before the logits.

A. Vaswani et al., "Attention Is All You Need", arXiv:1706.03762, with the norms in front of each part (R. Xiong et al.,
arXiv:2002.04745) and the tanh form of GELU, which every runtime has. Padding, word number 0, is not attended to and
does not count in the mean.
"""

from __future__ import annotations

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable("text_transformer")
class Positions(layers.Layer):
    """Adds a learned vector to each word. Input and output [N, length, width]."""

    def build(self, input_shape):
        self.table = self.add_weight(
            shape=input_shape[1:], initializer=keras.initializers.RandomNormal(stddev=0.02), name="table"
        )

    def call(self, x):
        return x + self.table


@keras.saving.register_keras_serializable("text_transformer")
class MaskedMean(layers.Layer):
    """The mean over the words that are not padding: [N, length, width] and words [N, length] to [N, width]. Of a text
    without words it is 0. Each is divided before they are added, which float16 holds whatever the length."""

    def call(self, x, words):
        there = ops.cast(ops.not_equal(words, 0), x.dtype)
        share = there / ops.maximum(ops.sum(there, 1, keepdims=True), 1)
        return ops.sum(x * share[:, :, None], 1)


def build(
    *,
    input_shape: tuple[int],
    num_classes: int,
    categories: dict[str, int],
    width: int = 64,
    depth: int = 2,
    heads: int = 4,
    dropout: float = 0.1,
) -> keras.Model:
    """Input numbers of words, int32 [N, length], output logits [N, num_classes]; ``categories`` has how many words
    there are."""
    ((name, size),) = categories.items()
    words = keras.Input(input_shape, name=name, dtype="int32")
    mask = ops.not_equal(words, 0)[:, None, :]
    x = Positions(name="positions")(layers.Embedding(size, width, name="words")(words))
    x = layers.Dropout(dropout, name="dropout")(x)
    for index in range(1, depth + 1):
        y = layers.LayerNormalization(epsilon=1e-6, name=f"block{index}_norm1")(x)
        y = layers.MultiHeadAttention(heads, width // heads, name=f"block{index}_attention")(y, y, attention_mask=mask)
        x = layers.Add(name=f"block{index}_add1")([x, layers.Dropout(dropout, name=f"block{index}_dropout1")(y)])
        y = layers.LayerNormalization(epsilon=1e-6, name=f"block{index}_norm2")(x)
        y = layers.Dense(2 * width, name=f"block{index}_wide")(y)
        y = layers.Activation(gelu, name=f"block{index}_gelu")(y)
        y = layers.Dense(width, name=f"block{index}_narrow")(y)
        x = layers.Add(name=f"block{index}_add2")([x, layers.Dropout(dropout, name=f"block{index}_dropout2")(y)])
    x = MaskedMean(name="mean")(layers.LayerNormalization(epsilon=1e-6, name="norm")(x), words)
    return keras.Model(words, layers.Dense(num_classes, name="logits")(x), name=f"text_transformer{depth}x{width}")


@keras.saving.register_keras_serializable("text_transformer")
def gelu(x):
    """The tanh form; the exact one needs an error function."""
    return keras.activations.gelu(x, approximate=True)
