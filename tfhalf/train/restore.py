"""A run's weights taken from its folder: the model alone, without optimizer, program or feed."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import keras

from tfhalf.config import Optimizer
from tfhalf.errors import ResumeError
from tfhalf.train.job import Job
from tfhalf.train.record import checkpoint
from tfhalf.train.record.history import Epoch
from tfhalf.train.record.resume import check_inputs
from tfhalf.train.result import TrainResult
from tfhalf.train.state import TrainState, seeded_model

Which = Literal["best", "last"] | int


def restore_run(
    job: Job, run: Path, epoch: Which | None = None, say: Callable[[str], None] | None = None
) -> TrainResult:
    """The state that ``run`` was in as a result.

    Args:
        epoch: ``last`` is the newest state, whether training had ended or not; a number is the end of that epoch,
            counted from 1; ``best`` as `checkpoint.load_epoch`. None is the state in which training ended.
        say: gets a line for each checkpoint that is damaged and passed over.

    Raises:
        ResumeError: there is no such checkpoint, training had not ended, or images are normalised otherwise now.
    """
    saved = checkpoint.load(run, say) if epoch is None or epoch == "last" else checkpoint.load_epoch(run, epoch)
    done, epochs = saved.record["epochs_done"] if saved else 0, job.pipeline.train.epochs
    quoted = shlex.quote(str(run))
    if saved is None and epoch is not None:
        raise ResumeError(f"{run}: holds no checkpoint yet; go on with: tfhalf train --resume {quoted}")
    if saved is None or (epoch is None and not saved.record["ended"]):
        as_it_is = f", or export it as it stands: tfhalf export {quoted} --epoch last" if saved else ""
        raise ResumeError(
            f"{run}: ended after epoch {done} of {epochs}; finish it first: tfhalf train --resume {quoted}{as_it_is}"
        )
    check_inputs(saved.record, job.preprocess, job.splits, run)
    rows = tuple(Epoch.from_dict(row) for row in saved.record["rows"])
    model = _model(job, saved)
    precision = job.pipeline.precision
    initial = precision.loss_scale.initial if precision.scaled else 1.0
    scale = rows[-1].loss_scale if rows else initial
    seconds = {"compile": 0.0, "train": saved.record["seconds"]}
    rollbacks = tuple(saved.record["rollbacks"])
    return TrainResult(model, rows, scale, seconds, rollbacks, saved.record["ended"], saved.record["done"])


def average_of(optimizer: Optimizer) -> str | None:
    """What becomes the weights when training ends, in a phrase; None where the trained weights stay."""
    if optimizer.ema_momentum:
        return f"the moving averages of the weights (ema_momentum {optimizer.ema_momentum:g})"
    return "the slow weights of lookahead" if optimizer.lookahead else None


def _model(job: Job, saved: checkpoint.Checkpoint) -> keras.Model:
    """The model with a checkpoint's weights, which come first in it.

    Where weights are averaged, or followed by slow ones, these become the weights when training ends: of one that had
    not, the optimizer holds them.
    """
    if not saved.record["ended"] and average_of(job.pipeline.train.optimizer):
        state = TrainState(job)
        state.restore(saved.arrays)
        state.finalize()
        return state.model
    model = seeded_model(job)
    checkpoint.restore(saved.arrays[: len(model.variables)], model.variables)
    return model
