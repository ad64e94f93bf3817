"""What feeds the training step: many steps as one program, over data that comes from somewhere.

`tfhalf.train.feeds.resident` keeps the training set on the device, `tfhalf.train.feeds.streamed` brings it there block
by block.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from tfhalf.train.remat.figure import program_bytes
from tfhalf.train.stages import PLAIN, Stage
from tfhalf.train.step import FINITE, Batch, Step


class ChunkResult(NamedTuple):
    """What a chunk of steps leaves: arrays of length steps done (loss float32, the metrics' ``sums`` float32 [steps,
    K], scale before the step float32, variable int32: the index of the one with a non-finite gradient, `FINITE` or
    `UNKNOWN`)."""

    loss: np.ndarray
    sums: np.ndarray
    scale: np.ndarray
    variable: np.ndarray

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], batch_size: int) -> ChunkResult:
        """What a checkpoint holds; of one from before metrics were sums, right answers among ``batch_size``."""
        arrays = {"variable" if name == "culprit" else name: array for name, array in arrays.items()}
        if "correct" in arrays:
            right = arrays.pop("correct").astype(np.float32)
            arrays["sums"] = np.stack([right, np.full_like(right, batch_size)], -1)
        return cls(**arrays)

    def arrays(self) -> dict[str, np.ndarray]:
        """As `of` takes them: checkpoints hold ``variable`` by an older name."""
        return {"culprit" if name == "variable" else name: array for name, array in self._asdict().items()}

    @property
    def finite(self) -> np.ndarray:
        """Whether each step was finite, bool."""
        return np.asarray(self.variable == FINITE)

    @property
    def steps(self) -> int:
        """Number of steps that ran; fewer than asked for when too many in a row were skipped."""
        return len(self.loss)


def read(run: tuple[Any, ...]) -> ChunkResult:
    """What a program of `Feed._steps` gave, once it has ended."""
    done, *arrays = run
    return ChunkResult(*(array.numpy()[: int(done)] for array in arrays))


def joined(results: Sequence[ChunkResult]) -> ChunkResult:
    """Those of the steps one after another, at least one, as one."""
    return ChunkResult(*(np.concatenate(arrays) for arrays in zip(*results, strict=True)))


class Feed(ABC):
    """Runs up to ``capacity`` steps a call over a training set.

    The number of steps is data, so one compiled program serves the full call, the last part of an epoch and the
    warm-up of no step at all. Each stage of training has a program of its own.

    Attributes:
        streams: whether data is brought to the device while training goes on.
        waited: seconds in which the device had nothing to do, since its data was on the way still; whoever reads them
            sets them back.
    """

    streams: ClassVar[bool] = False

    def __init__(self, step: Step, *, batch_size: int, capacity: int, xla: bool, max_skipped: int) -> None:
        self.step, self.batch_size, self.capacity, self.max_skipped = step, batch_size, capacity, max_skipped
        self.xla, self.waited = xla, 0.0
        self._programs: dict[Stage, Any] = {}
        self._bytes: int | None = None  # of a program, while they are asked for

    def beside(self, step: Step) -> Feed:
        """A feed that runs ``step`` over the same data, which is not held twice."""
        other = copy.copy(self)
        other.step, other._programs, other.waited = step, {}, 0.0
        return other

    def program_bytes(self, items: int, stage: Stage) -> int:
        """What the program of ``stage`` for batches of ``items`` takes of memory, by XLA, which compiles it and does
        not run it; nothing is kept of it."""
        self._bytes = 0
        try:
            self(np.zeros((0, items), np.int32), 0, 0, stage)
            return self._bytes
        finally:
            self._bytes = None

    @abstractmethod
    def __call__(self, order: np.ndarray, epoch: int, first_step: int, stage: Stage = PLAIN) -> ChunkResult:
        """Run one step per row of ``order``.

        Args:
            order: int32 [steps, batch size of ``stage``], places in the training set; at most ``capacity`` rows. Where
                several processes share batches, it is that of all of them; each computes its own columns.
            epoch, first_step: counted from the start of training.
            stage: what the step is to do; its first call compiles.
        """

    @abstractmethod
    def announce(self, order: np.ndarray) -> None:
        """Say what the call after the next one will ask for, so that it can be fetched early; nothing depends on it."""

    @abstractmethod
    def batch(self, index: np.ndarray) -> Batch:
        """The batch at the places ``index``, int32 [N], as a step gets it."""

    @abstractmethod
    def _run(self, *tensors: Any, **stage: Any) -> tuple[Any, ...]:
        """What the program does in ``stage``, with tensors of the same shapes at every call; see `_steps`."""

    def _program(self, stage: Stage, *tensors: Any) -> tuple[Any, ...]:
        """Run the program of ``stage``, which the first call for it traces."""
        if stage not in self._programs or self._bytes is not None:
            # Tensors by their places alone: with a keyword among them TensorFlow would try another way to call it at
            # each call, and write out every tensor, the training set too, for an error that nobody sees.
            def steps(*tensors: Any) -> tuple[Any, ...]:
                return self._run(*tensors, stage=stage)

            traced = tf.function(steps, jit_compile=self.xla, autograph=False)
            if self._bytes is not None:
                self._bytes = program_bytes(traced, tensors)
                return (tf.constant(0), *[tf.zeros([0])] * len(ChunkResult._fields))
            self._programs[stage] = traced.get_concrete_function(*tensors)
        run: tuple[Any, ...] = self._programs[stage](*tensors)
        return run

    def _steps(
        self,
        fetch: Callable[[Any], Batch],
        steps: Any,
        epoch: Any,
        first_step: Any,
        *,
        capacity: int,
        stage: Stage,
    ) -> tuple[Any, ...]:
        """Within `tf.function`: steps 0, 1, ... over the batches that ``fetch`` gives for them, until ``steps`` (an
        int32 scalar, at most ``capacity``) are done or ``max_skipped`` in a row were skipped.

        Returns:
            Steps done; then loss, sums, scale and variable, [capacity, ...] each, of which the first so many count.
        """

        def go_on(i: Any, *_: Any) -> Any:
            go = i < steps
            if self.step.guarded:
                go &= self.step.optimizer.skipped_in_row.value < self.max_skipped
            return go

        def one(i: Any, loss: Any, sums: Any, scale: Any, variable: Any) -> tuple[Any, ...]:
            batch = fetch(i)
            scale = tf.tensor_scatter_nd_update(scale, [[i]], [self._scale()])
            result = self.step(batch, epoch, first_step + i, stage)
            return (
                i + 1,
                tf.tensor_scatter_nd_update(loss, [[i]], [result.loss]),
                tf.tensor_scatter_nd_update(sums, [[i]], [result.sums]),
                scale,
                tf.tensor_scatter_nd_update(variable, [[i]], [tf.where(result.finite, FINITE, result.variable)]),
            )

        empty = [
            tf.zeros([capacity]),
            tf.zeros([capacity, self.step.objective.size]),
            tf.zeros([capacity]),
            tf.zeros([capacity], tf.int32),
        ]
        return tuple(tf.while_loop(go_on, one, [tf.constant(0), *empty]))

    def _scale(self) -> Any:
        if self.step.guarded:
            return tf.convert_to_tensor(self.step.optimizer.dynamic_scale.value)
        return tf.constant(1.0)
