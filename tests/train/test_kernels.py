"""The faster equivalents of layers: the same answers, gradients and statistics as Keras' own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from tfhalf.precision.policy import policy
from tfhalf.system.group import Group
from tfhalf.train.kernels import fewer_passes
from tfhalf.train.kernels.synchronized import synchronized, to_synchronize

pytestmark = pytest.mark.slow

TOLERANCE = {"float32": 2e-5, "mixed_float16": 1e-2}


def step(model: keras.Model, x: Any) -> list[np.ndarray]:
    """Answers, gradients of the image and the weights, and every variable after one training call."""

    def run(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x, training=True)
            weights = tf.cast(tf.reshape(tf.range(tf.size(y)) % 7, tf.shape(y)), y.dtype)
            loss = tf.reduce_sum(tf.cast(y * weights, tf.float32))
        return y, tape.gradient(loss, [x, *(v.value for v in model.trainable_variables)])

    y, gradients = tf.function(run, jit_compile=True, autograph=False)(x)
    return [y.numpy(), *(g.numpy() for g in gradients), *(v.numpy() for v in model.variables)]


def compare(make: Callable[[Any], Any], side: int, policy_name: str) -> None:
    keras.utils.set_random_seed(1)
    with policy(policy_name):
        image = keras.Input((side, side, 3))
        model = keras.Model(image, make(image))
        x = tf.constant(np.random.default_rng(0).normal(size=(4, side, side, 3)).astype(np.float32))
        before = model.get_weights()
        plain = step(model, x)
        model.set_weights(before)
        with fewer_passes(model):
            fast = step(model, x)
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
    program = tf.function(lambda x: model(x, training=True), jit_compile=True, autograph=False)
    with fewer_passes(model):
        program(x)
        program(x)
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


def test_a_small_net() -> None:
    def net(x: Any) -> Any:
        x = layers.Conv2D(8, 7, 2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        return layers.MaxPooling2D(3, 2, padding="same")(x)

    compare(net, 16, "float32")


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


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "ReLU": lambda x: layers.ReLU()(x),
    "Activation": lambda x: layers.Activation("relu")(x),
    "ops.relu": ops.relu,
    "ops.gelu": lambda x: ops.gelu(x, approximate=True),
    "exact gelu": lambda x: layers.Activation("gelu")(x),
    "ops.silu": ops.silu,
}


@pytest.mark.parametrize("policy_name", TOLERANCE)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_norm_and_the_activation_after_it(activation: str, policy_name: str) -> None:
    def net(x: Any) -> Any:
        x = layers.BatchNormalization()(layers.Conv2D(8, 3, use_bias=False)(x))
        return ACTIVATIONS[activation](x)

    compare(net, 8, policy_name)


@pytest.mark.parametrize("policy_name", TOLERANCE)
def test_a_residual_block(policy_name: str) -> None:
    def net(x: Any) -> Any:
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, use_bias=False)(x)))
        y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same", use_bias=False)(x)))
        y = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same", use_bias=False)(y))
        x = layers.ReLU()(layers.Add()([x, y]))
        return layers.Conv2D(4, 3)(x) + ops.mean(x)

    compare(net, 8, policy_name)


def swapped(net: Callable[[Any], Any]) -> set[str]:
    """Names of what computes in another way within the block, of a net over 8x8 images."""
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, net(image))
    with fewer_passes(model):
        return {operation.name for operation in model.operations if "call" in vars(operation)}


def test_which_activations_are_taken_along() -> None:
    norm, relu = layers.BatchNormalization(name="norm"), layers.ReLU(name="relu")
    assert swapped(lambda x: relu(norm(x))) == {"norm", "relu"}

    def read_twice(x: Any) -> Any:
        x = layers.BatchNormalization(name="norm")(x)
        return layers.ReLU(name="relu")(x) + x

    assert swapped(read_twice) == {"norm"}

    def used_twice(x: Any) -> Any:
        relu = layers.ReLU(name="relu")
        return relu(layers.BatchNormalization(name="norm")(relu(x)))

    assert swapped(used_twice) == {"norm"}
    assert swapped(lambda x: layers.ReLU(6.0, name="relu6")(layers.BatchNormalization(name="norm")(x))) == {"norm"}
    assert swapped(lambda x: layers.Conv2D(3, 3, name="conv")(layers.ReLU(name="relu")(x))) == {"relu"}
    assert swapped(lambda x: layers.ReLU(name="relu")(x)) == set()
    assert swapped(lambda x: ops.gelu(layers.BatchNormalization(name="norm")(x))) == {"norm"}


def test_a_relu_is_swapped_once() -> None:
    image = keras.Input((8, 8, 3))
    x = layers.ReLU(name="first")(layers.BatchNormalization()(image))
    x = layers.ReLU(name="second")(layers.Conv2D(3, 3)(x))
    model = keras.Model(image, layers.Conv2D(3, 3)(x))
    with fewer_passes(model):
        assert model.get_layer("first").call.func.__name__ == "_pass_on"
        assert model.get_layer("second").call.func.__name__ == "relu"


def test_sequential() -> None:
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.BatchNormalization(), layers.ReLU(name="relu")])
    with fewer_passes(model):
        assert model.get_layer("relu").call.func.__name__ == "_pass_on"


def test_an_output_that_is_also_activated_is_kept() -> None:
    image = keras.Input((8, 8, 3))
    normalised = layers.BatchNormalization(name="norm")(image)
    model = keras.Model(image, [normalised, layers.ReLU(name="relu")(normalised)])
    with fewer_passes(model):
        assert "call" not in vars(model.get_layer("relu"))


def test_nets_within_nets() -> None:
    inner_image = keras.Input((8, 8, 3))
    inner = keras.Model(inner_image, layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(inner_image)))
    compare(lambda x: inner(x), 8, "float32")
    with fewer_passes(keras.Sequential([keras.Input((8, 8, 3)), inner])):
        assert "call" in vars(inner.get_layer("relu"))


class Twins(Group):
    """Stands for two processes that hold the same rows: a sum is twice what one has."""

    def __init__(self) -> None:
        super().__init__(0, 2)

    def sum(self, x: Any) -> Any:
        return 2 * x

    def sums(self, tensors: Any) -> list[Any]:
        return [2 * one for one in tensors]


def test_synchronised_norms_take_in_the_rows_of_all_processes() -> None:
    """Of the same rows twice statistics are those of the rows, and so are answers and gradients."""
    keras.utils.set_random_seed(1)
    image = keras.Input((5, 5, 3))
    model = keras.Model(image, layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3)(image))))
    x = tf.constant(np.random.default_rng(0).normal(3, 2, (6, 5, 5, 3)), tf.float32)
    before = [v.numpy() for v in model.variables]
    norms = to_synchronize(model, everywhere=True)
    assert [type(layer) for layer in norms] == [layers.BatchNormalization]
    assert to_synchronize(model, everywhere=False) == []
    results = []
    for context in (
        fewer_passes(model),
        fewer_passes(model, norms, Twins()),
        synchronized(norms, Group()),
    ):
        for variable, value in zip(model.variables, before, strict=True):
            variable.assign(value)
        with context:
            results.append(step(model, x))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=max(1e-4, 1e-5 * np.abs(one).max()))
