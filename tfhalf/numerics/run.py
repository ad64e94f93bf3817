"""``tfhalf numerics``: a pipeline's net measured as it trains, and what follows from that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from tfhalf import config
from tfhalf.artifacts import manifest as manifests
from tfhalf.data import check_at_hand
from tfhalf.errors import ConfigError, ResumeError
from tfhalf.numerics.constants import constant_layers
from tfhalf.numerics.islands import choose, joined
from tfhalf.numerics.measure import Measuring, check_steps, float32_program
from tfhalf.numerics.report import Report
from tfhalf.numerics.request import Asked
from tfhalf.numerics.taps import operations
from tfhalf.progress import Progress, duration
from tfhalf.system.device import detect, grow_memory
from tfhalf.system.group import ALONE, Group
from tfhalf.train.alike import check_alike
from tfhalf.train.job import Job, Places, open_run, prepare, with_weights
from tfhalf.train.peers import last_checkpoint
from tfhalf.train.program import TrainProgram
from tfhalf.train.record import checkpoint
from tfhalf.train.record.resume import check_inputs
from tfhalf.train.state import TrainState


def measure(asked: Asked, progress: Progress, group: Group = ALONE) -> Report:
    """Train a pipeline, or a run of one, for some steps in float32, and measure its numbers; the processes of ``group``
    share each batch, and all of them have the report.

    Raises:
        ConfigError, DataError, RefError: the pipeline cannot be run, or an option does not go with it.
        ResumeError: the run has no checkpoint, or not this pipeline's.
        TrainingError: the loss is not finite in float32 either.
        PeerError: another process of ``group`` has ended.
    """
    with group.watched("start all of them again"):
        return _measure(asked, progress, group)


def _measure(asked: Asked, progress: Progress, group: Group) -> Report:
    pipeline, places = _taken_up(asked)
    grow_memory()
    device = replace(detect(), group=group)
    job = prepare(pipeline, places, progress)
    check_alike(job, group)
    job = job if asked.run else with_weights(job)
    if asked.batch_size is not None:
        settings = job.pipeline.train.model_copy(update={"batch_size": asked.batch_size})
        job = replace(job, pipeline=job.pipeline.model_copy(update={"train": settings}))
    program = float32_program(job, device)
    first, exponent, described = _begin(job, program, asked.run, progress)
    steps = check_steps(program, first, asked.steps, asked.every)
    measuring = Measuring(program)
    progress.status("compiling the training step, with and without measuring ...")
    measuring.compile()
    timing = measuring.time()
    count = steps // asked.every
    needed = timing.plain * (steps - count) + timing.measured * count
    progress.line(f"measuring  {count} of {steps} steps in float32: about {duration(needed)}")
    measured = measuring.run(first, steps, asked.every, timing, progress)
    islands = joined(constant_layers(job), choose(program.state.model, measured, pipeline.precision.loss_scale.floor))
    return Report(
        pipeline=pipeline.name,
        model=f"{job.builder.ref}",
        parameters=program.state.model.count_params(),
        source=job.splits.source,
        device=device.describe(),
        policy=pipeline.precision.policy,
        scale_exponent=exponent,
        state=described,
        every=asked.every,
        measured=measured,
        order=tuple(operations(program.state.model)),
        islands=islands,
        versions=manifests.versions(),
        noun=job.splits.noun,
    )


def _taken_up(asked: Asked) -> tuple[config.Pipeline, Places]:
    """The pipeline to measure: the run's own, if there is a run."""
    places = Places(asked.path or Path(), Path("runs"), Path("exports"), asked.data_dir)
    if asked.run is None:
        assert asked.pipeline is not None
        return asked.pipeline, places
    pipeline, places, _ = open_run(asked.run, places)
    if asked.pipeline is not None and asked.pipeline.name != pipeline.name:
        raise ConfigError(
            f"--run {asked.run}: is a run of {pipeline.name!r}, and {asked.path} is {asked.pipeline.name!r}; "
            "give its own pipeline"
        )
    check_at_hand(pipeline.data, places.data_dir)
    return pipeline, places


def _begin(job: Job, program: TrainProgram, run: Path | None, progress: Progress) -> tuple[int, int, str]:
    """Put the run's state into the float32 ``program``: the step to begin with, the scale's exponent, and both in
    words."""
    precision = job.pipeline.precision
    guarded = precision.scaled
    if run is None:
        exponent = _exponent(precision.loss_scale.initial) if guarded else 0
        mode = " and loss_scale.mode none" if precision.loss_scale.mode == "none" else ""
        where = "precision.loss_scale.initial" if guarded else f"none under {precision.policy}{mode}"
        weights = "" if job.initial is None else f", {job.initial.line()}"
        return 0, exponent, f"new weights, seed {job.pipeline.seed}{weights}; scale in force 2^{exponent} ({where})"
    loaded = last_checkpoint(run, program.group, progress.line)
    if loaded is None:
        raise ResumeError(f"{run}: has no checkpoint; measure its pipeline without --run, or train longer first")
    check_inputs(loaded.record, job.preprocess, job.splits, run)
    trained, state = TrainState(job), program.state
    trained.restore(loaded.arrays)
    state.model.set_weights(trained.model.get_weights())
    checkpoint.restore([keras.ops.convert_to_numpy(v) for v in trained.inner.variables], state.optimizer.variables)
    epochs = job.pipeline.train.epochs
    epoch = done = loaded.record["epochs_done"]
    position = f"{run}, after epoch {done} of {epochs}"
    if loaded.record["ended"] or done >= epochs:  # its last epoch once more, at that epoch's learning rate
        epoch = max(0, done - 1)
        position += ", whose last epoch is trained once more"
    first = epoch * program.steps_per_epoch
    state.optimizer.iterations.assign(first)
    exponent = _exponent(trained.loss_scale())
    return first, exponent, f"{position}; scale in force 2^{exponent}"


def _exponent(scale: float) -> int:
    return int(np.log2(scale))
