"""Metrics as sums over items: added up within the compiled loop while a net trains, and in numpy where artifacts are
compared.

    sums(xp, y, predictions)   float [size]: of a batch; those of several batches are added
    value(sums)                the metric over all of them

``xp`` is `numpy` or `keras.ops`, so that a metric is defined once. ``y`` are targets, ``predictions`` what the task
serves for them. A target below 0 where targets are classes does not count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfhalf.progress import figure

THRESHOLDS = 200
"""At which the area under the ROC curve is taken, as many as `keras.metrics.AUC` has."""


@dataclass(frozen=True)
class Metric:
    """A figure of how good predictions are.

    Attributes:
        name: as history, tables and callbacks call it.
        size: how many sums it needs.
        sums: of namespace, targets and predictions.
        value: the figure, of float64 [size].
        higher: whether more is better.
        share: whether it is a share of a whole, 0 to 1, which is shown in percent.
        unit: what it counts, of errors of numbers.
        of_answers: whether its sums are of the net's own answers, of which training alone knows.
    """

    name: str
    size: int
    sums: Callable[[Any, Any, Any], Any]
    value: Callable[[np.ndarray], float]
    higher: bool = True
    share: bool = True
    of_answers: bool = False
    unit: str = ""

    def measure(self, y: np.ndarray, predictions: np.ndarray) -> float:
        """The figure over targets ``y`` and ``predictions``, each [N, ...]."""
        exact = predictions.astype(np.float64)
        if y.dtype.kind == "f":
            y = y.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # of answers that are not finite the figure is not, either
            return self.value(np.asarray(self.sums(np, y, exact), np.float64))

    def shown(self, value: float) -> str:
        """For a table: percent of a share; of numbers four digits, and all before the point."""
        return figure(value, self.share)

    def words(self, value: float) -> str:
        """With its percent sign or its unit."""
        return f"{self.shown(value)} {'%' if self.share else self.unit}".strip()


def _ratio(sums: np.ndarray) -> float:
    """Of two sums; 0 where nothing counts."""
    return float(sums[0] / sums[1]) if sums[1] else 0.0


def _number(xp: Any, yes: Any) -> Any:
    """1.0 where ``yes``, else 0.0."""
    return xp.where(yes, 1.0, 0.0)


def accuracy() -> Metric:
    """Share of targets, integers [...], that are the top class of predictions [..., K]."""

    def sums(xp: Any, y: Any, predictions: Any) -> Any:
        counts = y >= 0
        right = xp.equal(xp.argmax(predictions, -1), y)
        return xp.stack([xp.sum(_number(xp, right)), xp.sum(_number(xp, counts))])

    return Metric("accuracy", 2, sums, _ratio)


def top_k(k: int) -> Metric:
    """Share of targets, integers [...], that are among the ``k`` top classes of predictions [..., K]."""

    def sums(xp: Any, y: Any, predictions: Any) -> Any:
        counts = y >= 0
        own = xp.take_along_axis(predictions, xp.where(counts, y, 0)[..., None], -1)
        above = xp.sum(_number(xp, predictions > own), -1)
        right = xp.logical_and(above < k, counts)
        return xp.stack([xp.sum(_number(xp, right)), xp.sum(_number(xp, counts))])

    return Metric(f"top{k}", 2, sums, _ratio)


def _by_class(classes: int) -> Callable[[Any, Any, Any], Any]:
    """Sums [3, K]: of each class the right answers, the answers, the targets."""

    def sums(xp: Any, y: Any, predictions: Any) -> Any:
        counts = (y >= 0)[..., None]
        every = xp.arange(classes)
        true = xp.equal(y[..., None], every)
        answered = xp.logical_and(xp.equal(xp.argmax(predictions, -1)[..., None], every), counts)
        axes = tuple(range(len(y.shape)))
        parts = (xp.logical_and(true, answered), answered, true)
        return xp.reshape(xp.stack([xp.sum(_number(xp, part), axes) for part in parts]), (-1,))

    return sums


def mean_iou(classes: int) -> Metric:
    """Mean over classes of intersection over union (Jaccard), of targets [...] and predictions [..., K]; a class that
    neither has does not count."""

    def value(sums: np.ndarray) -> float:
        right, answered, true = sums.reshape(3, classes)
        union = answered + true - right
        there = union > 0
        return float((right[there] / union[there]).mean()) if there.any() else 0.0

    return Metric("iou", 3 * classes, _by_class(classes), value)


def macro_f1(classes: int) -> Metric:
    """Mean over classes of F1, the harmonic mean of precision and recall."""

    def value(sums: np.ndarray) -> float:
        right, answered, true = sums.reshape(3, classes)
        there = answered + true > 0
        return float((2 * right[there] / (answered + true)[there]).mean()) if there.any() else 0.0

    return Metric("f1", 3 * classes, _by_class(classes), value)


def auc() -> Metric:
    """Area under the ROC curve by trapezoids, of targets 0 or 1 [N] and predictions, of which the last column is the
    probability of 1."""
    thresholds = np.concatenate([[-1e-7], np.arange(1, THRESHOLDS - 1) / (THRESHOLDS - 1), [1 + 1e-7]])

    def sums(xp: Any, y: Any, predictions: Any) -> Any:
        above = predictions[..., -1:] > xp.convert_to_tensor(thresholds.astype("float32")) if xp is not np else (
            predictions[..., -1:] > thresholds
        )  # fmt: skip
        true = xp.equal(y, 1)[..., None]
        parts = (xp.logical_and(above, true), xp.logical_and(above, xp.equal(y, 0)[..., None]))
        return xp.concatenate([xp.sum(_number(xp, part), 0) for part in parts])

    def value(sums: np.ndarray) -> float:
        right, wrong = sums.reshape(2, THRESHOLDS)
        if not right[0] or not wrong[0]:
            return 0.5
        rates, steps = right / right[0], -np.diff(wrong / wrong[0])
        return float((steps * (rates[1:] + rates[:-1]) / 2).sum())

    return Metric("auc", 2 * THRESHOLDS, sums, value)


def micro_f1() -> Metric:
    """F1 of all labels together: targets 0 or 1 and probabilities, each [N, K], at a threshold of 0.5."""

    def sums(xp: Any, y: Any, predictions: Any) -> Any:
        answered, true = predictions > 0.5, y > 0.5
        parts = (xp.logical_and(answered, true), answered, true)
        return xp.stack([xp.sum(_number(xp, part)) for part in parts])

    def value(sums: np.ndarray) -> float:
        return float(2 * sums[0] / (sums[1] + sums[2])) if sums[1] + sums[2] else 1.0

    return Metric("f1", 3, sums, value)


def exact_match() -> Metric:
    """Share of items all of whose labels are right: targets 0 or 1 and probabilities, each [N, K]."""

    def sums(xp: Any, y: Any, predictions: Any) -> Any:
        same = xp.equal(predictions > 0.5, y > 0.5)
        right = xp.sum(_number(xp, xp.all(same, -1)))
        return xp.stack([right, right * 0.0 + y.shape[0]])

    return Metric("exact", 2, sums, _ratio)


def _columns(targets: int, of: Callable[[Any, Any], Any]) -> Callable[[Any, Any, Any], Any]:
    """Sums [K + 1]: of each target what ``of`` gives for its errors, and the number of items."""

    def sums(xp: Any, y: Any, predictions: Any) -> Any:
        errors = xp.reshape(predictions - y, (-1, targets))
        total = xp.sum(of(xp, errors), 0)
        return xp.concatenate([total, total[:1] * 0.0 + errors.shape[0]])

    return sums


def mae(targets: int, unit: str = "") -> Metric:
    """Mean absolute error of numbers [N, K], in their units, the mean over K targets."""

    def value(sums: np.ndarray) -> float:
        return float((sums[:-1] / sums[-1]).mean())

    return Metric(
        "mae", targets + 1, _columns(targets, lambda xp, e: xp.abs(e)), value, higher=False, share=False, unit=unit
    )


def rmse(targets: int, unit: str = "") -> Metric:
    """Root of the mean squared error of numbers [N, K], in their units, the mean over K targets."""

    def value(sums: np.ndarray) -> float:
        return float(np.sqrt(sums[:-1] / sums[-1]).mean())

    return Metric(
        "rmse", targets + 1, _columns(targets, lambda xp, e: e * e), value, higher=False, share=False, unit=unit
    )


def r2(mean: np.ndarray, std: np.ndarray) -> Metric:
    """Coefficient of determination of numbers [N, K], the mean over K targets.

    ``mean`` and ``std`` [K] of the training targets: the sums are of scaled targets, whose squares cancel nothing.
    """
    targets = len(mean)

    def sums(xp: Any, y: Any, predictions: Any) -> Any:
        y, predictions = (xp.reshape(one, (-1, targets)) for one in (y, predictions))
        scaled, errors = (y - mean) / std, (predictions - y) / std
        parts = [xp.sum(errors * errors, 0), xp.sum(scaled, 0), xp.sum(scaled * scaled, 0)]
        return xp.concatenate([*parts, parts[0][:1] * 0.0 + y.shape[0]])

    def value(sums: np.ndarray) -> float:
        errors, total, squares = sums[:-1].reshape(3, targets)
        spread = squares - total**2 / sums[-1]
        there = spread > 0
        return float((1 - errors[there] / spread[there]).mean()) if there.any() else 0.0

    return Metric("r2", 3 * targets + 1, sums, value, share=False)
