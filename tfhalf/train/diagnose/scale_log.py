"""What becomes of the loss scale while a run goes on: told line by line, and kept for curves and a picture."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfhalf.config import Pipeline
from tfhalf.progress import Progress
from tfhalf.train.diagnose.non_finite import explain_non_finite, overflowed_layer
from tfhalf.train.feeds.base import ChunkResult
from tfhalf.train.program import TrainProgram
from tfhalf.train.record.history import scale_words
from tfhalf.train.record.plot import draw_run
from tfhalf.train.record.steps import Steps

# Skipped steps of an epoch whose layer is looked for, and that have a line without a change; others count.
MAX_EXPLAINED = 8
_ADVICE = (
    "keep that layer in float32 (precision.keep_float32), clip gradients (train.optimizer.clip_norm) or lower the "
    "learning rate"
)


class EpochSteps(NamedTuple):
    """The steps of an epoch: curves, float or int [steps] each, and how many were skipped with the scale at its
    floor."""

    curves: dict[str, np.ndarray]
    at_floor: int


class _Fault(NamedTuple):
    """A skipped step: its batch's places in the training set, its loss, and the variable that `Step` names."""

    step: int
    epoch: int
    places: np.ndarray
    loss: float
    variable: int


class ScaleLog:
    """One run's; made after a checkpoint, if there is one, was restored."""

    def __init__(self, pipeline: Pipeline, program: TrainProgram, run: Path, progress: Progress) -> None:
        self.pipeline, self.program, self.state = pipeline, program, program.state
        self.run, self.progress = run, progress
        self.settings = pipeline.precision.loss_scale
        optimizer = self.state.optimizer
        self.skipped = _int(optimizer.skipped) if self.state.guarded else 0
        self.in_row = _int(optimizer.skipped_in_row) if self.state.guarded else 0
        self.steps = Steps(run, _int(self.state.inner._iterations) + self.skipped)
        self.stuck, self.warned = 0, False
        self._clear()

    def _clear(self) -> None:
        self.at_floor, self.in_epoch = 0, 0
        self.counted: Counter[str] = Counter()  # skipped steps without a line, by what was not finite

    def take_up(self, done: ChunkResult, in_row: int) -> None:
        """Go on within an epoch: ``done`` are its steps so far, told already; before them ``in_row`` in a row were
        skipped."""
        self.in_row = in_row
        self.skipped -= int((~done.finite).sum()) if self.state.guarded else 0
        self.at_floor = int((~done.finite & (done.scale == self.settings.floor)).sum()) if self._dynamic else 0

    def chunk(self, result: ChunkResult, part: np.ndarray, epoch: int, first_step: int) -> None:
        """Tell what happened in ``result``, of the steps over the rows ``part``, the first of them ``first_step``."""
        if not result.steps:
            return
        self.steps.add(first_step, result.loss, result.scale, result.finite)
        if not self.state.guarded:
            return
        scales = [*result.scale.tolist(), self.state.loss_scale()]
        for i, (old, new) in enumerate(pairwise(scales)):
            if not result.finite[i]:
                fault = _Fault(first_step + i, epoch, part[i], result.loss[i], result.variable[i])
                self._skipped(fault, old, new)
            elif old != new:
                self._line(f"step {first_step + i}: {_change(old, new)} (gradients were finite for long)")
                self.stuck = 0

    def _skipped(self, fault: _Fault, old: float, new: float) -> None:
        floored = self._dynamic and old == self.settings.floor
        self.in_epoch += 1
        why = self._why(fault)
        if old != new or self.in_epoch <= MAX_EXPLAINED:
            what = _change(old, new) if old != new else f"loss scale stays {scale_words(old)}"
            self._line(f"step {fault.step}: {what} ({why}; step skipped)")
        else:
            self.counted[why] += 1
        if floored:
            self.at_floor += 1
            self.stuck += 1
            # Hysteresis lets some pass before it would lower the scale.
            if self.stuck >= self.settings.hysteresis and not self.warned:
                self.warned = True
                lower = "lower precision.loss_scale.floor, " if self.settings.floor > 1 else ""
                self.progress.line(
                    f"warning    step {fault.step}: the loss scale is stuck at its floor, {scale_words(old)}: {why}, "
                    f"and no lower scale is left to try; {lower}{_ADVICE}"
                )

    def _why(self, fault: _Fault) -> str:
        if np.isfinite(fault.loss):
            return f"gradient of {self.program.step.variables[fault.variable].path} not finite"
        layer = None
        if self.in_epoch <= MAX_EXPLAINED:
            # With weights that a few steps may have moved on: what overflowed then mostly does so still.
            size = self.program.stages.of(fault.epoch).size
            layer = overflowed_layer(
                self.program.step.alone, self.program.feed, fault.places, fault.epoch, fault.step, size
            )
        return f"output of {layer} not finite" if layer else f"loss is {fault.loss}"

    def end_epoch(self, done: ChunkResult, rate: float = 1.0) -> EpochSteps:
        """The curves of an epoch's steps ``done``, in a stage that multiplies the learning rate by ``rate``, after a
        line about skipped ones that had none; the next may begin."""
        if self.counted:
            whys = "; ".join(f"{why}: {count}" for why, count in self.counted.most_common(3))
            more = "; others" if len(self.counted) > 3 else ""
            self._line(f"and {self.counted.total():,} more skipped steps in this epoch ({whys}{more})")
        epoch = EpochSteps(self._curves(done, rate), self.at_floor)
        self._clear()
        return epoch

    def _curves(self, done: ChunkResult, rate: float) -> dict[str, np.ndarray]:
        finite = done.finite
        applied = finite if self.state.guarded else np.ones_like(finite)
        curves = {"loss": done.loss, "learning_rate": self._rates(applied) * np.float32(rate)}
        if self.state.guarded:
            curves["loss_scale"] = done.scale
            curves["skipped"] = self.skipped + np.cumsum(~finite)
            curves["skipped_in_row"] = _in_row(finite, self.in_row)
            self.skipped, self.in_row = int(curves["skipped"][-1]), int(curves["skipped_in_row"][-1])
        return curves

    def _rates(self, applied: np.ndarray) -> np.ndarray:
        """The learning rate of each step; a skipped one does not advance the schedule."""
        before = _int(self.state.inner._iterations) - applied.sum() + np.cumsum(applied) - applied
        return self.state.rates(before)

    @property
    def _dynamic(self) -> bool:
        return self.state.guarded and self.settings.mode == "dynamic"

    def save(self) -> None:
        """Write ``steps.npz``, which a picture can be drawn from."""
        self.steps.save()

    def end_reason(self, result: ChunkResult, part: np.ndarray, epoch: int, first_step: int) -> str | None:
        """Why the run must end here, after too many skipped steps in a row; None where it may go on."""
        in_row = _int(self.state.optimizer.skipped_in_row)
        if in_row < self.settings.max_skipped:
            return None
        self.save()
        draw_run(self.run, self.pipeline.name, self.progress)
        cause = explain_non_finite(
            self.program.step.alone,
            self.program.feed,
            part[result.steps - 1],
            epoch,
            first_step,
            self.program.stages.of(epoch).size,
        )
        static = self.settings.mode == "static"
        scale = f"loss scale is {'static, ' if static else 'down to '}{self.state.loss_scale():g}"
        lower = " precision.loss_scale.initial or" if static else ""
        return (
            f"step {first_step + result.steps - 1}: {in_row} steps in a row had a non-finite gradient ({scale}); "
            f"{cause}; lower{lower} the learning rate, or keep that layer in float32 (precision.keep_float32)"
        )

    def _line(self, text: str) -> None:
        self.progress.line(f"      {text}")


def _int(variable: Any) -> int:
    return int(variable.value.numpy())


def _change(old: float, new: float) -> str:
    return f"loss scale {scale_words(old)} -> {scale_words(new)}"


def _in_row(finite: np.ndarray, before: int) -> np.ndarray:
    """Skipped steps in a row after each step, when there were ``before`` already."""
    steps = np.arange(1, len(finite) + 1)
    last = np.maximum.accumulate(np.where(finite, steps, 0))
    return np.where(last > 0, steps - last, before + steps)
