"""What tests of a run from its first epoch to its last share: a net, a pipeline, a trainer, a run that is stopped."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from train_helpers import changed, objective, splits

from tfhalf import config
from tfhalf.data import Preprocess, Splits
from tfhalf.progress import Progress
from tfhalf.system.device import cpu
from tfhalf.system.group import ALONE, Group
from tfhalf.tasks import Task
from tfhalf.train.build import Builder
from tfhalf.train.job import Job
from tfhalf.train.objective import Objective
from tfhalf.train.trainer import Trainer

NET = '''
import keras
import tensorflow as tf
from keras import layers


def build(*, input_shape, num_classes, width=4):
    image = keras.Input(input_shape)
    x = layers.Conv2D(width, 3, name="conv")(image)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(num_classes, name="head")(x))


@tf.custom_gradient
def amplify(x):
    return tf.identity(x), lambda dy: dy * tf.cast(float("inf"), dy.dtype)


class Amplify(layers.Layer):
    """Passes on what it gets, and an infinite gradient."""

    def call(self, x):
        return amplify(x)


def build_broken(*, input_shape, num_classes):
    image = keras.Input(input_shape)
    x = layers.Dense(4, name="early")(layers.Flatten()(image))
    x = layers.Dense(4, name="culprit")(x)
    x = Amplify()(x)
    x = layers.Dense(4, name="late")(x)
    return keras.Model(image, layers.Dense(num_classes, name="head")(x))
'''


BASE: dict[str, Any] = {
    "name": "job",
    "seed": 5,
    "model": {"build": "net.py:build"},
    "data": {"source": "made here", "augment": {"flip": "random", "crop": 1, "cutout": 2}},
    "train": {
        "epochs": 4,
        "checkpoint_seconds": 0,
        "batch_size": 8,
        "optimizer": {"learning_rate": 0.05, "weight_decay": 0.001, "ema_momentum": 0.8, "clip_norm": 5.0},
        "schedule": {"name": "triangular"},
        "label_smoothing": 0.1,
    },
    "precision": {"policy": "mixed_float16", "loss_scale": {"growth_interval": 6}},
}


def pipeline(**changes: Any) -> config.Pipeline:
    """``BASE`` with ``train__epochs=3`` and the like."""
    return changed(BASE, changes)


def trainer(
    folder: Path, data: Splits | None = None, group: Group = ALONE, task: Task | None = None, **changes: Any
) -> Trainer:
    pipe, data = pipeline(**changes), data or splits()
    goal = Objective(task) if task else objective(pipe)
    builder = Builder(pipe.model, folder, input_shape=data.input_shape, task=goal.task)
    job = Job(pipe, data, Preprocess.fit("standardize", data.x_train), builder, goal)
    return Trainer(job, replace(cpu(), group=group))


def run_folder(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def said() -> tuple[Progress, io.StringIO]:
    stream = io.StringIO()
    return Progress(stream), stream


def values(t: Trainer) -> list[np.ndarray]:
    return [np.asarray(v).copy() for v in [*t.state.model.variables, *t.state.optimizer.variables]]


class Stopped(Exception):
    pass


class StopAfter(Progress):
    """Ends the run once the row of ``epoch`` is told, as a user's interrupt may."""

    def __init__(self, epoch: int) -> None:
        super().__init__(io.StringIO())
        self.start = f"{epoch:>5}/"

    def line(self, text: str = "", always: bool = False) -> None:
        if text.startswith(self.start):
            raise Stopped
