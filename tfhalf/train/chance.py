"""Whether a classifier is better than one that always gives the same answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import bdtrc

SURE = 0.01
"""The p-value from which on an accuracy counts as chance."""


@dataclass(frozen=True)
class Chance:
    """``label`` is the most frequent class of the test set and ``share`` its part of it, 0 to 1: the accuracy of
    answering it each time. ``p_value``: how likely such answers would be right as often as the model's."""

    label: str
    share: float
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
        return (
            f"no better than always answering {self.label!r}, which is right for {self.share * 100:.2f} % of the test "
            f"items (p = {self.p_value:.2g}): the test set shows nothing that it has learned"
        )


def against_majority(accuracy: float, y: np.ndarray, labels: Sequence[str]) -> Chance:
    """The exact one-sided binomial test (Clopper and Pearson 1934) of ``accuracy``, 0 to 1, on labels ``y`` [N],
    against the share of the most frequent class."""
    counts = np.bincount(y, minlength=len(labels))
    most, right = int(counts.argmax()), round(accuracy * len(y))
    share = float(counts[most] / len(y))
    return Chance(labels[most], share, float(bdtrc(right - 1, len(y), share)) if right else 1.0)
