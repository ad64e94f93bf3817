"""``precision.keep_float32: auto`` as a list, by a few steps of the net in float32."""

from __future__ import annotations

import gc
import json
from dataclasses import replace

import numpy as np

from tfhalf.config import Pipeline
from tfhalf.numerics.islands import MARGIN, choose
from tfhalf.numerics.measure import Measured, Measuring, Timing, float32_program
from tfhalf.precision import cast
from tfhalf.precision.islands import Island
from tfhalf.progress import Progress
from tfhalf.system.device import Device, detect
from tfhalf.train.job import Job

STEPS = 8
BATCH = 64  # images in a step, at most
_NAMED = 4
_NOTHING = f"{STEPS} steps in float32 show no number beyond {cast.MAX:g} / {MARGIN:g}, and no long sum"


def settle(job: Job, device: Device, progress: Progress) -> Job:
    """The job itself, unless its pipeline says ``auto``; else the job with the list that `find` gives in its place.

    Training, export, resumed runs and the manifest get the list: they find the same layers.

    Raises:
        TrainingError: the net's loss is not finite in float32 either.
    """
    if job.pipeline.precision.keep_float32 != "auto":
        return job
    group, patterns = device.group, "[]"
    if group.first:
        islands, _ = find(job, device.alone, progress)
        for line in lines(islands):
            progress.line(line)
        patterns = json.dumps([island.pattern for island in islands])
    return settled(job, tuple(json.loads(group.texts(patterns)[0])))


def auto(job: Job, progress: Progress, *, measure: bool) -> tuple[Job, tuple[Island, ...] | None]:
    """What `settle` would make of the job, without training: with ``measure``, what `find` finds, else None; and the
    job with that list where its pipeline says ``auto``."""
    if not measure:
        return job, None
    islands, _ = find(job, detect(), progress)
    if job.pipeline.precision.keep_float32 != "auto":
        return job, islands
    return settled(job, tuple(island.pattern for island in islands)), islands


def auto_lines(pipeline: Pipeline, islands: tuple[Island, ...] | None) -> list[str]:
    """What `tfhalf check` says of ``keep_float32: auto``; ``islands`` is None where nothing was measured."""
    if islands is None:
        asked = pipeline.precision.keep_float32 == "auto"
        note = f"keep_float32: auto is settled when training begins, by {STEPS} steps in float32; --measure does so now"
        return [note] if asked else []
    if not islands:
        return [f"keep_float32: auto keeps no layer: {_NOTHING}"]
    counted = "1 layer" if len(islands) == 1 else f"{len(islands)} layers"
    return [
        f"keep_float32: auto keeps {counted} in float32, by {STEPS} steps of the net as its seed makes it:",
        *(f"  {island.path}: {'; '.join(island.reasons)}" for island in islands),
        f"as a list: {json.dumps([island.pattern for island in islands])}",
    ]


def settled(job: Job, patterns: tuple[str, ...]) -> Job:
    """The job with ``patterns`` as its list."""
    precision = job.pipeline.precision.model_copy(update={"keep_float32": patterns})
    return replace(job, pipeline=job.pipeline.model_copy(update={"precision": precision}))


def find(job: Job, device: Device, progress: Progress) -> tuple[tuple[Island, ...], Measured]:
    """The layers to keep in float32, from `STEPS` training steps of the net as its seed makes it; nothing is kept of
    what the steps change. Images, like everything else, are a function of the seed."""
    progress.status("measuring the net's numbers, for keep_float32: auto ...")
    batch = min(job.pipeline.train.batch_size, BATCH, len(job.splits.x_train))
    places = np.random.default_rng(job.pipeline.seed).permutation(len(job.splits.x_train))[: STEPS * batch]
    few = replace(job, splits=job.splits.training_rows(places))
    program = float32_program(few, device, batch_size=batch, xla="off", feed="auto")
    measuring = Measuring(program)
    steps = min(STEPS, program.steps_per_epoch * program.epochs)
    measured = measuring.run(0, steps, 1, Timing(0.0, 0.0, 0.0), progress)
    islands = choose(program.state.model, measured, job.pipeline.precision.loss_scale.floor)
    del program, measuring, few
    gc.collect()  # a GPU's memory is for the training
    return islands, measured


def lines(islands: tuple[Island, ...]) -> list[str]:
    """What is said of the layers that stay in float32: how many, and why."""
    if not islands:
        return [f"islands    none: {_NOTHING} (keep_float32: auto)"]
    count = "1 layer stays" if len(islands) == 1 else f"{len(islands)} layers stay"
    texts = [f"islands    {count} in float32 (keep_float32: auto)"]
    texts += [f"           {island.path}: {'; '.join(island.reasons)}" for island in islands[:_NAMED]]
    if (left := len(islands) - _NAMED) > 0:
        texts.append(f"           and {left} more; the run's pipeline.yaml and the manifest list them all")
    return texts
