"""A perceptron on a table: numbers as they are, categories by embeddings (C. Guo and F. Berkhahn, "Entity Embeddings of
Categorical Variables", arXiv:1604.06737, 2016)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
from keras import layers


def build(
    *,
    input_shape: tuple[int, ...] | Mapping[str, tuple[int, ...]],
    num_outputs: int,
    categories: Mapping[str, int],
    widths: Sequence[int] = (128, 64),
    embedding: int = 4,
    dropout: float = 0.0,
) -> keras.Model:
    """Inputs: numbers float [N, F], and each category int32 [N, 1]; output [N, num_outputs].

    ``categories``: of each category how many there are.
    """
    shapes = input_shape if isinstance(input_shape, Mapping) else {"numbers": input_shape}
    inputs, parts = {}, []
    for name, shape in shapes.items():
        if name in categories:
            inputs[name] = keras.Input(shape, name=name, dtype="int32")
            vectors = layers.Embedding(categories[name], embedding, name=f"{name}_embedding")(inputs[name])
            parts.append(layers.Flatten(name=f"{name}_flat")(vectors))
        else:
            inputs[name] = keras.Input(shape, name=name)
            parts.append(inputs[name])
    x = layers.Concatenate(name="row")(parts) if len(parts) > 1 else parts[0]
    for index, width in enumerate(widths):
        x = layers.Dense(width, activation="relu", name=f"dense{index}")(x)
        if dropout:
            x = layers.Dropout(dropout, name=f"dropout{index}")(x)
    several = inputs if len(inputs) > 1 else next(iter(inputs.values()))
    return keras.Model(several, layers.Dense(num_outputs, name="value")(x), name="table")
