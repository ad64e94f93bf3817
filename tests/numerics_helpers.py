"""Small nets and data for the tests of what a net's numbers look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from train_helpers import objective

from tfhalf import config
from tfhalf.data import Preprocess, Splits
from tfhalf.train.build import Builder
from tfhalf.train.job import Job

NET = """
import keras
from keras import layers, ops


def build(*, input_shape, num_classes, width=4):
    image = keras.Input(input_shape)
    x = layers.Conv2D(width, 3, name="conv")(image)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(num_classes, name="head")(x))


def build_dropout(*, input_shape, num_classes):
    image = keras.Input(input_shape)
    x = layers.Dropout(0.3)(layers.Dense(8, activation="relu")(layers.Flatten()(image)))
    return keras.Model(image, layers.Dense(num_classes)(x))


def build_nested(*, input_shape, num_classes):
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(8, name="first"), layers.ReLU(name="inner_relu")],
                             name="inner")
    image = keras.Input(input_shape)
    x = layers.Dense(8, name="stem")(layers.Flatten(name="flat")(image))
    y = ops.multiply(inner(inner(x)), 2.0) + x
    y = ops.reshape(y, (-1, 4, 2))
    y = layers.MultiHeadAttention(2, 3, name="attention")(y, y)
    return keras.Model(image, layers.Dense(num_classes, name="head")(layers.Flatten(name="last")(y)))


class Own(keras.Model):
    def __init__(self, num_classes):
        super().__init__(name="own")
        self.flat, self.hidden = layers.Flatten(), layers.Dense(5, activation="relu", name="hidden")
        self.head = layers.Dense(num_classes, name="head")

    def call(self, x):
        return self.head(self.hidden(self.flat(x)))


def build_own(*, input_shape, num_classes):
    return Own(num_classes)


def build_large(*, input_shape, num_classes, factor=3e5):
    image = keras.Input(input_shape)
    x = layers.Dense(8, name="stem")(layers.Flatten(name="flat")(image))
    x = layers.Rescaling(factor, name="blow")(x)
    x = layers.LayerNormalization(name="norm")(x)
    return keras.Model(image, layers.Dense(num_classes, name="head")(x))


def build_deep(*, input_shape, num_classes, blocks=5, width=16):
    image = keras.Input(input_shape)
    x = layers.Dense(width)(layers.Flatten()(image))
    for _ in range(blocks):
        y = layers.Dense(width, activation="relu", kernel_initializer="he_normal")(x)
        y = layers.Dense(width, kernel_initializer=keras.initializers.VarianceScaling(256.0))(y)
        x = layers.Add()([x, y])
    return keras.Model(image, layers.Dense(num_classes)(layers.LayerNormalization()(x)))
"""


def splits(count: int = 80) -> Splits:
    """Images of 6x6 pixels of three classes, each with a bright row of its own."""
    draw = np.random.default_rng(0)
    y = (np.arange(count + 40) % 3).astype(np.int32)
    x = draw.integers(0, 128, (count + 40, 6, 6, 1)).astype(np.uint8)
    x[np.arange(len(x)), y] += 100
    parts = x[:count], y[:count], x[count : count + 10], y[count : count + 10], x[count + 10 :], y[count + 10 :]
    return Splits(*parts, 3, (6, 6, 1), ("a", "b", "c"), "made here")


def make_job(folder: Path, build: str = "build", **sections: Any) -> Job:
    """A job over `splits` with a net of `NET`, which is written into ``folder``."""
    (folder / "net.py").write_text(NET)
    data = splits()
    values = {
        "name": "job",
        "seed": 5,
        "model": {"build": f"net.py:{build}", **sections.pop("model", {})},
        "data": {"source": "npz:none.npz"},
        "train": {"epochs": 4, "batch_size": 16, "optimizer": {"name": "adam", "learning_rate": 0.01}},
        **sections,
    }
    pipeline = config.Pipeline.model_validate(values)
    preprocess = Preprocess.fit("standardize", data.x_train)
    goal = objective(pipeline)
    builder = Builder(pipeline.model, folder, input_shape=data.input_shape, task=goal.task)
    return Job(pipeline, data, preprocess, builder, goal)
