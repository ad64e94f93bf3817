"""One step and many: the loss, a chunk against a plain loop, and a batch that overflows."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from train_helpers import classes, smoothed_cross_entropy

from tfhalf.config import Augment, LossScale, Optimizer
from tfhalf.data import Preprocess
from tfhalf.precision.policy import policy
from tfhalf.train.diagnose.non_finite import explain_non_finite, overflowed_layer
from tfhalf.train.feeds.resident import Resident
from tfhalf.train.objective import Objective
from tfhalf.train.optim.optimizers import make_optimizer, wrap
from tfhalf.train.optim.patterns import trained_variables
from tfhalf.train.optim.schedules import EpochSchedule, Schedule
from tfhalf.train.step import Batch, Step

DRAW = np.random.default_rng(0)
X = DRAW.integers(0, 256, (40, 6, 6, 1)).astype(np.float32)
Y = (np.arange(40) % 3).astype(np.int32)
ORDER = DRAW.permutation(40).astype(np.int32).reshape(10, 4)


def net(dropout: float) -> keras.Model:
    image = keras.Input((6, 6, 1))
    x = layers.Conv2D(4, 3, name="conv")(image)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9, name="norm")(x))
    x = layers.Dropout(dropout)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(3, name="head")(x))


def make(
    policy_name: str,
    *,
    max_skipped: int = 50,
    x: np.ndarray = X,
    capacity: int = 10,
    xla: bool = False,
    dropout: float = 0.2,
    **scale: float,
) -> tuple[Step, Resident]:
    keras.utils.set_random_seed(0)
    with policy(policy_name):
        model = net(dropout)
    config = Optimizer(learning_rate=0.1, weight_decay=0.01, ema_momentum=0.9)
    optimizer = make_optimizer(config, EpochSchedule(Schedule(name="cosine"), 0.1, 10, 3))
    if policy_name == "mixed_float16":
        optimizer = wrap(optimizer, LossScale(**{"growth_interval": 4, **scale}))
    step = Step(
        model,
        optimizer,
        trained_variables(model, config),
        preprocess=Preprocess((128.0,), (64.0,)),
        objective=Objective(classes(3, 0.1)),
        augmentation=Augment(flip="random", crop=1, cutout=2),
        seed=7,
    )
    chunk = Resident(step, x, Y, batch_size=4, capacity=capacity, xla=xla, max_skipped=max_skipped)
    return step, chunk


def state(step: Step) -> list[np.ndarray]:
    return [np.asarray(v).copy() for v in [*step.model.variables, *step.optimizer.variables]]


def equal(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


# --- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_cross_entropy_against_numpy(smoothing: float) -> None:
    draw = np.random.default_rng(1)
    logits = (draw.normal(size=(50, 7)) * 20).astype(np.float32)
    y = draw.integers(0, 7, 50).astype(np.int32)
    got = Objective(classes(7, smoothing)).loss(tf.constant(y), tf.constant(logits))
    assert got.dtype == tf.float32
    assert float(got) == pytest.approx(smoothed_cross_entropy(y, logits, smoothing), rel=1e-5)


def test_cross_entropy_of_extreme_logits_is_finite() -> None:
    logits = tf.constant([[65504.0, -65504.0], [-65504.0, 65504.0]])
    got = Objective(classes(2, 0.1)).loss(tf.constant([1, 1]), logits)
    assert float(got) == pytest.approx(131008 * (0.95 + 0.05) / 2, rel=1e-6)


# --- step and chunk ---------------------------------------------------------------------------------------------------

POLICIES = ["mixed_float16", "mixed_bfloat16", "float32"]


@pytest.mark.parametrize("policy_name", POLICIES)
def test_a_chunk_equals_a_plain_loop_of_steps(policy_name: str) -> None:
    step, chunk = make(policy_name)
    before = state(step)
    assert chunk(ORDER[:0], 0, 0).steps == 0
    assert equal(state(step), before)

    result = chunk(ORDER[:6], 0, 0)
    assert result.steps == 6
    inner = getattr(step.optimizer, "inner_optimizer", step.optimizer)
    assert int(inner.iterations) == 6
    assert (result.loss.dtype, result.sums.dtype, result.finite.dtype) == (np.float32, np.float32, np.bool_)
    assert result.sums.shape == (6, 2)

    other, _ = make(policy_name)
    assert equal(state(other), before)  # the same net again
    once = tf.function(lambda x, y, i, n: other(Batch(x, y, i), tf.constant(0), n), autograph=False)
    scales = []
    for i in range(6):
        scales.append(float(other.optimizer.dynamic_scale) if other.guarded else 1.0)
        got = once(tf.constant(X[ORDER[i]]), tf.constant(Y[ORDER[i]]), tf.constant(ORDER[i]), tf.constant(i))
        np.testing.assert_allclose(float(got.loss), result.loss[i], rtol=1e-3)
        assert got.sums.numpy().tolist() == result.sums[i].tolist()
        assert result.sums[i][1] == 4
        assert bool(got.finite)
    assert result.scale.tolist() == scales
    assert result.finite.all()
    for mine, theirs in zip(state(step), state(other), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=2e-4 if "mixed" in policy_name else 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("policy_name", ["mixed_float16", "float32"])
def test_two_chunks_equal_one(policy_name: str) -> None:
    whole, chunk = make(policy_name)
    one = chunk(ORDER, 1, 20)
    parts, chunk = make(policy_name, capacity=6)
    a, b = chunk(ORDER[:6], 1, 20), chunk(ORDER[6:], 1, 26)
    for name in ("loss", "sums", "scale", "finite"):
        np.testing.assert_array_equal(getattr(one, name), np.concatenate([getattr(a, name), getattr(b, name)]))
    assert equal(state(whole), state(parts))
    if policy_name == "mixed_float16":
        assert one.scale.tolist() == [2.0**15] * 4 + [2.0**16] * 4 + [2.0**17] * 2
        assert whole.optimizer.dynamic_scale.numpy() == 2.0**17


def test_augmentation_goes_by_the_step() -> None:
    step, _ = make("float32")
    batch = Batch(tf.constant(X[:4]), tf.constant(Y[:4]), tf.constant([0, 1, 2, 3]))
    prepared = [step.prepare(batch, tf.constant(0), tf.constant(n)) for n in (0, 1)]
    assert [y.numpy().tolist() for _, y in prepared] == [Y[:4].tolist()] * 2
    one, two = (x.numpy() for x, _ in prepared)
    assert one.dtype == np.float32
    assert (one != two).any()
    assert np.isin(one, [*((X[:4] - 128) / 64).ravel(), 0]).all()  # nothing but pixels, and cut-out zeros
    for image in one:
        assert (image == 0).sum() >= 1


@pytest.mark.slow
def test_the_compiled_program_trains_alike() -> None:
    plain, chunk = make("float32", dropout=0)  # which Keras draws otherwise under XLA
    one = chunk(ORDER[:3], 0, 0)
    fast, chunk = make("float32", dropout=0, xla=True)
    two = chunk(ORDER[:3], 0, 0)
    np.testing.assert_allclose(one.loss, two.loss, rtol=1e-5)
    for mine, theirs in zip(state(plain), state(fast), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)


def test_a_variable_without_a_gradient_takes_part() -> None:
    x = keras.Input((3,))
    spare = layers.Dense(2, name="spare")
    model = keras.Model(x, layers.Dense(3)(x) + 0 * layers.Lambda(keras.ops.stop_gradient)(spare(x))[:, :1])
    optimizer = make_optimizer(Optimizer(), 0.1)
    step = Step(model, optimizer, model.trainable_variables, preprocess=Preprocess((0.0,), (1.0,)),
                objective=Objective(classes(3)), augmentation=None, seed=0)  # fmt: skip
    before = np.asarray(spare.kernel).copy()
    step(Batch(tf.ones([2, 3]), tf.constant([0, 1]), tf.constant([0, 1])), tf.constant(0), tf.constant(0))
    np.testing.assert_array_equal(np.asarray(spare.kernel), before)


def test_regularizers_count() -> None:
    x = keras.Input((3,))
    model = keras.Model(x, layers.Dense(2, kernel_regularizer=keras.regularizers.L2(0.5))(x))
    plain = Preprocess((0.0,), (1.0,))
    step = Step(model, make_optimizer(Optimizer(), 0.1), model.trainable_variables, preprocess=plain,
                objective=Objective(classes(2)), augmentation=None, seed=0)  # fmt: skip
    data, y = np.float32([[1, 2, 3], [0, 1, 0]]), np.int32([0, 1])
    loss, _, gradients = step.gradients(Batch(tf.constant(data), tf.constant(y), tf.constant(y)), 0, 0)
    kernel, bias = (np.asarray(v).astype(np.float64) for v in model.trainable_variables)
    logits = data @ kernel + bias
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert float(loss) == pytest.approx(-log_p[[0, 1], y].mean() + 0.5 * (kernel**2).sum(), rel=1e-5)
    expected = data.T @ (np.exp(log_p) - np.eye(2)[y]) / 2 + kernel
    np.testing.assert_allclose(np.asarray(gradients[0]), expected, rtol=1e-4, atol=1e-6)


# --- overflow ---------------------------------------------------------------------------------------------------------


def test_a_batch_that_overflows_leaves_everything_as_it_was() -> None:
    hot = X.copy()
    hot[ORDER[2]] = 1e9  # beyond float16 already at the model's input
    step, chunk = make("mixed_float16", x=hot)
    chunk(ORDER[:2], 0, 0)
    inner = step.optimizer.inner_optimizer
    held = [*(v for v in step.model.variables if "seed" not in v.path), *inner.variables]
    before = [np.asarray(v).copy() for v in held]
    result = chunk(ORDER[2:3], 0, 2)
    assert result.finite.tolist() == [False]
    assert not np.isfinite(result.loss[0])
    assert equal([np.asarray(v) for v in held], before)
    assert (int(step.optimizer.skipped), float(step.optimizer.dynamic_scale)) == (1, 2.0**14)
    after = chunk(ORDER[3:], 0, 3)
    assert after.finite.all()
    assert np.isfinite(after.loss).all()
    assert all(np.isfinite(value).all() for value in state(step))
    assert not equal([np.asarray(v) for v in held], before)


def test_too_many_skipped_steps_end_a_chunk() -> None:
    hot = X.copy()
    hot[ORDER[3:]] = 1e9
    step, chunk = make("mixed_float16", x=hot, max_skipped=3, floor=2.0**13)
    result = chunk(ORDER, 0, 0)
    assert result.finite.tolist() == [True] * 3 + [False] * 3
    assert int(step.optimizer.skipped_in_row) == 3
    assert float(step.optimizer.dynamic_scale) == 2.0**13
    assert int(step.optimizer.inner_optimizer.iterations) == 3
    assert chunk(ORDER, 0, 0).steps == 0  # and none is begun


def test_skipped_steps_that_are_not_in_a_row_do_not_end_a_chunk() -> None:
    hot = X.copy()
    hot[ORDER[::2]] = 1e9
    step, chunk = make("mixed_float16", x=hot, max_skipped=2)
    result = chunk(ORDER, 0, 0)
    assert result.finite.tolist() == [False, True] * 5
    assert int(step.optimizer.skipped) == 5


def test_float32_overflow_is_told() -> None:
    hot = X.copy()
    hot[ORDER[1]] = np.inf
    _, chunk = make("float32", x=hot)
    assert chunk(ORDER[:2], 0, 0).finite.tolist() == [True, False]


def test_the_explanation_changes_nothing() -> None:
    hot = X.copy()
    hot[ORDER[0]] = 1e9
    step, chunk = make("mixed_float16", x=hot)
    before = state(step)
    said = explain_non_finite(step, chunk, ORDER[0], 0, 0)
    assert said == "the loss is nan: the forward pass overflowed, first in the output of layer 'conv'"
    assert overflowed_layer(step, chunk, ORDER[0], 0, 0) == "conv"
    assert overflowed_layer(step, chunk, ORDER[1], 0, 0) is None
    assert explain_non_finite(step, chunk, ORDER[1], 0, 0) == "run again on its own, that batch gives finite gradients"
    assert equal(state(step), before)
    step.model.get_layer("conv").kernel.assign(np.full((3, 3, 1, 4), np.nan))
    assert explain_non_finite(step, chunk, ORDER[1], 0, 0) == "the weight conv/kernel itself is not finite"


def test_a_step_is_what_the_type_says() -> None:
    step, _ = make("mixed_float16")
    batch: Any = Batch(tf.constant(X[:4]), tf.constant(Y[:4]), tf.constant([0, 1, 2, 3]))
    loss, _, gradients = step.gradients(batch, tf.constant(0), tf.constant(0))
    scale = float(step.optimizer.dynamic_scale)
    assert loss.dtype == tf.float32
    assert [g.dtype for g in gradients] == [tf.float32] * len(step.variables)
    assert float(loss) < 10  # unscaled
    assert max(float(tf.reduce_max(tf.abs(g))) for g in gradients) > scale * 1e-4  # scaled
