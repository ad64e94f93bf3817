"""Schedules against their closed forms, optimizers against the same algorithm in numpy's float64."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from tfhalf.config import LossScale, Optimizer, Schedule
from tfhalf.errors import ConfigError
from tfhalf.train.optim.optimizers import make_optimizer, wrap
from tfhalf.train.optim.patterns import trained_variables
from tfhalf.train.optim.schedules import EpochSchedule, multiplier

# --- schedules --------------------------------------------------------------------------------------------------------

SCHEDULES = {
    "constant": Schedule(),
    "step": Schedule(name="step", milestones=(3.0, 5.5, 8.0), factor=0.2),
    "cosine": Schedule(name="cosine", end=0.1),
    "triangular": Schedule(name="triangular", start=0.2, peak=0.25, end=0.05),
}


def closed_form(name: str, epoch: float, epochs: float, warmup: float) -> float:
    """As the configuration's docstring words it; epochs after the warm-up are spread over what the warm-up leaves."""
    share = min(max((epoch - warmup) / (epochs - warmup), 0.0), 1.0)
    if name == "constant":
        value = 1.0
    elif name == "step":
        value = 0.2 ** sum(epoch >= milestone for milestone in (3.0, 5.5, 8.0))
    elif name == "cosine":
        value = 0.1 + 0.9 * (1 + math.cos(math.pi * share)) / 2
    elif share <= 0.25:
        value = 0.2 + 0.8 * share / 0.25
    else:
        value = 1 - 0.95 * (share - 0.25) / 0.75
    return value * min(epoch / warmup, 1) if warmup else value


@pytest.mark.parametrize("warmup", [0.0, 2.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_against_its_closed_form(name: str, warmup: float) -> None:
    config = SCHEDULES[name].model_copy(update={"warmup_epochs": warmup})
    for epoch in (0, 0.25, 1, 1.75, 2, 2.5, 2.999, 3, 4, 5.4, 5.5, 7.9, 8, 9, 9.999, 10):
        assert multiplier(config, epoch, 10) == pytest.approx(closed_form(name, epoch, 10, warmup), abs=2e-6), epoch


def test_schedules_at_their_ends() -> None:
    ends = {name: (multiplier(config, 0, 10), multiplier(config, 10, 10)) for name, config in SCHEDULES.items()}
    expected = {"constant": (1, 1), "step": (1, 0.008), "cosine": (1, 0.1), "triangular": (0.2, 0.05)}
    assert {name: pytest.approx(value, abs=1e-6) for name, value in expected.items()} == ends
    assert multiplier(SCHEDULES["triangular"], 2.5, 10) == pytest.approx(1)
    assert multiplier(SCHEDULES["cosine"], 11, 10) == pytest.approx(0.1)  # nothing beyond the end


@given(st.sampled_from(sorted(SCHEDULES)), st.just(0.0) | st.floats(1e-3, 9.5), st.floats(0, 12))
def test_schedule_stays_within_0_and_1(name: str, warmup: float, epoch: float) -> None:
    config = SCHEDULES[name].model_copy(update={"warmup_epochs": warmup})
    assert 0 <= multiplier(config, epoch, 10) <= 1 + 1e-6


def test_a_warm_up_as_long_as_training() -> None:
    config = Schedule(name="cosine", warmup_epochs=10.0)
    assert multiplier(config, 5, 10) == pytest.approx(0.5)
    assert math.isfinite(multiplier(config, 10, 10))


@pytest.mark.parametrize("name", SCHEDULES)
def test_learning_rate_at_a_step(name: str) -> None:
    schedule = EpochSchedule(SCHEDULES[name], 0.4, steps_per_epoch=7, epochs=10)
    for step in (0, 1, 20, 21, 38, 69):
        expected = 0.4 * closed_form(name, (step + 0.5) / 7, 10, 0)
        assert float(schedule(step)) == pytest.approx(expected, rel=1e-5)
        assert float(tf.function(schedule)(tf.constant(step))) == pytest.approx(expected, rel=1e-5)
    assert float(schedule(0)) > 0
    schedule.factor.assign(0.5)
    steps = np.arange(70, dtype=np.int32).reshape(7, 10)
    found = schedule.at(steps)
    assert (found.shape, found.dtype) == (steps.shape, np.float32)
    np.testing.assert_allclose(found, schedule(tf.constant(steps)), rtol=1e-6, atol=1e-9)
    assert schedule.at(np.asarray(3)).shape == ()


# --- optimizers -------------------------------------------------------------------------------------------------------

RATE = 0.05
STEPS = 6


def net() -> keras.Model:
    keras.utils.set_random_seed(3)
    x = keras.Input((3,))
    return keras.Model(x, layers.Dense(2, name="two", bias_initializer="ones")(layers.Dense(4, name="one")(x)))


def reference(config: Optimizer, weights: dict[str, np.ndarray], grads: list[dict[str, np.ndarray]]) -> None:
    """Each optimizer in float64, changing ``weights``: Sutskever et al. 2013 (Nesterov's momentum), Kingma and Ba 2015
    (Adam), Loshchilov and Hutter 2019 (decoupled decay), Chen et al. 2023 (Lion)."""
    rate = dict.fromkeys(weights, 1.0)
    for path in weights:
        for pattern, factor in config.lr_multipliers.items():
            rate[path] *= factor if pattern in path else 1
    first = {path: np.zeros_like(value) for path, value in weights.items()}
    second = {path: np.zeros_like(value) for path, value in weights.items()}
    for t, step in enumerate(grads, 1):
        norm = math.sqrt(sum(float((g**2).sum()) for g in step.values()))
        for path, w in weights.items():
            g, lr = step[path], RATE * rate[path]
            if config.clip_norm and norm > config.clip_norm:
                g = g * config.clip_norm / norm
            if config.clip_value:
                g = np.clip(g, -config.clip_value, config.clip_value)
            decays = not any(pattern in path for pattern in config.no_decay)
            if decays and config.weight_decay and not config.coupled_decay:
                w -= RATE * config.weight_decay * w
            elif decays and config.weight_decay:
                g = g + config.weight_decay / rate[path] * w
            if config.name == "sgd":
                first[path] = config.momentum * first[path] - lr * g
                w += config.momentum * first[path] - lr * g if config.nesterov else first[path]
            elif config.name == "lion":
                w -= lr * np.sign(config.beta_1 * first[path] + (1 - config.beta_1) * g)
                first[path] = config.beta_2 * first[path] + (1 - config.beta_2) * g
            else:
                first[path] = config.beta_1 * first[path] + (1 - config.beta_1) * g
                second[path] = config.beta_2 * second[path] + (1 - config.beta_2) * g**2
                alpha = lr * math.sqrt(1 - config.beta_2**t) / (1 - config.beta_1**t)
                w -= alpha * first[path] / (np.sqrt(second[path]) + config.epsilon)


CASES: dict[str, dict[str, Any]] = {
    "sgd": {"nesterov": False},
    "sgd, no momentum": {"momentum": 0.0},
    "sgd, Nesterov": {"momentum": 0.8},
    "sgd, Nesterov, coupled decay": {"weight_decay": 0.3, "coupled_decay": True},
    "sgd, Nesterov, decoupled decay": {"weight_decay": 0.3},
    "sgd, coupled decay, multipliers": {
        "weight_decay": 0.3,
        "coupled_decay": True,
        "lr_multipliers": {"one/": 4.0, "bias": 0.5},
    },
    "sgd, decoupled decay, multipliers": {"weight_decay": 0.3, "lr_multipliers": {"one/": 4.0, "bias": 0.5}},
    "sgd, no decay of biases": {"weight_decay": 0.3, "no_decay": ("bias",)},
    "sgd, coupled, no decay of biases": {"weight_decay": 0.3, "coupled_decay": True, "no_decay": ("bias", "two/")},
    "sgd, clipped by norm, coupled": {"clip_norm": 0.5, "weight_decay": 0.3, "coupled_decay": True},
    "sgd, clipped by value": {"clip_value": 0.2},
    "adam": {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-4},
    "adam, coupled decay": {"weight_decay": 0.1, "coupled_decay": True, "no_decay": ("one/",)},
    "adam, decoupled decay": {"weight_decay": 0.1},
    "adamw": {"weight_decay": 0.1, "beta_2": 0.99},
    "adamw, no decay of biases": {"weight_decay": 0.1, "no_decay": ("bias",), "lr_multipliers": {"two": 3.0}},
    "adamw without decay": {},
    "lion": {"beta_2": 0.99},
    "lion, decay": {"beta_2": 0.99, "weight_decay": 0.2, "lr_multipliers": {"kernel": 2.0}},
}


GUARDED = ("sgd, coupled decay, multipliers", "sgd, clipped by norm, coupled", "adamw", "lion, decay")


@pytest.mark.parametrize(("case", "guarded"), [*((case, False) for case in CASES), *((case, True) for case in GUARDED)])
def test_optimizer_against_numpy(case: str, guarded: bool) -> None:
    config = Optimizer(name=case.partition(",")[0].split()[0], learning_rate=RATE, **CASES[case])
    model = net()
    variables = trained_variables(model, config)
    weights = {v.path: np.asarray(v).astype(np.float64) for v in variables}
    draw = np.random.default_rng(4)
    grads = [{path: draw.normal(size=w.shape) for path, w in weights.items()} for _ in range(STEPS)]
    optimizer = make_optimizer(config, RATE)
    if guarded:
        optimizer = wrap(optimizer, LossScale(initial=8.0, growth_interval=2))
    optimizer.build(variables)

    @tf.function(autograph=False)
    def apply(*scaled: Any) -> None:
        optimizer.apply(list(scaled), variables)

    for step in grads:
        scale = float(optimizer.dynamic_scale) if guarded else 1.0
        apply(*[tf.constant(step[v.path] * scale, tf.float32) for v in variables])
    reference(config, weights, grads)
    for v in variables:
        np.testing.assert_allclose(np.asarray(v), weights[v.path], rtol=2e-5, atol=2e-6, err_msg=v.path)


def test_accumulated_gradients_are_averaged() -> None:
    model = net()
    optimizer = make_optimizer(Optimizer(momentum=0.0), RATE, accumulate=3)
    optimizer.build(model.trainable_variables)
    before = [np.asarray(v).copy() for v in model.trainable_variables]
    for value in (1.0, 2.0, 6.0):
        for old, v in zip(before, model.trainable_variables, strict=True):
            np.testing.assert_array_equal(np.asarray(v), old)
        optimizer.apply([tf.fill(v.shape, value) for v in model.trainable_variables], model.trainable_variables)
    for old, v in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_allclose(np.asarray(v), old - RATE * 3.0, rtol=1e-6)


def test_decoupled_decay_traces_the_schedule_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once for each of the four variables; and decay follows the schedule from step to step."""
    schedule = EpochSchedule(Schedule(name="cosine"), RATE, steps_per_epoch=3, epochs=2)
    variables = net().trainable_variables
    optimizer = make_optimizer(Optimizer(momentum=0.0, weight_decay=0.3), schedule)
    optimizer.build(variables)
    calls, rate = [], EpochSchedule.__call__
    monkeypatch.setattr(EpochSchedule, "__call__", lambda self, step: calls.append(step) or rate(self, step))
    apply = tf.function(lambda: optimizer.apply([tf.zeros(v.shape) for v in variables], variables))
    expected = [np.asarray(v).astype(np.float64) for v in variables]
    for step in range(4):
        apply()
        expected = [v * (1 - 0.3 * RATE * (1 + math.cos(math.pi * (step + 0.5) / 6)) / 2) for v in expected]
        for value, v in zip(expected, variables, strict=True):
            np.testing.assert_allclose(np.asarray(v), value, rtol=1e-6)
    assert len(calls) == 2  # for decay, and for the step


def test_moving_average_of_the_weights() -> None:
    model = net()
    optimizer = make_optimizer(Optimizer(ema_momentum=0.75), RATE)
    variables = model.trainable_variables
    optimizer.build(variables)
    average = None
    for value in (1.0, -2.0, 3.0, 0.5):
        optimizer.apply([tf.fill(v.shape, value) for v in variables], variables)
        now = np.asarray(variables[0]).astype(np.float64)
        average = now if average is None else 0.75 * average + 0.25 * now
    assert not np.allclose(np.asarray(variables[0]), average, atol=1e-3)
    optimizer.finalize_variable_values(variables)
    np.testing.assert_allclose(np.asarray(variables[0]), average, rtol=1e-5, atol=1e-6)


def test_without_a_step_there_is_no_average() -> None:
    """As after steps that were all skipped: the weights stay, and are not the zeros that an average begins with."""
    variables = net().trainable_variables
    optimizer = make_optimizer(Optimizer(ema_momentum=0.75), RATE)
    optimizer.build(variables)
    before = np.asarray(variables[0]).copy()
    optimizer.finalize_variable_values(variables)
    np.testing.assert_array_equal(np.asarray(variables[0]), before)


def test_a_multiplier_of_0_takes_a_variable_out() -> None:
    chosen = trained_variables(net(), Optimizer(lr_multipliers={"^one/": 0.0, "bias": 2.0}))
    assert [v.path for v in chosen] == ["two/kernel", "two/bias"]


@pytest.mark.parametrize("key", ["lr_multipliers", "no_decay"])
def test_a_pattern_without_a_match_is_refused(key: str) -> None:
    value = {"kernel": 1.0, "three/": 1.0} if key == "lr_multipliers" else ("kernel", "three/")
    message = f"train.optimizer.{key}: 'three/' matches no variable; the model has one/kernel, one/bias, two/kernel"
    with pytest.raises(ConfigError, match=message):
        trained_variables(net(), Optimizer(**{key: value}))


def test_wrap_takes_every_bound() -> None:
    optimizer = wrap(make_optimizer(Optimizer(), RATE), LossScale(initial=8.0, growth_interval=3, floor=2.0, cap=64.0))
    assert (optimizer.initial_scale, optimizer.dynamic_growth_steps) == (8.0, 3)
    assert (optimizer.rule.growth_interval, optimizer.rule.floor, optimizer.rule.cap) == (3, 2.0, 64.0)
