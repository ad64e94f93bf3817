"""A learning rate that falls where training gets no better: schedule ``plateau``, which counts as Keras'
ReduceLROnPlateau does."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tfhalf.config import Schedule
from tfhalf.train.objective import Objective
from tfhalf.train.record.history import Epoch
from tfhalf.train.state import TrainState


def falls(scores: Sequence[float], config: Schedule) -> bool:
    """Whether the learning rate falls after the last of the epochs that ``scores`` are of; higher is better.

    It does after ``patience`` epochs, those of the warm-up apart, that were no better than the best before them; and
    counting begins anew. Nothing but the scores is needed, so that a run that is taken up again goes the same way.
    """
    best, waited, fall = -math.inf, 0, False
    for number, score in enumerate(scores, 1):
        fall = False
        if score > best:
            best, waited = score, 0
        elif number > config.warmup_epochs:
            waited += 1
            fall = waited >= config.patience
            waited = 0 if fall else waited
    return fall


def lowered(schedule: Schedule, rows: Sequence[Epoch], objective: Objective, state: TrainState) -> str | None:
    """Lower the learning rate of ``state`` if the schedule does after the epochs ``rows``; a line that says so."""
    if schedule.name != "plateau":
        return None
    scores = [objective.score(row.val_metrics) for row in rows]
    by = [-row.loss if score is None else score for row, score in zip(rows, scores, strict=True)]
    if not falls(by, schedule) or not state.multiply_rate(schedule.factor, schedule.least):
        return None
    rate = float(state.rates(state.inner._iterations))
    epochs = "an epoch was" if schedule.patience == 1 else f"{schedule.patience} epochs were"
    return f"plateau    {epochs} no better: the learning rate is {rate:.3g} now"
