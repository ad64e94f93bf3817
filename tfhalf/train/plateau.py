"""A learning rate that falls, or a batch that grows, where training gets no better: schedule ``plateau``, which counts
as Keras' ReduceLROnPlateau does."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tfhalf.config import Schedule
from tfhalf.train.batches import Batches
from tfhalf.train.objective import Objective
from tfhalf.train.record.history import Epoch
from tfhalf.train.state import TrainState


def falls(scores: Sequence[float], config: Schedule) -> tuple[int, ...]:
    """After which of the epochs that ``scores`` are of, counted from 1, the learning rate falls; higher is better.

    It does after ``patience`` epochs, those of the warm-up apart, that were no better than the best before them; and
    counting begins anew. Nothing but the scores is needed, so that a run that is taken up again goes the same way.
    """
    best, waited, after = -math.inf, 0, []
    for number, score in enumerate(scores, 1):
        if score > best:
            best, waited = score, 0
        elif number > config.warmup_epochs:
            waited += 1
            if waited >= config.patience:
                after.append(number)
                waited = 0
    return tuple(after)


def falls_of(schedule: Schedule, rows: Sequence[Epoch], objective: Objective) -> tuple[int, ...]:
    """After which of the epochs ``rows`` a schedule ``plateau`` lowers the rate, or grows the batch; none of others."""
    if schedule.name != "plateau":
        return ()
    scores = [objective.score(row.val_metrics) for row in rows]
    return falls([-row.loss if score is None else score for row, score in zip(rows, scores, strict=True)], schedule)


def lowered(
    schedule: Schedule, rows: Sequence[Epoch], objective: Objective, state: TrainState, batches: Batches
) -> str | None:
    """Lower the learning rate of ``state``, if the schedule does after the epochs ``rows``; a line that says so, or
    that it is the batch that grows."""
    after = falls_of(schedule, rows, objective)
    if len(rows) not in after:
        return None
    epochs = "an epoch was" if schedule.patience == 1 else f"{schedule.patience} epochs were"
    if len(after) <= batches.growth:
        return f"plateau    {epochs} no better: a batch is {batches.size(len(rows), len(after)):,} now"
    if not state.multiply_rate(schedule.factor, schedule.least):
        return None
    rate = float(state.rates(state.inner._iterations))
    return f"plateau    {epochs} no better: the learning rate is {rate:.3g} now"
