"""A training step that counts its numbers: all of them, the right ones, and without changing any."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from numerics_helpers import make_job

from tfhalf.errors import ConfigError, TrainingError
from tfhalf.numerics.histogram import Histogram
from tfhalf.numerics.measure import Measured, Measuring, Timing, check_steps, float32_program, layer_of
from tfhalf.numerics.taps import observed, operations
from tfhalf.progress import Progress
from tfhalf.system.device import cpu

pytestmark = pytest.mark.slow  # it trains

NO_TIME = Timing(1.0, 1.0, 0.0)
QUIET = Progress(quiet=True)


def measured(
    folder: Path, build: str, steps: int = 6, every: int = 2, **sections: object
) -> tuple[Measuring, Measured]:
    measuring = Measuring(float32_program(make_job(folder, build, **sections), cpu()))
    return measuring, measuring.run(0, steps, every, NO_TIME, QUIET)


def find(found: Measured, kind: str, name: str) -> Histogram:
    return next(t.histogram for t in found.tensors if (t.kind, t.name) == (kind, name))


def test_every_kind_of_every_layer(tmp_path: Path) -> None:
    _, found = measured(tmp_path, "build")
    layers = ["conv", "norm", "relu", "pool", "head"]
    assert [t.name for t in found.tensors if t.kind == "activations"] == layers
    assert [t.name for t in found.tensors if t.kind == "activation gradients"] == layers
    weights = ["conv/kernel", "conv/bias", "norm/gamma", "norm/beta", "head/kernel", "head/bias"]
    for kind in ("weights", "weight gradients", "weight updates"):
        assert [t.name for t in found.tensors if t.kind == kind] == weights
    assert {layer_of(t) for t in found.tensors} == set(layers)
    assert (found.steps, found.measured_steps, found.batch_size) == (6, 3, 16)
    assert find(found, "activations", "conv").finite == 3 * 16 * 4 * 4 * 4
    assert find(found, "weights", "conv/kernel").finite == 3 * 9 * 4
    assert found.taken["relu"] == find(found, "activations", "norm").largest
    assert found.of("activations").finite == 3 * 16 * (3 * 64 + 4 + 3)


def test_one_step_has_the_numbers_that_eager_tensorflow_has(tmp_path: Path) -> None:
    """Each histogram against one made by numpy of tensors that a plain tape gives."""
    job = make_job(tmp_path)
    program = float32_program(job, cpu())
    order = program.order(0)[:1]
    kernel = keras.ops.convert_to_numpy(program.state.model.get_layer("conv").kernel).copy()
    batch = program.feed.batch(order[0])
    model = program.state.model
    with tf.GradientTape() as tape:
        x, _ = program.step.prepare(batch, tf.constant(0), tf.constant(0))
        a = model.get_layer("conv")(x)
        b = model.get_layer("norm")(a, training=True)
        c = model.get_layer("relu")(b)
        d = model.get_layer("head")(model.get_layer("pool")(c))
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(batch.y, d))
    da, dd, dk = tape.gradient(loss, [a, d, model.get_layer("conv").kernel.value])
    fresh = Measuring(float32_program(job, cpu()))
    found = fresh.run(0, 1, 1, NO_TIME, QUIET)
    expected = {
        ("activations", "conv"): a,
        ("activations", "relu"): c,
        ("activation gradients", "conv"): da,
        ("activation gradients", "head"): dd,
        ("weight gradients", "conv/kernel"): dk,
        ("weights", "conv/kernel"): kernel,
    }
    for (kind, name), tensor in expected.items():
        mine, theirs = find(found, kind, name), Histogram.of(np.asarray(tensor))
        assert mine.largest == pytest.approx(theirs.largest, rel=1e-5)
        assert mine.finite == theirs.finite
        # A compiled step adds in another order: a number beside a power of two may fall to the other side.
        assert np.abs(mine.exponents - theirs.exponents).sum() <= 0.01 * theirs.finite + 2
    after = keras.ops.convert_to_numpy(fresh.program.state.model.get_layer("conv").kernel)
    assert find(found, "weight updates", "conv/kernel").largest == np.abs(after - kernel).max()


@pytest.mark.parametrize(
    "build",
    ["build_dropout", *(pytest.param(b, marks=pytest.mark.slow) for b in ("build", "build_nested", "build_own"))],
)
def test_training_is_the_same_with_and_without(tmp_path: Path, build: str) -> None:
    measuring, found = measured(tmp_path, build, steps=8, every=3)
    plain = float32_program(make_job(tmp_path, build), cpu())
    losses = [plain.feed(plain.order(epoch)[:count], epoch, epoch * 5).loss for epoch, count in ((0, 5), (1, 3))]
    np.testing.assert_array_equal(np.concatenate(losses), found.losses)
    for ours, theirs in zip(plain.state.variables, measuring.program.state.variables, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs))


def test_models_within_models_operations_and_attention(tmp_path: Path) -> None:
    _, found = measured(tmp_path, "build_nested", steps=2)
    given = {t.name: t.histogram for t in found.tensors if t.kind == "activations"}
    inside = {"attention/query", "attention/key", "attention/value", "attention/attention_output"}
    assert {"stem", "attention", "head", *inside} <= set(given)
    relu = next(name for name in given if name.endswith("inner_relu"))
    assert given[relu].finite == 2 * 16 * 8  # it is called twice
    assert any(name.startswith(("multiply", "add")) for name in given)  # operations of keras.ops
    scores = found.scores["attention"]
    assert (
        0 < scores < 3 * found.largest("activations", "attention/query") * found.largest("activations", "attention/key")
    )


def test_a_subclassed_model(tmp_path: Path) -> None:
    _, found = measured(tmp_path, "build_own", steps=2)
    names = {t.name.rpartition("/")[2] for t in found.tensors if t.kind == "activations"}
    assert {"hidden", "head"} <= names
    assert found.of("activation gradients").finite > 0


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    program = float32_program(make_job(tmp_path, "build_nested"), cpu())
    named = operations(program.state.model)
    assert list(named)[:2] == ["flat", "stem"]
    with observed(named):
        assert all("call" in vars(operation) for operation in named.values())
    assert not any(method in vars(op) for op in named.values() for method in ("call", "_compute_attention"))


def test_timing_puts_everything_back(tmp_path: Path) -> None:
    measuring = Measuring(float32_program(make_job(tmp_path), cpu()))
    before = measuring.program.state.values()
    measuring.compile()
    timing = measuring.time()
    assert timing.plain > 0
    assert timing.measured > 0
    assert timing.compile > 0
    for old, new in zip(before, measuring.program.state.values(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert not measuring.step.counts.numpy().any()
    assert not measuring.step.lost.numpy().any()


@pytest.mark.slow
def test_xla_counts_the_same(tmp_path: Path) -> None:
    plain, xla = (
        measured(tmp_path, "build", 1, 1, train={"batch_size": 16, "epochs": 2, "xla": mode})[1]
        for mode in ("off", "on")
    )
    for kind in ("weights", "activations", "activation gradients"):
        one, other = plain.of(kind), xla.of(kind)
        assert one.finite == other.finite
        assert np.abs(one.counts - other.counts).sum() <= 0.02 * one.finite + 4


@pytest.mark.slow
def test_a_streamed_feed_is_measured_too(tmp_path: Path) -> None:
    settings = {"batch_size": 16, "epochs": 4}
    resident, streamed = (
        measured(tmp_path, "build", 7, 3, train={**settings, "feed": feed})[1] for feed in ("resident", "streamed")
    )
    np.testing.assert_array_equal(resident.losses, streamed.losses)
    np.testing.assert_array_equal(resident.of("activations").counts, streamed.of("activations").counts)


def test_a_loss_that_is_not_finite_in_float32_either(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step \d+: the loss is not finite in float32 either; lower the learning"):
        measured(tmp_path, "build_large", steps=12, model={"build": "net.py:build_large", "args": {"factor": 3e38}})


def test_steps_end_with_the_training(tmp_path: Path) -> None:
    program = float32_program(make_job(tmp_path), cpu())  # 5 steps in each of 4 epochs
    assert check_steps(program, 0, 200, 10) == 20
    assert check_steps(program, 15, 3, 1) == 3
    with pytest.raises(ConfigError, match="--every 10: none of 5 steps would be measured"):
        check_steps(program, 15, 200, 10)
