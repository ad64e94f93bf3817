"""How fast a pipeline trains, measured in this process.

The training set is there as a whole, since its size decides how many steps a program runs and where the images lie.
What no step sees costs as little as it can: normalisation is that of a sample, and nothing is evaluated.
"""

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
from tfhalf.bench.tables import number
from tfhalf.bench.watch import Stages
from tfhalf.data import Splits
from tfhalf.data.columns import Columns
from tfhalf.data.lazy import subset
from tfhalf.errors import TrainingError
from tfhalf.numerics.auto_islands import settle
from tfhalf.progress import Progress
from tfhalf.system.device import Device, detect, grow_memory
from tfhalf.train.job import job_of, splits_of
from tfhalf.train.program import TrainProgram
from tfhalf.train.state import TrainState

# Repeats end when they have taken so many times what they were given: a slow step is not run more often than needed.
_OVERRUN = 2.0
_SAMPLE = 1000  # images that normalisation is measured on, at most
_STATUS = Path("/proc/self/status")


def measure(
    *,
    pipeline: str,
    overrides: Sequence[str],
    data_dir: str | None,
    policy: str,
    repeats: int,
    seconds: float,
    stages: Stages,
) -> Training:
    """Build the `TrainProgram` of the file ``pipeline`` as `tfhalf train` does, and time its steps under ``policy``.

    Args:
        repeats: how often about ``seconds`` of training are timed; fewer where steps are too slow for it. Each starts
            from the same weights and, like training, runs many steps a call, with augmentation and everything else.

    Raises:
        ConfigError, DataError, RefError: the pipeline cannot be run as it is.
        TrainingError: too many steps in a row had a non-finite gradient.
    """
    checked = config.load_pipeline(pipeline, [*overrides, f"precision.policy={policy}"])
    base = Path(pipeline).resolve().parent
    grow_memory()
    device = detect()
    stages.stage("reading the data")
    splits = splits_of(checked, base, data_dir, stages.status)
    trained = _train(checked, base, splits, device, repeats, seconds, stages)
    del splits
    gc.collect()  # the training's memory, for the matrices
    stages.stage("multiplying matrices")
    dtype = policy.removeprefix("mixed_")
    peak = matrix.peak(dtype, device)
    return Training(
        policy=policy,
        matrix=peak.matrix,
        matrix_flops=peak.flops,
        device=device.describe(),
        device_kind=device.kind,
        emulated=dtype == "float16" and not device.native_float16,
        **trained,
    )


def _train(
    pipeline: config.Pipeline,
    base: Path,
    splits: Splits,
    device: Device,
    repeats: int,
    seconds: float,
    stages: Stages,
) -> dict[str, Any]:
    """What `Training` holds of the training itself."""
    stages.stage("building the model")
    count = len(splits.x_train)
    sampled = min(count, _SAMPLE)  # spread over all of it: classes may stand one behind the other
    x = splits.x_train
    rows = np.arange(sampled) * count // sampled
    sample = x[rows] if isinstance(x, Columns) else subset(x, rows)
    quiet = Progress(quiet=True)
    job = settle(job_of(pipeline, splits, base, quiet, sample), device, quiet)
    program = TrainProgram(job, TrainState(job), device)
    stages.stage("compiling the step" + (" with XLA" if program.xla else ""))
    compiling = program.compile()
    timed = _Timed(program, device, stages)
    samples = timed.repeats(repeats, seconds)
    memory, memory_of = memory_peak(device)  # before anything else takes some
    stages.stage("counting operations")
    work = flops.count(program.state.model, _inputs(splits), program.batch_size, program.step.variables)
    return {
        "source": splits.source,
        "images": count,
        "image_bytes": splits.x_train.nbytes,
        "normalised_by": 0 if job.pipeline.data.normalize == "none" else sampled,
        "noun": splits.noun,
        "samples": tuple(samples),
        "batch_size": program.batch_size,
        "steps": timed.steps,
        "skipped": timed.skipped,
        "compile_seconds": compiling,
        "memory_bytes": memory,
        "memory_of": memory_of,
        "flops_forward": work.forward,
        "flops_step": work.step,
        "uncounted": work.uncounted,
        "model": job.builder.ref,
        "parameters": program.state.model.count_params(),
        "input_shape": tuple(splits.input_shape),
        "feed": program.feed_reason,
        "xla": program.xla_reason,
    }


def _inputs(splits: Splits) -> tuple[int, ...] | dict[str, tuple[tuple[int, ...], str]]:
    """The shape of an item, or shape and dtype of each of several inputs as a net takes them."""
    if not isinstance(splits.x_train, Columns):
        return splits.input_shape
    return {name: (shape, splits.dtypes.get(name, "float32")) for name, shape in splits.shapes.items()}


class _Timed:
    """A compiled program's calls, one after another through its epochs."""

    def __init__(self, program: TrainProgram, device: Device, stages: Stages) -> None:
        self.program, self.device, self.stages = program, device, stages
        self.steps, self.skipped = 0, 0
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
        self.calls = _calls(self.program, rows)
        if step < seconds / 4:
            self._go(seconds / 2)
        self.steps, self.skipped = 0, 0
        if self.device.kind == "GPU":
            tf.config.experimental.reset_memory_stats("GPU:0")
        samples: list[float] = []
        self.stages.stage(f"measuring, {number(1000 * step)} ms a step")
        start = time.perf_counter()
        while len(samples) < count and time.perf_counter() - start < _OVERRUN * count * seconds:
            self.stages.status(f"repeat {len(samples) + 1} of {count}")
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
            passed = time.perf_counter() - start
        self.steps += done
        return done * self.program.batch_size / passed


def _calls(program: TrainProgram, rows: int) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Training's calls without end: epoch, first step, up to ``rows`` rows of the epoch's order, and the rows after
    them."""

    def parts() -> Iterator[tuple[int, int, np.ndarray]]:
        for epoch in itertools.count():
            order = program.order(epoch)
            for begin in range(0, len(order), rows):
                yield epoch, epoch * program.steps_per_epoch + begin, order[begin : begin + rows]

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
