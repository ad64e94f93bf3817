"""``tfhalf bench``: operations of a training step, counted by hand, and the rate that they are held against."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import keras
import pytest
import tensorflow as tf
from keras import layers, ops

from tfhalf.bench import flops, matrix
from tfhalf.system.device import cpu


def work(*stack: Any, shape: tuple[int, ...], trained: Callable[[str], bool] = lambda path: True) -> flops.Work:
    """Of a model of these layers, on a batch of two."""
    image = keras.Input(shape)
    x = image
    for layer in stack:
        x = layer(x)
    model = keras.Model(image, x)
    return flops.count(model, shape, 2, [v for v in model.trainable_variables if trained(v.path)])


def test_dense_layers() -> None:
    """The first multiplies twice as often as its forward pass in a step, the second three times: nobody asks for the
    gradient of the image."""
    first, second = 2 * 2 * 12 * 7, 2 * 2 * 7 * 5
    found = work(layers.Dense(7, activation="relu"), layers.Dense(5), shape=(12,))
    assert found == flops.Work(first + second, 2 * first + 3 * second, ())


def test_a_small_convolutional_net() -> None:
    one = 2 * (2 * 8 * 8 * 4) * (3 * 3 * 3)  # same padding: as many places as pixels
    two = 2 * (2 * 3 * 3 * 6) * (3 * 3 * 4)  # valid and strided: 3x3 places
    head = 2 * 2 * 6 * 10
    found = work(
        layers.Conv2D(4, 3, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Conv2D(6, 3, strides=2),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10),
        shape=(8, 8, 3),
    )
    assert found == flops.Work(one + two + head, 2 * one + 3 * (two + head), ())
    assert (one, two, head) == (27648, 7776, 240)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_counts_the_same(policy: str) -> None:
    plain = work(layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(3), shape=(6, 6, 2))
    half = [layers.Conv2D(4, 3, dtype=policy), layers.Flatten(dtype=policy), layers.Dense(3, dtype=policy)]
    assert work(*half, shape=(6, 6, 2)) == plain


def test_other_convolutions() -> None:
    depthwise = 2 * (2 * 6 * 6 * 8) * (3 * 3)
    pointwise = 2 * (2 * 6 * 6 * 5) * 8
    found = work(layers.SeparableConv2D(5, 3, depth_multiplier=2), shape=(8, 8, 4))
    assert found == flops.Work(depthwise + pointwise, 2 * depthwise + 3 * pointwise, ())
    transposed = 2 * (2 * 4 * 4 * 3) * (3 * 3 * 7)  # each of 4x4x3 values goes to 3x3x7 places
    assert work(layers.Conv2DTranspose(7, 3, strides=2), shape=(4, 4, 3)) == flops.Work(transposed, 2 * transposed, ())
    grouped = 2 * (2 * 6 * 6 * 8) * (3 * 3 * 2)  # traced as a function of its own
    assert work(layers.Conv2D(8, 3, groups=2), shape=(8, 8, 4)) == flops.Work(grouped, 2 * grouped, ())
    volume = 2 * (2 * 3 * 3 * 3 * 5) * (2 * 2 * 2 * 4)
    assert work(layers.Conv3D(5, 2), shape=(4, 4, 4, 4)) == flops.Work(volume, 2 * volume, ())


def test_attention_is_a_product_of_two_things_that_are_learned() -> None:
    """Queries, keys and values of the input: twice; scores, what they weigh and the output: three times."""
    projection, scores, output = 2 * (2 * 9 * 8) * 6, 2 * (2 * 2 * 9 * 9) * 4, 2 * (2 * 9 * 6) * 8
    attention = layers.MultiHeadAttention(2, 4)
    found = work(lambda x: attention(x, x), shape=(9, 6))
    assert found.uncounted == ()
    assert found.forward == 3 * projection + 2 * scores + output
    assert found.step == 2 * 3 * projection + 3 * (2 * scores + output)


@pytest.mark.parametrize(
    ("equation", "left", "right", "multiply_adds"),
    [
        ("ab,bc->ac", (3, 4), (4, 5), 3 * 4 * 5),
        ("...ab,...bc->...ac", (7, 1, 3, 4), (6, 4, 5), 7 * 6 * 3 * 4 * 5),
        ("ab,ab->", (3, 4), (3, 4), 12),
    ],
)
def test_einsum(equation: str, left: tuple[int, ...], right: tuple[int, ...], multiply_adds: int) -> None:
    graph = tf.Graph()
    with graph.as_default():
        op = tf.raw_ops.Einsum(inputs=[tf.ones(left), tf.ones(right)], equation=equation).op
    assert flops._einsum(op) == multiply_adds


def test_einsum_of_one_operand_and_transposed_products() -> None:
    graph = tf.Graph()
    with graph.as_default():
        assert flops._einsum(tf.raw_ops.Einsum(inputs=[tf.ones([3, 4])], equation="ab->ba").op) == 0
        assert flops._matrix(tf.matmul(tf.ones([4, 3]), tf.ones([5, 4]), True, True).op) == 3 * 4 * 5
        product = tf.matmul(tf.ones([2, 4, 3]), tf.ones([2, 5, 4]), adjoint_a=True, adjoint_b=True).op
        assert product.type.startswith("BatchMatMul")
        assert flops._batch_matrix(product) == 2 * 3 * 4 * 5


def test_what_is_frozen_costs_its_forward_pass_alone() -> None:
    """As in speednet: the first convolution is not trained, so the one after it has no input's gradient to compute."""
    one, two, head = 2 * (2 * 6 * 6 * 4) * 27, 2 * (2 * 4 * 4 * 4) * 36, 2 * 2 * 64 * 3
    stack = [layers.Conv2D(4, 3, name="frozen"), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(3)]
    found = work(*stack, shape=(8, 8, 3), trained=lambda path: not path.startswith("frozen"))
    assert found == flops.Work(one + two + head, one + 2 * two + 3 * head, ())
    assert work(layers.Dense(3), shape=(4,), trained=lambda path: False).step == 2 * 2 * 4 * 3


def test_a_stopped_gradient_stops_the_count() -> None:
    first, second = 2 * 2 * 4 * 3, 2 * 2 * 3 * 5
    found = work(layers.Dense(3), layers.Lambda(ops.stop_gradient), layers.Dense(5), shape=(4,))
    assert found.step == 2 * first + 2 * second


def test_what_cannot_be_counted_is_named() -> None:
    found = work(layers.LSTM(3), layers.Dense(2), shape=(5, 4))
    assert found.uncounted == ("products within While",)
    assert work(layers.RandomFlip(), layers.Flatten(), layers.Dense(2), shape=(4, 4, 3)).uncounted == ()
    assert work(layers.Lambda(lambda x: x[:, : tf.size(tf.where(x[0] > 0))] @ tf.ones([1, 4]), output_shape=(4,)),
                shape=(1,)).uncounted == ("MatMul of unknown shape",)  # fmt: skip


# --- the rate of matrix products --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_rate_of_matrix_products(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "_CPU_SIDE", 256)
    monkeypatch.setattr(matrix, "_PATIENCE", 0.2)
    found = matrix.peak(dtype, cpu())
    assert found.matrix == f"{dtype} 256x256"
    assert 1e7 < found.flops < 1e14


def test_a_rate_is_operations_over_the_best_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by a quarter of a second whenever it is looked at."""
    monkeypatch.setattr(matrix, "_CPU_SIDE", 64)
    monkeypatch.setattr(matrix, "_CPU_CHAIN", 3)
    now = iter(i / 4 for i in range(10_000))
    monkeypatch.setattr(matrix, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    assert matrix.peak("float32", cpu()).flops == pytest.approx(2 * 64**3 * 3 / 0.25)


def test_products_of_products_keep_their_size() -> None:
    """Zeros and infinities would save a device power, and so show a rate that training cannot have."""
    left, right = matrix._matrices(256, "float16")
    for _ in range(8):
        left = tf.matmul(left, right)
    assert 0.2 < float(tf.math.reduce_std(tf.cast(left, tf.float32))) < 5


def test_several_inputs() -> None:
    numbers, town = keras.Input((3,), name="numbers"), keras.Input((1,), name="town", dtype="int32")
    x = layers.Concatenate()([numbers, layers.Flatten()(layers.Embedding(5, 2)(town))])
    model = keras.Model({"numbers": numbers, "town": town}, layers.Dense(4)(x))
    inputs = {"numbers": ((3,), "float32"), "town": ((1,), "int32")}
    one = 2 * 2 * 5 * 4
    assert flops.count(model, inputs, 2, model.trainable_variables).forward == one
