"""Whether a net is better than one that always gives the same answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tfhalf.tasks import Regression, Several, Task

SURE = 0.01
"""The p-value from which on an accuracy counts as chance."""


@dataclass(frozen=True)
class Chance:
    """``label`` is the most frequent class of the test set and ``share`` its part of it, 0 to 1: the accuracy of
    answering it each time; of other tasks ``label`` says what is always answered, and there is no share. ``p_value``:
    how likely such answers would be as good as the model's."""

    label: str
    share: float | None
    p_value: float

    @property
    def better(self) -> bool:
        """Whether the model's accuracy is above that, beyond doubt."""
        return self.p_value <= SURE

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with ``better``."""
        return {**asdict(self), "better": self.better}

    def words(self) -> str:
        """What to tell of a model that is not better."""
        if self.share is None:
            return (
                f"no better than always answering {self.label} (p = {self.p_value:.2g}): the test set shows nothing "
                "that it has learned"
            )
        return (
            f"no better than always answering {self.label!r}, which is right for {self.share * 100:.2f} % of the test "
            f"items (p = {self.p_value:.2g}): the test set shows nothing that it has learned"
        )


def against_majority(accuracy: float, y: np.ndarray, labels: Sequence[str]) -> Chance:
    """The exact one-sided binomial test (Clopper and Pearson 1934) of ``accuracy``, 0 to 1, on labels ``y`` [N],
    against the share of the most frequent class."""
    from scipy.special import bdtrc  # here, so that the first step does not wait for its import

    counts = np.bincount(y, minlength=len(labels))
    most, right = int(counts.argmax()), round(accuracy * len(y))
    share = float(counts[most] / len(y))
    return Chance(labels[most], share, float(bdtrc(right - 1, len(y), share)) if right else 1.0)


def against_constant(task: Task, y: Any, predictions: Any) -> Chance:
    """A net's ``predictions`` for targets ``y``, each [N, ...], beside the best constant answer to them.

    Of one class an item `against_majority`; of others a one-sided paired t-test of how good each item's answer is:
    squared error of scaled numbers, share of right pixels, steps or labels.
    """
    from scipy.special import stdtr  # scipy.stats takes most of a second to import

    if isinstance(task, Several):  # by the first output alone
        name, first = next(iter(task.tasks.items()))
        return against_constant(first, y[name], predictions[name])
    if task.targets == "classes":
        return against_majority(float((predictions.argmax(-1) == y).mean()), y, task.class_names)
    own, constant, words = _goodness(task, y, predictions)
    gain = own - constant
    if len(gain) < 2 or not np.isfinite(gain).all():
        return Chance(words, None, 1.0)
    if gain.std() == 0:
        return Chance(words, None, 0.0 if gain[0] > 0 else 1.0)
    t = gain.mean() / gain.std(ddof=1) * np.sqrt(len(gain))
    return Chance(words, None, float(stdtr(len(gain) - 1, -t)))


def _goodness(task: Task, y: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Of each item how good its prediction and the best constant answer are, float64 [N], and what that answer is."""
    axes = tuple(range(1, y.ndim))
    if isinstance(task, Regression):
        own, constant = (((one - y) / task.std) ** 2 for one in (predictions, y.mean(0, dtype=np.float64)))
        return -own.mean(axes), -np.broadcast_to(constant, y.shape).mean(axes), "the mean"
    if task.exclusive:
        counted = y >= 0
        most = int(np.bincount(y[counted], minlength=len(task.class_names)).argmax()) if counted.any() else 0
        right, same = ((answer == y) & counted for answer in (predictions.argmax(-1), most))
        count = np.maximum(counted.sum(axes), 1)
        return right.sum(axes) / count, same.sum(axes) / count, repr(task.class_names[most])
    right, same = ((answer > 0.5) == (y > 0.5) for answer in (predictions, y.mean(0)))
    return right.mean(axes), same.mean(axes), "each label's more frequent state"
