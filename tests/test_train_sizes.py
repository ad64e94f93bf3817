"""Training on smaller images first: which size when, the same weights for all of them, the same step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_train_loop import folder, quiet, run_folder, splits, trainer, values  # noqa: F401

from tfhalf.config import Train
from tfhalf.errors import ConfigError
from tfhalf.train.sizes import Sizes, call, scaled_down


def test_every_size_has_an_equal_part_of_the_epochs() -> None:
    sizes = Sizes((24, 28, 32), 9, (32, 32, 3))
    assert [sizes.of(epoch) for epoch in range(9)] == [24, 24, 24, 28, 28, 28, None, None, None]
    assert sizes.all == (24, 28, None)
    assert [Sizes((24, 28, 32), 8, (32, 32, 3)).of(e) for e in range(8)] == [24, 24, 24, 28, 28, 28, None, None]
    assert [Sizes((32, 24, 32), 3, (32, 32, 3)).of(e) for e in range(3)] == [None, 24, None]
    assert [Sizes((), 3, (32, 16, 3)).of(e) for e in range(3)] == [None] * 3
    assert Sizes((32, 24, 32), 3, (32, 32, 3)).all == (None, 24)


@pytest.mark.parametrize(
    ("sizes", "shape", "message"),
    [((40,), (32, 32, 3), "40 is larger than the images"), ((8,), (8, 9, 1), "square"), ((8,), (64,), "square")],
)
def test_sizes_that_the_images_do_not_allow(sizes: tuple[int, ...], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sizes(sizes, 3, shape)


def test_a_size_needs_an_epoch() -> None:
    with pytest.raises(ValueError, match="2 sizes for 1 epochs"):
        Train(epochs=1, sizes=(4, 8))


@pytest.mark.parametrize(("old", "new"), [(32, 24), (32, 28), (9, 4), (8, 8)])
def test_scaling_down_is_bilinear_over_all_that_a_pixel_covers(old: int, new: int) -> None:
    x = np.random.default_rng(0).normal(size=(3, old, old, 2)).astype(np.float32)
    expected = tf.image.resize(x, (new, new), antialias=True).numpy()
    np.testing.assert_allclose(scaled_down(tf.constant(x), new).numpy(), expected, atol=1e-5)


def net(side: int) -> keras.Model:
    image = keras.Input((side, side, 3))
    x = keras.layers.Conv2D(4, 3, kernel_regularizer=keras.regularizers.L2(0.1), name="conv")(image)
    x = keras.layers.BatchNormalization(name="norm")(x)
    return keras.Model(image, keras.layers.Dense(2, name="head")(keras.layers.GlobalMaxPooling2D()(x)))


def test_a_twin_trains_the_variables_of_the_model() -> None:
    model, twin, alone = net(8), net(6), net(6)
    alone.set_weights(model.get_weights())
    untouched = [v.numpy() for v in twin.variables]
    x = tf.constant(np.random.default_rng(0).normal(size=(5, 6, 6, 3)).astype(np.float32))
    variables = [v.value for v in model.trainable_variables]
    with tf.GradientTape() as tape:
        answers, losses = call(model, twin, x)
        loss = tf.reduce_sum(answers**2) + tf.add_n(losses)
    gradients = tape.gradient(loss, variables)
    with tf.GradientTape() as tape:
        expected = alone(x, training=True)
        alone_loss = tf.reduce_sum(expected**2) + tf.add_n(alone.losses)
    for got, wanted in zip(gradients, tape.gradient(alone_loss, [v.value for v in alone.trainable_variables]),
                           strict=True):  # fmt: skip
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(answers, expected, rtol=1e-6)
    for variable, same in zip(model.variables, alone.variables, strict=True):
        np.testing.assert_allclose(variable.numpy(), same.numpy(), rtol=1e-6)
    assert (model.get_layer("norm").moving_mean.numpy() != 0).any()
    for variable, before in zip(twin.variables, untouched, strict=True):
        np.testing.assert_array_equal(variable.numpy(), before)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_whole_training(folder: Path, policy: str) -> None:  # noqa: F811
    side = splits().input_shape[0]
    options: dict[str, Any] = {"train__sizes": (side - 2, side), "train__epochs": 4, "precision__policy": policy}
    one = trainer(folder, **options)
    one.compile()
    assert one.measure_step() > 0
    result = one.run(run_folder(folder, "one"), quiet())
    assert result.epochs[-1].loss < result.epochs[0].loss
    plain = trainer(folder, **{**options, "train__sizes": ()})
    plain.compile()
    plain.run(run_folder(folder, "plain"), quiet())
    changed = [not np.array_equal(a, b) for a, b in zip(values(one), values(plain), strict=True)]
    assert any(changed)


def test_weights_that_depend_on_the_size_are_refused(folder: Path) -> None:  # noqa: F811
    with pytest.raises(ConfigError, match=r"train\.sizes: .*pool globally"):
        trainer(folder, model__build="net.py:build_broken", train__sizes=(4,))
