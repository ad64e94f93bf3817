"""What training makes smaller: weights, classes' weights, targets that do not count, several outputs; losses and
metrics by name, each beside Keras' own over several batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from train_helpers import smoothed_cross_entropy

from tfhalf import config
from tfhalf.data import Splits
from tfhalf.data.columns import Columns
from tfhalf.errors import ConfigError, RefError
from tfhalf.tasks import Binary, Classification, Multilabel, Regression, Segmentation, SequenceLabels
from tfhalf.train.minimums import check_minimums
from tfhalf.train.objective import Objective, SeveralObjectives
from tfhalf.train.tasks import make_objective, targets_of

DRAW = np.random.default_rng(0)
N, BATCH = 48, 16
OWN = """
import keras


def cubed(y, answers, power=3):
    return keras.ops.mean(keras.ops.abs(keras.ops.cast(y, answers.dtype) - answers) ** power, -1)


class Scaled(keras.losses.Loss):
    def __init__(self, by=1.0):
        super().__init__(reduction="none")
        self.by = by

    def call(self, y, answers):
        return self.by * keras.ops.mean(keras.ops.square(y - answers), -1)


not_callable = 3


def fails(y, answers):
    raise KeyError("within")
"""


def logits(*shape: int) -> np.ndarray:
    return (DRAW.normal(size=(N, *shape)) * 2).astype(np.float32)


def whole(high: int, *shape: int, low: int = 0) -> np.ndarray:
    return DRAW.integers(low, high, (N, *shape)).astype(np.int32)


def per_item(y: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Cross-entropy of each row, float64 [N]."""
    rows = zip(y.reshape(-1), answers.reshape(-1, answers.shape[-1]), strict=True)
    return np.array([smoothed_cross_entropy(np.array([k]), row[None]) for k, row in rows]).reshape(y.shape)


# --- weights ---


def test_an_item_counts_by_its_weight() -> None:
    """As Keras: the sum of weighted losses over the number of items, whatever the weights sum to."""
    y, answers, weight = whole(3), logits(3), DRAW.uniform(0, 3, N).astype(np.float32)
    loss = Objective(Classification("abc")).loss(tf.constant(y), tf.constant(answers), tf.constant(weight))
    assert float(loss) == pytest.approx((weight * per_item(y, answers)).sum() / N, rel=1e-5)
    theirs = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, answers, sample_weight=weight)
    assert float(loss) == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize("own", [False, True], ids=["class alone", "class and item"])
def test_an_item_counts_by_its_class(own: bool) -> None:
    y, answers, weight = whole(3), logits(3), DRAW.uniform(0, 3, N).astype(np.float32)
    classes = np.float32([0.5, 2, 0])
    objective = Objective(Classification("abc"), class_weight=classes)
    loss = objective.loss(tf.constant(y), tf.constant(answers), tf.constant(weight) if own else None)
    expected = (classes[y] * (weight if own else 1) * per_item(y, answers)).sum() / N
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("task", "axes"), [(SequenceLabels("abc"), (5,)), (Segmentation("abc"), (2, 3))], ids=["steps", "pixels"]
)
def test_what_is_below_0_does_not_count(task: Any, axes: tuple[int, ...]) -> None:
    """Neither in the sum nor in what it is divided by; with weights of items and classes beside."""
    y, answers, weight = whole(3, *axes, low=-1), logits(*axes, 3), DRAW.uniform(0, 3, N).astype(np.float32)
    counts, each = y >= 0, per_item(np.maximum(y, 0), answers)
    loss = Objective(task).loss(tf.constant(y), tf.constant(answers))
    assert float(loss) == pytest.approx(each[counts].mean(), rel=1e-5)
    classes = np.float32([0.5, 2, 0])
    weights = classes[np.maximum(y, 0)] * weight.reshape(-1, *(1 for _ in axes))
    objective = Objective(task, class_weight=classes)
    loss = objective.loss(tf.constant(y), tf.constant(answers), tf.constant(weight))
    assert float(loss) == pytest.approx((weights * each)[counts].sum() / counts.sum(), rel=1e-5)
    nothing = Objective(task).loss(tf.constant(np.full_like(y, -1)), tf.constant(answers))
    assert float(nothing) == 0


def test_scores_are_the_loss_and_the_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts of 8192 rows; of 10 here, the last of which is partial, and whose targets count unequally."""
    monkeypatch.setattr("tfhalf.train.objective._ROWS", 10)
    y, answers, weight = whole(3, 4, low=-1), logits(4, 3), DRAW.uniform(0, 3, N).astype(np.float32)
    y[:10] = -1
    objective = Objective(SequenceLabels("abc"))
    loss, values = objective.scores(y, answers, weight)
    whole_loss = objective.loss(tf.constant(y), tf.constant(answers), tf.constant(weight))
    assert loss == pytest.approx(float(whole_loss), rel=1e-5)
    counts = y >= 0
    assert values == {"accuracy": pytest.approx((answers.argmax(-1) == y)[counts].mean())}


# --- several outputs ---


def several() -> tuple[SeveralObjectives, dict[str, np.ndarray], dict[str, np.ndarray]]:
    parts = {"kind": Objective(Classification("abc")), "price": Objective(Regression([2.0], [4.0]))}
    y = {"kind": whole(3), "price": (logits(1) * 4 + 2).astype(np.float32)}
    return SeveralObjectives(parts, {"kind": 2.0, "price": 0.25}), y, {"kind": logits(3), "price": logits(1)}


def test_losses_of_several_outputs_are_added() -> None:
    objective, y, answers = several()
    weight = DRAW.uniform(0, 3, N).astype(np.float32)
    for own in (None, weight):
        first = (per_item(y["kind"], answers["kind"]) * (1 if own is None else own)).mean()
        squares = np.square((y["price"] - 2) / 4 - answers["price"])[:, 0]
        expected = 2 * first + 0.25 * (squares * (1 if own is None else own)).mean()
        tensors = [{name: tf.constant(value) for name, value in one.items()} for one in (y, answers)]
        assert float(objective.loss(*tensors, own)) == pytest.approx(expected, rel=1e-4)
        assert objective.scores(Columns(y), Columns(answers), own)[0] == pytest.approx(expected, rel=1e-4)


def test_metrics_of_several_outputs() -> None:
    objective, y, answers = several()
    assert [metric.name for metric in objective.metrics] == ["kind_accuracy", "price_rmse", "price_mae", "price_r2"]
    values = objective.scores(Columns(y), Columns(answers))[1]
    assert values["kind_accuracy"] == pytest.approx((answers["kind"].argmax(-1) == y["kind"]).mean())
    assert values["price_mae"] == pytest.approx(np.abs(answers["price"] * 4 + 2 - y["price"]).mean(), rel=1e-5)
    assert set(objective.predictions(Columns(answers))) == {"kind", "price"}


# --- by name ---


def made(task: dict[str, Any], y: np.ndarray, classes: str = "", folder: Path = Path(), **rest: Any) -> Objective:
    """What a pipeline of that ``task`` section trains for, on training targets ``y``."""
    values = {"name": "job", "model": {"build": "a.py:b"}, "data": {"source": "npz:a.npz"}, "task": task, **rest}
    x, names = np.zeros((len(y), 2), np.float32), tuple(classes)
    splits = Splits(x, y, x[:0], y[:0], x, y, len(names), (2,), names, "made here")
    return make_objective(config.Pipeline.model_validate(values), splits, folder)


LABELS, CLASSES, TWO = DRAW.integers(0, 2, (N, 4)).astype(np.float32), whole(5), whole(2)
NUMBERS = (DRAW.normal(size=(N, 2)) * [2, 50] + [30, 900]).astype(np.float32)
HOT = np.eye(5, dtype=np.float32)[CLASSES]
SCALED = ((NUMBERS - NUMBERS.mean(0)) / NUMBERS.std(0)).astype(np.float32)
TASKS: dict[str, tuple[dict[str, Any], np.ndarray, str, tuple[int, ...]]] = {
    "classes": ({"name": "classification"}, CLASSES, "abcde", (5,)),
    "two": ({"name": "binary"}, TWO, "ab", (1,)),
    "labels": ({"name": "multilabel"}, LABELS, "abcd", (4,)),
    "numbers": ({"name": "regression"}, NUMBERS, "", (2,)),
}
K = keras.losses
LOSSES: list[tuple[str, Any, Any, Callable[[np.ndarray], tuple[Any, Any]]]] = [
    ("numbers", {"name": "Huber", "args": {"delta": 0.5}}, K.Huber(0.5), lambda a: (SCALED, a)),
    ("numbers", "log_cosh", K.LogCosh(), lambda a: (SCALED, a)),
    ("numbers", "mean_absolute_error", K.MeanAbsoluteError(), lambda a: (SCALED, a)),
    (
        "classes",
        {"name": "CategoricalFocalCrossentropy", "args": {"gamma": 1.5}},
        K.CategoricalFocalCrossentropy(gamma=1.5, from_logits=True),
        lambda a: (HOT, a),
    ),
    (
        "classes",
        "SparseCategoricalCrossentropy",
        K.SparseCategoricalCrossentropy(from_logits=True),
        lambda a: (CLASSES, a),
    ),
    ("classes", "CategoricalHinge", K.CategoricalHinge(), lambda a: (HOT, keras.ops.softmax(a))),
    ("two", "binary_focal_crossentropy", K.BinaryFocalCrossentropy(from_logits=True), lambda a: (TWO[:, None], a)),
    ("labels", "BinaryFocalCrossentropy", K.BinaryFocalCrossentropy(from_logits=True), lambda a: (LABELS, a)),
]


@pytest.mark.parametrize(("kind", "name", "theirs", "pair"), LOSSES, ids=[f"{row[0]} {row[1]}"[:60] for row in LOSSES])
def test_losses_of_keras(kind: str, name: Any, theirs: Any, pair: Callable[[np.ndarray], tuple[Any, Any]]) -> None:
    task, y, classes, shape = TASKS[kind]
    objective, answers = made({**task, "loss": name}, y, classes), logits(*shape)
    compiled = tf.function(objective.loss, autograph=False)
    true, guess = pair(answers)
    assert float(compiled(tf.constant(y), tf.constant(answers))) == pytest.approx(float(theirs(true, guess)), rel=1e-4)
    weight = DRAW.uniform(0, 3, N).astype(np.float32)
    mine = compiled(tf.constant(y), tf.constant(answers), tf.constant(weight))
    assert float(mine) == pytest.approx(float(theirs(true, guess, sample_weight=weight)), rel=1e-4)


M = keras.metrics
METRICS: list[tuple[str, Any, Any, Callable[[np.ndarray], tuple[Any, Any]]]] = [
    ("two", "AUC", M.AUC(), lambda a: (TWO[:, None], keras.ops.sigmoid(a))),
    (
        "two",
        {"name": "AUC", "args": {"curve": "PR"}},
        M.AUC(curve="PR"),
        lambda a: (TWO[:, None], keras.ops.sigmoid(a)),
    ),
    ("two", "Precision", M.Precision(), lambda a: (TWO[:, None], keras.ops.sigmoid(a))),
    ("two", "BinaryAccuracy", M.BinaryAccuracy(), lambda a: (TWO[:, None], keras.ops.sigmoid(a))),
    (
        "classes",
        {"name": "TopKCategoricalAccuracy", "args": {"k": 2}},
        M.TopKCategoricalAccuracy(k=2),
        lambda a: (HOT, keras.ops.softmax(a)),
    ),
    (
        "classes",
        {"name": "SparseTopKCategoricalAccuracy", "args": {"k": 3}},
        M.SparseTopKCategoricalAccuracy(k=3),
        lambda a: (CLASSES, keras.ops.softmax(a)),
    ),
    (
        "classes",
        {"name": "F1Score", "args": {"average": "macro"}},
        M.F1Score(average="macro"),
        lambda a: (HOT, keras.ops.softmax(a)),
    ),
    ("classes", "F1Score", M.F1Score(), lambda a: (HOT, keras.ops.softmax(a))),
    ("classes", "CategoricalCrossentropy", M.CategoricalCrossentropy(), lambda a: (HOT, keras.ops.softmax(a))),
    ("labels", "AUC", M.AUC(), lambda a: (LABELS, keras.ops.sigmoid(a))),
    (
        "labels",
        {"name": "F1Score", "args": {"average": "micro", "threshold": 0.5}},
        M.F1Score(average="micro", threshold=0.5),
        lambda a: (LABELS, keras.ops.sigmoid(a)),
    ),
    (
        "numbers",
        "MeanAbsolutePercentageError",
        M.MeanAbsolutePercentageError(),
        lambda a: (NUMBERS, a * NUMBERS.std(0) + NUMBERS.mean(0)),
    ),
    (
        "numbers",
        "RootMeanSquaredError",
        M.RootMeanSquaredError(),
        lambda a: (NUMBERS, a * NUMBERS.std(0) + NUMBERS.mean(0)),
    ),
    ("numbers", "R2Score", M.R2Score(), lambda a: (NUMBERS, a * NUMBERS.std(0) + NUMBERS.mean(0))),
]


@pytest.mark.parametrize(
    ("kind", "name", "theirs", "pair"), METRICS, ids=[f"{row[0]} {row[1]}"[:60] for row in METRICS]
)
def test_metrics_of_keras(kind: str, name: Any, theirs: Any, pair: Callable[[np.ndarray], tuple[Any, Any]]) -> None:
    """Sums of batches within a compiled function, as training adds them, against Keras' own batches."""
    task, y, classes, shape = TASKS[kind]
    objective, answers = made({**task, "metrics": [name]}, y, classes), logits(*shape)
    compiled = tf.function(objective.sums, autograph=False)
    total = np.zeros(objective.size)
    theirs.reset_state()
    for start in range(0, N, BATCH):
        rows = slice(start, start + BATCH)
        total += compiled(tf.constant(y[rows]), tf.constant(answers[rows])).numpy()
        theirs.update_state(*(part[rows] for part in pair(answers)))
    expected = float(np.mean(theirs.result()))
    ((_, value),) = objective.values(total).items()
    assert value == pytest.approx(expected, rel=1e-4)
    ((_, again),) = objective.scores(y, answers)[1].items()
    assert again == pytest.approx(expected, rel=1e-4)
    assert objective.monitor.higher == ("Error" not in str(name) and "entropy" not in str(name))


def test_metrics_of_keras_are_called_alike_however_many_there_were() -> None:
    for _ in range(2):
        names = [metric.name for metric in made({"name": "binary", "metrics": ["AUC", "Precision"]}, TWO, "ab").metrics]
        assert names == ["auc", "precision"]
    metrics = [{"name": "AUC", "args": {"name": "auc_2"}}, "F1Score"]
    assert [metric.name for metric in made({"name": "binary", "metrics": metrics}, TWO, "ab").metrics] == [
        "auc_2",
        "f1_score",
    ]


def test_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    answers = logits(2)
    task: dict[str, Any] = {"name": "regression", "loss": "own.py:cubed", "metrics": ["rmse", "own.py:cubed"]}
    objective = made(task, NUMBERS, folder=tmp_path)
    loss, values = objective.scores(NUMBERS, answers)
    assert loss == pytest.approx((np.abs(SCALED - answers) ** 3).mean(), rel=1e-4)
    units = answers * NUMBERS.std(0) + NUMBERS.mean(0)
    assert list(values) == ["rmse", "cubed"]
    assert values["cubed"] == pytest.approx((np.abs(NUMBERS - units) ** 3).mean(), rel=1e-4)
    objective = made({**task, "loss": {"name": "own.py:cubed", "args": {"power": 1}}}, NUMBERS, folder=tmp_path)
    assert objective.scores(NUMBERS, answers)[0] == pytest.approx(np.abs(SCALED - answers).mean(), rel=1e-4)
    objective = made({**task, "loss": {"name": "own.py:Scaled", "args": {"by": 5.0}}}, NUMBERS, folder=tmp_path)
    assert objective.scores(NUMBERS, answers)[0] == pytest.approx(5 * ((SCALED - answers) ** 2).mean(), rel=1e-4)


def test_the_metric_that_tells_the_best_epoch() -> None:
    objective = made({"name": "regression", "monitor": "r2"}, NUMBERS)
    assert [metric.name for metric in objective.metrics] == ["r2", "rmse", "mae"]
    assert (objective.monitor.name, objective.monitor.higher) == ("r2", True)


def test_weights_of_classes_by_name_and_number() -> None:
    y = np.array([0, 0, 0, 1, 2, 2], np.int32)
    objective = made({"name": "classification", "class_weight": {"a": 3, "2": 0.5}}, y, "abc")
    np.testing.assert_array_equal(objective.class_weight, [3, 1, 0.5])
    objective = made({"name": "classification", "class_weight": "balanced"}, y, "abc")
    np.testing.assert_allclose(objective.class_weight, [2 / 3, 2, 1])


@pytest.mark.parametrize(
    ("task", "kind", "error", "words"),
    [
        (
            {"metrics": ["nonsense"]},
            "classes",
            ConfigError,
            "task.metrics: 'nonsense' is not a metric; accepted: accuracy, ",
        ),
        (
            {"loss": "nonsense"},
            "classes",
            ConfigError,
            "task.loss: 'nonsense' is not in keras.losses; accepted: a class there",
        ),
        (
            {"loss": {"name": "Huber", "args": {"width": 1}}},
            "numbers",
            ConfigError,
            "task.loss: Huber(width=1) fails: TypeError",
        ),
        (
            {"metrics": ["accuracy", "accuracy"]},
            "classes",
            ConfigError,
            "task.metrics: accuracy, accuracy hold one twice; keep one",
        ),
        ({"monitor": "auc"}, "classes", ConfigError, "task.monitor: received 'auc', accepted: accuracy"),
        (
            {"class_weight": {"x": 1}},
            "classes",
            ConfigError,
            "task.class_weight: 'x' is not a class; accepted: a, b, c, d, e, or",
        ),
        (
            {"class_weight": {"7": 1}},
            "classes",
            ConfigError,
            "'7' is not a class; accepted: a, b, c, d, e, or a number from 0 to 4",
        ),
        (
            {"class_weight": "balanced"},
            "labels",
            ConfigError,
            "task.class_weight: multilabel has no classes of which one is right",
        ),
        ({"unit": "kg"}, "classes", ConfigError, "task.unit: is for regression; leave it out of classification"),
        ({"scale": False}, "labels", ConfigError, "task.scale: is for regression; leave it out of multilabel"),
        (
            {"name": "binary"},
            "classes",
            ConfigError,
            "task: binary needs two classes, the data has 5; set task: classification",
        ),
        ({"loss": "own.py:absent"}, "classes", RefError, "absent"),
        (
            {"name": "own.py:cubed"},
            "classes",
            RefError,
            "task: own.py:cubed is not a class that extends tfhalf.tasks.Task",
        ),
    ],
)
def test_refused_in_one_line(
    tmp_path: Path, task: dict[str, Any], kind: str, error: type[Exception], words: str
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    base, y, classes, _ = TASKS[kind]
    with pytest.raises(error) as caught:
        made({**base, **task}, y, classes, tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "task", "minimum", "words"),
    [
        ("numbers", {}, {"rmse": 60000, "r2": 0.7}, None),
        ("numbers", {}, {"rsme": 1}, "verify.min: received 'rsme', accepted: rmse, mae, r2"),
        ("numbers", {"metrics": ["mae"]}, {"mae": 1}, None),
        (
            "numbers",
            {"metrics": ["mae"]},
            {"rmse": 1},
            "received 'rmse', accepted: mae; or name rmse in task.metrics as well",
        ),
        ("classes", {}, {"accuracy": 0.9}, None),
        ("classes", {"metrics": ["f1"]}, {"accuracy": 0.9, "f1": 0.5}, None),
        (
            "classes",
            {},
            {"accuracy": 90},
            "verify.min: accuracy is a share, received 90, accepted: 0 to 1, as 0.9 for 90 %",
        ),
        ("classes", {}, {"f1": 0.9}, "received 'f1', accepted: accuracy; or name f1 in task.metrics as well"),
        (
            "two",
            {"metrics": ["accuracy", "Precision"]},
            {"precision": 0.5},
            "received 'precision', which only training can measure; accepted: accuracy",
        ),
        (
            "numbers",
            {"name": "own.py:Doubled"},
            {"rmse": 1},
            "received 'rmse', which only training can measure; accepted: nothing",
        ),
    ],
)
def test_what_artifacts_must_at_least_be_is_known_before_training(
    tmp_path: Path, kind: str, task: dict[str, Any], minimum: dict[str, float], words: str | None
) -> None:
    own = "from tfhalf.tasks import Regression\n\nclass Doubled(Regression):\n    name = 'doubled'\n"
    init = "    def __init__(self, y, class_names):\n        super().__init__(y.mean(0).tolist(), y.std(0).tolist())\n"
    (tmp_path / "own.py").write_text(own + init)
    base, y, classes, _ = TASKS[kind]
    if words is None:
        assert made({**base, **task}, y, classes, tmp_path, verify={"min": minimum})
        return
    with pytest.raises(ConfigError) as caught:
        made({**base, **task}, y, classes, tmp_path, verify={"min": minimum})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_artifacts_are_measured_whatever_training_measures() -> None:
    """Where all metrics are Keras', which only training can compute, an artifact is held to the task's usual ones."""
    task = made({"name": "regression", "metrics": ["MeanAbsolutePercentageError"]}, NUMBERS).task
    assert task.facts()["metrics"] == ["rmse", "mae", "r2"]
    task = made({"name": "regression", "metrics": ["MeanAbsolutePercentageError", "mae"]}, NUMBERS).task
    assert task.facts()["metrics"] == ["mae"]


def test_minimums_of_several_outputs() -> None:
    objective = several()[0]
    check_minimums({"kind_accuracy": 0.9, "price_rmse": 5, "r2": 0.5}, objective)
    with pytest.raises(ConfigError, match="received 'kind_rmse', accepted: kind_accuracy, price_rmse, price_mae"):
        check_minimums({"kind_rmse": 0.9}, objective)


def test_outputs_go_with_the_data() -> None:
    y = Columns({"kind": CLASSES, "price": NUMBERS})
    x = np.zeros((N, 2), np.float32)
    splits = Splits(
        x, y, x[:0], y[:0], x, y, 0, (2,), (), "made here", output_classes={"kind": tuple("abcde")}
    )  # fmt: skip
    values = {"name": "job", "model": {"build": "a.py:b"}, "data": {"source": "npz:a.npz"}}
    outputs = {"kind": {"name": "classification"}, "price": {"name": "regression", "weight": 0.5}}
    pipeline = config.Pipeline.model_validate({**values, "outputs": outputs})
    assert targets_of(pipeline, Path()) == {"kind": "classes", "price": "numbers"}
    objective = make_objective(pipeline, splits, Path())
    assert isinstance(objective, SeveralObjectives)
    assert objective.weights == {"kind": 1.0, "price": 0.5}
    assert [type(part.task) for part in objective.parts.values()] == [Classification, Regression]
    other = config.Pipeline.model_validate({**values, "outputs": {"kind": outputs["kind"], "cost": outputs["price"]}})
    with pytest.raises(ConfigError, match="outputs: names kind, cost, and the data's y is kind, price; give y by the"):
        make_objective(other, splits, Path())


def test_which_targets_a_task_takes() -> None:
    values = {"name": "job", "model": {"build": "a.py:b"}, "data": {"source": "npz:a.npz"}}
    tasks = (Classification, Binary, Multilabel, Regression, Segmentation, SequenceLabels)
    kinds = [
        targets_of(config.Pipeline.model_validate({**values, "task": task.name}), Path()) for task in tasks
    ]  # fmt: skip
    assert kinds == ["classes", "classes", "multi", "numbers", "masks", "steps"]
