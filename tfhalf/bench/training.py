"""How fast a pipeline trains, measured in this process."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfhalf import config
from tfhalf.bench import flops, matrix
from tfhalf.bench.results import Training
from tfhalf.device import Device, detect, grow_memory
from tfhalf.errors import TrainingError
from tfhalf.job import Places, prepare
from tfhalf.progress import Progress
from tfhalf.train.loop import Trainer

# Repeats end when they have taken so many times what they were given: a slow step is not run more often than needed.
_OVERRUN = 2.0
_STATUS = Path("/proc/self/status")


def measure(
    *,
    pipeline: str,
    overrides: Sequence[str],
    data_dir: str | None,
    policy: str,
    repeats: int,
    seconds: float,
    progress: Progress,
) -> Training:
    """Build the `Trainer` of the file ``pipeline`` as `tfhalf train` does, and time its steps under ``policy``.

    Args:
        repeats: how often about ``seconds`` of training are timed; fewer where steps are too slow for it. Each starts
            from the same weights and, like training, runs many steps a call, with augmentation and everything else.

    Raises:
        ConfigError, DataError, RefError: the pipeline cannot be run as it is.
        TrainingError: too many steps in a row had a non-finite gradient.
    """
    checked = config.load_pipeline(pipeline, [*overrides, f"precision.policy={policy}"])
    places = Places(Path(pipeline), Path("runs"), Path("exports"), data_dir)
    grow_memory()
    device = detect()
    found = _train(checked, places, device, repeats, seconds, progress)
    gc.collect()  # the training's memory, for the matrices
    progress.status(f"{policy}: multiplying matrices ...")
    dtype = policy.removeprefix("mixed_")
    peak = matrix.peak(dtype, device)
    progress.clear()
    return Training(
        policy=policy,
        matrix=peak.matrix,
        matrix_flops=peak.flops,
        device=device.describe(),
        device_kind=device.kind,
        emulated=dtype == "float16" and not device.native_float16,
        **found,
    )


def _train(
    pipeline: config.Pipeline, places: Places, device: Device, repeats: int, seconds: float, progress: Progress
) -> dict[str, Any]:
    """What `Training` holds of the training itself."""
    job = prepare(pipeline, places, progress)
    trainer = Trainer(job.pipeline, job.splits, job.builder, job.preprocess, device)
    progress.status(f"{pipeline.precision.policy}: compiling the training step ...")
    compiling = trainer.compile()
    timed = _Timed(trainer, progress)
    samples = timed.repeats(repeats, seconds)
    memory, memory_of = memory_peak(device)  # before anything else takes some
    work = flops.count(trainer.model, job.splits.input_shape, trainer.batch_size, trainer.step.variables)
    return {
        "samples": tuple(samples),
        "batch_size": trainer.batch_size,
        "steps": timed.steps,
        "skipped": timed.skipped,
        "compile_seconds": compiling,
        "memory_bytes": memory,
        "memory_of": memory_of,
        "flops_forward": work.forward,
        "flops_step": work.step,
        "uncounted": work.uncounted,
        "model": job.builder.ref,
        "parameters": trainer.model.count_params(),
        "input_shape": tuple(job.splits.input_shape),
        "feed": trainer.feed_reason,
        "xla": trainer.xla_reason,
    }


class _Timed:
    """A compiled trainer's calls, one after another through its epochs."""

    def __init__(self, trainer: Trainer, progress: Progress) -> None:
        self.trainer, self.progress = trainer, progress
        self.policy = trainer.pipeline.precision.policy
        self.steps, self.skipped = 0, 0
        # All but the loss scale: it settles while warming up, and steps are not skipped over again in each repeat.
        scale = getattr(trainer.optimizer, "dynamic_scale", None)
        self.variables = [v for v in [*trainer.model.variables, *trainer.optimizer.variables] if v is not scale]
        self.before = [keras.ops.convert_to_numpy(v) for v in self.variables]

    def repeats(self, count: int, seconds: float) -> list[float]:
        """Images per second of up to ``count`` repeats; at least one."""
        self.progress.status(f"{self.policy}: warming up ...")
        step = self.trainer.measure_step()
        rows = min(self.trainer.rows, max(1, int(seconds / step)))
        self.calls = _calls(self.trainer, rows)
        if step < seconds / 4:
            self._go(seconds / 2)
        self.steps, self.skipped = 0, 0
        if self.trainer.device.kind == "GPU":
            tf.config.experimental.reset_memory_stats("GPU:0")
        samples: list[float] = []
        start = time.perf_counter()
        while len(samples) < count and time.perf_counter() - start < _OVERRUN * count * seconds:
            self.progress.status(f"{self.policy}: repeat {len(samples) + 1} of {count}, {1000 * step:,.1f} ms a step")
            samples.append(self._go(seconds))
        return samples

    def _go(self, seconds: float) -> float:
        """Images per second of about ``seconds`` from the weights that training starts with; at least one call."""
        for variable, value in zip(self.variables, self.before, strict=True):
            variable.assign(value)
        done, calls, passed = 0, 0, 0.0
        start = time.perf_counter()
        # Another call belongs to it where more than half of that call does.
        while not calls or passed * (1 + 0.5 / calls) < seconds:
            epoch, first_step, part, after = next(self.calls)
            self.trainer.feed.announce(after)
            result = self.trainer.feed(part, epoch, first_step)
            if result.steps < len(part):
                raise TrainingError(
                    f"step {first_step + result.steps}: too many steps in a row had a non-finite gradient; lower the "
                    "learning rate, or raise precision.loss_scale.max_skipped"
                )
            done += result.steps
            self.skipped += int((~result.finite).sum())
            calls += 1
            passed = time.perf_counter() - start
        self.steps += done
        return done * self.trainer.batch_size / passed


def _calls(trainer: Trainer, rows: int) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Training's calls without end: epoch, first step, up to ``rows`` rows of the epoch's order, and the rows after
    them."""

    def parts() -> Iterator[tuple[int, int, np.ndarray]]:
        for epoch in itertools.count():
            order = trainer.order(epoch)
            for begin in range(0, len(order), rows):
                yield epoch, epoch * trainer.steps_per_epoch + begin, order[begin : begin + rows]

    for (epoch, first_step, part), (_, _, after) in itertools.pairwise(parts()):
        yield epoch, first_step, part, after


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
