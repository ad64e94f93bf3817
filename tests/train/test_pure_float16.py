"""The policy float16: no float32 copy of the weights, and what is lost and kept by that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from train_helpers import equal, quiet
from train_loops import StopAfter, Stopped, run_folder, trainer, values

from tfhalf.config import LossScale, Optimizer
from tfhalf.errors import ConfigError, TrainingError
from tfhalf.precision.policy import policy
from tfhalf.train.initial.weights import Initial
from tfhalf.train.loop import run_training
from tfhalf.train.optim import rounded
from tfhalf.train.optim.optimizers import make_optimizer, wrap
from tfhalf.train.record import checkpoint
from tfhalf.train.record.model_file import MODEL, save_model
from tfhalf.train.trainer import Trainer

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"learning_rate": 0.05, "weight_decay": 1e-3, "coupled_decay": True, "clip_norm": 1.0, "ema_momentum": 0.8},
    "plain": {"learning_rate": 0.05, "momentum": 0.0, "weight_decay": 1e-3, "lookahead": {"every": 2}},
    "adam": {"name": "adam", "learning_rate": 0.01},
    "adamw": {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.01, "no_decay": ["bias"]},
    "lion": {"name": "lion", "learning_rate": 0.003, "weight_decay": 0.01},
    "muon": {"learning_rate": 0.05, "muon": {"match": ["kernel"]}},
}


def float16_trainer(folder: Path, **changes: Any) -> Trainer:
    return trainer(folder, precision__policy="float16", **changes)


def epoch(t: Trainer, number: int = 0) -> Any:
    program = t.program
    return program.feed(program.order(number), number, number * program.steps_per_epoch)


def moved(
    dtype: str, start: float, gradients: list[float], scale: float | None = None, **settings: Any
) -> tuple[float, Any]:
    """A weight of ``dtype`` after a step for each of ``gradients``, which are float16 where it is; and the optimizer.

    Behind a loss scale the gradients are scaled ones.
    """
    variable = keras.Variable(np.full(3, start), dtype=dtype, name="kernel")
    settings = {"momentum": 0.0, **settings}
    optimizer: Any = make_optimizer(Optimizer(**settings), settings.get("learning_rate", 0.1))
    if scale is not None:
        optimizer = wrap(optimizer, LossScale(mode="static", initial=scale))
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([tf.constant(np.full(3, gradient), dtype)], [variable])
    return float(np.asarray(variable)[0]), optimizer


# --- what is float16, and what is not ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_and_slots_are_float16_and_train_like_mixed_ones(folder: Path, name: str) -> None:
    t = float16_trainer(folder, train__optimizer=OPTIMIZERS[name])
    before = values(t)
    results = [epoch(t, number) for number in range(4)]
    t.state.finalize()
    assert {v.dtype for v in t.state.model.trainable_variables} == {"float16"}
    inner = [v for v in t.state.inner.variables if keras.backend.is_float_dtype(v.dtype)]
    learning_rate = {"learning_rate"} & {v.name for v in inner}
    assert {v.dtype for v in inner if v.name not in learning_rate} <= {"float16"}
    assert all(np.isfinite(value).all() for value in values(t))
    assert not equal(before, values(t))
    mixed = trainer(folder, train__optimizer=OPTIMIZERS[name])
    for number, result in enumerate(results):
        assert result.loss.dtype == np.float32
        np.testing.assert_allclose(result.loss, epoch(mixed, number).loss, rtol=0.01)


def test_what_stays_float32(folder: Path) -> None:
    """Statistics of norms, which would stand still; sums of gradients, of which small ones would be 0."""
    t = float16_trainer(folder, train__accumulate=2)
    norm = t.state.model.get_layer("norm")
    assert (norm.gamma.dtype, norm.beta.dtype) == ("float16", "float16")
    assert (norm.moving_mean.dtype, norm.moving_variance.dtype) == ("float32", "float32")
    assert norm.compute_dtype == "float16"
    sums = [v for v in t.state.inner.variables if v.name.endswith("gradient_accumulator")]
    assert len(sums) == len(t.state.trained)
    assert {v.dtype for v in sums} == {"float32"}
    before = np.asarray(norm.moving_mean).copy()
    epoch(t)
    assert norm.moving_mean.value.dtype == tf.float32
    assert not np.array_equal(np.asarray(norm.moving_mean), before)


@pytest.mark.slow
def test_feeds_train_the_same(folder: Path) -> None:
    one, other = (float16_trainer(folder, train__feed=feed) for feed in ("resident", "streamed"))
    epoch(one)
    epoch(other)
    assert equal(values(one), values(other))


@pytest.mark.slow
def test_xla_with_its_faster_layers(folder: Path) -> None:
    plain, compiled = float16_trainer(folder, train__xla="off"), float16_trainer(folder, train__xla="on")
    compiled.program.compile()
    np.testing.assert_allclose(epoch(plain).loss, epoch(compiled).loss, rtol=0.05)
    assert [v.dtype for v in plain.state.variables] == [v.dtype for v in compiled.state.variables]


# --- what is lost -----------------------------------------------------------------------------------------------------


def test_an_update_below_half_of_the_last_digit_is_lost() -> None:
    """1 has the neighbours 1 - 2^-11 and 1 + 2^-10: steps of 2^-13 change nothing, however many they are."""
    gradients = [1.0] * 64
    assert moved("float16", 1.0, gradients, learning_rate=2.0**-13)[0] == 1.0
    assert moved("float32", 1.0, gradients, learning_rate=2.0**-13)[0] == 1 - 64 * 2.0**-13  # as mixed_float16 keeps it
    assert moved("float16", 1.0, gradients, learning_rate=2.0**-11)[0] == 1 - 64 * 2.0**-11


def test_a_net_stands_still_where_the_mixed_one_moves(folder: Path) -> None:
    optimizer = {"learning_rate": 1e-6, "momentum": 0.0}
    pure, mixed = (
        trainer(folder, precision__policy=name, train__optimizer=optimizer) for name in ("float16", "mixed_float16")
    )
    kernels = [t.state.model.get_layer("head").kernel for t in (pure, mixed)]
    before = [np.asarray(kernel).copy() for kernel in kernels]
    np.testing.assert_array_equal(before[0], before[1].astype(np.float16))
    epoch(pure)
    epoch(mixed)
    assert np.array_equal(np.asarray(kernels[0]), before[0])
    assert np.mean(np.asarray(kernels[1]) != before[1]) > 0.9


def test_decay_and_step_are_rounded_together() -> None:
    """Each alone is below half of the last digit of 1, both are above it."""
    settings = {"learning_rate": 2.0**-13, "weight_decay": 1.5}
    assert moved("float16", 1.0, [1.5], **settings)[0] == 1 - 2.0**-11
    assert moved("float16", 1.0, [0.0], **settings)[0] == 1.0


def test_averages_stand_still_in_float16() -> None:
    kept, optimizer = moved("float16", 1.0, [0.0] + [1.0] * 8, learning_rate=2.0**-10, ema_momentum=0.99)
    average = optimizer._model_variables_moving_average[0]
    assert kept == 1 - 8 * 2.0**-10
    assert (average.dtype, float(np.asarray(average)[0])) == ("float16", 1.0)


# --- the loss scale ---------------------------------------------------------------------------------------------------


def test_gradients_are_unscaled_in_float32() -> None:
    """A scaled gradient of 2^-14 at a scale of 2^15 is 2^-29, which is 0 in float16."""
    assert moved("float16", 0.0, [2.0**-14], scale=2.0**15, learning_rate=2.0**8)[0] == -(2.0**-21)
    assert moved("float16", 0.0, [1.0], scale=2.0**30, learning_rate=2.0**20)[0] == -(2.0**-10)


def test_skipped_steps_change_nothing_and_are_counted(folder: Path) -> None:
    t = float16_trainer(
        folder,
        model__build="net.py:build_broken",
        train__optimizer={"name": "adam", "learning_rate": 0.01},
        precision__loss_scale={"initial": 8.0, "floor": 2.0},
    )
    before = [np.asarray(v).copy() for v in t.state.trained]
    result = epoch(t)
    assert not result.finite.any()
    assert (int(t.state.optimizer.skipped), t.state.loss_scale()) == (5, 2.0)
    assert result.scale.tolist() == [8.0, 4.0, 2.0, 2.0, 2.0]
    assert equal(before, [np.asarray(v) for v in t.state.trained])


@pytest.mark.slow
def test_without_loss_scaling(folder: Path) -> None:
    for name in ("mixed_float16", "float16"):
        t = trainer(folder, precision__policy=name, precision__loss_scale={"mode": "none"})
        assert not t.state.guarded
        assert not [v for v in t.state.optimizer.variables if v.name.endswith("dynamic_scale")]
        result = epoch(t)
        np.testing.assert_allclose(result.loss, epoch(trainer(folder)).loss, rtol=0.01)
        assert result.scale.tolist() == [1.0] * 5


@pytest.mark.slow
def test_without_loss_scaling_a_blow_up_ends_the_run(folder: Path) -> None:
    wild = {"optimizer": {"learning_rate": 1e30}, "epochs": 4, "batch_size": 8}
    t = float16_trainer(folder, train=wild, precision__loss_scale={"mode": "none"})
    with pytest.raises(TrainingError, match=r"or have such steps skipped \(precision.loss_scale.mode: dynamic\)"):
        run_training(t, run_folder(folder, "run"), quiet())


# --- the optimizers' arithmetic ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [1e-8, 1e-7])
@pytest.mark.parametrize("small", [1e-5, 6e-8, 0.0])
def test_adam_divides_by_no_0(epsilon: float, small: float) -> None:
    """Second moments of small gradients are 0; the weight goes no further than the learning rate leads it."""
    settings = {"name": "adam", "learning_rate": 0.001, "epsilon": epsilon}
    weight, optimizer = moved("float16", 0.0, [small] * 50 + [0.0] * 20, **settings)
    assert np.isfinite(weight)
    assert abs(weight) <= 70 * 0.001
    assert float(np.asarray(optimizer._velocities[0])[0]) == 0


def test_what_a_slot_does_not_hold_is_clamped() -> None:
    """The second moment of gradients of 60,000 is beyond 65504: infinite, it would be NaN a step later."""
    weight, optimizer = moved("float16", 1.0, [60_000.0] * 20, name="adam", learning_rate=0.001)
    assert np.isfinite(weight)
    assert float(np.asarray(optimizer._velocities[0])[0]) == 65504


STEPS = {
    "sgd": {"momentum": 0.9, "nesterov": True},
    "heavy": {"momentum": 0.9, "nesterov": False},
    "plain": {"momentum": 0.0},
    "adam": {"name": "adam", "epsilon": 1e-3},
    "adamw": {"name": "adamw", "epsilon": 1e-3, "weight_decay": 0.1},
    "lion": {"name": "lion"},
    "coupled": {"weight_decay": 0.1, "coupled_decay": True, "lr_multipliers": {"kernel": 2.0}},
}


@pytest.mark.parametrize("name", STEPS)
def test_the_steps_are_those_of_keras(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, where nothing is rounded between two steps."""
    start = np.random.default_rng(0).normal(size=(4, 3))
    gradients = np.random.default_rng(1).normal(size=(5, 4, 3))

    def after() -> list[np.ndarray]:
        variable = keras.Variable(start, dtype="float32", name="kernel")
        optimizer = make_optimizer(Optimizer(learning_rate=0.01, **STEPS[name]), 0.01)
        optimizer.build([variable])
        for gradient in gradients:
            optimizer.apply([tf.constant(gradient, tf.float32)], [variable])
        return [np.asarray(v) for v in [variable, *optimizer.variables]]

    expected = after()
    monkeypatch.setattr("tfhalf.train.optim.optimizers.is_float16", lambda variable: True)
    for mine, theirs in zip(after(), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=1e-6)


def test_the_epsilon_is_what_float16_holds() -> None:
    assert np.sqrt(float(np.finfo(np.float16).smallest_subnormal)) == rounded.EPSILON


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_resumed_run_equals_one_that_was_not_stopped(folder: Path, name: str) -> None:
    changes: dict[str, Any] = {"train__optimizer": OPTIMIZERS[name], "train__accumulate": 2}
    whole = float16_trainer(folder, **changes)
    run_training(whole, run_folder(folder, "whole"), quiet())
    stopped = run_folder(folder, "stopped")
    with pytest.raises(Stopped):
        run_training(float16_trainer(folder, **changes), stopped, StopAfter(2))
    saved = checkpoint.load(stopped)
    assert saved is not None
    assert {"float16", "float32"} == {array.dtype.name for array in saved.arrays if array.dtype.kind == "f"}
    second = float16_trainer(folder, **changes)
    run_training(second, stopped, quiet(), resume=True)
    assert equal(values(second), values(whole))


def test_plain_keras_loads_the_model_as_it_is(folder: Path) -> None:
    t = float16_trainer(folder)
    epoch(t)
    t.state.model.get_layer("norm").moving_variance.assign([1e5, 1e-6, 1 / 3, 2.0])  # two that float16 does not hold
    assert save_model(t.state.model, folder, quiet()) is not None
    loaded = keras.models.load_model(folder / MODEL, compile=False)
    assert equal([np.asarray(v) for v in loaded.weights], [np.asarray(v) for v in t.state.model.weights])
    x = np.random.default_rng(0).normal(size=(5, 6, 6, 1)).astype(np.float32)
    assert np.array_equal(np.asarray(loaded(x)), np.asarray(t.state.model(x)))


def test_weights_of_a_float32_run(folder: Path) -> None:
    wide = trainer(folder, precision__policy="float32").state
    taken = {index: np.asarray(v) for index, v in enumerate(wide.model.variables)}
    pure = float16_trainer(folder).state
    slots = {pure.inner.variables[2].path: np.full(pure.inner.variables[2].shape, 1e6, np.float32)}
    initial = Initial("runs/wide", "", taken, len(taken), slots=slots)
    initial.fill(pure.model)
    initial.fill_slots(pure.optimizer, None)
    for mine, theirs in zip(pure.model.variables, wide.model.variables, strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs).astype(mine.dtype))
    assert np.isfinite(np.asarray(pure.inner.variables[2])).all()
    taken[0] = np.full(taken[0].shape, -7e4, np.float32)
    with pytest.raises(
        ConfigError, match=r"holds 70000, and precision\.policy float16 keeps weights up to 65504; take"
    ):
        initial.fill(pure.model)


def test_layers_kept_in_float32_compute_with_float16_weights(folder: Path) -> None:
    t = float16_trainer(folder, precision__keep_float32=["head"])
    head = t.state.model.get_layer("head")
    assert (head.compute_dtype, head.kernel.dtype) == ("float32", "float16")
    before = np.asarray(head.kernel).copy()
    epoch(t)
    assert not np.array_equal(np.asarray(head.kernel), before)


def test_statistics_of_keras_own_float16_stand_still() -> None:
    """What `widen_statistics` is for."""
    with policy("float16"):
        norm = keras.layers.BatchNormalization()
        norm.build((None, 1))
    norm.moving_mean.assign([0.98])
    for _ in range(10):
        norm(np.ones((4, 1), np.float16), training=True)
    assert float(np.asarray(norm.moving_mean)[0]) == np.float16(0.98)
