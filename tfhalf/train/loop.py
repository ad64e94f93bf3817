"""Training from the first step to the last: `train`."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfhalf import config
from tfhalf.data import Preprocess, Splits
from tfhalf.device import Device, xla_decision
from tfhalf.errors import ResumeError, TrainingError
from tfhalf.precision.policy import policy
from tfhalf.progress import Progress, duration
from tfhalf.train import checkpoint, optimizers
from tfhalf.train.build import Builder
from tfhalf.train.evaluate import Evaluator
from tfhalf.train.history import HEADER, Epoch, History
from tfhalf.train.schedules import EpochSchedule
from tfhalf.train.step import Chunk, ChunkResult, Step
from tfhalf.train.trouble import explain_non_finite

CHECKPOINT_SECONDS = 10.0
CALL_SECONDS = 2.0


@dataclass(frozen=True)
class TrainResult:
    """The trained ``model`` (float32 variables, mixed policy), one row per epoch, and what it took.

    ``seconds`` splits into ``compile`` and ``train`` (validation and checkpoints included).
    """

    model: keras.Model
    epochs: tuple[Epoch, ...]
    loss_scale: float
    skipped: int
    seconds: dict[str, float]


class Trainer:
    """A pipeline's model, optimizer and compiled step over its data."""

    def __init__(
        self, pipeline: config.Pipeline, splits: Splits, builder: Builder, preprocess: Preprocess, device: Device
    ) -> None:
        self.pipeline, self.splits, self.builder, self.preprocess = pipeline, splits, builder, preprocess
        self.device = device
        settings, precision = pipeline.train, pipeline.precision
        keras.utils.set_random_seed(pipeline.seed)
        self.model = builder(precision.policy)
        builder.adapt(self.model, preprocess.apply(splits.x_train[:5000]))
        self.batch_size = min(settings.batch_size, len(splits.x_train))
        self.steps_per_epoch = len(splits.x_train) // self.batch_size
        rate = EpochSchedule(settings.schedule, settings.optimizer.learning_rate, self.steps_per_epoch, settings.epochs)
        optimizer = optimizers.make_optimizer(settings.optimizer, rate, settings.accumulate)
        if precision.policy == "mixed_float16":
            optimizer = optimizers.wrap(optimizer, precision.loss_scale)
        self.optimizer, self.rate = optimizer, rate
        self.xla, self.xla_reason = xla_decision(settings.xla, device)
        image = splits.x_train.ndim == 4
        self.step = Step(
            self.model,
            optimizer,
            optimizers.trained_variables(self.model, settings.optimizer),
            mean=np.asarray(preprocess.mean),
            std=np.asarray(preprocess.std),
            label_smoothing=settings.label_smoothing,
            augmentation=pipeline.data.augment if image else None,
            seed=pipeline.seed,
        )
        self.chunk = Chunk(
            self.step,
            splits.x_train,
            splits.y_train,
            batch_size=self.batch_size,
            capacity=min(self.steps_per_epoch, 500),
            xla=self.xla,
            max_skipped=precision.loss_scale.max_skipped,
        )
        self.evaluator = Evaluator(self.model, mean=np.asarray(preprocess.mean), std=np.asarray(preprocess.std))
        self.rows = self.chunk.capacity  # steps in a call; fewer where they are slow
        self.compile_seconds = 0.0

    def compile(self) -> float:
        """Trace and compile the step without running one; returns and keeps the seconds it took."""
        start = time.perf_counter()
        self.chunk(np.zeros((0, self.batch_size), np.int32), 0, 0)
        self.compile_seconds = time.perf_counter() - start
        return self.compile_seconds

    def measure_step(self, patience: float = 1.0) -> float:
        """Seconds that a training step takes here; the state is put back as it was.

        One step is run, and up to ten more while they fit into ``patience`` seconds: the first also allocates. From
        then on a call holds as many steps as fit into `CALL_SECONDS`, so that progress shows and Ctrl-C is heard.
        """
        variables = [*self.model.variables, *self.optimizer.variables]
        before = [keras.ops.convert_to_numpy(v) for v in variables]
        seconds = self._time_steps(1)
        more = min(10, self.chunk.capacity, int(patience / seconds))
        if more:
            seconds = min(seconds, self._time_steps(more))
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        self.rows = max(1, min(self.chunk.capacity, int(CALL_SECONDS / seconds)))
        return seconds

    def _time_steps(self, steps: int) -> float:
        order = np.arange(steps * self.batch_size, dtype=np.int32).reshape(steps, -1)
        start = time.perf_counter()
        self.chunk(order, 0, 0)
        return (time.perf_counter() - start) / steps

    def emulation_cost(self) -> float:
        """How many times longer a step takes here than in float32, measured on at most 32 images."""
        times = []
        for name in (self.pipeline.precision.policy, "float32"):
            plain = self.pipeline.precision.model_copy(update={"policy": name})
            train = self.pipeline.train.model_copy(update={"batch_size": 32, "xla": "off"})
            twin = Trainer(
                self.pipeline.model_copy(update={"precision": plain, "train": train}),
                self.splits,
                self.builder,
                self.preprocess,
                self.device,
            )
            twin.compile()
            times.append(twin.measure_step())
        return times[0] / times[1]

    def restored(self, run: Path) -> TrainResult:
        """The state of ``run``'s checkpoint as a result.

        Raises:
            ResumeError: there is no checkpoint, or training had not ended.
        """
        record, arrays = checkpoint.load(run)
        done, epochs = record["epochs_done"], self.pipeline.train.epochs
        if done < epochs:
            raise ResumeError(
                f"{run}: ended after epoch {done} of {epochs}; finish it first: tfhalf train --resume {run}"
            )
        checkpoint.restore(arrays, self.model, self.optimizer)
        self.settle()
        rows = tuple(Epoch(**row) for row in record["rows"])
        seconds = {"compile": 0.0, "train": record["seconds"]}
        return TrainResult(self.model, rows, self.loss_scale(), sum(row.skipped for row in rows), seconds)

    def settle(self) -> None:
        """Training is over: where weights were averaged, the average becomes the weights."""
        if self.pipeline.train.optimizer.ema_momentum is not None:
            inner = getattr(self.optimizer, "inner_optimizer", self.optimizer)
            inner.finalize_variable_values(self.step.variables)

    def loss_scale(self) -> float:
        """The scale in force; 1 for policies without one."""
        if not self.step.guarded:
            return 1.0
        return float(keras.ops.convert_to_numpy(self.optimizer.dynamic_scale))

    def order(self, epoch: int) -> np.ndarray:
        """Places in the training set for ``epoch`` (from 0), int32 [steps, batch]; a function of the seed alone.

        The images that do not fill a last batch sit this epoch out; another epoch draws others.
        """
        places = np.random.default_rng((self.pipeline.seed, epoch)).permutation(len(self.splits.x_train))
        used = self.steps_per_epoch * self.batch_size
        return places[:used].astype(np.int32).reshape(self.steps_per_epoch, self.batch_size)

    def run(self, run: Path, progress: Progress, resume: bool = False) -> TrainResult:
        """Train to the end, recording into ``run``.

        Raises:
            TrainingError: too many skipped steps in a row, or a loss that is not finite.
            ResumeError: ``resume`` and the run's checkpoint cannot be taken up.
        """
        with policy(self.pipeline.precision.policy):  # for layers that users build within call()
            return _Run(self, run, progress).go(resume)


class _Run:
    """One call of `Trainer.run`: what changes while it goes on."""

    def __init__(self, trainer: Trainer, run: Path, progress: Progress) -> None:
        self.t, self.run, self.progress = trainer, run, progress
        self.spent = 0.0
        self.saved_at = time.monotonic()

    def go(self, resume: bool) -> TrainResult:
        first, rows = 0, []
        if resume:
            record, arrays = checkpoint.load(self.run)
            self._check_record(record)
            checkpoint.restore(arrays, self.t.model, self.t.optimizer)
            first, rows, self.spent = record["epochs_done"], record["rows"], record["seconds"]
            self.progress.line(f"resumed after epoch {first} of {self.t.pipeline.train.epochs}")
        self.history = History(self.run, rows)
        epochs = self.t.pipeline.train.epochs
        self.progress.line(HEADER)
        for epoch in range(first, epochs):
            row = self._epoch(epoch)
            left = (epochs - epoch - 1) * float(np.median([r.seconds for r in self.history.rows]))
            self.progress.line(row.line(epochs, duration(left) if epoch + 1 < epochs else "done"))
        self.t.settle()
        return TrainResult(
            self.t.model,
            tuple(self.history.rows),
            self.t.loss_scale(),
            sum(row.skipped for row in self.history.rows),
            {"compile": self.t.compile_seconds, "train": self.spent},
        )

    def _epoch(self, epoch: int) -> Epoch:
        t, start = self.t, time.perf_counter()
        order, first_step = t.order(epoch), epoch * t.steps_per_epoch
        results: list[ChunkResult] = []
        for begin in range(0, len(order), t.rows):
            part = order[begin : begin + t.rows]
            result = t.chunk(part, epoch, first_step + begin)
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
        self._save(epoch + 1)
        return row

    def _save(self, epochs_done: int) -> None:
        last = epochs_done == self.t.pipeline.train.epochs
        if not last and time.monotonic() - self.saved_at < CHECKPOINT_SECONDS:
            return
        record = {
            "epochs_done": epochs_done,
            "seconds": self.spent,
            "rows": [asdict(row) for row in self.history.rows],
            "pipeline": self.t.pipeline.dump(),
        }
        checkpoint.save(self.run, self.t.model, self.t.optimizer, record)
        self.saved_at = time.monotonic()

    def _check_record(self, record: dict[str, Any]) -> None:
        before, now = record["pipeline"], self.t.pipeline.dump()
        differing = sorted(key for key in now if before.get(key) != now[key] and key not in ("export", "verify"))
        if differing:
            raise ResumeError(
                f"{self.run}: was trained with other values of {', '.join(differing)}; start the run anew"
            )

    def _log_scale(self, result: ChunkResult, first_step: int) -> None:
        """A line for each change of the loss scale, with the step that caused it."""
        if not self.t.step.guarded or not result.steps:
            return
        scales = [*result.scale.tolist(), self.t.loss_scale()]
        for i, (old, new) in enumerate(pairwise(scales)):
            if old != new:
                why = "gradients were finite for long" if new > old else "a gradient was not finite; step skipped"
                self.progress.line(f"      step {first_step + i}: loss scale {old:,.0f} -> {new:,.0f} ({why})")

    def _check(self, result: ChunkResult, part: np.ndarray, epoch: int, first_step: int) -> None:
        if self.t.step.guarded:
            in_row = int(keras.ops.convert_to_numpy(self.t.optimizer.skipped_in_row))
            if in_row >= self.t.pipeline.precision.loss_scale.max_skipped:
                place = explain_non_finite(self.t.step, self.t.chunk, part[result.steps - 1], epoch, first_step)
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
