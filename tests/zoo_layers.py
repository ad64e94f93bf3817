"""Layers and models of the zoo's own, as a user's file has them: what `--custom` is given."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops


class Tokens(layers.Layer):
    """Embeddings of tokens and of their places; float [N, T, width] of integers [N, T]."""

    def __init__(self, vocabulary: int, length: int, width: int, **rest: Any) -> None:
        super().__init__(**rest)
        self.vocabulary, self.length, self.width = vocabulary, length, width
        self.tokens = layers.Embedding(vocabulary, width, name="tokens")
        self.places = layers.Embedding(length, width, name="places")

    def build(self, shape: Any) -> None:
        self.tokens.build(shape)
        self.places.build((None,))

    def call(self, x: Any) -> Any:
        return self.tokens(x) + self.places(ops.arange(ops.shape(x)[1]))

    def get_config(self) -> dict[str, Any]:
        own = {"vocabulary": self.vocabulary, "length": self.length, "width": self.width}
        return {**super().get_config(), **own}


class ClassToken(layers.Layer):
    """Puts a learned vector before a sequence, and adds learned places."""

    def build(self, shape: Any) -> None:
        self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer="random_normal", name="token")
        self.places = self.add_weight(shape=(1, shape[1] + 1, shape[-1]), initializer="random_normal", name="places")

    def call(self, x: Any) -> Any:
        token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, x.shape[-1]))
        return ops.concatenate([token, x], axis=1) + self.places


class NaiveLayerNorm(layers.Layer):
    """Layer normalisation as people write it, in the dtype that it is given: the squares overflow in float16."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

    def call(self, x: Any) -> Any:
        centred = x - ops.mean(x, -1, keepdims=True)
        return centred / ops.sqrt(ops.mean(centred * centred, -1, keepdims=True) + 1e-6) * self.scale


class FixedNorm(layers.Layer):
    """Divides by the root of a stored variance, which float16 flushes to zero where it is small."""

    def build(self, shape: Any) -> None:
        self.mean = self.add_weight(shape=(shape[-1],), initializer="zeros", trainable=False, name="running_mean")
        self.variance = self.add_weight(
            shape=(shape[-1],), initializer="ones", trainable=False, name="running_variance"
        )

    def call(self, x: Any) -> Any:
        return (x - self.mean) / ops.sqrt(self.variance)


class Sampling(layers.Layer):
    """Draws from the normal distribution of a mean and a log variance, in inference as well."""

    def __init__(self, **rest: Any) -> None:
        super().__init__(**rest)
        self.seed_generator = keras.random.SeedGenerator(7)

    def call(self, inputs: Any) -> Any:
        mean, log_variance = inputs
        noise = keras.random.normal(ops.shape(mean), dtype=mean.dtype, seed=self.seed_generator)
        return mean + ops.exp(0.5 * log_variance) * noise


class Residual(keras.Model):
    """A subclass of keras.Model with its own arguments."""

    def __init__(self, width: int, classes: int, **rest: Any) -> None:
        super().__init__(**rest)
        self.width, self.classes = width, classes
        self.stem = layers.Conv2D(width, 3, padding="same", name="stem")
        self.norm = layers.BatchNormalization(name="norm")
        self.conv = layers.Conv2D(width, 3, padding="same", name="conv")
        self.head = layers.Dense(classes, name="head")

    def call(self, x: Any, training: bool = False) -> Any:
        x = ops.relu(self.norm(self.stem(x), training=training))
        x = x + self.conv(x)
        return self.head(ops.mean(x, (1, 2)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width, "classes": self.classes}


class TwoInputs(keras.Model):
    """A subclass that takes a dict and gives one."""

    def __init__(self, **rest: Any) -> None:
        super().__init__(**rest)
        self.left, self.right = layers.Dense(8, name="left"), layers.Dense(8, name="right")
        self.head = layers.Dense(3, name="head")

    def call(self, inputs: Any) -> Any:
        both = ops.gelu(self.left(inputs["a"]), approximate=False) + self.right(inputs["b"])
        return {"sum": self.head(both), "left": ops.sum(both, -1)}
