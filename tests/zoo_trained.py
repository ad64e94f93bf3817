"""Nets that are trained before they are exported, on real data, for about a minute each.

Random weights are a hard case that nobody ships: what real nets need in float32 is seen on these. The larger
families of keras.applications need a GPU for it. Each entry gives a
model trained in float32, the test inputs by the model's own input names, and how well it does on them.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers
from zoo import attention_block

CHECKOUT = Path(__file__).resolve().parent.parent
DATASETS = Path(os.environ.get("TFHALF_DATASETS") or CHECKOUT.parent / "shared" / "datasets")
TFDS = Path(os.environ.get("TFDS_DATA_DIR") or CHECKOUT.parent / "shared" / "tensorflow_datasets")

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Data:
    """Training and test part: inputs [N, ...] by name, targets [N, ...]."""

    x_train: Arrays
    y_train: np.ndarray
    x_test: Arrays
    y_test: np.ndarray


@dataclass(frozen=True)
class Entry:
    """``score``: what is measured on the test part: ``accuracy`` (%), ``pixels`` (% of pixels), or ``error``, the mean
    absolute error in the unit of the targets."""

    name: str
    data: Callable[[], Data]
    build: Callable[[Data], keras.Model]
    loss: str
    score: str = "accuracy"
    epochs: int = 1
    batch: int = 64
    learning_rate: float = 1e-3


def train(entry: Entry, *, epochs: int | None = None, limit: int | None = None) -> tuple[keras.Model, Data, float]:
    """The entry's model trained in float32, its data, and its score on the test part; ``limit`` training rows."""
    keras.utils.set_random_seed(1)
    data = entry.data()
    model = entry.build(data)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9  # the statistics of a short training
    steps = len(data.y_train[:limit]) // entry.batch * (epochs or entry.epochs)
    rate = keras.optimizers.schedules.CosineDecay(entry.learning_rate, max(1, steps))
    model.compile(keras.optimizers.AdamW(rate, weight_decay=1e-2, clipnorm=1.0), entry.loss)
    model.fit(
        _only(data.x_train)[:limit],
        data.y_train[:limit],
        batch_size=entry.batch,
        epochs=epochs or entry.epochs,
        verbose=0,
    )
    return model, data, score(entry, data, np.asarray(model.predict(_only(data.x_test), batch_size=250, verbose=0)))


def _only(arrays: Arrays) -> np.ndarray:
    (array,) = arrays.values()
    return array


def score(entry: Entry, data: Data, outputs: np.ndarray) -> float:
    """How well ``outputs`` [N, ...] do on the test part, in the unit of ``entry.score``."""
    if entry.score == "error":
        return float(np.abs(outputs.reshape(-1) - data.y_test.reshape(-1)).mean())
    if entry.score == "pixels":
        return float(((outputs > 0.5) == (data.y_test > 0.5)).mean() * 100)
    return float((outputs.argmax(-1) == data.y_test).mean() * 100)


# --- data -------------------------------------------------------------------------------------------------------------


def cifar10(train_rows: int = 20_000, test_rows: int = 1_000) -> Data:
    import tensorflow_datasets as tfds

    def part(split: str) -> Any:
        return tfds.as_numpy(tfds.load("cifar10", split=split, data_dir=TFDS, download=False, batch_size=-1))

    training, test = part(f"train[:{train_rows}]"), part(f"test[:{test_rows}]")
    return Data(
        {"image": training["image"].astype(np.float32)},
        training["label"].astype(np.int32),
        {"image": test["image"].astype(np.float32)},
        test["label"].astype(np.int32),
    )


def digits() -> Data:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, y = x.astype(np.float32), y.astype(np.int32)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    return Data({"pixels": x[300:]}, y[300:], {"pixels": x[:300]}, y[:300])


def digits_rebuilt() -> Data:
    data = digits()
    (name,) = data.x_train
    return Data(data.x_train, data.x_train[name] / 16, data.x_test, data.x_test[name] / 16)


def sst2(length: int = 32, train_rows: int = 30_000) -> Data:
    def rows(name: str) -> tuple[np.ndarray, np.ndarray]:
        with (DATASETS / "sst2" / name).open(encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
        return np.array([line[1] for line in lines]), np.array([int(line[0]) for line in lines], np.int32)

    (text, y), (test, y_test) = rows("train.tsv"), rows("dev.tsv")
    vectorize = layers.TextVectorization(8_000, output_sequence_length=length)
    vectorize.adapt(text)

    def numbers(words: np.ndarray) -> np.ndarray:
        return np.asarray(vectorize(words)).astype(np.int32)

    chosen = np.random.default_rng(0).permutation(len(text))[:train_rows]
    return Data({"tokens": numbers(text[chosen])}, y[chosen], {"tokens": numbers(test)}, y_test)


def housing() -> Data:
    with (DATASETS / "housing" / "housing.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if all(row.values())]
    columns = [name for name in rows[0] if name not in ("median_house_value", "ocean_proximity")]
    x = np.array([[float(row[name]) for name in columns] for row in rows], np.float32)
    y = np.array([[float(row["median_house_value"])] for row in rows], np.float32) / 1e5
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    return Data({"block": x[2_000:]}, y[2_000:], {"block": x[:2_000]}, y[:2_000])


def membrane(side: int = 128) -> Data:
    from PIL import Image

    def tiles(folder: str, numbers: range) -> np.ndarray:
        parts = []
        for number in numbers:
            with Image.open(DATASETS / "membrane" / folder / f"{number}.png") as image:
                whole = np.asarray(image.convert("L"), np.float32)
            grid = whole.reshape(512 // side, side, 512 // side, side).swapaxes(1, 2)
            parts.append(grid.reshape(-1, side, side, 1))
        return np.concatenate(parts)

    held = range(24, 30)
    return Data(
        {"slice": tiles("image", range(24))},
        tiles("label", range(24)) / 255,
        {"slice": tiles("image", held)},
        tiles("label", held) / 255,
    )


# --- nets -------------------------------------------------------------------------------------------------------------


def application(name: str, side: int = 32, **arguments: Any) -> Callable[[Data], keras.Model]:
    """A family of keras.applications for CIFAR-10, its input 0..255, enlarged to ``side``."""

    def build(data: Data) -> keras.Model:
        image = keras.Input((32, 32, 3), name="image")
        x = layers.Rescaling(1 / 127.5, -1)(image)
        x = x if side == 32 else layers.Resizing(side, side)(x)
        body = getattr(keras.applications, name)(
            weights=None, include_top=False, input_shape=(side, side, 3), pooling="avg", **arguments
        )
        return keras.Model(image, layers.Dense(10, activation="softmax")(body(x)))

    return build


def residual(data: Data) -> keras.Model:
    image = keras.Input((32, 32, 3), name="image")
    x = layers.Rescaling(1 / 255)(image)
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", use_bias=False)(x)))
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        y = layers.Conv2D(width, 3, stride, padding="same", use_bias=False)(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.BatchNormalization()(layers.Conv2D(width, 3, padding="same", use_bias=False)(y))
        x = layers.ReLU()(layers.Add()([layers.Conv2D(width, 1, stride)(x), y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10, activation="softmax")(x))


def vision_transformer(data: Data) -> keras.Model:
    image = keras.Input((32, 32, 3), name="image")
    x = layers.Reshape((-1, 64))(layers.Conv2D(64, 4, 4)(layers.Rescaling(1 / 127.5, -1)(image)))
    for _ in range(3):
        x = attention_block(x, 4, 64)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(image, layers.Dense(10, activation="softmax")(x))


def dense(data: Data) -> keras.Model:
    normalize = layers.Normalization()
    normalize.adapt(data.x_train["pixels"])
    hidden = [layers.Dense(128, activation="gelu"), layers.Dropout(0.2), layers.Dense(64, activation="gelu")]
    return keras.Sequential(
        [keras.Input((64,), name="pixels"), normalize, *hidden, layers.Dense(10, activation="softmax")]
    )


def autoencoder(data: Data) -> keras.Model:
    pixels = keras.Input((64,), name="pixels")
    code = layers.Dense(12, name="code")(layers.Dense(64, activation="relu")(layers.Rescaling(1 / 16)(pixels)))
    return keras.Model(pixels, layers.Dense(64, activation="sigmoid")(layers.Dense(64, activation="relu")(code)))


def recurrent(data: Data) -> keras.Model:
    tokens = keras.Input((32,), dtype="int32", name="tokens")
    x = layers.Embedding(8_000, 64, mask_zero=True)(tokens)
    x = layers.Bidirectional(layers.LSTM(32))(x)
    return keras.Model(tokens, layers.Dense(2, activation="softmax")(layers.Dropout(0.3)(x)))


def text_transformer(data: Data) -> keras.Model:
    tokens = keras.Input((32,), dtype="int32", name="tokens")
    x = layers.Embedding(8_000, 64)(tokens)
    for _ in range(2):
        x = attention_block(x, 4, 64)
    x = layers.GlobalMaxPooling1D()(layers.LayerNormalization()(x))
    return keras.Model(tokens, layers.Dense(2, activation="softmax")(layers.Dropout(0.3)(x)))


def table(data: Data) -> keras.Model:
    normalize = layers.Normalization(name="normalize")
    normalize.adapt(data.x_train["block"])
    hidden = [layers.Dense(width, activation="relu") for width in (128, 64)]
    return keras.Sequential([keras.Input((8,), name="block"), normalize, *hidden, layers.Dense(1)])


def table_batchnorm(data: Data) -> keras.Model:
    hidden = [layers.Dense(width, activation="relu") for width in (128, 64)]
    return keras.Sequential([keras.Input((8,), name="block"), layers.BatchNormalization(), *hidden, layers.Dense(1)])


def unet(data: Data) -> keras.Model:
    image = keras.Input((128, 128, 1), name="slice")
    x = layers.Rescaling(1 / 255)(image)
    skips = []
    for width in (8, 16, 32):
        x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        x = layers.BatchNormalization()(x)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(64, 3, padding="same", activation="relu")(x)
    for skip in reversed(skips):
        x = layers.Conv2DTranspose(skip.shape[-1], 2, 2)(x)
        x = layers.Conv2D(skip.shape[-1], 3, padding="same", activation="relu")(layers.Concatenate()([x, skip]))
    return keras.Model(image, layers.Conv2D(1, 1, activation="sigmoid")(x))


CLASSES = "sparse_categorical_crossentropy"
ENTRIES = (
    Entry("digits_dense", digits, dense, CLASSES, epochs=30, learning_rate=3e-3),
    Entry("digits_autoencoder", digits_rebuilt, autoencoder, "mse", "error", epochs=60, learning_rate=3e-3),
    Entry("residual", cifar10, residual, CLASSES, epochs=2, learning_rate=3e-3),
    Entry("vision_transformer", cifar10, vision_transformer, CLASSES, epochs=2),
    Entry("MobileNet", cifar10, application("MobileNet", alpha=0.5), CLASSES, epochs=2, learning_rate=3e-3),
    Entry("MobileNetV2", cifar10, application("MobileNetV2", alpha=0.35), CLASSES, epochs=2, learning_rate=3e-3),
    Entry("MobileNetV3Small", cifar10, application("MobileNetV3Small", include_preprocessing=False), CLASSES, epochs=2),
    Entry("ResNet50", cifar10, application("ResNet50", 64), CLASSES, epochs=2),
    Entry("DenseNet121", cifar10, application("DenseNet121", 64), CLASSES, epochs=2),
    Entry("EfficientNetB0", cifar10, application("EfficientNetB0", 64), CLASSES, epochs=2),
    Entry("InceptionV3", cifar10, application("InceptionV3", 96), CLASSES, epochs=2),
    Entry("sst2_recurrent", sst2, recurrent, CLASSES, epochs=2, learning_rate=3e-3),
    Entry("sst2_transformer", sst2, text_transformer, CLASSES, epochs=2),
    Entry("housing_table", housing, table, "mse", "error", epochs=10, learning_rate=3e-3),
    Entry("housing_batchnorm", housing, table_batchnorm, "mse", "error", epochs=10, learning_rate=3e-3),
    Entry("membrane_unet", membrane, unet, "binary_crossentropy", "pixels", epochs=4, batch=8, learning_rate=3e-3),
)
