"""A pipeline made trainable: model, optimizer, feed and compiled step."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras.src.random.seed_generator import global_seed_generator

from tfhalf import config
from tfhalf.data import Preprocess, Splits
from tfhalf.errors import ResumeError
from tfhalf.precision.loss_scale import GuardedLossScaleOptimizer
from tfhalf.progress import Progress
from tfhalf.system.device import Device, xla_decision
from tfhalf.train.build import ADAPT_IMAGES, Builder
from tfhalf.train.callbacks import Callbacks
from tfhalf.train.evaluate import Evaluator, penalties
from tfhalf.train.feeds.choose import make
from tfhalf.train.kernels import fewer_passes
from tfhalf.train.optim import optimizers
from tfhalf.train.optim.schedules import EpochSchedule, learning_rate
from tfhalf.train.record import checkpoint
from tfhalf.train.record.history import Epoch
from tfhalf.train.record.resume import check_preprocess
from tfhalf.train.result import TrainResult
from tfhalf.train.stages import Stage, Stages, twins
from tfhalf.train.step import Step

CALL_SECONDS = 2.0
HELD_SHARE = 0.01  # of the device's memory, that the state at the start may take until there is a checkpoint


class Trainer:
    """A pipeline's model, optimizer and compiled step over its data."""

    def __init__(
        self, pipeline: config.Pipeline, splits: Splits, builder: Builder, preprocess: Preprocess, device: Device
    ) -> None:
        self.pipeline, self.splits, self.builder, self.preprocess = pipeline, splits, builder, preprocess
        self.device = device
        settings, precision = pipeline.train, pipeline.precision
        self.callbacks = Callbacks(settings.callbacks, builder.base)
        keras.utils.set_random_seed(pipeline.seed)
        self.model = builder(precision.policy)
        self.adapt()
        trained = optimizers.trained_variables(self.model, settings.optimizer)
        paths = [variable.path for variable in trained]
        self.stages = Stages(settings.sizes, settings.epochs, splits.input_shape, settings.freeze_after, paths)
        self.batch_size = min(settings.batch_size, len(splits.x_train))
        self.steps_per_epoch = len(splits.x_train) // self.batch_size
        optimizer, self.rate = optimizer_of(pipeline, len(splits.x_train))
        if precision.policy == "mixed_float16":
            optimizer = optimizers.wrap(optimizer, precision.loss_scale)
        self.optimizer = optimizer
        self.xla, self.xla_reason = xla_decision(settings.xla, device, half=precision.policy != "float32")
        if isinstance(optimizer, GuardedLossScaleOptimizer):
            optimizer.branchless = self.xla
        image = splits.x_train.ndim == 4
        self.step = Step(
            self.model,
            optimizer,
            trained,
            mean=np.asarray(preprocess.mean),
            std=np.asarray(preprocess.std),
            label_smoothing=settings.label_smoothing,
            augmentation=pipeline.data.augment if image else None,
            seed=pipeline.seed,
            twins=twins(self.model, builder, precision.policy, self.stages.sizes),
        )
        self.feed, self.feed_reason = make(
            settings.feed,
            self.step,
            splits.x_train,
            splits.y_train,
            device,
            batch_size=self.batch_size,
            capacity=min(self.steps_per_epoch, 500),
            xla=self.xla,
            max_skipped=precision.loss_scale.max_skipped,
        )
        self.evaluator = Evaluator(
            self.model,
            mean=np.asarray(preprocess.mean),
            std=np.asarray(preprocess.std),
            batch_size=min(2000 if self.xla else 500, max(len(splits.x_test), 1)),
            xla=self.xla,
        )
        # Of layers that draw numbers and name no seed. Made here at the latest, which takes a number from Python's own.
        self.seeds = global_seed_generator()
        self.seeds.state.assign([pipeline.seed, 0])
        self.writer = checkpoint.Writer()
        self.rows = self.feed.capacity  # steps in a call; fewer where they are slow
        self.compile_seconds = 0.0

    def adapt(self) -> None:
        """Let the model file set what the data decides, if it has something to set."""
        self.builder.adapt(self.model, lambda: self.preprocess.apply(self.splits.x_train[:ADAPT_IMAGES]))

    def compile(self) -> float:
        """Trace and compile the step, for each stage, without running one; returns and keeps the seconds it took."""
        start = time.perf_counter()
        with ExitStack() as stack:
            for model in (self.model, *self.step.twins.values()) if self.xla else ():
                stack.enter_context(fewer_passes(model))
            for stage in self.stages.all:
                self.feed(np.zeros((0, self.batch_size), np.int32), 0, 0, stage)
        self.compile_seconds = time.perf_counter() - start
        return self.compile_seconds

    def measure_step(self, patience: float = 1.0) -> float:
        """Seconds that a training step takes here, the mean over all epochs; the state is put back as it was.

        One step is run, and up to ten more while they fit into ``patience`` seconds: the first also allocates. From
        then on a call holds as many steps as fit into `CALL_SECONDS`, so that progress shows and Ctrl-C is heard.
        """
        with self.unchanged():
            stages = self.stages.all
            seconds = {stage: self._step_seconds(stage, patience / len(stages)) for stage in stages}
        self.rows = max(1, min(self.feed.capacity, int(CALL_SECONDS / max(seconds.values()))))
        return float(np.mean([seconds[self.stages.of(epoch)] for epoch in range(self.pipeline.train.epochs)]))

    def _step_seconds(self, stage: Stage, patience: float) -> float:
        seconds = self._time_steps(1, stage)
        more = min(10, self.feed.capacity, int(patience / seconds))
        return min(seconds, self._time_steps(more, stage)) if more else seconds

    def _time_steps(self, steps: int, stage: Stage) -> float:
        order = np.arange(steps * self.batch_size, dtype=np.int32).reshape(steps, -1)
        start = time.perf_counter()
        self.feed(order, 0, 0, stage)
        return (time.perf_counter() - start) / steps

    def emulation_cost(self) -> float:
        """How many times longer a step takes here than in float32, measured on at most 32 images."""
        times = []
        for name in (self.pipeline.precision.policy, "float32"):
            plain = self.pipeline.precision.model_copy(update={"policy": name})
            train = self.pipeline.train.model_copy(
                update={"batch_size": 32, "xla": "off", "callbacks": (), "sizes": (), "freeze_after": {}}
            )
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

    def restored(self, run: Path, progress: Progress | None = None) -> TrainResult:
        """The state of ``run``'s last checkpoint as a result; ``progress`` is told of damaged ones.

        Raises:
            ResumeError: there is no checkpoint, training had not ended, or images are normalised otherwise now.
        """
        found = checkpoint.load(run, progress.line if progress else None)
        done, epochs = found.record["epochs_done"] if found else 0, self.pipeline.train.epochs
        if found is None or not found.record["ended"]:
            raise ResumeError(
                f"{run}: ended after epoch {done} of {epochs}; finish it first: tfhalf train --resume {run}"
            )
        check_preprocess(found.record, self.preprocess, run)
        checkpoint.restore(found.arrays, self.variables)
        rows = [Epoch(**row) for row in found.record["rows"]]
        return self.result(rows, found.record["seconds"], found.record["rollbacks"])

    def result(self, rows: list[Epoch], seconds: float, rollbacks: list[dict[str, Any]]) -> TrainResult:
        """The trainer's state, once training is over; ``seconds`` were spent on ``rows``."""
        spent = {"compile": self.compile_seconds, "train": seconds}
        skipped = sum(row.skipped for row in rows)
        return TrainResult(self.model, tuple(rows), self.loss_scale(), skipped, spent, tuple(rollbacks))

    @property
    def variables(self) -> list[Any]:
        """All that training changes: model, optimizer and loss scale, random seeds, the learning rate's factor."""
        factor = [self.rate.factor] if isinstance(self.rate, EpochSchedule) else []
        return [*self.model.variables, *self.optimizer.variables, *factor, self.seeds.state]

    def values(self) -> list[np.ndarray]:
        """Copies of what `variables` hold now."""
        # By Keras' convert_to_numpy each variable takes twice as long, and a training of a second has many.
        return [variable.value.numpy() for variable in self.variables]

    def held(self) -> list[Any]:
        """What `variables` hold now, as tensors that nothing changes. They cost no time, but a second state of memory
        on the device from the next step on."""
        return [variable.value.read_value() for variable in self.variables]

    def to_go_back_to(self) -> list[Any]:
        """What `variables` hold now: `held` where that is little of the device's memory, else `values`."""
        size = sum(variable.value.dtype.size * math.prod(variable.shape) for variable in self.variables)
        memory = self.device.memory_bytes
        return self.held() if memory and size <= HELD_SHARE * memory else self.values()

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """What the block does to `variables` is undone after it."""
        before = self.values()
        yield
        checkpoint.restore(before, self.variables)

    @property
    def inner(self) -> keras.optimizers.Optimizer:
        """The optimizer that moves the weights, which a loss scale may stand around."""
        return getattr(self.optimizer, "inner_optimizer", self.optimizer)

    def rates(self, iterations: Any) -> np.ndarray:
        """Learning rates at ``iterations``, integers of any shape; float32 of that shape."""
        iterations = np.array(keras.ops.convert_to_numpy(iterations), np.int32)
        if isinstance(self.rate, EpochSchedule):
            return self.rate.at(iterations)
        return np.full(iterations.shape, keras.ops.convert_to_numpy(self.inner._learning_rate), np.float32)

    def halve_rate(self) -> None:
        """Go on with half the learning rate; a callback that sets one has the last word."""
        variable = self.rate.factor if isinstance(self.rate, EpochSchedule) else self.inner.learning_rate
        variable.assign(variable * 0.5)

    def validation(self) -> tuple[float | None, float | None]:
        """Loss and share of right answers on the validation part; None without one.

        The loss is that of training, with its label smoothing and the penalties on weights, and without what layers add
        while they are called.
        """
        x, y = self.splits.x_val, self.splits.y_val
        if not len(x):
            return None, None
        loss, accuracy = self.evaluator.scores(x, y, self.pipeline.train.label_smoothing)
        return loss + penalties(self.model), accuracy

    def settle(self) -> None:
        """Training is over: averaged or slow weights, where there are any, become the weights."""
        self.optimizer.finalize_variable_values(self.step.variables)

    def loss_scale(self) -> float:
        """The scale in force; 1 for policies without one."""
        if not self.step.guarded:
            return 1.0
        return float(self.optimizer.dynamic_scale.value.numpy())

    def order(self, epoch: int) -> np.ndarray:
        """Places in the training set for ``epoch`` (from 0), int32 [steps, batch]; a function of the seed alone.

        The images that do not fill a last batch sit this epoch out; another epoch draws others.
        """
        return _order(self.pipeline.seed, epoch, len(self.splits.x_train), self.steps_per_epoch, self.batch_size)


def optimizer_of(pipeline: config.Pipeline, items: int) -> tuple[keras.optimizers.Optimizer, Any]:
    """The optimizer of ``pipeline`` over ``items`` training items, without a loss scale, and its learning rate: a
    number, or a schedule."""
    settings = pipeline.train
    steps, epochs = items // min(settings.batch_size, items), settings.epochs
    rate = learning_rate(settings.schedule, settings.optimizer.learning_rate, steps, epochs)
    return optimizers.make_optimizer(settings.optimizer, rate, settings.accumulate, steps * epochs), rate


@lru_cache(maxsize=2)  # an epoch's order is announced before it is asked for
def _order(seed: int, epoch: int, images: int, steps: int, batch_size: int) -> np.ndarray:
    places = np.random.default_rng((seed, epoch)).permutation(images)[: steps * batch_size]
    order = places.astype(np.int32).reshape(steps, batch_size)
    order.flags.writeable = False
    return order
