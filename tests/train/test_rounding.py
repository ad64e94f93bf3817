"""What rounding loses: stochastic rounding of float16 weights, and sums of gradients in float16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from train_helpers import equal, quiet
from train_loops import NET, StopAfter, Stopped, run_folder, trainer, values

from tfhalf.config import Optimizer
from tfhalf.train.loop import run_training
from tfhalf.train.optim.optimizers import make_optimizer
from tfhalf.train.optim.stochastic import rounded_by_chance

SPREAD = np.random.default_rng(0).normal(size=400) * 10.0 ** np.random.default_rng(1).integers(-8, 4, 400)
HALVES = np.random.default_rng(2).normal(size=200).astype(np.float16).astype(np.float32)


def draws(values: Any, count: int = 400) -> np.ndarray:
    """[count, N]: ``values`` rounded at so many steps."""
    rows = tf.constant(np.tile(np.asarray(values, np.float32), (count, 1)))
    return np.asarray(rounded_by_chance(rows, 3, 5, 7))


def digit(values: np.ndarray) -> np.ndarray:
    """The last digit of float16 numbers of this size."""
    return np.maximum(2.0 ** np.floor(np.log2(np.abs(values))), 2.0**-14) * 2.0**-10


def test_the_mean_is_the_value_and_each_draw_a_float16_number_beside_it() -> None:
    """Subnormal ones too. The mean of 400 draws is off by half a digit / 20 in the worst case: five of these."""
    drawn, value = draws(SPREAD), SPREAD.astype(np.float32)
    assert np.array_equal(drawn, drawn.astype(np.float16).astype(np.float32))
    assert np.all(np.abs(drawn - value) < digit(value) * (1 + 1e-6))
    off = np.abs(drawn.astype(np.float64).mean(0) - value) / digit(value)
    assert off.max() < 5 * 0.5 / 20
    assert len(np.unique(drawn[:, 0])) == 2


def test_float16_numbers_stay_as_they_are() -> None:
    special = np.asarray([0.0, 1.0, -1.0, 65504.0, -65504.0, 2.0**-14, 2.0**-24, -(2.0**-24), np.inf, np.nan])
    for numbers in (HALVES, special):
        drawn = draws(numbers, 50)
        np.testing.assert_array_equal(drawn, np.tile(np.asarray(numbers, np.float32), (50, 1)))


@pytest.mark.parametrize("xla", [False, True])
def test_a_step_draws_the_same_again_and_another_step_others(xla: bool) -> None:
    run = tf.function(lambda step, salt: rounded_by_chance(SPREAD.astype(np.float32), 3, step, salt), jit_compile=xla)
    one = run(tf.constant(4), tf.constant(0, tf.int64)).numpy()
    assert np.array_equal(one, run(tf.constant(4), tf.constant(0, tf.int64)).numpy())
    assert np.array_equal(one, rounded_by_chance(SPREAD.astype(np.float32), 3, 4, 0).numpy())
    for step, salt in ((5, 0), (4, 1)):
        assert not np.array_equal(one, run(tf.constant(step), tf.constant(salt, tf.int64)).numpy())


def after(gradients: list[float], dtype: str = "float16", accumulate: int = 1, **settings: Any) -> np.ndarray:
    """A thousand weights of 1 after a step of 2^-13 for each of ``gradients``."""
    variable = keras.Variable(np.ones(1000), dtype=dtype, name="kernel")
    optimizer: Any = make_optimizer(Optimizer(momentum=0.0), 2.0**-13, accumulate, **settings)
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([tf.constant(np.full(1000, gradient), dtype)], [variable])
    return np.asarray(variable, np.float64)


def test_small_steps_add_up_where_the_nearest_number_loses_them() -> None:
    assert np.all(after([1.0] * 64) == 1)
    weights = after([1.0] * 64, rounding_seed=0)
    assert weights.mean() == pytest.approx(1 - 64 * 2.0**-13, abs=3e-4)
    assert weights.std() < 2e-3
    assert np.all(after([1.0] * 64, "float32", rounding_seed=0) == 1 - 64 * 2.0**-13)  # nothing is rounded there


def test_float16_sums_flush_what_float32_ones_keep() -> None:
    small = [2.0**-26] * 4
    assert np.all(after([2.0**10, *small[1:]], "float32", 4, accumulate_dtype="float16") == 1 - 2.0**-5)
    kept = 1 - after(small, "float32", 4, accumulate_dtype="float32")
    assert np.all(kept == 0)  # the step itself is below the last digit of 1
    sums = {}
    for dtype in ("float32", "float16"):
        variable = keras.Variable(np.ones(3), dtype="float32", name="kernel")
        optimizer: Any = make_optimizer(Optimizer(momentum=0.0), 0.1, 4, accumulate_dtype=dtype)
        optimizer.build([variable])
        for gradient in small[:3]:
            optimizer.apply([tf.fill([3], gradient)], [variable])
        (kept_sum,) = optimizer._accumulated_gradients
        sums[dtype] = (kept_sum.dtype, float(np.asarray(kept_sum)[0]))
    assert sums == {"float32": ("float32", 3 * 2.0**-26), "float16": ("float16", 0.0)}


def test_float16_sums_do_not_become_infinite() -> None:
    weights = after([60000.0] * 2, "float32", 2, accumulate_dtype="float16")
    assert np.isfinite(weights).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"precision__policy": "float16", "precision__rounding": "stochastic"},
        {"train__accumulate": 2, "train__accumulate_dtype": "float16"},
    ],
)
def test_a_stopped_run_goes_on_the_same_way(tmp_path: Path, changes: dict[str, Any]) -> None:
    (tmp_path / "net.py").write_text(NET)
    whole = trainer(tmp_path, train__epochs=2, **changes)
    run_training(whole, run_folder(tmp_path, "whole"), quiet())
    run = run_folder(tmp_path, "stopped")
    with pytest.raises(Stopped):
        run_training(trainer(tmp_path, train__epochs=2, **changes), run, StopAfter(1))
    second = trainer(tmp_path, train__epochs=2, **changes)
    run_training(second, run, quiet(), resume=True)
    assert equal(values(second), values(whole))
