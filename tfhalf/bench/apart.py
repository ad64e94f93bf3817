"""A pipeline's feed and its step, each measured without the other: which of them training waits for."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from tfhalf.bench.timed import Timed, calls
from tfhalf.bench.watch import Stages
from tfhalf.train.feeds.resident import Resident
from tfhalf.train.feeds.streamed import AHEAD, Streamed
from tfhalf.train.program import TrainProgram
from tfhalf.train.stages import PLAIN, Stage


def measure(program: TrainProgram, timed: Timed, repeats: int, seconds: float, stages: Stages) -> dict[str, Any]:
    """Items per second of each, ``step_alone_per_s`` and ``feed_alone_per_s``, the medians of ``repeats`` of about
    ``seconds``; of a feed that brings nothing None.

    Args:
        timed: what measured both together, which were warm then.
    """
    feed = None
    if isinstance(program.feed, Streamed):
        stages.stage("bringing the data alone")
        feed = _feed(program, program.feed, repeats, seconds, stages)
    stages.stage("compiling the step on one batch")
    alone = OneBatch(program)
    alone.compile()
    samples = Timed(alone, timed.device, stages).repeats(repeats, seconds)
    return {"step_alone_per_s": statistics.median(samples), "feed_alone_per_s": feed}


def _feed(program: TrainProgram, feed: Streamed, repeats: int, seconds: float, stages: Stages) -> float:
    samples: list[float] = []
    parts = calls(program, AHEAD * feed.block)
    for repeat in range(repeats + 1):  # the first finds its blocks on their way, and is left out
        stages.status(f"repeat {repeat} of {repeats}")
        items, start = 0, time.perf_counter()
        while not items or time.perf_counter() - start < seconds:
            _, _, part, after = next(parts)
            feed.announce(after)
            feed.bring(part)
            items += part.size
        samples.append(1 / program.group.largest((time.perf_counter() - start) / items))
    return statistics.median(samples[1:])


class OneBatch(TrainProgram):
    """``program`` over its first batch alone, which lies on the device, in epochs of as many steps; its program is
    another one, for `compile` to make."""

    def __init__(self, program: TrainProgram) -> None:
        self.__dict__.update(program.__dict__)
        batch = program.feed.batch(np.arange(program.batch_size, dtype=np.int32))
        self.images = program.batch_size
        self.feed = Resident.of_batch(program.feed, batch)
        self._order = np.tile(np.arange(self.images, dtype=np.int32), (program.steps_per_epoch, 1))

    def order(self, epoch: int, stage: Stage = PLAIN) -> np.ndarray:
        """The batch's rows, for each step of an epoch, int32 [steps, batch]."""
        return self._order
