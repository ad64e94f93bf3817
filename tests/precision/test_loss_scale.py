"""The guarded loss scale: its algorithm, and the optimizer that lives behind it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scale_model import model

from tfhalf.precision.loss_scale import GuardedLossScaleOptimizer, Rule, ScaleState, next_state

# --- the algorithm ----------------------------------------------------------------------------------------------------


def powers(low: int, high: int) -> st.SearchStrategy[float]:
    return st.integers(low, high).map(lambda n: 2.0**n)


BOUNDS = st.tuples(*[powers(-24, 126)] * 3).map(sorted)
RULES = st.builds(
    lambda bounds, **kwargs: (bounds[1], Rule(floor=bounds[0], cap=bounds[2], **kwargs)),
    st.one_of(BOUNDS, powers(-24, 126).map(lambda scale: [scale] * 3)),  # which is a static scale
    growth_interval=st.integers(1, 5),
    growth_factor=powers(1, 8),
    backoff_factor=powers(-8, -1),
    hysteresis=st.integers(1, 4),
    consecutive_hysteresis=st.booleans(),
)


def runs(most: int) -> st.SearchStrategy[list[bool]]:
    """Of finite steps (true) and others, long ones included."""
    return st.lists(st.tuples(st.booleans(), st.integers(1, 12)), max_size=most).map(
        lambda pairs: [one for one, count in pairs for _ in range(count)]
    )


def start(scale: float) -> ScaleState:
    return ScaleState(np.float32(scale), *[np.int32(0)] * 4)


@settings(max_examples=60)
@given(RULES, runs(6))
def test_next_state_against_the_pseudocode(case: tuple[float, Rule], finite: list[bool]) -> None:
    """Equal, not close: powers of two are exact in float32."""
    scale, rule = case
    expected, state = ScaleState(scale, 0, 0, 0, 0), start(scale)
    for one in finite:
        expected = model(expected, one, rule)
        state = next_state(state, np.bool_(one), rule)
        assert tuple(float(value) for value in state) == expected
        assert rule.floor <= float(state.scale) <= rule.cap
        assert np.frexp(float(state.scale))[0] == 0.5


def scales(finite: str, **rule: Any) -> list[float]:
    """The scale, from 64 on, after each step; ``x`` is one that is not finite."""
    state, seen = start(64.0), []
    for one in finite:
        state = next_state(state, np.bool_(one != "x"), Rule(**{"growth_interval": 4, **rule}))
        seen.append(float(state.scale))
    return seen


def test_hysteresis_lets_pass_until_the_scale_has_grown() -> None:
    assert scales("xx.xx", hysteresis=1) == [32, 16, 16, 8, 4]
    assert scales("xxxx", hysteresis=3) == [64, 64, 32, 16]
    assert scales("x.x.x", hysteresis=3) == [64, 64, 64, 64, 32]
    # lowered, then grown, then let pass again; a scale at its cap counts as grown
    assert scales("xx....xx", hysteresis=2) == [64, 32, 32, 32, 32, 64, 64, 32]
    assert scales("x....xx", hysteresis=2, cap=64) == [64, 64, 64, 64, 64, 64, 32]


def test_consecutive_hysteresis_lets_pass_after_every_finite_step() -> None:
    assert scales("x.x.xx", hysteresis=2, consecutive_hysteresis=True) == [64, 64, 64, 64, 64, 32]
    assert scales("x.x.xx", hysteresis=2) == [64, 64, 32, 32, 16, 8]


def test_factors() -> None:
    assert scales("x....", growth_factor=4.0, backoff_factor=0.125) == [8, 8, 8, 8, 32]
    assert scales("xxxx", backoff_factor=0.125, floor=0.5) == [8, 1, 0.5, 0.5]
    assert scales("....", growth_factor=8.0, cap=128.0)[-1] == 128


@settings(max_examples=100)
@given(st.floats(-(2.0**60), 2.0**60, width=32), powers(-24, 60))
def test_a_power_of_two_scales_without_rounding(value: float, scale: float) -> None:
    assume(value == 0 or abs(value) > 2.0**-60)
    assert (np.float32(value) * np.float32(scale)) * (np.float32(1) / np.float32(scale)) == value


def test_next_state_keeps_dtypes_in_a_compiled_step() -> None:
    @tf.function(jit_compile=True)
    def step(state: ScaleState, finite: Any) -> ScaleState:
        return next_state(state, finite, Rule(growth_interval=2, floor=1.0, cap=8.0))

    state = ScaleState(tf.constant(4.0), *[tf.constant(0)] * 4)
    seen = []
    for finite in (True, True, True, True, False, False, False, False, False, True):
        state = step(state, tf.constant(finite))
        seen.append(tuple(value.numpy().item() for value in state))
    assert [value.dtype for value in state] == [tf.float32] + [tf.int32] * 4
    assert [row[0] for row in seen] == [4, 8, 8, 8, 4, 2, 1, 1, 1, 1]
    assert seen[8] == (1, 0, 5, 5, 0)
    assert seen[9] == (1, 1, 5, 0, 0)


# --- the optimizer ----------------------------------------------------------------------------------------------------


MODES = ("eager", "graph", "xla")


def compiled(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
    return function if mode == "eager" else tf.function(function, jit_compile=mode == "xla", autograph=False)


def weights() -> list[keras.Variable]:
    return [
        keras.Variable(np.float32([[1, -2], [3, 4]]), name="kernel"),
        keras.Variable(np.float32([5, 6]), name="bias"),
    ]


def gradients(kernel: float, bias: float) -> list[Any]:
    return [tf.fill([2, 2], np.float32(kernel)), tf.fill([2], np.float32(bias))]


def values(variables: list[Any]) -> list[np.ndarray]:
    return [np.asarray(v).copy() for v in variables]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_keras_own_scale_collapses() -> None:
    """What the guard is for: without it, 200 non-finite steps and one good one destroy the weights."""
    variables = weights()
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    for _ in range(200):
        optimizer.apply(gradients(np.inf, 1), variables)
    assert float(optimizer.dynamic_scale) == 0.0
    optimizer.apply(gradients(0, 0), variables)
    assert all(np.isnan(v).all() for v in values(variables))


@pytest.mark.parametrize("mode", MODES)
def test_two_hundred_skipped_steps_change_no_weight(mode: str) -> None:
    variables = weights()
    optimizer = GuardedLossScaleOptimizer(keras.optimizers.SGD(0.5), floor=0.25)
    optimizer.build(variables)
    apply = compiled(lambda *g: optimizer.apply(list(g), variables), mode)
    before = values(variables)
    for i in range(200):
        assert not apply(*gradients(*[(np.inf, 1), (1, np.nan), (-np.inf, np.nan)][i % 3]))
    assert same(values(variables), before)
    assert (float(optimizer.dynamic_scale), int(optimizer.skipped), int(optimizer.skipped_in_row)) == (0.25, 200, 200)
    assert apply(*gradients(0.25, 0.5))  # unscaled: 1 and 2
    assert same(values(variables), [before[0] - 0.5, before[1] - 1.0])
    assert (int(optimizer.skipped), int(optimizer.skipped_in_row)) == (200, 0)


def test_the_scale_grows_up_to_the_cap() -> None:
    variables = weights()
    optimizer = GuardedLossScaleOptimizer(keras.optimizers.SGD(0.0), 4.0, dynamic_growth_steps=3, cap=16.0)
    optimizer.build(variables)
    seen = []
    for i in range(1, 14):
        optimizer.apply(gradients(1, 1), variables)
        seen.append((i, float(optimizer.dynamic_scale)))
    assert [scale for _, scale in seen] == [4, 4, 8, 8, 8, 16, 16, 16, 16, 16, 16, 16, 16]
    assert int(optimizer.skipped) == 0


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("which", [0, 17, 39])
def test_one_bad_number_in_one_of_many_gradients(bad: float, which: int) -> None:
    variables = [keras.Variable(np.ones((3, 2), np.float32)) for _ in range(40)]
    optimizer = GuardedLossScaleOptimizer(keras.optimizers.SGD(0.5))
    optimizer.build(variables)
    grads = [np.ones((3, 2), np.float32) for _ in variables]
    grads[which][2, 1] = bad
    before = values(variables)
    assert not optimizer.apply([tf.constant(g) for g in grads], variables)
    assert same(values(variables), before)
    assert float(optimizer.dynamic_scale) == 2.0**14


class Recorder(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that tells the step it is asked for."""

    def __call__(self, step: Any) -> Any:
        return 0.01 * (1.0 + keras.ops.cast(step, "float32"))

    def get_config(self) -> dict[str, Any]:
        return {}


INNER: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "momentum": lambda: keras.optimizers.SGD(Recorder(), momentum=0.9, nesterov=True),
    "clip": lambda: keras.optimizers.SGD(Recorder(), global_clipnorm=0.5),
    "ema": lambda: keras.optimizers.SGD(Recorder(), use_ema=True, ema_momentum=0.5),
    "accumulate": lambda: keras.optimizers.SGD(Recorder(), momentum=0.9, gradient_accumulation_steps=2),
    "adamw": lambda: keras.optimizers.AdamW(Recorder(), weight_decay=0.1, global_clipnorm=1.0, use_ema=True),
    "adam, accumulate": lambda: keras.optimizers.Adam(Recorder(), use_ema=True, gradient_accumulation_steps=3),
}


@pytest.mark.parametrize(
    ("inner", "mode"),
    [*((name, mode) for name in INNER for mode in ("eager", "graph")), ("adamw", "xla"), ("accumulate", "xla")],
)
def test_skipped_steps_are_as_if_they_had_not_been(inner: str, mode: str) -> None:
    """The inner optimizer alone, fed the good gradients unscaled, ends with the same variables: momentum, moving
    averages, accumulators and the step that the learning rate is asked for."""
    draw = np.random.default_rng(1)
    good = [[draw.normal(size=v.shape).astype(np.float32) for v in weights()] for _ in range(8)]
    plain, alone = weights(), INNER[inner]()
    alone.build(plain)
    for grads in good:
        alone.apply([tf.constant(g) for g in grads], plain)

    variables = weights()
    optimizer = GuardedLossScaleOptimizer(INNER[inner](), 2.0**10, dynamic_growth_steps=2)
    optimizer.build(variables)
    apply = compiled(lambda *g: optimizer.apply(list(g), variables), mode)
    for i, grads in enumerate(good):
        if i in (0, 3, 4, 7):
            held = [*variables, *optimizer.inner_optimizer.variables]
            before = values(held)
            assert not apply(*gradients(1, np.nan))
            assert same(values(held), before)
        scale = np.float32(optimizer.dynamic_scale)
        assert apply(*[tf.constant(g * scale) for g in grads])
    assert int(optimizer.skipped) == 4
    assert int(optimizer.inner_optimizer._iterations) == 8
    assert int(optimizer.iterations) == int(alone.iterations)
    for mine, theirs in zip(values(variables), values(plain), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-6)
    for mine, theirs in zip(optimizer.inner_optimizer.variables, alone.variables, strict=True):
        np.testing.assert_allclose(np.asarray(mine), np.asarray(theirs), rtol=2e-5, atol=1e-9)


class PureSGD(keras.optimizers.SGD):
    """Keras' TensorFlow optimizers refuse `stateless_apply`; this one gives the guard something to call."""

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        iterations, rate = optimizer_variables
        moved = [v - rate * g for v, g in zip(trainable_variables, grads, strict=True)]
        return moved, [iterations + 1, rate]


@pytest.mark.parametrize("jit", [False, True])
def test_stateless_apply_equals_apply(jit: bool) -> None:
    draw = np.random.default_rng(2)
    bounds: dict[str, Any] = {
        "initial_scale": 64.0, "dynamic_growth_steps": 2, "floor": 16.0, "cap": 256.0, "growth_factor": 4.0,
        "hysteresis": 2,
    }  # fmt: skip
    variables, stateful = weights(), GuardedLossScaleOptimizer(PureSGD(0.5), **bounds)
    stateful.build(variables)
    held, pure = weights(), GuardedLossScaleOptimizer(PureSGD(0.5), **bounds)
    pure.build(held)
    untouched = values([*held, *pure.variables])

    def step(trained: list[Any], state: list[Any], grads: list[Any]) -> Any:
        return pure.stateless_apply(state, grads, trained)

    step = tf.function(step, jit_compile=True, autograph=False) if jit else step
    trained, state = [tf.constant(v) for v in values(held)], [tf.constant(v) for v in values(pure.variables)]
    for i in range(12):
        grads = [draw.normal(size=v.shape).astype(np.float32) * 50 for v in variables]
        if i in (0, 1, 2, 7):
            grads[i % 2].ravel()[0] = (np.inf, np.nan)[i % 2]
        grads = [tf.constant(g) for g in grads]
        stateful.apply(grads, variables)
        trained, state = step(trained, state, grads)
        for mine, theirs in zip([*trained, *state], [*variables, *stateful.variables], strict=True):
            np.testing.assert_allclose(np.asarray(mine), np.asarray(theirs), rtol=1e-6)
        assert (i > 2) != same(values(trained), untouched[:2])
    assert (int(stateful.skipped), int(stateful.iterations)) == (4, 8)
    assert same(values([*held, *pure.variables]), untouched)


def test_gradients_that_underflow_without_a_scale_arrive_with_one() -> None:
    """A gradient of 2^-26 is 0 in float16; scaled by 2^15 it is not, and unscaling in float32 gives it back."""
    variables = [keras.Variable(np.float32([0.0]))]
    optimizer = GuardedLossScaleOptimizer(keras.optimizers.SGD(1.0))
    optimizer.build(variables)
    scaled = np.float16(2.0**-26 * float(optimizer.dynamic_scale))
    optimizer.apply([tf.cast(tf.constant([scaled]), tf.float32)], variables)
    assert float(np.asarray(variables[0])[0]) == -(2.0**-26)
    assert float(optimizer.scale_loss(tf.constant(2.0))) == 2.0**16


def test_config_round_trip() -> None:
    more: dict[str, Any] = {
        "growth_factor": 4.0,
        "backoff_factor": 0.25,
        "hysteresis": 3,
        "consecutive_hysteresis": True,
    }
    inner = keras.optimizers.SGD(0.5, momentum=0.9)
    optimizer = GuardedLossScaleOptimizer(inner, 256.0, 7, floor=2.0, cap=512.0, **more)
    again = GuardedLossScaleOptimizer.from_config(optimizer.get_config())
    assert type(again) is GuardedLossScaleOptimizer
    assert again.get_config() == optimizer.get_config()
    assert again.rule == optimizer.rule == Rule(7, 4.0, 0.25, 2.0, 512.0, 3, True)
    assert (again.initial_scale, again.dynamic_growth_steps) == (256.0, 7)
    assert again.inner_optimizer.momentum == 0.9


def test_a_keras_file_keeps_the_scale_and_the_counters(tmp_path: Path) -> None:
    """Both processes of docs/api.md in one; a gradient that is not finite lies between."""
    keras.utils.set_random_seed(0)
    x, y = np.ones((8, 2), np.float32), np.ones((8, 1), np.float32)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    optimizer = GuardedLossScaleOptimizer(keras.optimizers.Adam(0.1), 2.0**10, floor=2.0, cap=2.0**12, hysteresis=2)
    model.compile(optimizer, "mse")
    model.fit(x, y, verbose=0)
    model.fit(x, np.full_like(y, np.nan), epochs=3, verbose=0)
    assert [float(value) for value in values(optimizer._own)] == [2.0**8, 0, 3, 3, 1]
    model.save(tmp_path / "m.keras")
    assert keras.saving.get_registered_name(GuardedLossScaleOptimizer) == "tfhalf>GuardedLossScaleOptimizer"
    again = keras.models.load_model(tmp_path / "m.keras")
    assert type(again.optimizer) is GuardedLossScaleOptimizer
    assert again.optimizer.rule == optimizer.rule
    for _ in range(2):
        assert same(values(again.optimizer.variables), values(optimizer.variables))
        assert same(values(again.variables), values(model.variables))
        for one in (model, again):
            one.fit(x, y, epochs=2, shuffle=False, verbose=0)


@pytest.mark.parametrize(
    ("floor", "initial", "cap"),
    [(0, 1, 2), (-1, 1, 2), (2, 1, 4), (1, 8, 4), (1, 2, float("inf")), (1, float("nan"), 2)],
)
def test_bounds_that_do_not_hold_are_refused(floor: float, initial: float, cap: float) -> None:
    with pytest.raises(ValueError, match="floor <= initial_scale <= cap"):
        GuardedLossScaleOptimizer(keras.optimizers.SGD(0.5), initial, floor=floor, cap=cap)


@pytest.mark.parametrize(
    "wrong", [{"growth_factor": 3.0}, {"growth_factor": 1.0}, {"backoff_factor": 0.3}, {"backoff_factor": 2.0},
              {"growth_factor": float("inf")}, {"backoff_factor": 0.0}, {"hysteresis": 0}],
)  # fmt: skip
def test_factors_that_round_or_lead_the_wrong_way_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"powers of two|hysteresis >= 1"):
        GuardedLossScaleOptimizer(keras.optimizers.SGD(0.5), **wrong)


def after_two_skipped(branchless: bool, momentum: float, mode: str) -> list[np.ndarray]:
    weight = keras.Variable(np.float32([1.0, 2.0]))
    optimizer = GuardedLossScaleOptimizer(keras.optimizers.SGD(0.1, momentum), initial_scale=8.0)
    optimizer.branchless = branchless
    optimizer.build([weight])
    run = compiled(lambda gradient: optimizer.apply([gradient], [weight]), mode)
    for gradient in ([8.0, 16.0], [np.inf, 8.0], [np.nan, 0.0], [4.0, 4.0]):
        assert bool(run(tf.constant(gradient, tf.float32))) == bool(np.isfinite(gradient).all())
    return [np.asarray(v) for v in [weight, *optimizer.variables]]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_without_a_branch_the_same_weights_come_out(momentum: float, mode: str) -> None:
    """`branchless` selects between old and new; slots, iterations and weights of a skipped step stay as they were."""
    pairs = zip(after_two_skipped(False, momentum, mode), after_two_skipped(True, momentum, mode), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-6)


# --- the optimizer as a whole, against float64 ------------------------------------------------------------------------

RULES_TRIED = {
    "dynamic": Rule(growth_interval=3, floor=2.0**-2, cap=2.0**20),
    "hysteresis": Rule(growth_interval=2, growth_factor=4.0, backoff_factor=0.25, cap=2.0**20, hysteresis=2),
    "static": Rule(growth_interval=2, floor=2.0**10, cap=2.0**10),
}
MOMENTUM, RATE, CLIP = 0.9, 2.0**-9, 100.0


class Trained:
    """Two weights that a compiled step moves: gradients are scaled and rounded to float16, as by a backward pass."""

    def __init__(self, rule: Rule, branchless: bool, jit: bool) -> None:
        self.variables = weights()
        own = rule._asdict()
        interval = own.pop("growth_interval")
        inner = keras.optimizers.SGD(RATE, momentum=MOMENTUM, global_clipnorm=CLIP)
        self.optimizer = GuardedLossScaleOptimizer(inner, 2.0**10, interval, **own)
        self.optimizer.branchless = branchless
        self.optimizer.build(self.variables)
        self.state = [*self.variables, *self.optimizer.variables]
        self.before = values(self.state)
        self.step = tf.function(self._step, jit_compile=jit, autograph=False)

    def _step(self, kernel: Any, bias: Any) -> Any:
        scaled = [tf.cast(self.optimizer.scale_loss(g), tf.float16) for g in (kernel, bias)]
        return self.optimizer.guarded_apply([tf.cast(g, tf.float32) for g in scaled], self.variables)

    def reset(self) -> None:
        for variable, value in zip(self.state, self.before, strict=True):
            variable.assign(value)


trained = cache(Trained)
NUMBERS = st.one_of(
    st.floats(-(2.0**8), 2.0**8, width=16), powers(-30, 14), st.sampled_from([0.0, float("inf"), float("nan")])
)


@pytest.mark.parametrize(("branchless", "jit"), [(False, False), (True, True)])
@pytest.mark.parametrize("name", RULES_TRIED)
@settings(max_examples=25)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=25))
def test_the_optimizer_against_float64(
    name: str, branchless: bool, jit: bool, grads: list[tuple[float, float]]
) -> None:
    """Momentum, clipping and the scale together: a scale that is too high makes its own overflow, and is lowered."""
    rule, t = RULES_TRIED[name], trained(RULES_TRIED[name], branchless, jit)
    t.reset()
    expected = ScaleState(2.0**10, 0, 0, 0, 0)
    wide, momenta = [v.astype(np.float64) for v in values(t.variables)], [np.zeros((2, 2)), np.zeros(2)]
    for i, pair in enumerate(grads):
        one = [np.float32([[pair[0], 1], [0, -1]]), np.float32([1, pair[1]])]
        with np.errstate(over="ignore", invalid="ignore"):
            seen = [np.float16(g * np.float32(expected.scale)).astype(np.float64) / expected.scale for g in one]
        bad = [place for place, g in enumerate(seen) if not np.isfinite(g).all()]
        if not bad:
            norm = np.sqrt(sum((g**2).sum() for g in seen))
            for w, m, g in zip(wide, momenta, seen, strict=True):
                m[:] = MOMENTUM * m - RATE * g * min(1, CLIP / norm)
                w += m
        expected = model(expected, not bad, rule)
        assert int(t.step(*[tf.constant(g) for g in one])) == (bad[-1] if bad else -1), i
        assert tuple(float(v) for v in t.optimizer._own) == expected
    for mine, theirs in zip(values(t.variables), wide, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


# --- which gradient --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("branchless", [False, True])
def test_the_last_gradient_that_is_not_finite_is_named(branchless: bool, jit: bool) -> None:
    """Of two dtypes, of one number, of none, and too many to be looked at with others."""
    shapes = [((3, 2), "float32"), ((4,), "float16"), ((600, 500), "float32"), ((), "float32"), ((5,), "float16"),
              ((0,), "float32"), ((2, 2), "float32")]  # fmt: skip
    optimizer = GuardedLossScaleOptimizer(keras.optimizers.SGD(0.1))
    optimizer.branchless = branchless
    find = tf.function(
        lambda grads: optimizer.bad_gradient([*grads[:3], None, *grads[3:]]), jit_compile=jit, autograph=False
    )
    fine = [np.ones(shape, dtype) for shape, dtype in shapes]
    places = [0, 1, 2, 4, 5, 6, 7]  # with the one that has no gradient
    assert int(find([tf.constant(g) for g in fine])) == -1
    draw = np.random.default_rng(0)
    sized = [i for i, g in enumerate(fine) if g.size]
    for chosen in [*([i] for i in sized), [0, 1], [0, 4], [1, 2], [2, 6], [3, 4], sized]:
        grads = [g.copy() for g in fine]
        for i in chosen:
            grads[i].reshape(-1)[draw.integers(grads[i].size)] = draw.choice([np.inf, -np.inf, np.nan])
        assert int(find([tf.constant(g) for g in grads])) == places[max(chosen)], chosen
    assert int(optimizer.bad_gradient([])) == -1
    assert int(optimizer.bad_gradient([None])) == -1
