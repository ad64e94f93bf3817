"""Verdicts: what they say, and how often they err."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tfhalf.compare.records import MetricFacts, TimeTo
from tfhalf.compare.statistics import ALPHA, difference, margin_words, summary, time_to

ACCURACY = MetricFacts("accuracy", higher=True, share=True)
RMSE = MetricFacts("rmse", higher=False, share=False, unit="dollars")
MARGIN = 0.001
EXPERIMENTS = 200


def by_seed(values: np.ndarray) -> dict[int, float]:
    return dict(enumerate(map(float, values)))


def verdicts(loss: float, seeds: int, *, spread: float = 0.0015, experiments: int = EXPERIMENTS) -> list[str]:
    """Of experiments in which the true loss is ``loss``: accuracies around 93 % that share half of their spread."""
    draw = np.random.default_rng(7)
    said = []
    for _ in range(experiments):
        common = draw.normal(0.93, spread, seeds)
        one, other = (common + draw.normal(0, spread, seeds) for _ in range(2))
        said.append(difference(by_seed(one - loss), by_seed(other), ACCURACY, MARGIN).verdict)
    return said


@pytest.mark.parametrize("seeds", [3, 5, 10, 20])
def test_two_that_are_the_same_seldom_lose(seeds: int) -> None:
    """No more often than the tests allow: 2.5 %, and what chance adds to that in 200 experiments (one in 1,000)."""
    said = verdicts(0.0, seeds)
    allowed = EXPERIMENTS * ALPHA / 2
    assert said.count("loses") <= allowed + 3.1 * math.sqrt(allowed)


@pytest.mark.parametrize("seeds", [3, 5, 10, 20])
def test_a_loss_of_the_margin_is_seldom_called_none(seeds: int) -> None:
    said = verdicts(MARGIN, seeds)
    allowed = EXPERIMENTS * ALPHA
    assert said.count("no loss") <= allowed + 3.1 * math.sqrt(allowed)


def test_a_loss_of_twice_the_margin_is_found() -> None:
    """With the seeds that such a spread needs, nearly always; with few, it is not called none."""
    said = verdicts(2 * MARGIN, 24)
    assert said.count("loses") >= 0.9 * EXPERIMENTS
    assert said.count("no loss") == 0
    assert verdicts(2 * MARGIN, 5).count("no loss") <= 2


def test_no_loss_is_found_too() -> None:
    assert verdicts(0.0, 40).count("no loss") >= 0.9 * EXPERIMENTS


def test_seeds_that_are_said_to_decide_do() -> None:
    """Half of the time or more: the mean and the spread that were seen are not the true ones."""
    draw = np.random.default_rng(3)
    decided = tried = 0
    for _ in range(60):
        few = draw.normal(0.0, 0.002, 5)
        told = difference(by_seed(0.9 - few), by_seed(np.full(5, 0.9)), ACCURACY, 0.002)
        if told.more_seeds is None or told.more_seeds > 500:
            continue
        tried += 1
        all_of_them = np.concatenate([few, draw.normal(few.mean(), few.std(ddof=1), told.more_seeds)])
        after = difference(by_seed(0.9 - all_of_them), by_seed(np.full(len(all_of_them), 0.9)), ACCURACY, 0.002)
        decided += after.verdict != "not decided"
    assert tried >= 10
    assert decided >= tried / 2


def test_pairs_see_what_means_hide() -> None:
    """Seeds differ by points, the settings by a hundredth: seed by seed that is nothing."""
    base = np.array([0.90, 0.93, 0.91, 0.95, 0.92])
    told = difference(by_seed(base - 0.0001), by_seed(base), ACCURACY, MARGIN)
    assert told.paired
    assert told.verdict == "no loss"
    assert told.words.startswith("no loss at 0.1 point: -0.01 ± 0.00")
    apart = difference({seed + 100: float(value) for seed, value in enumerate(base)}, by_seed(base), ACCURACY, MARGIN)
    assert not apart.paired
    assert apart.verdict == "not decided"


def test_words() -> None:
    base = np.array([0.90, 0.93, 0.91, 0.95, 0.92])
    noise = np.array([1, -1, 0, 2, -2]) * 1e-4
    assert difference(by_seed(base - 0.004 + noise), by_seed(base), ACCURACY, MARGIN).words == "loses 0.40 ± 0.02"
    gained = difference(by_seed(base + 0.004 + noise), by_seed(base), ACCURACY, MARGIN)
    assert gained.words == "no loss at 0.1 point: +0.40 ± 0.02"
    open_ = difference(by_seed(base + 20 * noise), by_seed(base), ACCURACY, MARGIN)
    assert open_.words.startswith("not decided at 0.1 point: 0.00 ± ")
    assert f"about {open_.more_seeds} more seeds would decide it" in open_.words


def test_errors_of_numbers() -> None:
    base = np.array([50_300.0, 50_100, 50_250, 50_400, 50_200])
    noise = np.array([10.0, -10, 0, 20, -20])
    assert difference(by_seed(base + noise), by_seed(base), RMSE, 500).words == "no loss at 500 dollars: 0 ± 19.6"
    worse = difference(by_seed(base + 2_000 + noise), by_seed(base), RMSE, 500)
    assert worse.words == "loses 2,000 ± 20"
    assert worse.loss == pytest.approx(2_000)


def test_one_seed_decides_nothing() -> None:
    told = difference({0: 0.9}, {0: 0.8}, ACCURACY, MARGIN)
    assert (told.verdict, told.loss) == ("not decided", pytest.approx(-0.1))
    assert "one seed tells no spread" in told.words


def test_without_any_spread() -> None:
    """A metric that is the same for every seed."""
    same = dict.fromkeys(range(3), 0.9)
    assert difference(same, same, ACCURACY, MARGIN).verdict == "no loss"
    assert difference(dict.fromkeys(range(3), 0.8), same, ACCURACY, MARGIN).verdict == "loses"


def test_what_is_not_finite_loses() -> None:
    assert difference({0: math.nan, 1: 5.0}, {0: 4.0, 1: 5.0}, RMSE, 1).verdict == "loses"


def test_time_to_a_target() -> None:
    assert time_to([5.0, 1.0, 3.0, 4.0, 100.0]) == TimeTo(4.0, 5, 0)  # 1 and 100 are dropped
    assert time_to([5.0, None, 3.0, 4.0]) == TimeTo(4.5, 3, 1)  # the one that never got there was the slowest
    assert time_to([5.0, None, None, 4.0]) == TimeTo(None, 2, 2)
    assert time_to([5.0, 4.0]) == TimeTo(4.5, 2, 0)
    assert time_to([5.0, None]) == TimeTo(None, 1, 1)


def test_small_helpers() -> None:
    assert summary([1.0, 2.0, 3.0]).std == pytest.approx(1.0)
    assert summary([4.0]).std == 0.0
    assert margin_words(0.001, ACCURACY) == "0.1 point"
    assert margin_words(0.02, ACCURACY) == "2 points"
    assert margin_words(503.0, RMSE) == "503 dollars"
