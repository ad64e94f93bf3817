"""A pipeline's training loop without export, compiled once and run from many seeds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from tfhalf.config import load_pipeline
from tfhalf.progress import Progress
from tfhalf.system.device import detect, grow_memory
from tfhalf.train.evaluate import Views
from tfhalf.train.job import Places, prepare, with_weights
from tfhalf.train.loop import run_training
from tfhalf.train.result import TrainResult
from tfhalf.train.state import adapt
from tfhalf.train.trainer import Trainer


class Loop:
    """The pipeline's trainer, its programs compiled and run once.

    ``compile_seconds`` is what that took: training programs, evaluation program, a first run of each.
    """

    def __init__(self, path: Path, overrides: Sequence[str]) -> None:
        grow_memory()
        self.pipeline = load_pipeline(path, overrides)
        places = Places(path, Path("runs"), Path("exports"))
        self.job = with_weights(prepare(self.pipeline, places, Progress(quiet=True)))
        self.device = detect()
        self.trainer = Trainer(self.job, self.device)
        self._fresh = [keras.ops.convert_to_numpy(v) for v in self.trainer.state.optimizer.variables]
        start = time.perf_counter()
        self.trainer.program.compile()
        self.trainer.program.measure_step()
        views: tuple[Views, ...] = ("none", self.pipeline.train.test_views)
        for one in views:
            self.trainer.evaluator.metrics(self.job.splits.x_test, self.job.splits.y_test, one)
        self.compile_seconds = time.perf_counter() - start

    def start_from(self, seed: int) -> None:
        """The weights and the optimizer as they are at the start of a training with ``seed``: drawn, but for those that
        the pipeline starts from."""
        keras.utils.set_random_seed(seed)
        self.trainer.state.model.set_weights(self.job.model().get_weights())
        for variable, value in zip(self.trainer.state.optimizer.variables, self._fresh, strict=True):
            variable.assign(value)
        self.trainer.program.seed = seed  # of the order of images
        self.trainer.state.values()  # a GPU takes its time; what is timed begins when all is there

    def train(self, run: Path) -> tuple[TrainResult, float]:
        """What the data sets in the model (`adapt`), then every epoch, recorded into the folder ``run``: the result and
        the seconds."""
        start = time.perf_counter()
        adapt(self.trainer.state.model, self.job)
        if self.job.initial is not None:
            self.job.initial.fill(self.trainer.state.model)
        result = run_training(self.trainer, run, Progress(quiet=True))
        return result, time.perf_counter() - start

    def accuracy(self, views: Views) -> float:
        """Percent of the test set."""
        return self.trainer.evaluator.metrics(self.job.splits.x_test, self.job.splits.y_test, views)["accuracy"] * 100

    def facts(self) -> dict[str, Any]:
        """What a row of results says of all its runs."""
        return {
            "policy": self.pipeline.precision.policy,
            "epochs": self.pipeline.train.epochs,
            "device": self.device.describe(),
            "compile_s": round(self.compile_seconds, 1),
        }
