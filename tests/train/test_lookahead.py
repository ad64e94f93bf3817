"""Lookahead against the same algorithm in numpy's float64, and within runs that are stopped and taken up again."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from train_helpers import objective

from tfhalf import config as sections
from tfhalf.config import Lookahead, LossScale, Optimizer, load_pipeline
from tfhalf.data import Preprocess, Splits
from tfhalf.errors import ConfigError
from tfhalf.progress import Progress
from tfhalf.system.device import cpu
from tfhalf.train.build import Builder
from tfhalf.train.job import Job
from tfhalf.train.loop import run_training
from tfhalf.train.optim.optimizers import make_optimizer, wrap
from tfhalf.train.restore import restore_run
from tfhalf.train.trainer import Trainer

RATE, STEPS = 0.05, 12
Arrays = dict[str, np.ndarray]


def net() -> keras.Model:
    keras.utils.set_random_seed(3)
    x = keras.Input((3,))
    return keras.Model(x, layers.Dense(2, name="two", bias_initializer="ones")(layers.Dense(4, name="one")(x)))


def draw(weights: Arrays, steps: int = STEPS) -> list[Arrays]:
    rng = np.random.default_rng(4)
    return [{path: rng.normal(size=w.shape) for path, w in weights.items()} for _ in range(steps)]


def reference(config: Lookahead, weights: Arrays, grads: list[Arrays], total: int) -> Arrays:
    """Plain gradient descent within Lookahead; changes ``weights``, returns the slow ones."""
    slow = {path: w.copy() for path, w in weights.items()}
    for t, step in enumerate(grads, 1):
        for path, w in weights.items():
            w -= RATE * step[path]
            if t % config.every == 0:
                a = 1 - (1 - config.alpha) * (t / total) ** config.power
                slow[path] = slow[path] + a * (w - slow[path])
                w[:] = slow[path]
    return slow


def start(config: Lookahead, guarded: bool = False, accumulate: int = 1, total: int = STEPS) -> tuple[Any, list[Any]]:
    optimizer = make_optimizer(
        Optimizer(learning_rate=RATE, momentum=0.0, lookahead=config), RATE, accumulate, total_steps=total
    )
    if guarded:
        optimizer = wrap(optimizer, LossScale(initial=8.0, growth_interval=2))
    variables = net().trainable_variables
    optimizer.build(variables)
    return optimizer, variables


def feed(optimizer: Any, variables: list[Any], grads: list[Arrays], xla: bool = False) -> None:
    apply = tf.function(lambda *g: optimizer.apply(list(g), variables), autograph=False, jit_compile=xla)
    for step in grads:
        scale = float(optimizer.dynamic_scale) if hasattr(optimizer, "dynamic_scale") else 1.0
        apply(*[tf.constant(step[v.path] * scale, tf.float32) for v in variables])


def held(variables: list[Any]) -> Arrays:
    return {v.path: np.asarray(v).astype(np.float64) for v in variables}


def assert_close(variables: list[Any], expected: Arrays) -> None:
    for v in variables:
        np.testing.assert_allclose(np.asarray(v), expected[v.path], rtol=2e-5, atol=2e-6, err_msg=v.path)


CASES = {
    "as it is": Lookahead(),
    "every second": Lookahead(every=2, alpha=0.3),
    "rising to the record's": Lookahead(every=5, alpha=0.226, power=3.0),
    "linearly": Lookahead(every=1, alpha=0.1, power=1.0),
    "never": Lookahead(every=100),
}


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_lookahead_against_numpy(case: str, guarded: bool) -> None:
    config = CASES[case]
    optimizer, variables = start(config, guarded)
    weights = held(variables)
    grads = draw(weights)
    given = [*grads]
    if guarded:  # what is skipped is no step
        for place in (3, 7):
            given.insert(place, {path: np.full_like(g, np.inf) for path, g in grads[0].items()})
    feed(optimizer, variables, given)
    slow = reference(config, weights, grads, STEPS)
    assert_close(variables, weights)
    optimizer.finalize_variable_values(variables)
    assert_close(variables, slow)
    assert np.allclose(slow["one/kernel"], weights["one/kernel"]) == (STEPS % config.every == 0)


@pytest.mark.parametrize("total", [12, 13])
def test_accumulated_steps_count_as_one(total: int) -> None:
    config = Lookahead(every=2, alpha=0.3, power=2.0)
    optimizer, variables = start(config, accumulate=2, total=total)
    weights = held(variables)
    grads = draw(weights)
    feed(optimizer, variables, grads)
    averages = [{p: (one[p] + two[p]) / 2 for p in one} for one, two in zip(grads[::2], grads[1::2], strict=True)]
    reference(config, weights, averages, 6)
    assert_close(variables, weights)


def test_all_the_way_is_no_lookahead() -> None:
    optimizer, variables = start(Lookahead(every=1, alpha=1.0))
    plain = make_optimizer(Optimizer(learning_rate=RATE, momentum=0.0), RATE)
    others = net().trainable_variables
    plain.build(others)
    grads = draw(held(variables))
    feed(optimizer, variables, grads)
    feed(plain, others, grads)
    assert_close(variables, held(others))


@pytest.mark.parametrize("guarded", [False, True])
def test_compiled_by_xla_it_is_the_same(guarded: bool) -> None:
    results = []
    for xla in (False, True):
        optimizer, variables = start(CASES["rising to the record's"], guarded, accumulate=2)
        feed(optimizer, variables, draw(held(variables)), xla)
        results.append([np.asarray(v) for v in [*variables, *optimizer.variables]])
    for plain, compiled in zip(*results, strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=1e-5, atol=1e-6)


def test_slow_weights_start_where_training_does() -> None:
    optimizer, variables = start(Lookahead(every=100))
    for v in variables:
        v.assign(np.full(v.shape, 2.0))
    optimizer.start()
    feed(optimizer, variables, draw(held(variables), 3))
    optimizer.finalize_variable_values(variables)
    assert all((np.asarray(v) == 2).all() for v in variables)


def test_a_ramp_needs_to_know_how_long_training_is() -> None:
    with pytest.raises(ValueError, match="total_steps"):
        make_optimizer(Optimizer(lookahead=Lookahead(power=3.0)), RATE)
    make_optimizer(Optimizer(lookahead=Lookahead()), RATE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{lookahead: {}, ema_momentum: 0.9}", "lookahead and ema_momentum exclude each other, as only one can be the"),
        ("{lookahead: {alpha: 0}}", "lookahead.alpha: received 0, accepted: a number in (0, 1]"),
        ("{lookahead: {every: 0}}", "lookahead.every: received 0, accepted: a whole number >= 1"),
        ("{lookahead: {power: -1}}", "lookahead.power: received -1, accepted: a number >= 0"),
        ("{lookahead: 5}", "lookahead: received 5, accepted: a mapping with keys every, alpha, power, or null"),
    ],
)
def test_sections_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(f"name: a\nmodel: {{build: m.py:b}}\ndata: {{source: 's.py:l'}}\ntrain: {{optimizer: {text}}}")
    with pytest.raises(ConfigError) as caught:
        load_pipeline(file)
    assert message in str(caught.value)


# --- a whole training, with Muon within it ----------------------------------------------------------------------------

NET = """
import keras
from keras import layers


def build(*, input_shape, num_classes):
    image = keras.Input(input_shape)
    x = layers.Conv2D(4, 3, use_bias=False, name="conv")(image)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.Conv2D(6, 1, name="point")(x)
    return keras.Model(image, layers.Dense(num_classes, name="head")(layers.GlobalAveragePooling2D()(x)))


def adapt(model, x):
    model.get_layer("point").bias.assign([7.0] * 6)
"""
RUN = {
    "name": "job",
    "model": {"build": "net.py:build"},
    "data": {"source": "made here", "augment": {"flip": "random"}},
    "train": {
        "epochs": 3,
        "checkpoint_seconds": 0,
        "batch_size": 8,
        "optimizer": {
            "learning_rate": 0.05,
            "weight_decay": 0.01,
            "coupled_decay": True,
            "muon": {"match": ["conv/kernel", "point/kernel"], "learning_rate": 0.1},
            "lookahead": {"every": 4, "alpha": 0.3, "power": 3},
        },
        "schedule": {"name": "triangular"},
    },
    "precision": {"policy": "mixed_float16", "loss_scale": {"growth_interval": 6}},
}


def trainer(folder: Path, **train: Any) -> Trainer:
    (folder / "net.py").write_text(NET)
    values = json.loads(json.dumps(RUN))
    values["train"].update(train)
    pipe = sections.Pipeline.model_validate(values)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 6, 6, 1)).astype(np.uint8), (np.arange(60) % 3).astype(np.int32)
    data = Splits(x[:40], y[:40], x[40:48], y[40:48], x[48:], y[48:], 3, (6, 6, 1), ("a", "b", "c"), "made here")
    goal = objective(pipe)
    builder = Builder(pipe.model, folder, input_shape=(6, 6, 1), task=goal.task)
    return Trainer(Job(pipe, data, Preprocess.fit("standardize", data.x_train), builder, goal), cpu())


def quiet() -> Progress:
    return Progress(io.StringIO(), quiet=True)


class Stopped(Exception):
    pass


class StopAfterTwo(Progress):
    def line(self, text: str = "", always: bool = False) -> None:
        if text.startswith("    2/"):
            raise Stopped


def values(t: Trainer) -> list[np.ndarray]:
    return [np.asarray(v).copy() for v in [*t.state.model.variables, *t.state.optimizer.variables]]


def equal(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


@pytest.mark.slow
def test_a_resumed_run_equals_one_that_was_not_stopped(tmp_path: Path) -> None:
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = trainer(tmp_path)
    inner = whole.state.optimizer.inner_optimizer
    assert inner.updates == 15
    (bias,) = [slow for slow, path in zip(inner.slow, inner.paths, strict=True) if path == "point/bias"]
    assert np.asarray(bias).tolist() == [7.0] * 6  # what adapt() left

    before = values(whole)
    whole.program.compile()
    whole.program.measure_step(patience=0.05)
    assert equal(values(whole), before)

    run_training(whole, tmp_path / "whole", quiet())
    for v, slow in zip(whole.program.step.variables, inner.slow, strict=True):
        np.testing.assert_array_equal(np.asarray(v), np.asarray(slow))
    assert not equal(values(whole), before)

    with pytest.raises(Stopped):
        run_training(trainer(tmp_path), tmp_path / "stopped", StopAfterTwo(io.StringIO()))
    second, third = trainer(tmp_path), trainer(tmp_path)
    run_training(second, tmp_path / "stopped", quiet(), resume=True)
    assert equal(values(second), values(whole))
    restored = restore_run(third.job, tmp_path / "stopped")
    assert equal(restored.model.get_weights(), whole.state.model.get_weights())


def test_total_steps_count_what_is_applied(tmp_path: Path) -> None:
    assert trainer(tmp_path, accumulate=2).state.optimizer.inner_optimizer.updates == 7
