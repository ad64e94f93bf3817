"""``tfhalf train``: a pipeline in, a run folder and a published version out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tfhalf import config
from tfhalf.artifacts import version
from tfhalf.numerics.auto_islands import settle
from tfhalf.numerics.constants import keep_constants
from tfhalf.progress import Progress, duration
from tfhalf.system.device import detect, grow_memory, spared_from_collection
from tfhalf.system.group import ALONE, Group
from tfhalf.system.programs import origin_words
from tfhalf.train import stages
from tfhalf.train.alike import check_alike
from tfhalf.train.job import Places, new_run, prepare, with_weights
from tfhalf.train.loop import run_training
from tfhalf.train.record.decoder import note_decoder
from tfhalf.train.record.run_folder import Origin, held
from tfhalf.train.remarks import parameters, remarks
from tfhalf.train.trainer import Trainer
from tfhalf.verify.process import Verifier
from tfhalf.workflows.publish import Clock, Finished, Outcome, export_and_publish
from tfhalf.workflows.rehearse import check_model
from tfhalf.workflows.trained import evaluated, learnt, record_published, record_trained, size_words

WORTH_MEASURING = 60.0  # seconds of training, from which what emulated float16 costs is measured first


def train_and_export(
    pipeline: config.Pipeline,
    places: Places,
    progress: Progress,
    *,
    smoke: bool = False,
    resume: Path | None = None,
    deterministic: bool = False,
    origin: Origin | None = None,
    started: float | None = None,
    group: Group = ALONE,
) -> Outcome:
    """Train ``pipeline``, export it in float16, verify the artifacts in a fresh process, and publish them.

    Args:
        smoke: two steps, one epoch and a few hundred test images; everything else for real, but what is exported stays
            in the run folder.
        resume: a run folder to take up again; ``pipeline`` is the one it was started with.
        deterministic: what to write down; TensorFlow has been told by `import_tensorflow`.
        origin: a run that a new one begins from, in place of ``model.weights``.
        started: `time.perf_counter` at the start of the process, for the split of time.
        group: the processes that train together, of which this is the first: it alone writes, exports and publishes.
            The others call `take_part`.

    Raises:
        DataError, RefError, ConfigError: the pipeline cannot be run as it is.
        TrainingError, ExportError, ParityError: the job fell short; nothing was published.
        ResumeError, Interrupted: as `run_training`; or another process is training the run.
        PeerError: another process of ``group`` has ended.
    """
    clock = Clock(started)
    how: dict[str, Any] = {"smoke": smoke, "resume": resume, "deterministic": deterministic, "origin": origin}
    plan = plan_training(pipeline, places, progress, clock, group=group, **how)
    with held(plan.run), Verifier(progress) as verifier, spared_from_collection():
        verifier.start()  # now, so that it has imported what it needs when training is over
        finished = train(plan, progress, clock)
        outcome = export_and_publish(finished, verifier, progress, clock)
        record_published(finished, outcome)
    return outcome


def take_part(
    pipeline: config.Pipeline, places: Places, progress: Progress, *, group: Group, started: float | None, **how: Any
) -> None:
    """Train ``pipeline`` as a process of ``group`` that is not the first, and leave nothing; ``how`` as
    `train_and_export`, which the first one calls.

    Raises:
        as `train_and_export`, export and verification apart.
    """
    clock = Clock(started)
    with _elsewhere(places) as own, spared_from_collection():
        train(plan_training(pipeline, own, progress, clock, group=group, **how), progress, clock)


@contextmanager
def _elsewhere(places: Places) -> Iterator[Places]:
    """What a process writes that is not the first goes where nobody reads it, and away at its end."""
    with tempfile.TemporaryDirectory(prefix="tfhalf-") as folder:
        yield replace(places, runs=Path(folder), exports=Path(folder))


@dataclass(frozen=True)
class TrainPlan:
    """A training made ready: its trainer, compiled, and its run folder, in which it is ``resumed`` or begins."""

    trainer: Trainer
    places: Places
    run: Path
    resumed: bool


def plan_training(
    pipeline: config.Pipeline,
    places: Places,
    progress: Progress,
    clock: Clock,
    *,
    smoke: bool,
    resume: Path | None,
    deterministic: bool,
    origin: Origin | None = None,
    group: Group = ALONE,
) -> TrainPlan:
    """Load the data, build and compile, try the export, make the run folder; arguments as `train_and_export`."""
    places.check(smoke=smoke)
    if not smoke:
        version.check(places.exports / pipeline.name)
    grow_memory()
    device = replace(detect(), group=group)
    job = prepare(pipeline, places, progress, smoke=smoke)
    check_alike(job, group)
    job = job if resume else with_weights(job, origin)  # a checkpoint has them all
    job = keep_constants(settle(job, device, progress), progress)
    progress.wait(f"{job.builder.ref}, and trying its export")
    trainer = Trainer(job, device)
    check_model(job, trainer.state.model)
    run = resume if resume and group.first else new_run(job, places, smoke, deterministic)
    clock.stop("start-up")
    if smoke:
        progress.line("smoke      two steps and a few test images, to try the way; nothing is published")
    _device_truth(trainer, progress)
    if other := note_decoder(run, trainer.program.feed):
        progress.line(f"note       {other}")
    progress.line(f"run        {run}")
    progress.line()
    clock.stop("compile")
    return TrainPlan(trainer, places.of(run, smoke=smoke), run, resume is not None)


def train(plan: TrainPlan, progress: Progress, clock: Clock) -> Finished:
    """Train to the end; the run folder then holds the model, and how good it is. The caller holds the folder.

    Raises:
        TrainingError, ResumeError, Interrupted: as `run_training`.
    """
    trainer, run = plan.trainer, plan.run
    with trainer.writer:
        result = run_training(trainer, run, progress, resume=plan.resumed)
        finished = evaluated(trainer.job, plan.places, result, trainer.device, run, trainer.evaluator, progress)
        clock.stop("train")
        if trainer.device.group.first:
            record_trained(finished, clock.seconds, progress)  # while the last checkpoint is written
    return finished


def _device_truth(trainer: Trainer, progress: Progress) -> None:
    """The block that says, before training starts, what will compute, how, and for about how long."""
    job, program, model, device = trainer.job, trainer.program, trainer.state.model, trainer.device
    splits, settings, policy = job.splits, job.pipeline.train, job.pipeline.precision.policy
    progress.line(f"device     {device.describe(half=policy != 'float32')}")
    progress.line(f"policy     {_policy_words(job.pipeline.precision)}")
    progress.line(f"xla        {program.xla_reason}")
    progress.line(f"data       {splits.source}: {size_words(splits)}; {learnt(job)}")
    progress.line(f"feed       {program.feed_reason}")
    progress.line(f"model      {job.builder.ref}: {parameters(model, settings.optimizer)}")
    if job.initial is not None:
        progress.line(f"weights    {job.initial.line()}")
    for text in (*stages.lines(job, program.stages, trainer.state.trained), *program.batches.lines()):
        progress.line(f"           {text}")
    for remark in (*job.builder.remarks, *remarks(job.pipeline, splits, model)):
        progress.line(f"note       {remark}")
    if settings.remat == "auto":
        progress.status("compiling the training step, for train.remat: auto ...")
        program.choose_remat()
    if program.remat.message:
        progress.line(f"remat      {program.remat.message}")
    if program.xla:
        progress.status("compiling the training step ...")
    compiling = program.compile()
    step = program.measure_step()
    total = step * sum(program.batches.plan)
    progress.line(
        f"steps      {program.batches.words(splits.noun)}; compiled in {duration(compiling)}"
        f"{origin_words(program.from_cache)}; about {duration(total)} to go"
    )
    if policy != "float32" and not device.native_float16:
        _say_emulated(trainer, progress, measure=total >= WORTH_MEASURING)


def _policy_words(precision: config.Precision) -> str:
    """The policy, whether weights have a float32 copy, and which loss scaling is in force."""
    policy, scale = precision.policy, precision.loss_scale
    if not precision.float16_gradients:
        return policy
    words = f"{policy}: no float32 copy of the weights," if policy == "float16" else policy
    kinds = {"dynamic": "behind a guarded loss scale", "static": f"behind a static loss scale of {scale.initial:,g}"}
    return f"{words} {kinds.get(scale.mode, 'without loss scaling')}"


def _say_emulated(trainer: Trainer, progress: Progress, *, measure: bool) -> None:
    """How much slower is measured, for half a minute with a large net, only where that is soon won back."""
    cost = "it is computed in float32, more slowly"
    if measure:
        ratio = trainer.emulation_cost()
        slower = f"{ratio:.1f} times slower than" if ratio > 1.05 else "about as fast as"
        cost = f"a measured step is {slower} float32"
    progress.line(
        f"           this CPU has no float16 arithmetic: {cost}; --set precision.policy=float32 trains the same net, a "
        "GPU trains it in float16"
    )
