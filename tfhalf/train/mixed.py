"""Loss and metrics of images that are mixed with others, and so have two targets (`tfhalf.data.mix`)."""

from __future__ import annotations

from typing import Any

from tfhalf.data.mix import Mixed, partners
from tfhalf.system.group import ALONE, Group
from tfhalf.train.objective import Objective


def mean_loss(objective: Objective, y: Any, answers: Any, weight: Any = None, group: Group = ALONE) -> Any:
    """`Objective.loss`; of `Mixed` targets ``share * loss(y) + (1 - share) * loss(y of the partner)`` of each item, in
    which weights of items and classes are those of the target they stand by."""
    if not isinstance(y, Mixed):
        return objective.loss(y, answers, weight, group)
    own, other = y.share, 1 - y.share
    if weight is not None:
        own, other = own * weight, other * partners(weight)
    return objective.loss(y.y, answers, own, group) + objective.loss(partners(y.y), answers, other, group)


def sums(objective: Objective, y: Any, answers: Any) -> Any:
    """`Objective.sums`; of `Mixed` targets those of the one that counts for more."""
    return objective.sums(y.main if isinstance(y, Mixed) else y, answers)
