"""An artifact's metrics beside the float32 model's, and what they must at least be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tfhalf.artifacts.comparison import Limits, OutputParity
from tfhalf.tasks import Binary, Multilabel, Regression, Segmentation, SequenceLabels, Task
from tfhalf.verify.quality import measured, short_of

RANDOM = np.random.default_rng(5)
NUMBERS = RANDOM.normal(size=(500, 1)) * 100 + 1000


def output(name: str = "value", **more: Any) -> OutputParity:
    return OutputParity(name, 1.0, 0.0, 0.0, 0, None, 1.0, (), **more)


def limits(**more: Any) -> Limits:
    return Limits(None, None, 0.0, **{"max_accuracy_drop": 0.1, "max_error_growth": 1.0, **more})


def beside(task: Task, targets: np.ndarray, reference: np.ndarray, got: np.ndarray, **more: Any) -> OutputParity:
    return measured(output(task.output), task.facts(), targets, reference, got, limits(**more))


# --- beside the float32 model -----------------------------------------------------------------------------------------


def test_an_error_may_grow_by_its_percent() -> None:
    task, reference = Regression([1000.0], [100.0]), NUMBERS + 10
    same = beside(task, NUMBERS, reference, reference)
    assert same.problems == ()
    assert same.metrics == same.reference_metrics
    assert same.metrics["rmse"] == pytest.approx(10)
    assert set(same.metrics) == {"rmse", "mae", "r2"}
    assert beside(task, NUMBERS, reference, reference + 0.09).problems == ()
    worse = beside(task, NUMBERS, reference, reference + 0.2)
    assert worse.problems == ("rmse is 2 % larger, 1 % allowed", "mae is 2 % larger, 1 % allowed")
    assert beside(task, NUMBERS, reference, reference + 0.2, max_error_growth=3.0).problems == ()
    assert beside(task, NUMBERS, reference, reference - 5).problems == ()  # better is no fault


def test_an_error_that_was_0_may_not_become_one() -> None:
    assert beside(Regression([1000.0], [100.0]), NUMBERS, NUMBERS, NUMBERS).problems == ()
    worse = beside(Regression([1000.0], [100.0]), NUMBERS, NUMBERS, NUMBERS + 1e-3)
    assert "rmse is inf % larger, 1 % allowed" in worse.problems


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_falls_short(bad: float) -> None:
    got = NUMBERS + 10
    got[3] = bad
    assert any("rmse" in problem for problem in beside(Regression([0.0], [1.0]), NUMBERS, NUMBERS + 10, got).problems)


def test_a_share_may_fall_by_its_points() -> None:
    masks = RANDOM.integers(0, 2, (40, 8, 8)).astype(np.int32)
    right = np.eye(2)[masks]
    wrong = right.copy()
    wrong[:4, 0, 0] = wrong[:4, 0, 0, ::-1]  # 4 of 2560 pixels: 0.16 points
    worse = beside(Segmentation("ab"), masks, right, wrong)
    assert worse.metrics["accuracy"] == pytest.approx(1 - 4 / 2560)
    assert [problem.split(" is ")[0] for problem in worse.problems] == []  # 40 items: one may be lost, 2.5 points
    wrong[:, :2] = wrong[:, :2, :, ::-1]
    worse = beside(Segmentation("ab"), masks, right, wrong)
    assert [problem.split(" is ")[0] for problem in worse.problems] == ["iou", "accuracy"]
    assert beside(Segmentation("ab"), masks, right, wrong, max_accuracy_drop=None).problems == ()


# --- which metrics ----------------------------------------------------------------------------------------------------


def test_the_metrics_that_were_chosen_are_measured() -> None:
    labels = RANDOM.integers(0, 2, (100, 3)).astype(np.float32)
    task = Multilabel("abc")
    task.metrics = task.offered[1:]
    assert set(beside(task, labels, labels, labels).metrics) == {"exact"}
    steps = RANDOM.integers(0, 3, (20, 4)).astype(np.int32)
    sequence = SequenceLabels("abc")
    sequence.metrics = sequence.offered
    assert set(beside(sequence, steps, np.eye(3)[steps], np.eye(3)[steps]).metrics) == {"accuracy", "f1"}


def test_a_manifest_that_names_no_metrics_has_the_usual_ones() -> None:
    facts = Multilabel("abc").facts()
    assert facts.pop("metrics") == ["f1", "exact"]
    labels = RANDOM.integers(0, 2, (100, 3)).astype(np.float32)
    assert set(measured(output(), facts, labels, labels, labels, limits()).metrics) == {"f1", "exact"}


def test_accuracy_that_is_there_is_not_measured_twice() -> None:
    classes = RANDOM.integers(0, 2, 100).astype(np.int32)
    task = Binary("ab")
    both = np.eye(2)[classes]
    compared = measured(output("probabilities", accuracy=100.0), task.facts(), classes, both, both, limits())
    assert set(compared.metrics) == {"auc"}


def test_code_of_ones_own_is_not_run() -> None:
    facts = {"name": "own.py:Counting", "targets": "numbers", "metrics": ["anything"]}
    assert measured(output(), facts, NUMBERS, NUMBERS, NUMBERS + 1e6, limits()) == output()


# --- what they must at least be ---------------------------------------------------------------------------------------

FACTS = Regression([1000.0], [100.0]).facts()


@pytest.mark.parametrize(
    ("minimum", "problem"),
    [
        ({"rmse": 20.0}, None),
        ({"rmse": 9.0}, "rmse is 10, at most 9 allowed"),
        ({"mae": 9.99}, "mae is 10, at most 9.99 allowed"),
        ({"r2": 0.9}, None),
        ({"r2": 0.999}, "r2 is 0.99, at least 0.999 needed"),
    ],
)
def test_minimums_of_numbers(minimum: dict[str, float], problem: str | None) -> None:
    compared = output(metrics={"rmse": 10.0, "mae": 10.0, "r2": 0.99})
    short = short_of(compared, FACTS, limits(min_metrics=minimum))
    assert short.problems == (() if problem is None else (problem,))


def test_a_minimum_of_the_accuracy_is_a_share() -> None:
    compared = output("probabilities", accuracy=93.0)
    assert short_of(compared, Binary("ab").facts(), limits(min_metrics={"accuracy": 0.93})).problems == ()
    short = short_of(compared, Binary("ab").facts(), limits(min_metrics={"accuracy": 0.94}))
    assert short.problems == ("accuracy is 0.93, at least 0.94 needed",)


def test_minimums_of_several_outputs_go_by_their_names() -> None:
    kind, price = output("kind", accuracy=80.0), output("price", metrics={"rmse": 10.0})
    held = limits(min_metrics={"kind_accuracy": 0.9, "price_rmse": 5.0})
    assert short_of(kind, Binary("ab").facts(), held).problems == ("accuracy is 0.8, at least 0.9 needed",)
    assert short_of(price, FACTS, held).problems == ("rmse is 10, at most 5 allowed",)
    assert short_of(output("other", accuracy=80.0), Binary("ab").facts(), held).problems == ()


def test_a_metric_that_is_not_a_number_falls_short() -> None:
    for name, bound in (("rmse", 1e9), ("r2", -1e9)):
        short = short_of(output(metrics={name: np.nan}), FACTS, limits(min_metrics={name: bound}))
        assert len(short.problems) == 1
