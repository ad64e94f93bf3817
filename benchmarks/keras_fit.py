"""A pipeline's net, loss, optimizer and data in Keras' own `compile` and `fit` under its own mixed_float16."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfhalf.config import Pipeline, load_pipeline
from tfhalf.data.augment import augment
from tfhalf.data.columns import Columns
from tfhalf.data.normalize import arranged, normalizer
from tfhalf.precision.policy import flat_layers
from tfhalf.progress import Progress
from tfhalf.system.device import grow_memory
from tfhalf.train.job import Job, Places, prepare, with_weights
from tfhalf.train.state import optimizer_of, seeded_model


class KerasFit:
    """The pipeline's job as a user of Keras writes it: a `tf.data.Dataset`, augmented where the pipeline says so, `fit`
    with XLA on a GPU, and `predict`. Each of ``train.stages`` is a `compile` of its own, with a new optimizer whose
    schedule covers that stage.

    Raises:
        ValueError: the pipeline has several outputs, or smaller images first.
    """

    def __init__(self, path: Path, overrides: list[str]) -> None:
        grow_memory()
        self.pipeline = load_pipeline(path, [*overrides, "precision.policy=mixed_float16"])
        places = Places(path, Path("runs"), Path("exports"))
        self.job: Job = with_weights(prepare(self.pipeline, places, Progress(quiet=True)))
        stages = self.pipeline.train.stages
        if isinstance(self.job.splits.y_train, Columns) or any(stage.size for stage in stages):
            raise ValueError("several outputs, or images of several sizes")
        self.model = seeded_model(self.job)
        self._batch_size = min(self.pipeline.train.batch_size, len(self.job.splits.x_train))
        self.data = self._dataset()

    def train(self, seed: int) -> tuple[float, list[float]]:
        """One training with ``seed``: its seconds, from the first epoch's start to the last one's end, compilations
        within; and items a second of each epoch."""
        keras.utils.set_random_seed(seed)
        self.model.set_weights(self.job.model().get_weights())
        if self.job.initial is not None:
            self.job.initial.fill(self.model)
        seconds, rates = 0.0, []
        for part, freeze in self._parts():
            self._freeze(freeze)
            self._compile(part)
            clock = _Ends()
            steps = len(self.job.splits.x_train) // self._batch_size
            self.model.fit(
                self.data, epochs=part.train.epochs, steps_per_epoch=steps, callbacks=[clock], shuffle=False, verbose=0
            )
            seconds += clock.ends[-1] - clock.ends[0]
            rates += [len(self.job.splits.x_train) / (end - start) for start, end in pairwise(clock.ends)]
        return seconds, rates

    def metrics(self) -> dict[str, float]:
        """Of the test part, and with ``val_`` of the validation part, where there is one."""
        splits, values = self.job.splits, {}
        parts = {"": (splits.x_test, splits.y_test), "val_": (splits.x_val, splits.y_val)}
        for prefix, (x, y) in parts.items():
            if len(x):
                inputs = self.job.preprocess.apply(x)
                inputs = arranged(self.model, inputs) if isinstance(inputs, dict) else inputs
                answers = np.asarray(self.model.predict(inputs, batch_size=1000, verbose=0), np.float32)
                values |= {prefix + name: one for name, one in self.job.objective.scores(y, answers)[1].items()}
        return values

    def _parts(self) -> Iterator[tuple[Pipeline, tuple[str, ...]]]:
        """The pipeline of each stage, and what stands still in it."""
        train = self.pipeline.train
        for stage in train.stages:
            rate = stage.learning_rate or train.optimizer.learning_rate
            optimizer = train.optimizer.model_copy(update={"learning_rate": rate})
            own = train.model_copy(update={"epochs": stage.epochs, "stages": (), "optimizer": optimizer})
            yield self.pipeline.model_copy(update={"train": own}), stage.freeze
        if not train.stages:
            yield self.pipeline, ()

    def _freeze(self, patterns: tuple[str, ...]) -> None:
        for layer in flat_layers(self.model):
            layer.trainable = not any(re.search(pattern, layer.path or layer.name) for pattern in patterns)

    def _compile(self, part: Pipeline) -> None:
        optimizer, _ = optimizer_of(part, len(self.job.splits.x_train))
        objective, dtype = self.job.objective, self.job.splits.y_train.dtype

        def loss(y: Any, answers: Any) -> Any:  # Keras hands classes on as floats
            return objective.losses(tf.cast(y, dtype), tf.cast(answers, tf.float32))

        gpu = bool(tf.config.list_physical_devices("GPU"))
        wrapped = keras.optimizers.LossScaleOptimizer(optimizer)
        self.model.compile(wrapped, loss=loss, jit_compile="auto" if gpu else False)

    def _dataset(self) -> tf.data.Dataset:
        """Shuffled batches of normalised inputs and targets, without an end."""
        splits, settings = self.job.splits, self.pipeline.data.augment
        x = splits.x_train.arrays if isinstance(splits.x_train, Columns) else splits.x_train
        index = np.arange(len(splits.x_train), dtype=np.int32)
        normalize, masked = normalizer(self.job.preprocess, self.model), self.job.task.targets == "masks"
        augmented = settings.flip != "none" or settings.crop > 0

        def prepared(step: Any, items: tuple[Any, Any, Any]) -> tuple[Any, Any]:
            x, y, index = items
            if augmented:
                more = {"config": settings, "seed": self.pipeline.seed, "epoch": 0, "step": tf.cast(step, tf.int32)}
                x, moved = augment(x, index, masks=y if masked else None, **more)
                y = moved if masked else y
            return normalize(x), y

        data = tf.data.Dataset.from_tensor_slices((x, splits.y_train, index)).cache().shuffle(len(index))
        batches = data.batch(self._batch_size, drop_remainder=True, num_parallel_calls=tf.data.AUTOTUNE)
        # Counted through all epochs, so that each draws its own changes.
        whole = batches.repeat().enumerate().map(prepared, num_parallel_calls=tf.data.AUTOTUNE)
        return whole.prefetch(tf.data.AUTOTUNE)


class _Ends(keras.callbacks.Callback):
    """When training began, and each epoch ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = [time.perf_counter()]

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.ends.append(time.perf_counter())
