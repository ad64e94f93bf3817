"""What tasks have in common and each for itself: losses beside Keras' own, what is served, what they refuse, facts."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfhalf.errors import ArtifactError, ConfigError, DataError
from tfhalf.tasks import (
    Binary,
    Classification,
    Multilabel,
    Regression,
    Segmentation,
    SequenceLabels,
    Several,
    Task,
)
from tfhalf.tasks.base import balanced
from tfhalf.tasks.facts import of_facts, quality_words

DRAW = np.random.default_rng(0)
N = 12
Y3 = (np.arange(N) % 3).astype(np.int32)


def logits(*shape: int) -> np.ndarray:
    return (DRAW.normal(size=(N, *shape)) * 3).astype(np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x.astype(np.float64))))


# --- losses beside Keras' own ---


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(
    ("kind", "axes"), [(Classification, ()), (SequenceLabels, (4,)), (Segmentation, (2, 5))], ids=lambda v: str(v)
)
def test_of_several_classes(kind: Any, axes: tuple[int, ...], smoothing: float) -> None:
    y, answers = DRAW.integers(0, 3, (N, *axes)).astype(np.int32), logits(*axes, 3)
    keras_loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing, reduction="none")
    loss = kind("abc", label_smoothing=smoothing).loss(tf.constant(y), tf.constant(answers))
    np.testing.assert_allclose(loss, keras_loss(np.eye(3, dtype=np.float32)[y], answers), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_of_two_classes(smoothing: float) -> None:
    """One logit, or the difference of two, which is what softmax cross-entropy of the two is."""
    task, y, both = Binary("ab", label_smoothing=smoothing), Y3 % 2, logits(2)
    keras_loss = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=smoothing, reduction="none")
    single = both[:, 1:] - both[:, :1]
    expected = keras_loss(y[:, None].astype(np.float32), single)
    np.testing.assert_allclose(task.loss(y, tf.constant(single)), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(task.loss(y, tf.constant(both)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_of_labels(smoothing: float) -> None:
    y, answers = DRAW.integers(0, 2, (N, 4)).astype(np.float32), logits(4)
    keras_loss = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=smoothing, reduction="none")
    loss = Multilabel("abcd", label_smoothing=smoothing).loss(tf.constant(y), tf.constant(answers))
    np.testing.assert_allclose(loss, keras_loss(y, answers), rtol=1e-5, atol=1e-6)


def test_of_numbers() -> None:
    y = (DRAW.normal(size=(N, 2)) * [5, 3e4] + [1, 2e5]).astype(np.float32)
    task, answers = Regression.fit(y), logits(2)
    scaled = (y - y.mean(0)) / y.std(0)
    expected = keras.losses.MeanSquaredError(reduction="none")(scaled, answers)
    np.testing.assert_allclose(task.loss(tf.constant(y), tf.constant(answers)), expected, rtol=1e-3)
    plain = Regression.fit(y, scale=False)
    np.testing.assert_array_equal(plain.scaled(y), y)


def test_a_mask_of_two_classes_by_one_logit() -> None:
    y, answers = DRAW.integers(0, 2, (N, 3, 3)).astype(np.int32), logits(3, 3, 1)
    keras_loss = keras.losses.BinaryCrossentropy(from_logits=True, reduction="none")
    expected = keras_loss(y[..., None].astype(np.float32), answers)
    np.testing.assert_allclose(Segmentation("ab").loss(y, tf.constant(answers)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [SequenceLabels, Segmentation])
def test_what_does_not_count_has_a_finite_loss(kind: Any) -> None:
    axes = (2,) if kind is SequenceLabels else (2, 2)
    y = DRAW.integers(-1, 3, (N, *axes)).astype(np.int32)
    task = kind("abc")
    assert np.isfinite(task.loss(tf.constant(y), tf.constant(logits(*axes, 3)))).all()
    np.testing.assert_array_equal(task.counted(tf.constant(y)), (y >= 0).astype(np.float32))


# --- what is served ---


def served(task: Task, answers: np.ndarray) -> dict[str, np.ndarray]:
    values = {name: value.numpy() for name, value in task.served(tf.constant(answers)).items()}
    assert tuple(values) == task.names
    assert {value.dtype for value in values.values()} == {np.dtype("float32")}
    shapes = dict(task.ports(answers.shape[1:]))
    assert shapes == {name: value.shape[1:] for name, value in values.items()}
    return values


@pytest.mark.parametrize(
    ("task", "axes"), [(Classification("abc"), ()), (SequenceLabels("abc"), (4,)), (Segmentation("abc"), (2, 2))]
)
def test_probabilities_of_classes(task: Task, axes: tuple[int, ...]) -> None:
    answers = logits(*axes, 3)
    values = served(task, answers)
    np.testing.assert_allclose(values["probabilities"], softmax(answers), atol=1e-6)
    if "logits" in values:
        np.testing.assert_array_equal(values["logits"], answers)
    top = np.asarray(task.predictions(tf.constant(answers))).argmax(-1)
    np.testing.assert_array_equal(top, values["probabilities"].argmax(-1))


@pytest.mark.parametrize("width", [1, 2])
def test_probabilities_of_two_classes(width: int) -> None:
    answers = logits(width)
    second = sigmoid(answers[:, 0] if width == 1 else answers[:, 1] - answers[:, 0])
    values = served(Binary("ab"), answers)
    np.testing.assert_allclose(values["probabilities"], np.stack([1 - second, second], -1), atol=1e-6)
    np.testing.assert_allclose(softmax(values["logits"]), values["probabilities"], atol=1e-6)


def test_probabilities_of_masks_by_one_logit() -> None:
    answers = logits(2, 2, 1)
    second = sigmoid(answers[..., 0])
    values = served(Segmentation("ab"), answers)
    np.testing.assert_allclose(values["probabilities"], np.stack([1 - second, second], -1), atol=1e-6)


def test_probabilities_of_labels() -> None:
    answers = logits(4)
    np.testing.assert_allclose(served(Multilabel("abcd"), answers)["probabilities"], sigmoid(answers), atol=1e-6)


def test_numbers_in_their_own_units() -> None:
    """Far beyond float16's 65504."""
    y = (DRAW.normal(size=(500, 1)) * 3e5 + 1e6).astype(np.float32)
    task = Regression.fit(y, unit="$", columns=("price",))
    scaled = ((y - task.mean) / task.std)[:N]
    assert abs(float(scaled.mean())) < 2
    np.testing.assert_allclose(served(task, scaled)["value"], y[:N], rtol=1e-6)


def test_several_by_name() -> None:
    task = Several({"kind": Classification("abc"), "price": Regression([2.0], [4.0])})
    answers = {"kind": tf.constant(logits(3)), "price": tf.constant(logits(1))}
    values = task.served(answers)
    assert task.names == tuple(values) == ("kind", "price")
    np.testing.assert_allclose(values["kind"], softmax(answers["kind"].numpy()), atol=1e-6)
    np.testing.assert_allclose(values["price"], answers["price"].numpy() * 4 + 2, rtol=1e-6)
    assert (task.has_classes("kind"), task.has_classes("price")) == (True, False)
    assert task.ports({"kind": (3,), "price": (1,)}) == {"kind": (3,), "price": (1,)}
    assert [metric.name for metric in task.metrics] == ["kind_accuracy", "price_rmse", "price_mae", "price_r2"]
    y = {"kind": Y3, "price": np.zeros((N, 1), np.float32)}
    predictions = {name: value.numpy() for name, value in values.items()}
    measured = {metric.name: metric.value(np.asarray(metric.sums(np, y, predictions))) for metric in task.metrics}
    assert measured["kind_accuracy"] == (answers["kind"].numpy().argmax(-1) == Y3).mean()
    assert measured["price_mae"] == pytest.approx(np.abs(values["price"].numpy()).mean(), rel=1e-6)
    with pytest.raises(ConfigError, match=r"gives the outputs kind, the pipeline names kind, price; name them alike"):
        task.check_answers({"kind": (None, 3)}, "net.py:build")
    with pytest.raises(ConfigError, match=r"output 'price', gives \[N, 2\]"):
        task.check_answers({"kind": (None, 3), "price": (None, 2)}, "net.py:build")


# --- what they refuse, and facts ---


@pytest.mark.parametrize(
    ("task", "accepted", "refused"),
    [
        (Classification("abc"), [(None, 3)], [(None, 4), (None, 2, 3), (None,)]),
        (Binary("ab"), [(None, 1), (None, 2)], [(None, 3), (None, 1, 1)]),
        (Multilabel("abc"), [(None, 3)], [(None, 1)]),
        (Regression([0.0], [1.0]), [(None, 1)], [(None, 2), (None, 1, 1), (None,)]),
        (Segmentation("abc"), [(None, None, None, 3)], [(None, 2, 2, 1), (None, 3)]),
        (Segmentation("ab"), [(None, 2, 2, 2), (None, 2, 2, 1)], [(None, 2, 2, 3)]),
        (SequenceLabels("abc"), [(None, 7, 3), (None, None, 3)], [(None, 3), (None, 7, 2)]),
    ],
    ids=lambda v: getattr(v, "name", ""),
)
def test_answers_of_another_shape_are_refused(task: Task, accepted: list[Any], refused: list[Any]) -> None:
    for shape in accepted:
        task.check_answers(shape, "net.py:build")
    for shape in refused:
        with pytest.raises(ConfigError, match=r"^model.build: net.py:build gives \[N.*needs \[N"):
            task.check_answers(shape, "net.py:build")


def test_two_classes_are_two() -> None:
    with pytest.raises(ConfigError, match="binary needs two classes, the data has 3; set task: classification"):
        Binary("abc")


def test_targets_that_are_all_the_same() -> None:
    y = np.tile(np.float32([1, 1234.5]), (9, 1))
    y[:, 0] += np.arange(9)
    with pytest.raises(DataError, match=r"all training items have 1234.5 in column 1"):
        Regression.fit(y)


def test_weights_that_make_classes_count_alike() -> None:
    """As scikit-learn's ``balanced``; a class without items has none."""
    y = np.array([0, 0, 0, 1, -1, 3], np.int32)
    np.testing.assert_allclose(balanced(y, 4), [5 / 12, 5 / 4, 0, 5 / 4])


@pytest.mark.parametrize(
    "task",
    [
        Classification("abc"),
        Binary("ab"),
        Multilabel("abc"),
        Segmentation("abc"),
        SequenceLabels("ab"),
        Regression([1.5, -2.0], [3.0, 1e5], unit="$", columns=("a", "b")),
    ],
    ids=lambda task: task.name,
)
def test_facts_make_it_again(task: Task) -> None:
    again = of_facts(task.facts())
    assert type(again) is type(task)
    assert (again.width, again.names) == (task.width, task.names)
    assert [(one.name, one.size) for one in again.metrics] == [(one.name, one.size) for one in task.metrics]
    if isinstance(task, Regression) and isinstance(again, Regression):
        np.testing.assert_array_equal([again.mean, again.std], [task.mean, task.std])


def test_metrics_for_people() -> None:
    price = Regression([1.0], [2.0], unit="dollars").facts()
    kind = Classification("abc").facts()
    assert quality_words({"value": price}, {"rmse": 50300.4, "r2": 0.8}) == ["rmse 50,300 dollars"]
    assert quality_words({"probabilities": kind}, {"accuracy": 0.93456}) == ["accuracy 93.46 %"]
    both = {"kind_accuracy": 0.5, "price_rmse": 1.25}
    assert quality_words({"kind": kind, "price": price}, both) == ["kind_accuracy 50.00 %", "price_rmse 1.25 dollars"]
    assert quality_words({"value": price}, {"rmse": None, "mae": 3.0}) == ["mae 3 dollars"]
    assert quality_words({"value": price}, {"loss": 3.0}) == []
    assert quality_words({"own": {"name": "own.py:Task", "targets": "numbers"}}, {"rmse": 3.0}) == []


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"name": "outputs"},
        {"name": "classification"},
        {"name": "classification", "classes": 0},
        {"name": "classification", "classes": 1 << 40},
        {"name": "classification", "classes": "many"},
        {"name": "binary", "classes": 3},
        {"name": "regression", "mean": ["a"], "std": [1]},
        {"name": "regression", "mean": 3, "std": [1]},
        {"name": ["regression"]},
    ],
)
def test_facts_that_are_none(facts: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match="is not one that is known; export again") as caught:
        of_facts(facts)
    assert "\n" not in str(caught.value)
