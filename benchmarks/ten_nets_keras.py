"""The ten nets of `ten_nets.py` in plain Keras, and random words and masks to train them on.

Six are Keras' own or `models/`'; the rest is written here as a user of Keras writes it. No net drops anything out but
the EfficientNets, whose rates are Keras' and timm's defaults.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

_NORMAL = keras.initializers.RandomNormal(stddev=0.02)


def efficientnet_b0(*, input_shape: tuple[int, int, int], num_classes: int) -> keras.Model:
    """M. Tan, Q. Le, arXiv:1905.11946. Input [N, H, W, C], output logits [N, num_classes], as of the next four."""
    return keras.applications.EfficientNetB0(**_untrained(input_shape, num_classes))


def efficientnet_v2_s(*, input_shape: tuple[int, int, int], num_classes: int) -> keras.Model:
    """M. Tan, Q. Le, arXiv:2104.00298."""
    return keras.applications.EfficientNetV2S(**_untrained(input_shape, num_classes), include_preprocessing=False)


def mobilenet_v2(*, input_shape: tuple[int, int, int], num_classes: int) -> keras.Model:
    """M. Sandler et al., arXiv:1801.04381."""
    return keras.applications.MobileNetV2(**_untrained(input_shape, num_classes))


def convnext_tiny(*, input_shape: tuple[int, int, int], num_classes: int) -> keras.Model:
    """Z. Liu et al., arXiv:2201.03545; no block is dropped."""
    return keras.applications.ConvNeXtTiny(**_untrained(input_shape, num_classes), include_preprocessing=False)


def densenet121(*, input_shape: tuple[int, int, int], num_classes: int) -> keras.Model:
    """G. Huang et al., arXiv:1608.06993."""
    return keras.applications.DenseNet121(**_untrained(input_shape, num_classes))


def _untrained(input_shape: tuple[int, int, int], num_classes: int) -> dict[str, Any]:
    return {"input_shape": input_shape, "classes": num_classes, "weights": None, "classifier_activation": None}


@keras.saving.register_keras_serializable("ten_nets")
class ClassToken(layers.Layer):
    """Puts a learned vector in front of the tokens: [N, tokens, width] to [N, tokens + 1, width]."""

    def build(self, input_shape: Any) -> None:
        self.token = self.add_weight(shape=(1, 1, input_shape[-1]), initializer=_NORMAL, name="token")

    def call(self, x: Any) -> Any:
        token = keras.ops.broadcast_to(self.token, (keras.ops.shape(x)[0], 1, x.shape[-1]))
        return keras.ops.concatenate([keras.ops.cast(token, x.dtype), x], 1)


@keras.saving.register_keras_serializable("ten_nets")
class Positions(layers.Layer):
    """Adds a learned vector to each token. Input and output [N, tokens, width]."""

    def build(self, input_shape: Any) -> None:
        self.table = self.add_weight(shape=input_shape[1:], initializer=_NORMAL, name="table")

    def call(self, x: Any) -> Any:
        return x + self.table


@keras.saving.register_keras_serializable("ten_nets")
class FirstSegment(layers.Layer):
    """Adds the vector of the first of two segments, which all words belong to. Input and output [N, tokens, width]."""

    def build(self, input_shape: Any) -> None:
        self.table = self.add_weight(shape=(2, input_shape[-1]), initializer=_NORMAL, name="table")

    def call(self, x: Any) -> Any:
        return x + self.table[0]


def vit_s16(
    *, input_shape: tuple[int, int, int], num_classes: int, width: int = 384, depth: int = 12, heads: int = 6
) -> keras.Model:
    """A. Dosovitskiy et al., arXiv:2010.11929, the small one of H. Touvron et al., arXiv:2012.12877: patches of 16x16,
    a class token, norms before each part. Input [N, H, W, C], output logits [N, num_classes]."""
    image = keras.Input(input_shape, name="image")
    x = layers.Conv2D(width, 16, 16, name="patches")(image)
    x = layers.Reshape((-1, width), name="tokens")(x)
    x = Positions(name="positions")(ClassToken(name="class_token")(x))
    for index in range(1, depth + 1):
        x = _block(x, heads, f"block{index}", epsilon=1e-6)
    x = layers.LayerNormalization(epsilon=1e-6, name="norm")(x)
    return keras.Model(image, layers.Dense(num_classes, name="logits")(x[:, 0]), name="vit_s16")


def gpt(
    *, input_shape: tuple[int], num_classes: int, width: int = 768, depth: int = 12, heads: int = 12
) -> keras.Model:
    """A. Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), its smallest: input numbers of
    words, int32 [N, length], output logits of the next word [N, length, num_classes] by the embedding's own weights."""
    words = keras.Input(input_shape, name="words", dtype="int32")
    table = layers.ReversibleEmbedding(num_classes, width, embeddings_initializer=_NORMAL, name="words_table")
    x = Positions(name="positions")(table(words))
    for index in range(1, depth + 1):
        x = _block(x, heads, f"block{index}", epsilon=1e-5, causal=True, approximate=True)
    x = layers.LayerNormalization(epsilon=1e-5, name="norm")(x)
    return keras.Model(words, table(x, reverse=True), name="gpt")


def bert(
    *,
    input_shape: tuple[int],
    num_classes: int,
    words: int = 30_522,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
) -> keras.Model:
    """J. Devlin et al., arXiv:1810.04805, base, with the first word's vector through the pooler to logits: input
    numbers of words, int32 [N, length], none of them padding, output [N, num_classes]."""
    inputs = keras.Input(input_shape, name="words", dtype="int32")
    x = layers.Embedding(words, width, embeddings_initializer=_NORMAL, name="words_table")(inputs)
    x = FirstSegment(name="segments")(Positions(name="positions")(x))
    x = layers.LayerNormalization(epsilon=1e-12, name="norm")(x)
    for index in range(1, depth + 1):
        name = f"block{index}"
        y = layers.MultiHeadAttention(heads, width // heads, name=f"{name}_attention")(x, x)
        x = layers.LayerNormalization(epsilon=1e-12, name=f"{name}_norm1")(layers.Add(name=f"{name}_add1")([x, y]))
        y = _wide(x, name, approximate=False)
        x = layers.LayerNormalization(epsilon=1e-12, name=f"{name}_norm2")(layers.Add(name=f"{name}_add2")([x, y]))
    x = layers.Dense(width, activation="tanh", name="pooler")(x[:, 0])
    return keras.Model(inputs, layers.Dense(num_classes, name="logits")(x), name="bert")


def _block(x: Any, heads: int, name: str, *, epsilon: float, causal: bool = False, approximate: bool = False) -> Any:
    """Attention and two Dense layers, each behind its norm and beside a shortcut."""
    width = x.shape[-1]
    y = layers.LayerNormalization(epsilon=epsilon, name=f"{name}_norm1")(x)
    y = layers.MultiHeadAttention(heads, width // heads, name=f"{name}_attention")(y, y, use_causal_mask=causal)
    x = layers.Add(name=f"{name}_add1")([x, y])
    y = layers.LayerNormalization(epsilon=epsilon, name=f"{name}_norm2")(x)
    return layers.Add(name=f"{name}_add2")([x, _wide(y, name, approximate=approximate)])


def _wide(x: Any, name: str, *, approximate: bool) -> Any:
    width = x.shape[-1]
    x = layers.Dense(4 * width, name=f"{name}_wide")(x)
    x = layers.Activation(gelu_tanh if approximate else "gelu", name=f"{name}_gelu")(x)
    return layers.Dense(width, name=f"{name}_narrow")(x)


@keras.saving.register_keras_serializable("ten_nets")
def gelu_tanh(x: Any) -> Any:
    """GPT-2's form of GELU."""
    return keras.activations.gelu(x, approximate=True)


def tokens(
    *, length: int, words: int, train: int, test: int, next_word: bool, classes: int = 2
) -> dict[str, np.ndarray | list[str]]:
    """Random words int32 [N, length], each with the word that follows it as its class (int32 [N, length]) where
    ``next_word``, else with one of ``classes`` (int32 [N])."""
    random = np.random.default_rng(1797)
    arrays: dict[str, np.ndarray | list[str]] = {}
    for part, count in (("train", train), ("test", test)):
        x = random.integers(0, words, (count, length + 1), np.int32)
        arrays[f"x_{part}"] = np.ascontiguousarray(x[:, :-1])
        y = np.ascontiguousarray(x[:, 1:]) if next_word else np.arange(count, dtype=np.int32) % classes
        arrays[f"y_{part}"] = y
    arrays["class_names"] = [str(number) for number in range(words if next_word else classes)]
    return arrays


def masks(*, size: int, train: int, test: int) -> dict[str, np.ndarray]:
    """Random images uint8 [N, size, size, 3], and as masks which of their pixels have more red than green, int32
    [N, size, size]."""
    random = np.random.default_rng(1797)
    arrays = {}
    for part, count in (("train", train), ("test", test)):
        x = random.integers(0, 256, (count, size, size, 3), np.uint8)
        arrays |= {f"x_{part}": x, f"y_{part}": (x[..., 0] > x[..., 1]).astype(np.int32)}
    return arrays
