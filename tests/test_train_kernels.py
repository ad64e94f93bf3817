"""The faster equivalents of layers: the same answers, gradients and statistics as Keras' own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfhalf.precision.policy import policy
from tfhalf.train.kernels import fewer_passes

TOLERANCE = {"float32": 2e-5, "mixed_float16": 1e-2}


def step(model: keras.Model, x: Any, compiled: bool) -> list[np.ndarray]:
    """Answers, gradients of the image and the weights, and every variable after one training call."""

    def run(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x, training=True)
            weights = tf.cast(tf.reshape(tf.range(tf.size(y)) % 7, tf.shape(y)), y.dtype)
            loss = tf.reduce_sum(tf.cast(y * weights, tf.float32))
        return y, tape.gradient(loss, [x, *(v.value for v in model.trainable_variables)])

    y, gradients = tf.function(run, jit_compile=compiled, autograph=False)(x)
    return [y.numpy(), *(g.numpy() for g in gradients), *(v.numpy() for v in model.variables)]


def compare(make: Callable[[Any], Any], side: int, policy_name: str, compiled: bool = False) -> None:
    keras.utils.set_random_seed(1)
    with policy(policy_name):
        image = keras.Input((side, side, 3))
        model = keras.Model(image, make(image))
        x = tf.constant(np.random.default_rng(0).normal(size=(4, side, side, 3)).astype(np.float32))
        before = model.get_weights()
        plain = step(model, x, compiled)
        model.set_weights(before)
        with fewer_passes(model):
            fast = step(model, x, compiled)
    assert len(plain) == len(fast)
    for one, other in zip(plain, fast, strict=True):
        assert one.dtype == other.dtype
        largest = np.abs(one.astype(np.float64)).max() + 1e-9
        np.testing.assert_allclose(
            other.astype(np.float64) / largest, one.astype(np.float64) / largest, atol=TOLERANCE[policy_name]
        )


@pytest.mark.parametrize("policy_name", TOLERANCE)
@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}, {"momentum": 0.6, "epsilon": 1e-12}])
def test_batch_normalization(options: dict[str, Any], policy_name: str) -> None:
    compare(lambda x: layers.BatchNormalization(**options)(layers.Conv2D(8, 3, use_bias=False)(x)), 9, policy_name)


def test_statistics_far_from_zero_keep_their_variance() -> None:
    """Mean 1,000, deviation 1: the moving mean, once near, is the pivot that saves the difference."""
    x = np.random.default_rng(0).normal(1000, 1, (64, 4, 4, 3)).astype(np.float32)
    norm = layers.BatchNormalization(momentum=0.0)
    model = keras.Sequential([keras.Input((4, 4, 3)), norm])
    with fewer_passes(model):
        model(x, training=True)
        model(x, training=True)
    np.testing.assert_allclose(norm.moving_variance.numpy(), x.astype(np.float64).var((0, 1, 2)), rtol=1e-4)


@pytest.mark.parametrize("policy_name", TOLERANCE)
@pytest.mark.parametrize(
    ("side", "size", "stride", "padding"),
    [(8, 2, 2, "valid"), (9, 2, 2, "valid"), (9, 2, 2, "same"), (8, 3, 2, "same"), (9, 3, 2, "same"),
     (9, 3, 2, "valid"), (10, 3, 2, "valid"), (10, 3, 1, "same"), (9, 3, 3, "valid"), (11, 5, 2, "same")],
)  # fmt: skip
def test_max_pooling(side: int, size: int, stride: int, padding: str, policy_name: str) -> None:
    compare(lambda x: layers.MaxPooling2D(size, stride, padding=padding)(x), side, policy_name)


def test_ties_go_to_the_first_place_as_cudnn_has_it() -> None:
    model = keras.Sequential([keras.Input((4, 4, 1)), layers.MaxPooling2D(2)])
    x = tf.ones((1, 4, 4, 1))
    with fewer_passes(model), tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(model(x))
    expected = np.zeros((4, 4))
    expected[::2, ::2] = 1
    np.testing.assert_array_equal(tape.gradient(y, x).numpy()[0, ..., 0], expected)


@pytest.mark.parametrize("policy_name", TOLERANCE)
@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("side", [12, 13])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_strided_convolution_of_an_image(size: int, side: int, padding: str, policy_name: str) -> None:
    compare(lambda x: layers.Conv2D(8, size, 2, padding=padding, activation="relu")(x), side, policy_name)


def test_compiled() -> None:
    def net(x: Any) -> Any:
        x = layers.Conv2D(8, 7, 2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        return layers.MaxPooling2D(3, 2, padding="same")(x)

    compare(net, 16, "float32", compiled=True)


def test_layers_are_left_as_they_were() -> None:
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.MaxPooling2D(2), layers.BatchNormalization()])
    with pytest.raises(ValueError, match="three"), fewer_passes(model):  # noqa: PT012
        assert all("call" in vars(layer) for layer in model.layers)
        raise ValueError("three")
    assert not any("call" in vars(layer) for layer in model.layers)


def test_inference_and_frozen_norms_are_keras_own() -> None:
    norm = layers.BatchNormalization()
    model = keras.Sequential([keras.Input((8, 8, 3)), norm])
    x = np.random.default_rng(0).normal(3, 2, (4, 8, 8, 3)).astype(np.float32)
    for training, trainable in ((False, True), (True, False)):
        norm.trainable = trainable
        plain = model(x, training=training).numpy()
        with fewer_passes(model):
            np.testing.assert_array_equal(model(x, training=training).numpy(), plain)
        assert (norm.moving_mean.numpy() == 0).all()


class Own(layers.MaxPooling2D):
    """A subclass may do anything in its call."""


def test_subclasses_are_untouched() -> None:
    model = keras.Sequential([keras.Input((8, 8, 3)), Own(2)])
    with fewer_passes(model):
        assert "call" not in vars(model.layers[0])
