"""How many items a batch holds in each epoch: as many throughout, as stages say, or more where a rate would fall.

S. Smith, P.-J. Kindermans, C. Ying and Q. Le, "Don't Decay the Learning Rate, Increase the Batch Size",
arXiv:1711.00489, sections 3 and 5.1: where a learning rate would be multiplied by 1/k, the batch is multiplied by k, as
long as it is small beside the training set; after that the rate falls. The noise of the steps is the same, and there
are fewer of them.
"""

from __future__ import annotations

import math
from itertools import groupby

from tfhalf import config

LARGEST_SHARE = 10
"""A batch grows to a tenth of the training items at most, where the pipeline names no other bound (section 5.1)."""


class Batches:
    """Batch size and number of steps of every epoch.

    ``falls``, in its methods, counts how often a schedule ``plateau`` has lowered the rate, or in its place grown the
    batch; of other schedules the epoch alone decides.

    Args:
        train: what the pipeline says of training.
        items: of the training set. No batch holds more.
    """

    def __init__(self, train: config.Train, items: int) -> None:
        self.items, self.epochs, self.schedule = items, train.epochs, train.schedule
        self.base = min(train.batch_size, items)
        self._each = [min(part.batch_size or self.base, items) for part in train.stages for _ in range(part.epochs)]
        self.growth = 0
        """How often the batch grows in place of the rate's fall; what falls after that is the rate."""
        if self.schedule.decay == "batch":
            bound = min(self.schedule.max_batch_size or max(self.base, items // LARGEST_SHARE), items)
            most = len(self.schedule.milestones) if self.schedule.name == "step" else math.inf
            while self.growth < most and self.base * self._times ** (self.growth + 1) <= bound:
                self.growth += 1

    @property
    def _times(self) -> int:
        return round(1 / self.schedule.factor)

    def size(self, epoch: int, falls: int = 0) -> int:
        """Items in a batch of ``epoch``, counted from 0."""
        if self._each:
            return self._each[min(epoch, len(self._each) - 1)]
        if self.schedule.name == "step":
            falls = sum(epoch >= milestone for milestone in self.schedule.milestones)
        return self.base * self._times ** min(falls, self.growth) if self.growth else self.base

    def steps(self, epoch: int, falls: int = 0) -> int:
        """Steps of ``epoch``: as many whole batches as there are."""
        return self.items // self.size(epoch, falls)

    @property
    def falls(self) -> range:
        """The numbers of falls that come to different batches, none of them included."""
        return range(self.growth + 1 if self.schedule.name == "plateau" else 1)

    @property
    def plan(self) -> tuple[int, ...]:
        """Steps of each epoch, as far as they are known before training: without the falls of a plateau."""
        return tuple(self.steps(epoch) for epoch in range(self.epochs))

    @property
    def rate_schedule(self) -> config.Schedule:
        """What the learning rate follows: the schedule without the falls that the batch takes on."""
        if self.schedule.name != "step" or not self.growth:
            return self.schedule
        return self.schedule.model_copy(update={"milestones": self.schedule.milestones[self.growth :]})

    def words(self, noun: str) -> str:
        """``390 of 128 images x 10 epochs``; of batches of several sizes all of them, as far as they are known."""
        parts = []
        for (steps, size), epochs in groupby((self.steps(epoch), self.size(epoch)) for epoch in range(self.epochs)):
            parts.append(f"{steps} of {size} {noun} x {len([*epochs])}")
        return f"{', '.join(parts)} epochs"

    def lines(self) -> list[str]:
        """What is said of a growing batch before training."""
        if not self.growth:
            return []
        listed = ", ".join(f"{self.base * self._times**count:,}" for count in range(self.growth + 1))
        name = self.schedule.name
        return [f"batches of {listed}, one after another, where schedule {name!r} would lower the learning rate"]
