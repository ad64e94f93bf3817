"""A compiled program's calls, timed."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfhalf.bench.tables import number
from tfhalf.bench.watch import Stages
from tfhalf.errors import TrainingError
from tfhalf.system import memory
from tfhalf.system.device import Device
from tfhalf.train.program import TrainProgram

# Repeats end when they have taken so many times what they were given: a slow step is not run more often than needed.
_OVERRUN = 2.0
_STATUS = Path("/proc/self/status")


class Timed:
    """A compiled program's calls, one after another through its epochs.

    Attributes:
        steps, skipped: so many were timed, and of these had a non-finite gradient.
        seconds: that the repeats took.
    """

    def __init__(self, program: TrainProgram, device: Device, stages: Stages) -> None:
        self.program, self.device, self.stages = program, device, stages
        self.steps, self.skipped, self.seconds = 0, 0, 0.0
        # All but the loss scale: it settles while warming up, and steps are not skipped over again in each repeat.
        scale = getattr(program.state.optimizer, "dynamic_scale", None)
        self.variables = [
            v for v in [*program.state.model.variables, *program.state.optimizer.variables] if v is not scale
        ]
        self.before = [keras.ops.convert_to_numpy(v) for v in self.variables]

    def repeats(self, count: int, seconds: float) -> list[float]:
        """Images per second of up to ``count`` repeats; at least one."""
        self.stages.stage("warming up")
        step = self.program.measure_step()
        rows = min(self.program.rows, max(1, int(seconds / step)))
        self.calls = calls(self.program, rows)
        if step < seconds / 4:
            self._go(seconds / 2)
        self.steps, self.skipped = 0, 0
        self.seconds = self.program.feed.waited = 0.0
        if self.device.kind == "GPU":
            tf.config.experimental.reset_memory_stats("GPU:0")
        samples: list[float] = []
        self.stages.stage(f"measuring, {number(1000 * step)} ms a step")
        start = time.perf_counter()
        while len(samples) < count and self._since(start) < _OVERRUN * count * seconds:
            self.stages.status(f"repeat {len(samples) + 1} of {count}")
            samples.append(self._go(seconds))
        return samples

    @property
    def waited(self) -> float:
        """The share of the repeats' time in which the device had no data."""
        return self.program.feed.waited / self.seconds

    def _since(self, start: float) -> float:
        """Seconds since ``start``, of the process that is the last: all that share a batch go on as long."""
        return self.program.group.largest(time.perf_counter() - start)

    def _go(self, seconds: float) -> float:
        """Images per second of about ``seconds`` from the weights that training starts with; at least one call."""
        for variable, value in zip(self.variables, self.before, strict=True):
            variable.assign(value)
        done, calls, passed = 0, 0, 0.0
        start = time.perf_counter()
        # Another call belongs to it where more than half of that call does.
        while not calls or passed * (1 + 0.5 / calls) < seconds:
            epoch, first_step, part, after = next(self.calls)
            self.program.feed.announce(after)
            result = self.program.feed(part, epoch, first_step)
            if result.steps < len(part):
                raise TrainingError(
                    f"step {first_step + result.steps}: too many steps in a row had a non-finite gradient; lower the "
                    "learning rate, or raise precision.loss_scale.max_skipped"
                )
            done += result.steps
            self.skipped += int((~result.finite).sum())
            calls += 1
            passed = self._since(start)
        self.steps += done
        self.seconds += passed
        return done * self.program.batch_size / passed


def calls(program: TrainProgram, rows: int) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Training's calls without end: epoch, first step, up to ``rows`` rows of the epoch's order, and the rows after
    them."""

    def parts() -> Iterator[tuple[int, int, np.ndarray]]:
        for epoch in itertools.count():
            order = program.order(epoch)
            for begin in range(0, len(order), rows):
                yield epoch, epoch * program.steps_per_epoch + begin, order[begin : begin + rows]

    for (epoch, first_step, part), (_, _, after) in itertools.pairwise(parts()):
        yield epoch, first_step, part, after


def memory_limit(device: Device) -> int:
    """Bytes that `memory_peak` may reach: the GPU's memory; else what this process has, and what is free."""
    if device.kind == "GPU":
        return device.memory_bytes or 0
    own = re.search(r"VmRSS:\s+(\d+)", _STATUS.read_text(encoding="ascii"))
    return memory.free() + (int(own[1]) * 1024 if own else 0)


def memory_peak(device: Device) -> tuple[int, str]:
    """Bytes, and whose: of the GPU's memory since its statistics were reset, or of this process since it started.

    ``getrusage`` would not do: a process inherits its peak from the one that started it.
    """
    if device.kind == "GPU":
        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"]), "GPU"
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024, "host, the whole process"
    return 0, "unknown"
