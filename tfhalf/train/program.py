"""A pipeline's training step, compiled, over its data: `TrainProgram`."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, ExitStack
from functools import lru_cache

import keras
import numpy as np

from tfhalf.errors import ConfigError
from tfhalf.precision.loss_scale import GuardedLossScaleOptimizer
from tfhalf.system.device import Device
from tfhalf.system.programs import from_cache, program_names
from tfhalf.train.batches import Batches
from tfhalf.train.crop import crop_of
from tfhalf.train.feeds.choose import make
from tfhalf.train.job import Job
from tfhalf.train.kernels import fewer_passes
from tfhalf.train.kernels.synchronized import synchronized, to_synchronize
from tfhalf.train.recurrent import choose_xla
from tfhalf.train.remat.choose import Remat, to_budget
from tfhalf.train.remat.recompute import Compiler
from tfhalf.train.stages import PLAIN, Stage, stages_of, twins
from tfhalf.train.state import TrainState
from tfhalf.train.step import Step

CALL_SECONDS = 2.0


class TrainProgram:
    """The step on ``state``'s variables, and the feed that runs many of them a call, a program for each stage.

    ``batch_size`` and ``steps_per_epoch`` are the pipeline's; a stage may have others (`stages`, `batches`).

    ``rows`` is the number of steps in a call: as many as the feed takes, until `measure_step` has seen that they are
    slow. ``xla_reason`` and ``feed_reason`` say in a sentence why they are as they are.
    """

    def __init__(self, job: Job, state: TrainState, device: Device) -> None:
        pipeline, splits = job.pipeline, job.splits
        settings, precision = pipeline.train, pipeline.precision
        self.state, self.seed, self.epochs = state, pipeline.seed, settings.epochs
        self.images = len(splits.x_train)
        self.stages = stages_of(job, state.model, state.trained)
        self.batches = Batches(settings, self.images)
        self.batch_size = self.batches.base
        self.steps_per_epoch = self.images // self.batch_size
        half = precision.policy != "float32"
        nets = twins(state.model, job, self.stages.sizes)
        self.group, self._sync = device.group, settings.sync_batch_norm
        self._check_divisible()
        self.xla, self.xla_reason = choose_xla(settings.xla, device, state.model, *nets.values(), half=half)
        if self.group.size > 1 and self.xla and device.kind == "CPU":
            self.xla, self.xla_reason = False, "XLA is off: between CPUs it has no collective operations"
        if isinstance(state.optimizer, GuardedLossScaleOptimizer):
            state.optimizer.branchless = self.xla
        self.step = Step(
            state.model,
            state.optimizer,
            state.trained,
            preprocess=job.preprocess,
            objective=job.objective,
            augmentation=pipeline.data.augment if splits.has_images else None,
            seed=pipeline.seed,
            crop=crop_of(pipeline, device),
            twins=nets,
            group=self.group,
            reduce_dtype=settings.reduce_dtype,
        )
        state.reset_seeds()
        self.settings, self.device = settings, device
        self.remat = Remat.of(() if settings.remat == "auto" else settings.remat, self.nets)
        self.feed, self.feed_reason = make(
            settings.feed,
            self.step,
            splits.x_train,
            splits.y_train,
            splits.w_train,
            device,
            batch_size=self.batch_size // self.group.size,
            capacity=min(self.images // min(map(self._items, self.stages.all)), 500),
            xla=self.xla,
            max_skipped=precision.loss_scale.max_skipped,
        )
        self.rows = self.feed.capacity
        self.compile_seconds = 0.0
        self.from_cache: bool | None = None

    @property
    def nets(self) -> list[keras.Model]:
        """The model, and those that take images of other sizes."""
        return [self.state.model, *self.step.twins.values()]

    def choose_remat(self) -> None:
        """Settle ``train.remat: auto``, as `compile` does where it has not been; nothing is done without it.

        Raises:
            ConfigError: XLA does not compile the step, or it does not fit into the memory.
        """
        if self.settings.remat != "auto" or self.remat.facts is not None:
            return
        if not self.xla:
            remedy = "--set train.xla=on, or " if self.settings.xla != "on" else ""
            raise ConfigError(
                f"train.remat: auto goes by what XLA says of the compiled step, and {self.xla_reason}; accepted "
                f"without XLA: layer patterns; {remedy}give those"
            )
        self.remat = to_budget(self.settings, self.nets, self.device, self._bytes_with)

    def _bytes_with(self, remat: Remat) -> int:
        """What the largest of the programs takes of memory on each device, with ``remat``."""
        feed, share = self.feed.beside(self.step.alone), self.group.size
        stages = [one for one in self.stages.all if not any(self._below(one, other) for other in self.stages.all)]
        with ExitStack() as stack:
            for model in self.nets:
                stack.enter_context(fewer_passes(model))
                stack.enter_context(remat.applied(model, self._compiler))
            return max(feed.program_bytes(self._items(stage) // share, stage) for stage in stages)

    def _below(self, one: Stage, other: Stage) -> bool:
        """Whether ``one`` surely takes no more memory than ``other``: no more items, no larger ones, and no more to
        train."""

        def figures(stage: Stage) -> tuple[float, float]:
            return self._items(stage), stage.size or math.inf

        alike = figures(one) == figures(other) and set(one.frozen) == set(other.frozen)
        less = all(a <= b for a, b in zip(figures(one), figures(other), strict=True))
        first = self.stages.all.index(other) < self.stages.all.index(one)  # of stages alike one is enough
        return less and set(one.frozen) >= set(other.frozen) and (first if alike else True)

    @property
    def _compiler(self) -> Compiler:
        return ("xla-gpu" if self.device.kind == "GPU" else "xla-cpu") if self.xla else "none"

    def compile(self) -> float:
        """Trace and compile the step, for each stage, without running one; returns and keeps the seconds it took, and
        keeps whether XLA's programs were in the user's cache, None without one."""
        self.choose_remat()
        start, names = time.perf_counter(), program_names()
        with ExitStack() as stack:
            for model in self.nets:
                faster = fewer_passes(model, self._norms(model), self.group) if self.xla else self.synchronized(model)
                stack.enter_context(faster)
                stack.enter_context(self.remat.applied(model, self._compiler))
            for stage in self.stages.all:
                self.feed(np.zeros((0, self._items(stage)), np.int32), 0, 0, stage)
        self.compile_seconds = time.perf_counter() - start
        self.from_cache = from_cache(names) if self.xla else None
        return self.compile_seconds

    def synchronized(self, model: keras.Model) -> AbstractContextManager[None]:
        """Within the block the norms of ``model`` that take statistics over all processes do so."""
        return synchronized(self._norms(model), self.group)

    def _norms(self, model: keras.Model) -> list[keras.Layer]:
        return to_synchronize(model, self._sync) if self.group.size > 1 else []

    def measure_step(self, patience: float = 1.0) -> float:
        """Seconds that a training step takes here, the mean over all of training; the state is put back as it was.

        One step is run, and up to ten more while they fit into ``patience`` seconds: the first also allocates. From
        then on a call holds as many steps as fit into `CALL_SECONDS`, so that progress shows and Ctrl-C is heard.
        """
        with self.state.unchanged():
            stages = self.stages.all
            seconds = {stage: self._step_seconds(stage, patience / len(stages)) for stage in stages}
        self.rows = max(1, min(self.feed.capacity, int(CALL_SECONDS / max(seconds.values()))))
        each = [seconds[self.stages.of(epoch)] for epoch in range(self.epochs)]
        return float(np.average(each, weights=self.batches.plan))

    def _step_seconds(self, stage: Stage, patience: float) -> float:
        seconds = self._time_steps(1, stage)
        more = min(10, self.feed.capacity, int(patience / seconds))
        return min(seconds, self._time_steps(more, stage)) if more else seconds

    def _time_steps(self, steps: int, stage: Stage) -> float:
        order = np.resize(np.arange(self.images, dtype=np.int32), (steps, self._items(stage)))
        start = time.perf_counter()
        self.feed(order, 0, 0, stage)
        return self.group.largest((time.perf_counter() - start) / steps)

    def _check_divisible(self) -> None:
        """Refuse batches of which not every process gets as much as the others."""
        count = self.group.size
        for size in {self._items(stage) for stage in self.stages.all}:
            if size % count:
                more = -(-size // count) * count
                raise ConfigError(
                    f"a batch of {size} does not divide into {count} equal parts, one for each device; accepted: a "
                    f"multiple of {count}; --set train.batch_size={more}, or use another number of devices"
                )

    def _items(self, stage: Stage) -> int:
        """Items in a batch of ``stage``."""
        return stage.batch_size or self.batch_size

    def order(self, epoch: int, stage: Stage = PLAIN) -> np.ndarray:
        """Indices into the training set for ``epoch`` (from 0), int32 [steps, batch]; a function of the seed and the
        batch size of ``stage`` alone.

        The images that do not fill a last batch sit this epoch out; another epoch draws others.
        """
        size = self._items(stage)
        return _order(self.seed, epoch, self.images, self.images // size, size)


@lru_cache(maxsize=2)  # an epoch's order is announced before it is asked for
def _order(seed: int, epoch: int, images: int, steps: int, batch_size: int) -> np.ndarray:
    indices = np.random.default_rng((seed, epoch)).permutation(images)[: steps * batch_size]
    order = indices.astype(np.int32).reshape(steps, batch_size)
    order.flags.writeable = False
    return order
