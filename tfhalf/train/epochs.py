"""Training from the first epoch to the last, recorded as it goes."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from tfhalf.errors import TrainingError
from tfhalf.progress import Progress, duration
from tfhalf.train import checkpoint
from tfhalf.train.feed import ChunkResult
from tfhalf.train.history import HEADER, Epoch, History, scale_changes
from tfhalf.train.resume import check_pipeline, check_preprocess
from tfhalf.train.trouble import explain_non_finite

if TYPE_CHECKING:  # the trainer makes one of these, and these work on a trainer
    from tfhalf.train.loop import Trainer, TrainResult

CHECKPOINT_SECONDS = 10.0


class Epochs:
    """One call of `Trainer.run`: what changes while it goes on."""

    def __init__(self, trainer: Trainer, run: Path, progress: Progress) -> None:
        self.t, self.run, self.progress = trainer, run, progress
        self.spent = 0.0
        self.saved_at = time.monotonic()

    def go(self, resume: bool) -> TrainResult:
        """From the first epoch, or with ``resume`` from the run's checkpoint, to the last; see `Trainer.run`."""
        first, rows, ended = 0, [], False
        if resume:
            record, arrays = checkpoint.load(self.run)
            check_pipeline(record, self.t.pipeline, self.run)
            check_preprocess(record, self.t.preprocess, self.run)
            checkpoint.restore(arrays, self.t.model, self.t.optimizer)
            first, rows, self.spent = record["epochs_done"], record["rows"], record["seconds"]
            ended = record.get("ended", False)
            self.progress.line(f"resumed after epoch {first} of {self.t.pipeline.train.epochs}")
        self.history = History(self.run, rows)
        if not ended:
            self._train(first)
        return self.t.result(self.history.rows, self.spent)

    def _train(self, first: int) -> None:
        t, epochs, rows = self.t, self.t.pipeline.train.epochs, self.history.rows
        told: dict[str, Any] = {"epochs": epochs, "steps": t.steps_per_epoch, "validation": len(t.splits.x_val) > 0}
        with t.callbacks.running(t.model, t.optimizer, self.progress, **told) as hooks:
            if not first:  # a callback may have set weights
                getattr(t.optimizer, "inner_optimizer", t.optimizer).start()
            self.progress.line(HEADER)
            for epoch in range(first, epochs):
                hooks.epoch_begin(epoch)
                row = self._epoch(epoch)
                hooks.epoch_end(row)
                self._save()
                if hooks.stopped or epoch + 1 == epochs:
                    break
                self.progress.line(row.line(epochs, self.history.left(epochs)))
            t.settle()
            hooks.end()
        self._save(ended=True)
        self.progress.line(rows[-1].line(epochs, "done"))
        if len(rows) < epochs:
            self.progress.line(f"ended after epoch {len(rows)} of {epochs}: a callback set model.stop_training")

    def _epoch(self, epoch: int) -> Epoch:
        t, start = self.t, time.perf_counter()
        order, first_step = t.order(epoch), epoch * t.steps_per_epoch
        results: list[ChunkResult] = []
        size = t.sizes.of(epoch)
        for begin in range(0, len(order), t.rows):
            part = order[begin : begin + t.rows]
            t.feed.announce(self._after(epoch, begin, order))
            result = t.feed(part, epoch, first_step + begin, size)
            self._log_scale(result, first_step + begin)
            self._check(result, part, epoch, first_step + begin)
            results.append(result)
            share = (begin + len(part)) / len(order)
            passed = time.perf_counter() - start
            self.progress.status(
                f"epoch {epoch + 1}: {share * 100:.0f} %, loss {np.mean(result.loss):.4f}, "
                f"{duration(passed / share - passed)} left of this epoch"
            )
        stepping = time.perf_counter() - start
        loss, scale, finite = (np.concatenate([getattr(r, k) for r in results]) for k in ("loss", "scale", "finite"))
        correct = sum(int(r.correct.sum()) for r in results)
        val = t.evaluator.accuracy(t.splits.x_val, t.splits.y_val) if len(t.splits.x_val) else None
        seconds = time.perf_counter() - start
        self.spent += seconds
        row = Epoch(
            epoch=epoch + 1,
            steps=len(loss),
            loss=float(loss[finite].mean()) if finite.any() else float("nan"),
            accuracy=correct / order.size,
            val_accuracy=val,
            images_per_s=order.size / stepping,
            loss_scale=self.t.loss_scale(),
            skipped=int((~finite).sum()),
            learning_rate=float(keras.ops.convert_to_numpy(t.optimizer.learning_rate)),
            seconds=seconds,
        )
        self.history.add(row, first_step, loss, scale)
        return row

    def _after(self, epoch: int, begin: int, order: np.ndarray) -> np.ndarray:
        """What the call after the one at row ``begin`` of this epoch's ``order`` will run; no rows after the last."""
        if begin + self.t.rows >= len(order) and epoch + 1 < self.t.pipeline.train.epochs:
            return self.t.order(epoch + 1)[: self.t.rows]
        return order[begin + self.t.rows : begin + 2 * self.t.rows]

    def _save(self, ended: bool = False) -> None:
        """Write a checkpoint, if the last is old or training has ``ended``: the weights are the result's then."""
        if not ended and time.monotonic() - self.saved_at < CHECKPOINT_SECONDS:
            return
        record = {
            "epochs_done": len(self.history.rows),
            "ended": ended,
            "seconds": self.spent,
            "rows": [asdict(row) for row in self.history.rows],
            "pipeline": self.t.pipeline.dump(),
            "preprocess": self.t.preprocess.to_dict(),
        }
        checkpoint.save(self.run, self.t.model, self.t.optimizer, record)
        self.saved_at = time.monotonic()

    def _log_scale(self, result: ChunkResult, first_step: int) -> None:
        if self.t.step.guarded and result.steps:
            for line in scale_changes([*result.scale.tolist(), self.t.loss_scale()], first_step):
                self.progress.line(line)

    def _check(self, result: ChunkResult, part: np.ndarray, epoch: int, first_step: int) -> None:
        if self.t.step.guarded:
            in_row = int(keras.ops.convert_to_numpy(self.t.optimizer.skipped_in_row))
            if in_row >= self.t.pipeline.precision.loss_scale.max_skipped:
                last, size = part[result.steps - 1], self.t.sizes.of(epoch)
                place = explain_non_finite(self.t.step, self.t.feed, last, epoch, first_step, size)
                raise TrainingError(
                    f"step {first_step + result.steps - 1}: {in_row} steps in a row had a non-finite gradient "
                    f"(loss scale is down to {self.t.loss_scale():g}); {place}; lower the learning rate, or "
                    "keep that layer in float32 (precision.keep_float32)"
                )
        elif not result.finite.all():
            step = int(np.argmax(~result.finite))
            raise TrainingError(
                f"step {first_step + step}: the loss is {result.loss[step]}; lower the learning rate, or clip "
                "gradients (train.optimizer.clip_norm)"
            )
