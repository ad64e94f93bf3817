"""Whole numbers that a model looks up: kept as they are, or refused with what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from train_helpers import changed, classes, quiet

from tfhalf import config
from tfhalf.data import Preprocess, Splits
from tfhalf.errors import ConfigError, DataError, TfhalfError
from tfhalf.export.program import make_program
from tfhalf.export.rebuild.rebuild import rebuild
from tfhalf.system.device import detect
from tfhalf.train.build import Builder
from tfhalf.train.integers import keep_integers, refuse_normalized
from tfhalf.train.job import Job
from tfhalf.train.loop import run_training
from tfhalf.train.objective import Objective
from tfhalf.train.traced import lookups
from tfhalf.train.trainer import Trainer

NETS = """
import keras
from keras import layers, ops


def whole(*, input_shape, num_classes, words=5000):
    made = [layers.Embedding(words, 8, name="words"), layers.Flatten(), layers.Dense(num_classes)]
    return keras.Sequential([keras.Input(input_shape, dtype="int32"), *made])


def floats(*, input_shape, num_classes):
    return keras.Sequential([keras.Input(input_shape), *whole(input_shape=input_shape, num_classes=num_classes).layers])


def unbuilt(*, input_shape, num_classes):
    return keras.Sequential(whole(input_shape=input_shape, num_classes=num_classes).layers)


class Words(layers.Layer):
    def __init__(self, **given):
        super().__init__(**given)
        self.table = layers.Embedding(5000, 8)

    def build(self, shape):
        self.table.build(shape)

    def call(self, x):
        return self.table(x)


def own_layer(*, input_shape, num_classes):
    image = keras.Input(input_shape)
    return keras.Model(image, layers.Dense(num_classes)(layers.Flatten()(Words()(image * 1))))


class Subclass(keras.Model):
    def __init__(self, units):
        super().__init__()
        self.table, self.head = layers.Embedding(5000, 8), layers.Dense(units)

    def call(self, x):
        return self.head(ops.reshape(self.table(x), (-1, 16)))


def subclass(*, input_shape, num_classes):
    return Subclass(num_classes)


def one_hot(*, input_shape, num_classes):
    image = keras.Input(input_shape)
    return keras.Model(image, layers.Dense(num_classes)(layers.Flatten()(ops.one_hot(ops.cast(image, "int32"), 9))))


def positions(*, input_shape, num_classes):
    image = keras.Input(input_shape)
    x = layers.Dense(8)(image[..., None]) + layers.Embedding(input_shape[0], 8)(ops.arange(input_shape[0]))
    return keras.Model(image, layers.Dense(num_classes)(layers.Flatten()(x)))


def codes(*, input_shape, num_classes):
    image = keras.Input(input_shape)
    x = layers.Embedding(8, 4)(ops.argmax(layers.Dense(8)(image[..., None]), -1))
    return keras.Model(image, layers.Dense(num_classes)(layers.Flatten()(x)))


def bytes_in(*, input_shape, num_classes):
    image = keras.Input(input_shape, dtype="uint8")
    return keras.Model(image, layers.Dense(num_classes)(layers.Flatten()(layers.Rescaling(1 / 255)(image))))
"""
BASE: dict[str, Any] = {
    "name": "words",
    "model": {"build": "nets.py:whole"},
    "data": {"source": "npz:x.npz"},
    "train": {"epochs": 12, "batch_size": 8, "optimizer": {"name": "adam", "learning_rate": 0.05}},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path


def splits(low: int = 4096) -> Splits:
    """Items of two words, ``low`` and the next one, of which the first says the class; one less than 2**12 + 2, the
    next number that float16 holds after 2**12."""
    x = np.random.default_rng(0).integers(low, low + 2, (40, 2)).astype(np.int32)
    y = x[:, 0] - low
    return Splits(x[:24], y[:24], x[24:28], y[24:28], x[28:], y[28:], 2, (2,), ("no", "yes"), "made here")


def kept(folder: Path, data: Splits, **changes: Any) -> tuple[config.Pipeline, Builder]:
    pipeline = changed(BASE, changes)
    builder = Builder(pipeline.model, folder, input_shape=data.input_shape, task=classes(data.num_classes))
    return keep_integers(pipeline, data, builder, quiet()), builder


@pytest.mark.parametrize(
    ("name", "layer", "size"),
    [("whole", "words", 5000), ("floats", "words", 5000), ("subclass", "embedding", 5000), ("one_hot", "", 9)],
)
def test_where_inputs_are_looked_up(folder: Path, name: str, layer: str, size: int) -> None:
    builder = Builder(
        changed(BASE, {"model__build": f"nets.py:{name}"}).model, folder, input_shape=(2,), task=classes(2)
    )
    found = lookups(builder("float32"), "float32")
    assert [one.size for one in found] == [size]
    assert layer in found[0].layer


@pytest.mark.parametrize("name", ["positions", "codes"])
def test_tables_that_inputs_do_not_reach_change_nothing(folder: Path, name: str) -> None:
    pipeline, builder = kept(folder, splits(), model__build=f"nets.py:{name}")
    assert pipeline.data.normalize == "standardize"
    assert not builder.integers


def test_asked_for_by_name_is_refused(folder: Path) -> None:
    for normalize in ("standardize", "unit", {"mean": [1.0], "std": [2.0]}):
        with pytest.raises(ConfigError, match=r"looks its inputs up in 'words'.*set data.normalize: none$"):
            kept(folder, splits(), data__normalize=normalize)
    pipeline, builder = kept(folder, splits(), data__normalize="none")
    assert (pipeline.data.normalize, builder.integers) == ("none", True)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        (
            {"model__args": {"words": 4096}},
            DataError,
            "holds 4097, .* table of 4096 entries; accepted: 0..4095",
        ),
        (
            {"model__build": "nets.py:own_layer"},
            ConfigError,
            "inputs to float16 .* up to 2048, .* to 4097; begin",
        ),
    ],
)
def test_numbers_that_would_be_read_otherwise(
    folder: Path, changes: dict[str, Any], error: type[TfhalfError], words: str
) -> None:
    with pytest.raises(error, match=words):
        kept(folder, splits(), **changes)


def test_items_that_are_no_whole_numbers(folder: Path) -> None:
    half = splits(3)
    half = replace(half, x_train=half.x_train.astype(np.float32), x_val=half.x_val[:0], x_test=half.x_test + 0.5)
    with pytest.raises(DataError, match=r"x_test\[0, 0\] is \d\.5, .* looks its inputs up in 'words'; accepted: whole"):
        kept(folder, half)


def test_images_of_whole_numbers(folder: Path) -> None:
    """Images are asked last, when the model is there."""
    pipeline = changed(BASE, {"model__build": "nets.py:bytes_in"})
    builder = Builder(pipeline.model, folder, input_shape=(2, 2, 1), task=classes(2))
    with pytest.raises(ConfigError, match=r"'its input', which takes .* as they are; set data.normalize: none"):
        refuse_normalized(pipeline, builder, builder("float32"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["floats", "unbuilt", "subclass"])
def test_words_apart_by_one_are_told_apart(folder: Path, name: str) -> None:
    """Standardised, or in float16, 4096 and 4097 would be the same word."""
    data = splits()
    pipeline, builder = kept(folder, data, model__build=f"nets.py:{name}")
    preprocess = Preprocess.fit(pipeline.data.normalize, data.x_train)
    trainer = Trainer(Job(pipeline, data, preprocess, builder, Objective(builder.task)), detect())
    run = folder / "run"
    run.mkdir()
    trainer.program.compile()
    run_training(trainer, run, quiet())
    assert trainer.evaluator.metrics(data.x_test, data.y_test) == {"accuracy": 1}
    if name == "subclass":
        return
    program = make_program(rebuild(trainer.state.model).model, preprocess, data.input_shape)
    answers = program.function(keras.ops.cast(data.x_test, "float32"))["probabilities"]
    assert (np.asarray(answers).argmax(-1) == data.y_test).all()


def test_numbers_of_words_are_not_rounded_by_an_input_of_floats() -> None:
    """A functional model of several inputs, which nobody wraps: Keras would make them float16."""
    note, age = keras.Input((3,), name="note"), keras.Input((1,), name="age")
    x = keras.layers.Flatten()(keras.layers.Embedding(5000, 2)(note))
    model = keras.Model({"note": note, "age": age}, keras.layers.Dense(2)(keras.layers.Concatenate()([x, age])))

    class Known:
        ref, dtypes, input_shape = "net.py:build", {"note": "int32"}, {"note": (3,), "age": (1,)}
        categories = {"note": 5000}  # noqa: RUF012

    pipeline: Any = None
    with pytest.raises(
        ConfigError, match=r"as its input 'note', the data's are the numbers of 5,000 words.*dtype='int32'"
    ):
        refuse_normalized(pipeline, Known, model)  # type: ignore[arg-type]
    Known.categories = {"note": 2000}  # which float16 holds
    refuse_normalized(pipeline, Known, model)  # type: ignore[arg-type]
