"""A recurrent net for texts: words embedded, a gated recurrent unit in each direction, the largest value of each over
the words before the logits.

K. Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", arXiv:1406.1078. Padding, word number 0, is
at the end of a text; what the units say there does not count.
"""

from __future__ import annotations

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable("text_gru")
class MaskedMax(layers.Layer):
    """The largest value over the words that are not padding: [N, length, width], whose values are from -1 to 1, and
    words [N, length] to [N, width]. Of a text without words it is -1."""

    def call(self, x, words):
        there = ops.cast(ops.not_equal(words, 0), x.dtype)[:, :, None]
        return ops.max(x * there - (1 - there), 1)


def build(
    *,
    input_shape: tuple[int],
    num_classes: int,
    categories: dict[str, int],
    width: int = 64,
    units: int = 64,
    dropout: float = 0.3,
) -> keras.Model:
    """Input numbers of words, int32 [N, length], output logits [N, num_classes]; ``categories`` has how many words
    there are."""
    ((name, size),) = categories.items()
    words = keras.Input(input_shape, name=name, dtype="int32")
    x = layers.Embedding(size, width, name="words")(words)
    x = layers.Dropout(dropout, name="dropout1")(x)
    forward = layers.GRU(units, return_sequences=True, name="forward")(x)
    backward = layers.GRU(units, return_sequences=True, go_backwards=True, name="backward")(x)
    x = layers.Concatenate(name="both")([forward, ops.flip(backward, 1)])
    x = layers.Dropout(dropout, name="dropout2")(MaskedMax(name="max")(x, words))
    return keras.Model(words, layers.Dense(num_classes, name="logits")(x), name=f"text_gru{units}")
