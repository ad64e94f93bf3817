"""A pipeline made trainable: its state, its program, and what is measured and written beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tfhalf.system.device import Device
from tfhalf.train.callbacks import Callbacks
from tfhalf.train.evaluate import Evaluator, penalties
from tfhalf.train.job import Job
from tfhalf.train.program import TrainProgram
from tfhalf.train.record import checkpoint
from tfhalf.train.record.history import Epoch
from tfhalf.train.result import TrainResult
from tfhalf.train.stages import unstaged
from tfhalf.train.state import TrainState

_COST_BATCH = 32  # images in a step whose cost is compared with float32's
_COST_STEPS = 10


class Trainer:
    """What `tfhalf.train.loop` trains: ``state`` by ``program``, beside callbacks, evaluator and checkpoint writer."""

    def __init__(self, job: Job, device: Device) -> None:
        self.job, self.device = job, device
        self.callbacks = Callbacks(job.pipeline.train.callbacks, job.builder.base, job.objective.metrics)
        self.state = TrainState(job, device.group)
        self.program = TrainProgram(job, self.state, device)
        images, xla = len(job.splits.x_test), self.program.xla
        self.evaluator = Evaluator.of(self.state.model, job.preprocess, job.objective, images, xla=xla)
        self.writer = checkpoint.Writer()

    def validation(self) -> tuple[float | None, dict[str, float]]:
        """Loss and metrics on the validation part; None and none without one.

        The loss is that of training, with its label smoothing and the penalties on weights, and without what layers add
        while they are called.
        """
        splits = self.job.splits
        if not len(splits.x_val):
            return None, {}
        loss, metrics = self.evaluator.scores(splits.x_val, splits.y_val, splits.w_val, group=self.device.group)
        return loss + penalties(self.state.model), metrics

    def result(self, rows: list[Epoch], seconds: float, rollbacks: list[dict[str, Any]]) -> TrainResult:
        """The trainer's state, once training is over; ``seconds`` were spent on ``rows``."""
        spent = {"compile": self.program.compile_seconds, "train": seconds}
        model, scale, remat = self.state.model, self.state.loss_scale(), self.program.remat.facts
        return TrainResult(model, tuple(rows), scale, spent, tuple(rollbacks), remat=remat)

    def emulation_cost(self) -> float:
        """How many times longer a step takes here than in float32, measured on a few steps of at most 32 images."""
        pipeline, splits = self.job.pipeline, self.job.splits
        train = unstaged(pipeline.train, batch_size=_COST_BATCH, xla="off")
        few = _COST_BATCH * _COST_STEPS
        splits = splits.training_rows(slice(few))
        times = []
        for policy in (pipeline.precision.policy, "float32"):
            changed = {"precision": pipeline.precision.model_copy(update={"policy": policy}), "train": train}
            job = replace(self.job, pipeline=pipeline.model_copy(update=changed), splits=splits)
            program = TrainProgram(job, TrainState(job), self.device.alone)
            program.compile()
            times.append(program.measure_step())
        return times[0] / times[1]
