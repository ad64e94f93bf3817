"""Training from the first epoch to the last, recorded as it goes, and taken up again at any step."""

from __future__ import annotations

import shlex
import signal
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf.errors import Interrupted, TrainingError
from tfhalf.precision.policy import policy
from tfhalf.progress import Progress, duration
from tfhalf.train.callbacks import Hooks, State
from tfhalf.train.course import Course
from tfhalf.train.diagnose.divergence import BlowUp, advice_for, blown_up
from tfhalf.train.diagnose.non_finite import all_finite
from tfhalf.train.diagnose.scale_log import ScaleLog
from tfhalf.train.feeds.base import ChunkResult, joined
from tfhalf.train.peers import Peers, last_checkpoint
from tfhalf.train.plateau import lowered
from tfhalf.train.record import checkpoint
from tfhalf.train.record.history import Epoch, History, header
from tfhalf.train.record.resume import check_inputs, check_pipeline, has_ended, vocabulary_digests
from tfhalf.train.record.run_folder import keep_epochs
from tfhalf.train.replay import explain_step
from tfhalf.train.result import TrainResult
from tfhalf.train.signals import Signals
from tfhalf.train.trainer import Trainer

_START: dict[str, Any] = {"epochs_done": 0, "done": 0, "seconds": 0.0, "stepping": 0.0, "waiting": 0.0,
                          "rows": [], "rollbacks": [], "callbacks": []}  # fmt: skip
_SHARE = 0.02  # of the time, that saves may take


def run_training(trainer: Trainer, run: Path, progress: Progress, resume: bool = False) -> TrainResult:
    """Train to the end, recording into ``run``. Within ``with trainer.writer:`` the last checkpoint may be written
    still when this returns.

    Raises:
        TrainingError: too many skipped steps in a row, a loss that is not finite or too high, or a full disk.
        ResumeError: ``resume`` and none of the run's checkpoints can be taken up.
        ConfigError: ``resume`` and the pipeline is not the one that the run was started with.
        Interrupted: SIGINT or SIGTERM came; there is a checkpoint to go on from.
    """
    group = trainer.device.group
    named = group.texts(str(run))[0]  # the others keep no run folder
    remedy = f"go on with: tfhalf train --resume {shlex.quote(named)}, on as many devices as there are"
    users = policy(trainer.job.pipeline.precision.policy)  # for layers that they build within call()
    with group.together(remedy), trainer.writer, users, group.watched(remedy):
        return Epochs(trainer, run, progress, named).go(resume)


class Epochs:
    """One call of `run_training`: what changes while it goes on.

    The position is ``epoch``, epochs that are over, and ``done``, steps of the one that goes on; ``results`` are
    theirs, and ``stepping`` the seconds that they took, of which the feed's ``waited`` is a part.

    Where several processes share batches, all come this way and decide alike: by numbers that are the same in each, and
    else by what `Peers` agree on. The first alone writes checkpoints; ``named`` is its run folder, ``run`` one's own.
    """

    def __init__(self, trainer: Trainer, run: Path, progress: Progress, named: str) -> None:
        self.trainer, self.job, self.pipeline = trainer, trainer.job, trainer.job.pipeline
        self.state, self.program = trainer.state, trainer.program
        self.run, self.progress, self.named = run, progress, named
        self.columns = (self.state.guarded, self.job.objective.shown, self.program.feed.streams)
        self.signals = Signals()
        self.peers = Peers(trainer.device.group, self.signals)
        self.rollbacks: list[dict[str, Any]] = []
        self.spent, self.stepping = 0.0, 0.0
        self.epoch, self.done = 0, 0
        self.results: list[ChunkResult] = []
        self.saved_at = self.epoch_saved_at = time.monotonic()
        self.copying = 0.0  # seconds that training stood still for the last save
        self.hooks: Hooks | None = None
        self.known = State([], {})  # what callbacks knew at the checkpoint that was taken up
        self.start: list[Any] = []  # what to go back to, once training has begun, while there is no checkpoint

    def go(self, resume: bool) -> TrainResult:
        """From the first step, or with ``resume`` from the run's last checkpoint, to the last; see `run_training`."""
        saved = last_checkpoint(self.run, self.peers.group, self.progress.line, set_aside=True) if resume else None
        if not resume:
            checkpoint.clear(self.run)
        if saved is not None:
            check_pipeline(saved.record, self.pipeline, self.run)
            check_inputs(saved.record, self.job.preprocess, self.job.splits, self.run)
            keep_epochs(self.run, self.pipeline.train.epochs)
        with History(self.run, [], [metric.name for metric in self.job.objective.metrics]) as self.history:
            self._take(saved)
            if resume:
                self.progress.line(self._resumed())
            if not (saved and has_ended(saved.record, self.pipeline)):
                with self.signals:
                    self._train(taken_up=saved is not None)
                    if self.peers.agree(False)[1]:
                        self._interrupt()
        return self.trainer.result(self.history.rows, self.spent, self.rollbacks)

    def _take(self, saved: checkpoint.Checkpoint | None) -> None:
        """Be where the checkpoint is; where there is none, at the start, which a new trainer is."""
        record = saved.record if saved else _START
        if saved or self.start:
            self.state.restore(saved.arrays if saved else self.start)
        self.rollbacks = record["rollbacks"]
        self.known = State(record["callbacks"], saved.callbacks if saved else {})
        self.epoch, self.done, self.spent = record["epochs_done"], record["done"], record["seconds"]
        self.stepping, self.program.feed.waited = record["stepping"], record.get("waiting", 0.0)  # older ones lack it
        self.history.begin(record["rows"])
        self.course = Course(self.job, self.program, self.history.rows)
        self.scale = ScaleLog(self.pipeline, self.program, self.run, self.progress)
        self.results = [ChunkResult.of(saved.within, self.program.batch_size)] if saved and self.done else []
        if self.results:
            self.scale.take_up(self.results[0], record["in_row"])

    def _resumed(self) -> str:
        epochs, steps = self.pipeline.train.epochs, self.course.steps(self.epoch)
        if self.done:
            return f"resumed in epoch {self.epoch + 1} of {epochs}, after step {self.done} of {steps}"
        return f"resumed after epoch {self.epoch} of {epochs}" if self.epoch else "resumed from the beginning"

    def _train(self, taken_up: bool) -> None:
        epochs = self.pipeline.train.epochs
        params: dict[str, Any] = {"epochs": epochs, "steps": self.course.steps(0)}
        params["validation"] = len(self.job.splits.x_val) > 0
        before = self.state.values() if taken_up and self.trainer.callbacks.makers else []
        with self.trainer.callbacks.running(self.state.model, self.state.optimizer, self.progress, **params) as hooks:
            self.hooks = hooks
            if before:  # what they do when training starts was done then
                self.state.restore(before)
                hooks.restore(self.known)
            if not taken_up:  # a callback may have set weights
                self.state.inner.start()
                self.start = self.state.to_go_back_to(self.trainer.device.memory_bytes)
            self.progress.line(header(*self.columns, self.job.splits.noun))
            while not hooks.stopped and self.epoch < epochs:
                try:
                    self._next(hooks)
                except BlowUp as blow_up:
                    self._go_back(blow_up)
                    hooks.restore(self.known)
            self.state.finalize()
            hooks.end()
        rows = self.history.rows
        self._save(ended=True)
        self.progress.line(rows[-1].line(epochs, "done", *self.columns))
        if len(rows) < epochs:
            self.progress.line(f"ended after epoch {len(rows)} of {epochs}: a callback set model.stop_training")

    def _next(self, hooks: Hooks) -> None:
        """An epoch, or what is left of one."""
        epochs = self.pipeline.train.epochs
        # Within an epoch, what callbacks do at its beginning was done then.
        with self.state.unchanged() if self.done and hooks.callbacks else nullcontext():
            hooks.epoch_begin(self.epoch)
        if self.done:
            hooks.restore(self.known)
        row = self._epoch()
        stepping = self.stepping
        schedule, batches = self.pipeline.train.schedule, self.program.batches
        if line := lowered(schedule, self.history.rows, self.job.objective, self.state, batches):
            self.progress.line(line)
        hooks.epoch_end(row)
        self.epoch, self.done, self.results, self.stepping, self.program.feed.waited = self.epoch + 1, 0, [], 0.0, 0.0
        last = hooks.stopped or self.epoch == epochs
        self._boundary(last)
        if not last:
            self.progress.line(row.line(epochs, self.history.left(epochs, stepping), *self.columns))

    def _epoch(self) -> Epoch:
        epoch, start = self.epoch, time.perf_counter() - self.stepping
        first_step, stage, order = self.course.first_step(epoch), self.course.stage(epoch), self.course.order(epoch)
        while self.done < len(order):
            begin, part = self.done, order[self.done : self.done + self.program.rows]
            self.program.feed.announce(self._after(epoch, begin, order))
            result = self.program.feed(part, epoch, first_step + begin, stage)
            self.scale.chunk(result, part, epoch, first_step + begin)
            self._check(result, part, epoch, first_step + begin)
            self.results.append(result)
            self.done += len(part)
            self.stepping = time.perf_counter() - start
            share = self.done / len(order)
            self.progress.status(
                f"epoch {epoch + 1}: {share * 100:.0f} %, loss {np.mean(result.loss):.4f}, "
                f"{duration(self.stepping / share - self.stepping)} left of this epoch"
            )
            if self.done < len(order):
                self._boundary()
        whole = joined(self.results)
        loss, finite = whole.loss, whole.finite
        val_loss, val_metrics = self.trainer.validation()
        seconds = time.perf_counter() - start
        self.spent += seconds
        steps = self.scale.end_epoch(whole, stage.rate)
        row = Epoch(
            epoch=epoch + 1,
            steps=len(loss),
            loss=float(loss[finite].mean()) if finite.any() else float("nan"),
            metrics=self.job.objective.values(whole.sums.sum(0, dtype=np.float64)),
            val_metrics=val_metrics,
            images_per_s=order.size / self.stepping,
            loss_scale=self.state.loss_scale(),
            skipped=int((~finite).sum()),
            learning_rate=float(self.state.rates(self.state.inner._iterations)) * stage.rate,
            seconds=seconds,
            skipped_at_floor=steps.at_floor,
            rollbacks=len(self.rollbacks),
            val_loss=val_loss,
            waited=self.program.feed.waited / self.stepping,
        )
        self.history.add(row, first_step, steps.curves)
        return row

    def _after(self, epoch: int, begin: int, order: np.ndarray) -> np.ndarray:
        """What the call after the one at row ``begin`` of this epoch's ``order`` will run; no rows after the last."""
        if begin + self.program.rows >= len(order) and epoch + 1 < self.pipeline.train.epochs:
            return self.course.order(epoch + 1)[: self.program.rows]
        return order[begin + self.program.rows : begin + 2 * self.program.rows]

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def _boundary(self, last: bool = False) -> None:
        """Between two calls: save where it is time, or where a signal asks for the end, which comes here.

        The ends of epochs are timed on their own: they alone have a validation accuracy to be the best by. ``last``:
        what follows takes no time and saves anyway.
        """
        wait = self.pipeline.train.checkpoint_seconds
        wait = max(wait, (self.copying + self.trainer.writer.seconds) / _SHARE) if wait else 0.0
        since = time.monotonic() - (self.saved_at if self.done else self.epoch_saved_at)
        due, stopped = self.peers.agree(since >= wait)
        asked = stopped and not last
        if last or due or asked:
            self._check_weights()
        if due or asked:
            self._save()
        if asked:
            self._interrupt()

    def _save(self, ended: bool = False) -> None:
        """Have a checkpoint written; once training has ``ended`` its weights are the result's."""
        settings, rows = self.pipeline.train, self.history.rows
        start, step = time.monotonic(), self._step
        self.scale.save()
        known = self.hooks.state() if self.hooks else self.known
        record = {
            "epochs_done": self.epoch,
            "done": self.done,
            "ended": ended,
            "seconds": self.spent,
            "stepping": self.stepping,
            "waiting": self.program.feed.waited,
            "in_row": self.scale.in_row,
            "score": self.job.objective.score(rows[-1].val_metrics) if rows and not self.done else None,
            "rows": [row.to_dict() for row in rows],
            "rollbacks": self.rollbacks,
            "callbacks": known.plain,
            "names": self.state.names(),
            "pipeline": self.pipeline.dump(),
            "preprocess": self.job.preprocess.to_dict(),
            "vocabularies": vocabulary_digests(self.job.splits),
        }
        within = joined(self.results).arrays() if self.results else {}
        # Once it has ended no step will need the memory, and the writer's thread can copy the state to the host.
        if self.peers.group.first:
            state = self.state.held() if ended else self.state.values()
            self.trainer.writer.save(self.run, step, state, record, within, settings.keep_checkpoints, known.arrays)
        self.saved_at = time.monotonic()
        self.copying, self.start = self.saved_at - start, []
        if not self.done:
            self.epoch_saved_at = self.saved_at

    @property
    def _step(self) -> int:
        """How many steps are done."""
        return self.course.first_step(self.epoch) + self.done

    def _interrupt(self) -> None:
        assert self.signals.number is not None
        name, steps = signal.Signals(self.signals.number).name, self.course.first_step(self.pipeline.train.epochs)
        raise Interrupted(
            f"stopped by {name} after step {self._step:,} of {steps:,}; go on with: "
            f"tfhalf train --resume {shlex.quote(self.named)}",
            self.signals.number,
        )

    # --- training that blows up ---------------------------------------------------------------------------------------

    def _check(self, result: ChunkResult, part: np.ndarray, epoch: int, first_step: int) -> None:
        guarded = self.state.guarded
        blow_up = blown_up(result, first_step, guarded, self.pipeline.train.blowup.bound)
        if blow_up:
            raise blow_up
        why = self.scale.end_reason(result, part, epoch, first_step) if guarded else None
        if why:
            raise BlowUp(first_step + result.steps - 1, float(result.loss[-1]), why, explained=True)

    def _check_weights(self) -> None:
        """Before they are saved: the last step may have had a loss, and yet left no numbers to go on with."""
        variables = self.program.step.variables
        finite = all_finite([variable.value for variable in variables])
        if not finite.all():
            step, path = self._step - 1, variables[int(finite.argmin())].path
            raise BlowUp(step, float("nan"), f"step {step}: the weight {path} is not finite after it")

    def _go_back(self, blow_up: BlowUp) -> None:
        """To the last checkpoint, with half the learning rate.

        Raises:
            TrainingError: the pipeline does not say so, or not once more.
        """
        settings = self.pipeline.train.blowup
        self.trainer.writer.wait()
        saved = last_checkpoint(self.run, self.peers.group)
        why = blow_up.why
        if not blow_up.explained:
            self.progress.status("looking for the layer ...")
            at = self.course.first_step(saved.record["epochs_done"]) + saved.record["done"] if saved else 0
            self.state.restore(saved.arrays if saved else self.start)
            why = f"{why}; {explain_step(blow_up.step, at, self.course, self.program)}"
        good = f"the last good checkpoint is {saved.path}" if saved else "there is no checkpoint yet"
        if settings.action == "stop":
            advice = "" if blow_up.explained else f"; {advice_for(self.pipeline.precision)}"
            then = "goes on from it" if saved else "begins again"
            raise TrainingError(f"{why}{advice}; {good}; --on-blowup rollback {then} with half the learning rate")
        if len(self.rollbacks) >= settings.retries:
            raise TrainingError(f"{why}; {good}; gone back {settings.retries} times already (train.blowup.retries)")
        self._take(saved)
        if hasattr(self.state.model, "stop_training"):  # there are callbacks, and what they saw is undone
            self.state.model.stop_training = False
        self.state.multiply_rate(0.5)
        self.rollbacks = [*self.rollbacks, {"step": blow_up.step, "back_to": self._step, "why": why}]
        count = f"{len(self.rollbacks)} of {settings.retries}"
        self.progress.line(f"blow-up    {why}")
        self.progress.line(f"rollback   to step {self._step:,}, with half the learning rate ({count})")
        self._save()
