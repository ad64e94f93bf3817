"""The guarded loss scale: its algorithm, and the optimizer that lives behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfhalf.precision.loss_scale import GuardedLossScaleOptimizer, ScaleState, next_state

# --- the algorithm ----------------------------------------------------------------------------------------------------


def model(state: tuple[float, int, int, int], finite: bool, interval: int, floor: float, cap: float) -> Any:
    """The pseudocode of `next_state`, line by line, in Python's own numbers."""
    scale, good_steps, skipped, skipped_in_row = state
    if finite:
        good_steps, skipped_in_row = good_steps + 1, 0
        if good_steps == interval:
            scale, good_steps = min(2 * scale, cap), 0
    else:
        scale, good_steps = max(scale / 2, floor), 0
        skipped, skipped_in_row = skipped + 1, skipped_in_row + 1
    return scale, good_steps, skipped, skipped_in_row


BOUNDS = st.tuples(*[st.floats(2.0**-24, 2.0**127, width=32)] * 3).map(sorted)


@settings(max_examples=40)
@given(BOUNDS, st.integers(1, 5), st.lists(st.booleans(), max_size=30))
def test_next_state_against_the_pseudocode(bounds: list[float], interval: int, finite: list[bool]) -> None:
    floor, scale, cap = bounds
    expected = (scale, 0, 0, 0)
    state = ScaleState(np.float32(scale), np.int32(0), np.int32(0), np.int32(0))
    for one in finite:
        expected = model(expected, one, interval, floor, cap)
        state = next_state(state, np.bool_(one), growth_interval=interval, floor=floor, cap=cap)
        assert tuple(float(value) for value in state) == expected
        assert floor <= float(state.scale) <= cap


def test_next_state_keeps_dtypes_in_a_compiled_step() -> None:
    @tf.function(jit_compile=True)
    def step(state: ScaleState, finite: Any) -> ScaleState:
        return next_state(state, finite, growth_interval=2, floor=1.0, cap=8.0)

    state = ScaleState(tf.constant(4.0), *[tf.constant(0)] * 3)
    seen = []
    for finite in (True, True, True, True, False, False, False, False, False, True):
        state = step(state, tf.constant(finite))
        seen.append(tuple(value.numpy().item() for value in state))
    assert [value.dtype for value in state] == [tf.float32, tf.int32, tf.int32, tf.int32]
    assert [row[0] for row in seen] == [4, 8, 8, 8, 4, 2, 1, 1, 1, 1]
    assert seen[8] == (1, 0, 5, 5)
    assert seen[9] == (1, 1, 5, 0)


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
    bounds = {"initial_scale": 64.0, "dynamic_growth_steps": 2, "floor": 32.0, "cap": 256.0}
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
    optimizer = GuardedLossScaleOptimizer(keras.optimizers.SGD(0.5, momentum=0.9), 256.0, 7, floor=2.0, cap=512.0)
    again = GuardedLossScaleOptimizer.from_config(optimizer.get_config())
    assert type(again) is GuardedLossScaleOptimizer
    assert again.get_config() == optimizer.get_config()
    assert (again.floor, again.cap, again.initial_scale, again.dynamic_growth_steps) == (2.0, 512.0, 256.0, 7)
    assert again.inner_optimizer.momentum == 0.9


@pytest.mark.parametrize(
    ("floor", "initial", "cap"),
    [(0, 1, 2), (-1, 1, 2), (2, 1, 4), (1, 8, 4), (1, 2, float("inf")), (1, float("nan"), 2)],
)
def test_bounds_that_do_not_hold_are_refused(floor: float, initial: float, cap: float) -> None:
    with pytest.raises(ValueError, match="floor <= initial_scale <= cap"):
        GuardedLossScaleOptimizer(keras.optimizers.SGD(0.5), initial, floor=floor, cap=cap)


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
