"""How fast a pipeline trains, measured in this process.

The training set is there as a whole, since its size decides how many steps a program runs and where the images lie.
What no step sees costs as little as it can: normalisation is that of a sample, and nothing is evaluated.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf import config
from tfhalf.bench import apart, flops, matrix
from tfhalf.bench.results import Training
from tfhalf.bench.timed import Timed, memory_limit, memory_peak
from tfhalf.bench.watch import Stages
from tfhalf.data import Splits
from tfhalf.data.columns import Columns
from tfhalf.data.lazy import subset
from tfhalf.numerics.auto_islands import settle
from tfhalf.progress import Progress
from tfhalf.system.device import Device, detect, grow_memory
from tfhalf.system.group import ALONE, Group
from tfhalf.train.job import job_of, splits_of
from tfhalf.train.program import TrainProgram
from tfhalf.train.state import TrainState

_SAMPLE = 1000  # images that normalisation is measured on, at most


def measure(
    *,
    pipeline: str,
    overrides: Sequence[str],
    data_dir: str | None,
    policy: str,
    repeats: int,
    seconds: float,
    stages: Stages,
    feed: bool = False,
    group: Group = ALONE,
) -> Training:
    """Build the `TrainProgram` of the file ``pipeline`` as `tfhalf train` does, and time its steps under ``policy``.

    Args:
        repeats: how often about ``seconds`` of training are timed; fewer where steps are too slow for it. Each starts
            from the same weights and, like training, runs many steps a call, with augmentation and everything else.
        feed: whether the step is timed without its feed, too, and the feed without the step.
        group: the processes that share each batch; all of them measure, at the pace of the slowest.

    Raises:
        ConfigError, DataError, RefError: the pipeline cannot be run as it is.
        TrainingError: too many steps in a row had a non-finite gradient.
    """
    checked = config.load_pipeline(pipeline, [*overrides, f"precision.policy={policy}"])
    base = Path(pipeline).resolve().parent
    grow_memory()
    device = replace(detect(), group=group)
    limit = memory_limit(device)
    stages.stage("reading the data")
    splits = splits_of(checked, base, data_dir, stages.status)
    trained = _train(checked, base, splits, device, repeats, seconds, stages, feed)
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
        devices=group.size,
        memory_limit=limit,
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
    feed: bool,
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
    program = TrainProgram(job, TrainState(job, device.group), device)
    stages.stage("compiling the step" + (" with XLA" if program.xla else ""))
    compiling = program.compile()
    timed = Timed(program, device, stages)
    samples = timed.repeats(repeats, seconds)
    memory, memory_of = memory_peak(device)  # before anything else takes some
    alone = apart.measure(program, timed, repeats, seconds, stages) if feed else {}
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
        "from_cache": program.from_cache,
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
        "waited": timed.waited,
        "remat": program.remat.message,
        **alone,
    }


def _inputs(splits: Splits) -> tuple[int, ...] | dict[str, tuple[tuple[int, ...], str]]:
    """The shape of an item, or shape and dtype of each of several inputs as a net takes them."""
    if not isinstance(splits.x_train, Columns):
        return splits.input_shape
    return {name: (shape, splits.dtypes.get(name, "float32")) for name, shape in splits.shapes.items()}
