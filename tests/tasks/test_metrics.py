"""Each task's metrics beside scikit-learn's: in numpy, and as sums of several batches within a compiled function."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import sklearn.metrics as sk
import tensorflow as tf

from tfhalf.tasks import Metric, metrics

DRAW = np.random.default_rng(0)
N, K = 96, 7
CLASSES = DRAW.integers(0, K, N).astype(np.int32)
SCORES = (np.eye(K)[CLASSES] * 1.5 + DRAW.normal(size=(N, K))).astype(np.float32)
TOP = SCORES.argmax(-1)
TWO = DRAW.integers(0, 2, N).astype(np.int32)
CHANCE = np.clip(TWO * 0.3 + DRAW.uniform(0, 0.7, N), 0, 1).astype(np.float32)
BOTH = np.stack([1 - CHANCE, CHANCE], -1)
MULTI = DRAW.integers(0, 2, (N, 4)).astype(np.float32)
LABELS = np.clip(MULTI * 0.4 + DRAW.uniform(0, 0.7, (N, 4)), 0, 1).astype(np.float32)
NUMBERS = (DRAW.normal(size=(N, 2)) * [3, 4e4] + [1, 2e5]).astype(np.float32)
GUESSES = (NUMBERS + DRAW.normal(size=(N, 2)) * [1, 9e3]).astype(np.float32)
MASKS = DRAW.integers(-1, 3, (N, 3, 2)).astype(np.int32)
PIXELS = (np.eye(3)[np.maximum(MASKS, 0)] + DRAW.normal(size=(N, 3, 2, 3))).astype(np.float32)
SEEN = MASKS >= 0
R2 = metrics.r2(NUMBERS.mean(0), NUMBERS.std(0))

CASES: list[tuple[Metric, np.ndarray, np.ndarray, Callable[[], float], float]] = [
    (metrics.accuracy(), CLASSES, SCORES, lambda: sk.accuracy_score(CLASSES, TOP), 1e-12),
    (
        metrics.accuracy(),
        MASKS,
        PIXELS,
        lambda: sk.accuracy_score(MASKS[SEEN], PIXELS.argmax(-1)[SEEN]),
        1e-12,
    ),
    (metrics.top_k(3), CLASSES, SCORES, lambda: sk.top_k_accuracy_score(CLASSES, SCORES, k=3), 1e-12),
    (metrics.macro_f1(K), CLASSES, SCORES, lambda: sk.f1_score(CLASSES, TOP, average="macro"), 1e-12),
    (metrics.micro_f1(), MULTI, LABELS, lambda: sk.f1_score(MULTI, LABELS > 0.5, average="micro"), 1e-12),
    (metrics.exact_match(), MULTI, LABELS, lambda: sk.accuracy_score(MULTI, LABELS > 0.5), 1e-12),
    (metrics.auc(), TWO, BOTH, lambda: sk.roc_auc_score(TWO, CHANCE), 2e-3),  # 200 thresholds
    (metrics.mae(2), NUMBERS, GUESSES, lambda: sk.mean_absolute_error(NUMBERS, GUESSES), 1e-5),
    (metrics.rmse(2), NUMBERS, GUESSES, lambda: sk.root_mean_squared_error(NUMBERS, GUESSES), 1e-5),
    (R2, NUMBERS, GUESSES, lambda: sk.r2_score(NUMBERS, GUESSES), 1e-5),
    (
        metrics.mean_iou(3),
        MASKS,
        PIXELS,
        lambda: sk.jaccard_score(MASKS[SEEN], PIXELS.argmax(-1)[SEEN], average="macro"),
        1e-12,
    ),
]
NAMES = [f"{case[0].name}{case[1].ndim}" for case in CASES]


@pytest.mark.parametrize(("metric", "y", "predictions", "expected", "tolerance"), CASES, ids=NAMES)
def test_in_numpy(
    metric: Metric, y: np.ndarray, predictions: np.ndarray, expected: Callable[[], float], tolerance: float
) -> None:
    assert metric.measure(y, predictions) == pytest.approx(expected(), rel=max(tolerance, 1e-12))


@pytest.mark.parametrize(("metric", "y", "predictions", "expected", "tolerance"), CASES, ids=NAMES)
@pytest.mark.parametrize("sizes", [(32, 32, 32), (1, 64, 31)], ids=["even", "uneven"])
def test_in_a_compiled_function_over_batches(
    metric: Metric,
    y: np.ndarray,
    predictions: np.ndarray,
    expected: Callable[[], float],
    tolerance: float,
    sizes: tuple[int, ...],
) -> None:
    summed = tf.function(lambda true, guess: metric.sums(keras.ops, true, guess), autograph=False)
    total = np.zeros(metric.size)
    ends = np.cumsum(sizes)
    for start, end in zip(ends - sizes, ends, strict=True):
        sums = summed(tf.constant(y[start:end]), tf.constant(predictions[start:end])).numpy()
        assert sums.shape == (metric.size,)
        total += sums
    assert metric.value(total) == pytest.approx(expected(), rel=max(tolerance, 1e-5))


def test_the_area_is_that_of_keras() -> None:
    """Both take 200 thresholds; scikit-learn takes every one."""
    theirs = keras.metrics.AUC()
    theirs.update_state(TWO, CHANCE)
    assert metrics.auc().measure(TWO, BOTH) == pytest.approx(float(theirs.result()), abs=1e-6)


def test_targets_below_0_do_not_count() -> None:
    y = np.where(np.arange(N) % 3, CLASSES, -1)
    counts = y >= 0
    assert metrics.top_k(2).measure(y, SCORES) == pytest.approx(
        sk.top_k_accuracy_score(y[counts], SCORES[counts], k=2, labels=range(K))
    )
    assert metrics.macro_f1(K).measure(y, SCORES) == pytest.approx(sk.f1_score(y[counts], TOP[counts], average="macro"))
    nothing = np.full(N, -1)
    assert metrics.accuracy().measure(nothing, SCORES) == metrics.macro_f1(K).measure(nothing, SCORES) == 0


def test_numbers_far_from_0_lose_nothing() -> None:
    """Squares of 1e6 in float32 would leave nothing of a spread of 1; sums of scaled targets do."""
    y = (1e6 + DRAW.normal(size=(2000, 1))).astype(np.float32)
    guess = (y + 0.3 * DRAW.normal(size=y.shape)).astype(np.float32)
    metric = metrics.r2(y.astype(np.float64).mean(0).astype(np.float32), y.astype(np.float64).std(0).astype(np.float32))
    sums = metric.sums(keras.ops, tf.constant(y), tf.constant(guess)).numpy()
    assert metric.value(sums.astype(np.float64)) == pytest.approx(sk.r2_score(y, guess), abs=1e-3)


def test_how_figures_are_shown() -> None:
    assert metrics.accuracy().shown(0.95412) == "95.41"
    assert [metrics.mae(1).shown(value) for value in (0.123456, 12345.6, 0.0)] == ["0.1235", "12,346", "0"]
