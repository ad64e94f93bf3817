"""Faults put in on purpose: gradients that are not finite, an activation that overflows, nothing but zeros.

Whatever happens, the scale is never 0 or infinite, no weight becomes NaN, and what was skipped is counted and named.
"""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from scale_model import model
from train_helpers import classes, objective

from tfhalf import config
from tfhalf.config import Lookahead, LossScale, Muon, Optimizer, Schedule
from tfhalf.data import Preprocess, Splits
from tfhalf.errors import TrainingError
from tfhalf.precision.loss_scale import Rule, ScaleState
from tfhalf.precision.policy import policy
from tfhalf.progress import Progress
from tfhalf.system.device import cpu
from tfhalf.train.build import Builder
from tfhalf.train.feeds.base import ChunkResult, Feed
from tfhalf.train.feeds.resident import Resident
from tfhalf.train.feeds.streamed import Streamed
from tfhalf.train.job import Job
from tfhalf.train.loop import run_training
from tfhalf.train.objective import Objective
from tfhalf.train.optim.optimizers import make_optimizer, wrap
from tfhalf.train.optim.patterns import trained_variables
from tfhalf.train.optim.schedules import EpochSchedule
from tfhalf.train.record.plot import draw_run
from tfhalf.train.step import Step
from tfhalf.train.trainer import Trainer

pytestmark = pytest.mark.slow

DRAW = np.random.default_rng(0)
X = DRAW.integers(0, 200, (40, 4, 4, 1)).astype(np.uint8)
Y = (np.arange(40) % 3).astype(np.int32)
STEPS, MAX_SKIPPED = 200, 30
ORDER = DRAW.integers(0, 40, (STEPS, 4)).astype(np.int32)
# A cap at which nothing overflows that was not made to.
SCALE = LossScale(initial=2.0**10, growth_interval=5, floor=2.0**2, cap=2.0**11, max_skipped=MAX_SKIPPED)
RULE = Rule(growth_interval=5, floor=2.0**2, cap=2.0**11)
BOTH = [Resident, Streamed]


MANY = {
    "sgd, clipped, averaged": (Optimizer(learning_rate=0.05, momentum=0.9, clip_norm=5.0, weight_decay=0.001,
                                         ema_momentum=0.9), 1),
    "muon and lookahead": (Optimizer(learning_rate=0.05, momentum=0.9, nesterov=True, clip_norm=5.0, weight_decay=0.01,
                                     muon=Muon(match=("kernel",)), lookahead=Lookahead(every=3)), 2),
    "adamw, accumulated": (Optimizer(name="adamw", learning_rate=0.01, weight_decay=0.1, ema_momentum=0.9,
                                     clip_value=0.5), 3),
    "lion and lookahead": (Optimizer(name="lion", learning_rate=0.001, weight_decay=0.1,
                                     lookahead=Lookahead(every=2, power=3.0, alpha=0.3)), 1),
}  # fmt: skip


class FaultyStep(Step):
    """``faults`` [steps]: what the gradient of variable ``where`` becomes at each step, where that is not finite; 0
    makes all gradients zero, and 1 leaves them."""

    faults: tf.Variable
    where = 0

    def gradients(self, batch: Any, epoch: Any, step: Any, *more: Any) -> tuple[Any, Any, list[Any]]:
        loss, correct, gradients = super().gradients(batch, epoch, step, *more)
        fault = tf.gather(self.faults, step)
        gradients = [tf.where(fault == 0, tf.zeros_like(g), g) for g in gradients]
        one = gradients[self.where]
        gradients[self.where] = tf.where(tf.math.is_finite(fault), one, tf.fill(tf.shape(one), fault))
        return loss, correct, gradients


class Rig:
    """A step with faults and its feed, put back to where it started before each test."""

    def __init__(self, kind: type[Feed], xla: bool, name: str) -> None:
        settings, accumulate = MANY[name]
        keras.utils.set_random_seed(0)
        with policy("mixed_float16"):
            image = keras.Input((4, 4, 1))
            hidden = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, name="conv")(image))
            hidden = layers.ReLU()(layers.Dense(8, name="middle")(layers.Flatten()(hidden)))
            net = keras.Model(image, layers.Dense(3, name="head")(hidden))
        rate = EpochSchedule(Schedule(name="cosine"), settings.learning_rate, STEPS, 1)
        optimizer = wrap(make_optimizer(settings, rate, accumulate, STEPS), SCALE)
        optimizer.branchless = xla
        scaled = Preprocess((100.0,), (60.0,))
        self.step = FaultyStep(net, optimizer, trained_variables(net, settings), preprocess=scaled,
                               objective=Objective(classes(3)), augmentation=None, seed=0)  # fmt: skip
        self.step.faults = tf.Variable(tf.ones([STEPS]))
        self.step.where = [v.path for v in self.step.variables].index("middle/kernel")
        more = {"block_bytes": 30 * 4 * X[0].nbytes} if kind is Streamed else {}
        self.feed: Any = kind(self.step, X, Y, batch_size=4, capacity=STEPS, xla=xla, max_skipped=MAX_SKIPPED, **more)
        self.optimizer: Any = optimizer
        self.state = [*net.variables, *optimizer.variables]
        self.start = self.values()

    def values(self) -> list[np.ndarray]:
        return [np.asarray(v).copy() for v in self.state]

    def run(self, faults: np.ndarray) -> ChunkResult:
        for variable, value in zip(self.state, self.start, strict=True):
            variable.assign(value)
        self.step.faults.assign(faults)
        return self.feed(ORDER, 0, 0)


rig = cache(Rig)  # compiled once for all tests


def faults(share: float, kinds: tuple[float, ...] = (np.inf, -np.inf, np.nan)) -> np.ndarray:
    draw = np.random.default_rng(round(100 * share))
    out = np.ones(STEPS, np.float32)
    chosen = draw.permutation(STEPS)[: round(share * STEPS)]
    out[chosen] = draw.choice(np.float32(kinds), len(chosen))
    return out


def told(result: ChunkResult) -> list[tuple[bool, float]]:
    return list(zip(result.finite.tolist(), result.scale.tolist(), strict=True))


def expected(finite: np.ndarray) -> tuple[list[tuple[bool, float]], ScaleState]:
    """Finiteness and scale of each step by the float64 model, until too many in a row are skipped."""
    state, seen = ScaleState(2.0**10, 0, 0, 0, 0), []
    for one in finite:
        seen.append((bool(one), float(state.scale)))
        state = model(state, bool(one), RULE)
        if state.skipped_in_row == MAX_SKIPPED:
            break
    return seen, state


@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize("kind", BOTH)
def test_gradients_that_are_not_finite(kind: type[Feed], xla: bool, share: float) -> None:
    r, fault = rig(kind, xla, "sgd, clipped, averaged"), faults(share)
    result = r.run(fault)
    seen, state = expected(np.isfinite(fault))
    assert told(result) == seen
    own = r.optimizer
    assert (int(own.skipped), int(own.skipped_in_row)) == (state.skipped, state.skipped_in_row)
    assert float(own.dynamic_scale) == state.scale
    assert RULE.floor <= result.scale.min() <= result.scale.max() <= RULE.cap
    assert int(own.inner_optimizer.iterations) == int(result.finite.sum())
    assert all(np.isfinite(value).all() for value in r.values())
    assert set(result.variable[~result.finite]) == {r.step.where}
    assert np.isfinite(result.loss).all()
    if share == 1.0:
        assert result.steps == MAX_SKIPPED
        for variable, before in zip(r.state, r.start, strict=True):
            if variable.trainable:
                np.testing.assert_array_equal(np.asarray(variable), before)
    else:
        assert result.steps == STEPS


@pytest.mark.parametrize("where", ["conv/kernel", "norm/gamma", "head/bias"])
def test_the_layer_of_the_fault_is_named(where: str) -> None:
    """The fault is put into one variable only; the last in the order of variables is the nearest to the loss."""
    r = Rig(Resident, False, "sgd, clipped, averaged")
    r.step.where = [v.path for v in r.step.variables].index(where)
    result = r.run(faults(0.05))
    assert {r.step.variables[place].path for place in result.variable[~result.finite]} == {where}


# Compiling takes seconds each: two of them stand for all, but where time does not matter.
EACH = [(name, False) for name in MANY] + [
    pytest.param(name, True, marks=[] if place < 2 else pytest.mark.slow) for place, name in enumerate(MANY)
]


def applying(optimizer: Any, weights: list[Any]) -> Any:
    return lambda *gradients: optimizer.apply(list(gradients), weights)


@pytest.mark.parametrize(("name", "xla"), EACH)
def test_a_skipped_step_advances_nothing(name: str, xla: bool) -> None:
    """Wherever a step was skipped, the weights and all that the optimizer holds end as in a run without those steps:
    slots, moving averages, accumulated gradients, slow weights, decay, and the step that the schedule goes by.

    ``static`` and dynamic scales give the same, too: powers of two round nothing.
    """
    settings, accumulate = MANY[name]
    draw = np.random.default_rng(3)
    good = [[draw.normal(size=s).astype(np.float32) for s in ((3, 4), (4,), (4, 4))] for _ in range(7)]
    ends = []
    for scale in (None, SCALE, LossScale(mode="static", initial=2.0**7)):
        weights = [keras.Variable(np.linspace(-1, 1, int(np.prod(shape))).reshape(shape).astype(np.float32), name=name)
                   for shape, name in (((3, 4), "kernel"), ((4,), "bias"), ((4, 4), "kernel"))]  # fmt: skip
        rate = EpochSchedule(Schedule(name="cosine"), settings.learning_rate, 10, 1)
        inner = make_optimizer(settings, rate, accumulate, 10)
        optimizer: Any = inner if scale is None else wrap(inner, scale)
        optimizer.branchless = xla
        optimizer.build(weights)
        apply = tf.function(applying(optimizer, weights), jit_compile=xla, autograph=False)
        for i, grads in enumerate(good):
            factor = np.float32(1 if scale is None else optimizer.dynamic_scale)
            if scale is not None and i in (0, 2, 3, 6):
                held = [np.asarray(v).copy() for v in [*weights, *inner.variables]]
                for bad in (np.nan, np.inf):
                    broken = [g.copy() for g in grads]
                    broken[i % 3].flat[-1] = bad
                    assert not apply(*[tf.constant(g) for g in broken])
                for variable, before in zip([*weights, *inner.variables], held, strict=True):
                    np.testing.assert_array_equal(np.asarray(variable), before)
                factor = np.float32(optimizer.dynamic_scale)
            apply(*[tf.constant(g * factor) for g in grads])
        if scale is not None:
            assert int(optimizer.skipped) == 8
            assert float(optimizer.dynamic_scale) == (2.0**7 if scale.mode == "static" else 2.0**2)
        assert int(inner._iterations) == 7
        ends.append([np.asarray(v) for v in [*weights, *inner.variables]])
    for other in ends[1:]:
        for mine, theirs in zip(other, ends[0], strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize(("name", "xla"), EACH)
def test_gradients_of_nothing_but_zeros(name: str, xla: bool) -> None:
    """They are finite: the scale grows to its cap and stays, and no quotient of an optimizer becomes 0/0."""
    r = rig(Resident, xla, name)
    result = r.run(np.zeros(STEPS, np.float32))
    assert result.finite.all()
    assert result.scale.tolist() == [min(2.0 ** (10 + i // 5), RULE.cap) for i in range(STEPS)]
    assert all(np.isfinite(value).all() for value in r.values())
    assert float(r.optimizer.dynamic_scale) == RULE.cap


# --- whole runs -------------------------------------------------------------------------------------------------------

NET = """
import keras
from keras import layers, ops


class Spike(layers.Layer):
    '''Overflows where an image of the batch has a white corner.'''

    def call(self, x, image):
        white = ops.max(image[:, 0, 0, 0]) > 3
        return ops.where(white, ops.cast(float("inf"), x.dtype), x)


def build(*, input_shape, num_classes):
    image = keras.Input(input_shape)
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, name="conv")(image))
    x = Spike(name="spike")(x, image)
    x = layers.BatchNormalization(name="after")(layers.Conv2D(4, 2, padding="same", name="second")(x))
    x = layers.Dense(4, name="middle")(layers.Flatten()(layers.ReLU()(x)))
    return keras.Model(image, layers.Dense(num_classes, name="head")(x))
"""


def trainer(folder: Path, white: slice, scale: dict[str, Any] | None = None, **train: Any) -> Trainer:
    """Ten steps an epoch, of four images each; those of ``white`` make an activation overflow."""
    (folder / "net.py").write_text(NET)
    made = config.Pipeline.model_validate(
        {
            "name": "faulty",
            "model": {"build": "net.py:build"},
            "data": {"source": "made here"},
            "train": {"epochs": 3, "batch_size": 4, "optimizer": {"learning_rate": 0.05}, **train},
            "precision": {
                "policy": "mixed_float16",
                "loss_scale": {"initial": 2.0**10, "max_skipped": 6, **(scale or {})},
            },
        }
    )
    x = X.copy()
    x[:, 0, 0] = 0
    x[white, 0, 0] = 255
    splits = Splits(x, Y, X[:0], Y[:0], X[8:20], Y[8:20], 3, (4, 4, 1), ("a", "b", "c"), "made here")
    goal = objective(made)
    builder = Builder(made.model, folder, input_shape=splits.input_shape, task=goal.task)
    t = Trainer(Job(made, splits, Preprocess(mean=(30.0,), std=(60.0,)), builder, goal), cpu())
    t.program.rows = 4
    return t


def trained(t: Trainer, folder: Path) -> tuple[Any, list[str]]:
    (folder / "run").mkdir(exist_ok=True)
    stream = io.StringIO()
    return run_training(t, folder / "run", Progress(stream)), stream.getvalue().splitlines()


@pytest.mark.parametrize(
    ("feed", "xla"), [("resident", "off"), ("streamed", "off"), pytest.param("resident", "on", marks=pytest.mark.slow)]
)
def test_inf_in_one_layers_activation(tmp_path: Path, feed: str, xla: str) -> None:
    t = trainer(tmp_path, slice(7, 8), feed=feed, xla=xla)
    result, lines = trained(t, tmp_path)
    assert [row.skipped for row in result.epochs] == [1, 1, 1]  # the batch that the image is in
    assert result.skipped == 3
    assert result.loss_scale == 2.0**7
    bad = [int(np.argwhere((t.program.order(epoch) == 7).any(1))[0, 0]) + 10 * epoch for epoch in range(3)]
    assert [line for line in lines if "step skipped" in line] == [
        f"      step {step}: loss scale {old:,} -> {old // 2:,} (output of spike not finite; step skipped)"
        for step, old in zip(bad, (2**10, 2**9, 2**8), strict=True)
    ]
    assert all(np.isfinite(np.asarray(v)).all() for v in [*t.state.model.variables, *t.state.optimizer.variables])
    with np.load(tmp_path / "run/steps.npz") as data:
        assert np.flatnonzero(data["skipped"]).tolist() == bad
        assert np.flatnonzero(~np.isfinite(data["loss"])).tolist() == bad
        assert int(data["applied"].sum()) == 27
    draw_run(tmp_path / "run", "faults", Progress(quiet=True))
    assert (tmp_path / "run/loss_scale.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("feed", ["resident", "streamed"])
def test_a_floor_that_skipping_goes_on_at_is_warned_of_once(tmp_path: Path, feed: str) -> None:
    t = trainer(tmp_path, slice(0, 30, 3), {"floor": 2.0**9, "max_skipped": 1000}, feed=feed)
    result, lines = trained(t, tmp_path)
    (warning,) = [line for line in lines if line.startswith("warning")]
    bad = [int(i) for i in np.flatnonzero(np.isin(t.program.order(0), range(0, 30, 3)).any(1))]
    assert warning.startswith(f"warning    step {bad[1]}: ")
    assert "the loss scale is stuck at its floor, 512: output of spike not finite" in warning
    assert "precision.keep_float32" in warning
    assert all(row.skipped_at_floor == row.skipped for row in result.epochs[1:])
    assert result.epochs[0].skipped_at_floor == result.epochs[0].skipped - 1
    rows = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert rows[1]["skipped_at_floor"] == result.epochs[1].skipped
    assert result.epochs[0].skipped == len(bad) > 2


def test_skipped_steps_beyond_the_first_few_of_an_epoch_are_counted(tmp_path: Path) -> None:
    t = trainer(tmp_path, slice(0, 40), {"floor": 2.0**9, "max_skipped": 1000})
    result, lines = trained(t, tmp_path)
    assert [row.skipped for row in result.epochs] == [10, 10, 10]
    assert sum("step skipped" in line for line in lines) == 3 * 8
    counted = [line for line in lines if "more skipped steps in this epoch" in line]
    assert counted == ["      and 2 more skipped steps in this epoch (loss is nan: 2)"] * 3
    assert np.isnan(result.epochs[-1].loss)


@pytest.mark.parametrize("mode", ["dynamic", "static"])
@pytest.mark.parametrize("feed", ["resident", "streamed"])
def test_every_step_at_fault_ends_the_run(tmp_path: Path, feed: str, mode: str) -> None:
    t = trainer(tmp_path, slice(0, 40), {"mode": mode, "initial": 2.0**13, "floor": 2.0**12}, feed=feed)
    before = [np.asarray(v).copy() for v in t.state.model.trainable_variables]
    with pytest.raises(TrainingError) as caught:
        trained(t, tmp_path)
    scale = "static, 8192" if mode == "static" else "down to 4096"
    assert str(caught.value).startswith(
        f"step 5: 6 steps in a row had a non-finite gradient (loss scale is {scale}); the loss is nan: the forward "
        "pass overflowed, first in the output of layer 'spike'; lower "
    )
    for variable, value in zip(t.state.model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(np.asarray(variable), value)
    assert (tmp_path / "run/loss_scale.png").is_file()
    with np.load(tmp_path / "run/steps.npz") as data:
        assert data["skipped"].tolist() == [1] * 6


def test_a_static_scale_stays_and_is_not_said_to_be_stuck(tmp_path: Path) -> None:
    t = trainer(tmp_path, slice(0, 30, 3), {"mode": "static", "initial": 2.0**5, "max_skipped": 1000})
    result, lines = trained(t, tmp_path)
    assert {row.loss_scale for row in result.epochs} == {32.0}
    assert result.skipped > 12
    assert not any("->" in line or line.startswith("warning") for line in lines)
    assert sum("loss scale stays 32 (output of spike not finite; step skipped)" in line for line in lines) >= 12
    assert sum(row.skipped_at_floor for row in result.epochs) == 0


def test_hysteresis_reaches_a_run(tmp_path: Path) -> None:
    t = trainer(tmp_path, slice(7, 8), {"hysteresis": 2})
    result, lines = trained(t, tmp_path)
    assert [row.loss_scale for row in result.epochs] == [2.0**10, 2.0**9, 2.0**8]
    assert sum("loss scale stays 1,024" in line for line in lines) == 1
