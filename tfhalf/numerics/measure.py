"""A pipeline's net trained for some steps in float32, and its numbers measured as it trains.

In float32, whatever policy the pipeline has: in half precision what overflowed is infinite already, and small gradients
are zero, so that one would measure the damage. The same net, weights and batches in float32 show what half precision is
going to be given.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tfhalf.errors import ConfigError, TrainingError
from tfhalf.numerics.histogram import Histogram, together
from tfhalf.numerics.measured_step import KINDS, SCORES, TAKEN, MeasuredStep
from tfhalf.progress import Progress, duration
from tfhalf.system.device import Device
from tfhalf.system.programs import from_cache, program_names
from tfhalf.train.feeds.base import Feed
from tfhalf.train.job import Job
from tfhalf.train.optim.rounded import EPSILON
from tfhalf.train.program import TrainProgram
from tfhalf.train.stages import unstaged
from tfhalf.train.state import TrainState

_PATIENCE = 1.5  # seconds that timing either kind of step may take, beyond one step each


@dataclass(frozen=True)
class Tensor:
    """One kind of tensor of one layer. ``name`` is a layer's path, or that of a weight.

    ``lost``: of a weight's updates, how many were not zero, and how many of those change nothing where weights are kept
    in float16, and in bfloat16.
    """

    kind: str
    name: str
    histogram: Histogram
    lost: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class Timing:
    """Seconds: of a step, of one that is measured as well, and of compiling both. ``from_cache``: whether both programs
    were in the user's cache, None without one."""

    plain: float
    measured: float
    compile: float
    from_cache: bool | None = None


@dataclass(frozen=True)
class Measured:
    """What was measured. ``taken`` and ``scores`` are the largest magnitudes that each layer took, and took the softmax
    of, by its path.

    ``first`` is the step that came before the first here; ``losses`` are float32 [steps].
    """

    tensors: tuple[Tensor, ...]
    taken: dict[str, float]
    scores: dict[str, float]
    first: int
    steps: int
    measured_steps: int
    batch_size: int
    losses: np.ndarray
    timing: Timing

    def of(self, kind: str) -> Histogram:
        """All tensors of a kind together."""
        return together(tensor.histogram for tensor in self.tensors if tensor.kind == kind)

    def largest(self, kind: str, layer: str) -> float:
        """The largest magnitude among a layer's tensors of one kind; 0 where it has none."""
        magnitudes = (t.histogram.largest for t in self.tensors if t.kind == kind and layer_of(t) == layer)
        return max(magnitudes, default=0.0)

    @property
    def lost(self) -> tuple[int, int, int]:
        """`Tensor.lost` of all weights together."""
        moved, in_float16, in_bfloat16 = np.sum([t.lost for t in self.tensors] or [(0, 0, 0)], axis=0).tolist()
        return moved, in_float16, in_bfloat16


def layer_of(tensor: Tensor) -> str:
    """Path of the layer that a tensor belongs to."""
    return tensor.name.rpartition("/")[0] if tensor.kind.startswith("weight") else tensor.name


def float32_program(job: Job, device: Device, **train: Any) -> TrainProgram:
    """The job's net, data and optimizer in float32, images in their own size, batches of one size; ``train`` changes
    keys of its section.

    Of a pipeline whose policy is float16 the optimizer has the epsilon that it has there.
    """
    pipeline = job.pipeline
    settings = unstaged(pipeline.train, **train)
    if pipeline.precision.policy == "float16":
        optimizer = pipeline.train.optimizer
        wide = optimizer.model_copy(update={"epsilon": max(optimizer.epsilon, EPSILON)})
        settings = settings.model_copy(update={"optimizer": wide})
    precision = pipeline.precision.model_copy(update={"policy": "float32", "keep_float32": ()})
    changed = {"precision": precision, "train": settings}
    job = replace(job, pipeline=pipeline.model_copy(update=changed))
    return TrainProgram(job, TrainState(job, device.group), device)


class Measuring:
    """A float32 ``program`` beside another over the same feed: the same step with measuring."""

    def __init__(self, program: TrainProgram) -> None:
        self.program = program
        self.step = MeasuredStep(program.step, program.xla)
        self.feed = program.feed.beside(self.step)
        self.compile_seconds = 0.0
        self.from_cache: bool | None = None

    def compile(self) -> None:
        """Trace and compile both programs, and run none.

        Raises:
            ConfigError: XLA cannot compile what measures.
        """
        start, names = time.perf_counter(), program_names()
        self.program.compile()
        with self.program.synchronized(self.program.state.model):
            self.feed(np.zeros((0, self.program.batch_size), np.int32), 0, 0)
        self.compile_seconds = time.perf_counter() - start
        self.from_cache = from_cache(names) if self.program.xla else None

    def time(self) -> Timing:
        """Run a few steps of either kind, and put every variable back."""
        with self.program.state.unchanged():
            plain, measured = (self._seconds(feed) for feed in (self.program.feed, self.feed))
        self.step.clear()
        return Timing(plain, measured, self.compile_seconds, self.from_cache)

    def _seconds(self, feed: Feed) -> float:
        """Of one step, the least of some calls: other programs on the machine can only make them longer. Processes that
        share a batch wait for the slowest."""
        samples: list[float] = []
        while len(samples) < 2 or (sum(samples) < _PATIENCE and len(samples) < 20):
            start = time.perf_counter()
            feed(np.arange(self.program.batch_size, dtype=np.int32)[None], 0, 0)
            samples.append(self.program.group.largest(time.perf_counter() - start))
        return min(samples)

    def run(self, first: int, steps: int, every: int, timing: Timing, progress: Progress) -> Measured:
        """Train ``steps`` steps, the first of them ``first``, and measure every so many.

        Raises:
            TrainingError: the loss is not finite in float32 either.
        """
        losses: list[np.ndarray] = []
        measured = done = 0
        start = time.perf_counter()
        for order, epoch, number, measuring in self._parts(first, steps, every):
            result = (self.feed if measuring else self.program.feed)(order, epoch, number)
            losses.append(result.loss)
            done, measured = done + len(order), measured + measuring * len(order)
            if not np.isfinite(result.loss).all():
                raise TrainingError(
                    f"step {number + int(np.argmin(np.isfinite(result.loss)))}: the loss is not finite in float32 "
                    "either; lower the learning rate, or clip gradients (train.optimizer.clip_norm)"
                )
            left = (time.perf_counter() - start) / done * (steps - done)
            progress.status(f"step {done} of {steps}, loss {result.loss[-1]:.4f}, {duration(left)} left")
        progress.clear()
        counts, largest, lost = self.step.counted()
        return Measured(
            self._tensors(counts, largest, lost),
            self._largest(TAKEN, largest),
            self._largest(SCORES, largest),
            first,
            steps,
            measured,
            self.program.batch_size,
            np.concatenate(losses),
            timing,
        )

    def _parts(self, first: int, steps: int, every: int) -> Iterator[tuple[np.ndarray, int, int, bool]]:
        """Calls of the two programs: int32 [n, batch_size], epoch, first step, and whether it is measured."""
        per_epoch = self.program.steps_per_epoch
        at, end = first, first + steps
        epoch, order = -1, np.zeros((0, 0), np.int32)
        while at < end:
            if at // per_epoch != epoch:
                epoch = at // per_epoch
                order = self.program.order(epoch)
            into = (at - first) % every
            measuring = into == every - 1
            row = at % per_epoch
            count = 1 if measuring else min(every - 1 - into, end - at, per_epoch - row, self.program.rows)
            yield order[row : row + count], epoch, at, measuring
            at += count

    def _tensors(self, counts: np.ndarray, largest: np.ndarray, lost: np.ndarray) -> tuple[Tensor, ...]:
        step = self.step
        of_weight = dict(zip((v.path for v in step.variables), lost.tolist(), strict=True))
        tensors = []
        for (kind, name), row, top in zip(step.rows, counts, largest, strict=True):
            if row.any():
                moved = tuple(of_weight[name]) if kind == "weight updates" else (0, 0, 0)
                tensors.append(Tensor(kind, name, Histogram(row, top), moved))
        return tuple(sorted(tensors, key=lambda tensor: KINDS.index(tensor.kind)))

    def _largest(self, kind: str, largest: np.ndarray) -> dict[str, float]:
        rows = zip(self.step.rows, largest, strict=True)
        return {name: float(top) for (of, name), top in rows if of == kind and top}


def check_steps(program: TrainProgram, first: int, steps: int, every: int) -> int:
    """How many steps there are to run: ``steps``, or what is left of training.

    Raises:
        ConfigError: none would be measured.
    """
    left = max(0, program.steps_per_epoch * program.epochs - first)
    count = min(steps, left)
    if count < every:
        raise ConfigError(
            f"--every {every}: none of {count} step{'s' if count != 1 else ''} would be measured; "
            "give fewer than the steps"
        )
    return count
