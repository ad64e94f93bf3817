"""Where a step lies: the epochs one after another, each with its stage, its order and its first step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfhalf.train.job import Job
from tfhalf.train.plateau import falls_of
from tfhalf.train.program import TrainProgram
from tfhalf.train.record.history import Epoch
from tfhalf.train.stages import Stage


class Course:
    """The epochs of a training, of which ``rows`` are over; the list may grow. What a schedule ``plateau`` does to the
    batch after an epoch is known when that is over: the epochs after it are what they would be without another fall.
    """

    def __init__(self, job: Job, program: TrainProgram, rows: Sequence[Epoch]) -> None:
        self.job, self.program, self.rows = job, program, rows

    def stage(self, epoch: int) -> Stage:
        """The stage of ``epoch``, counted from 0."""
        return self.program.stages.of(epoch, self._falls(epoch))

    def order(self, epoch: int) -> np.ndarray:
        """Its batches: int32 [steps, batch size], places in the training set."""
        return self.program.order(epoch, self.stage(epoch))

    def steps(self, epoch: int) -> int:
        """How many steps it has."""
        return self.program.batches.steps(epoch, self._falls(epoch))

    def first_step(self, epoch: int) -> int:
        """Its first step, counted from the start of training."""
        return sum(row.steps for row in self.rows[:epoch]) + sum(map(self.steps, range(len(self.rows), epoch)))

    def position(self, step: int) -> tuple[int, int]:
        """The epoch of ``step``, and how many steps of that epoch are before it."""
        epoch = 0
        while step >= (steps := self.steps(epoch)):
            step, epoch = step - steps, epoch + 1
        return epoch, step

    def _falls(self, epoch: int) -> int:
        return len(falls_of(self.job.pipeline.train.schedule, self.rows[:epoch], self.job.objective))
