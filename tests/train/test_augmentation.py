"""Images that are recoloured and mixed, in whole steps and runs; and what of it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from train_helpers import classes, equal, quiet, splits, timeless
from train_loops import NET, StopAfter, Stopped, pipeline, run_folder, trainer, values

from tfhalf import config
from tfhalf.data import Preprocess, Splits
from tfhalf.data.mix import Mixed
from tfhalf.errors import ConfigError
from tfhalf.train import augmentation
from tfhalf.train.feeds.resident import Resident
from tfhalf.train.loop import run_training
from tfhalf.train.objective import Objective
from tfhalf.train.optim.optimizers import make_optimizer
from tfhalf.train.step import Batch, Step

ALL: dict[str, Any] = {
    "flip": "random",
    "colour": {"brightness": 0.4, "contrast": 0.4},
    "rand_augment": {"layers": 1},
    "mixup": 0.2,
    "cutmix": 1.0,
    "mix_probability": 0.9,
}
DRAW = np.random.default_rng(0)
X = DRAW.integers(0, 256, (40, 6, 6, 1)).astype(np.uint8)
Y = (np.arange(40) % 3).astype(np.int32)


def make(augment: dict[str, Any], *, xla: bool = False, weight: np.ndarray | None = None) -> tuple[Step, Resident]:
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 1))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.Conv2D(4, 3)(image)))
    model = keras.Model(image, layers.Dense(3)(x))
    optimizer = make_optimizer(config.Optimizer(learning_rate=0.1), 0.1)
    step = Step(
        model,
        optimizer,
        model.trainable_variables,
        preprocess=Preprocess((128.0,), (64.0,)),
        objective=Objective(classes(3, 0.1)),
        augmentation=config.Augment.model_validate(augment),
        seed=7,
    )
    return step, Resident(step, X, Y, weight, batch_size=8, capacity=5, xla=xla, max_skipped=5)


def test_a_step_gets_mixed_images_and_targets() -> None:
    step, _ = make(ALL)
    batch = Batch(tf.constant(X[:8]), tf.constant(Y[:8]), tf.range(8))
    x, y = step.prepare(batch, tf.constant(0), tf.constant(3))
    assert isinstance(y, Mixed)
    assert (x.dtype, x.shape) == (tf.float32, X[:8].shape)
    again, _ = step.prepare(batch, tf.constant(1), tf.constant(3))  # the epoch plays no part
    np.testing.assert_array_equal(x, again)
    assert (x.numpy() != step.prepare(batch, tf.constant(0), tf.constant(4))[0].numpy()).any()


@pytest.mark.slow
def test_the_compiled_program_trains_alike() -> None:
    order = DRAW.permutation(40).astype(np.int32).reshape(5, 8)
    weight = DRAW.random(40).astype(np.float32)
    plain, feed = make(ALL, weight=weight)
    one = feed(order, 0, 0)
    fast, feed = make(ALL, weight=weight, xla=True)
    two = feed(order, 0, 0)
    np.testing.assert_allclose(one.loss, two.loss, rtol=1e-4)
    np.testing.assert_array_equal(one.sums, two.sums)
    for mine, theirs in zip(plain.model.variables, fast.model.variables, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_run_that_mixes_is_taken_up_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    whole = trainer(tmp_path, data__augment=ALL)
    expected = run_training(whole, run_folder(tmp_path, "whole"), quiet())
    run = run_folder(tmp_path, "stopped")
    with pytest.raises(Stopped):
        run_training(trainer(tmp_path, data__augment=ALL), run, StopAfter(2))
    second = trainer(tmp_path, data__augment=ALL)
    result = run_training(second, run, quiet(), resume=True)
    assert equal(values(second), values(whole))
    assert [timeless(row) for row in result.epochs] == [timeless(row) for row in expected.epochs]


def refused(augment: dict[str, Any], data: Splits, *kinds: str) -> str:
    with pytest.raises(ConfigError) as caught:
        augmentation.check_augment(config.Augment.model_validate(augment), data, kinds or ("classes",))
    message = str(caught.value)
    assert "\n" not in message
    return message


def of(x: np.ndarray) -> Splits:
    return Splits(x, Y, x[:4], Y[:4], x[:4], Y[:4], 3, x.shape[1:], ("a", "b", "c"), "made here")


def test_what_does_not_go_with_the_data_is_refused() -> None:
    for kind in ("masks", "steps"):
        assert refused({"mixup": 0.2}, of(X), "classes", kind) == (
            f"data.augment.mixup: mixes images that have one target each, and the targets are {kind}; leave it out"
        )
    rows = of(X.reshape(40, 36))
    assert refused({"cutmix": 1}, rows) == "data.augment.cutmix: mixes images, and the data is items; leave it out"
    assert "moves images and not their masks" in refused({"rand_augment": {}}, of(X), "masks")
    for augment in ({"colour": {"hue": 0.1}}, {"rand_augment": {}}):
        (key,) = augment
        assert refused(augment, of(X / 255)) == (
            f"data.augment.{key}: the images are of float64; accepted: uint8, from 0 to 255; store them so, or leave "
            "it out"
        )
    assert "the images have 2 channels; accepted: 1 or 3" in refused({"rand_augment": {}}, of(X.repeat(2, -1)))


def test_what_goes_with_the_data_is_not() -> None:
    for kinds in (("classes",), ("numbers", "multi")):
        augmentation.check_augment(config.Augment.model_validate(ALL), of(X), kinds)
    augmentation.check_augment(config.Augment(colour=config.Colour(brightness=1)), of(X), ("masks",))
    augmentation.check_augment(config.Augment(colour=config.Colour()), of(X.reshape(40, 36)), ("classes",))
    augmentation.check_augment(config.Augment(), of(X / 255), ("masks",))


def test_what_changes_nothing_is_remarked() -> None:
    augment = config.Augment(mix_probability=0.5, colour=config.Colour(hue=0.1))
    assert [line.split(" no effect")[0] for line in augmentation.remarks(augment, of(X))] == [
        "data.augment: mix_probability has",
        "data.augment.colour: saturation and hue have",
    ]
    assert list(augmentation.remarks(config.Augment.model_validate(ALL), splits())) == []


def test_the_sections_are_checked() -> None:
    assert pipeline(data__augment=ALL).data.augment.rand_augment == config.RandAugment(layers=1, magnitude=9)
    for wrong in ({"mixup": -1}, {"mix_probability": 0}, {"rand_augment": {"magnitude": 31}}, {"colour": {"hue": 0.6}}):
        with pytest.raises(ValueError, match=r"less than or equal|greater than"):
            config.Augment.model_validate(wrong)
