"""The main job: train, export, verify, publish."""

from __future__ import annotations

import json
from pathlib import Path

from tfhalf import config
from tfhalf.artifacts import version
from tfhalf.numerics.auto_islands import settle
from tfhalf.numerics.constants import keep_constants
from tfhalf.progress import Progress, duration
from tfhalf.system.device import Device, detect, grow_memory, spared_from_collection
from tfhalf.train.chance import Chance, against_majority
from tfhalf.train.job import Places, new_run, open_run, prepare
from tfhalf.train.loop import run_training
from tfhalf.train.record.run_folder import OUTCOME, held
from tfhalf.train.remarks import parameters, remarks
from tfhalf.train.trainer import Trainer
from tfhalf.verify.process import Verifier
from tfhalf.workflows.publish import Clock, Finished, Outcome, export_and_publish
from tfhalf.workflows.rehearse import check_model

__all__ = ["Outcome", "Places", "export_from_run", "train_and_export"]

WORTH_MEASURING = 60.0  # seconds of training, from which what emulated float16 costs is measured first


def train_and_export(
    pipeline: config.Pipeline,
    places: Places,
    progress: Progress,
    *,
    smoke: bool = False,
    resume: Path | None = None,
    deterministic: bool = False,
    started: float | None = None,
) -> Outcome:
    """Train ``pipeline``, export it in float16, verify the artifacts in a fresh process, and publish them.

    Args:
        smoke: two steps, one epoch and a few hundred test images; everything else for real, but what is exported stays
            in the run folder.
        resume: a run folder to take up again; ``pipeline`` is the one it was started with.
        deterministic: what to write down; TensorFlow has been told by `import_tensorflow`.
        started: `time.perf_counter` at the start of the process, for the split of time.

    Raises:
        DataError, RefError, ConfigError: the pipeline cannot be run as it is.
        TrainingError, ExportError, ParityError: the job fell short; nothing was published.
        ResumeError, Interrupted: as `run_training`; or another process is training the run.
    """
    clock = Clock(started)
    places.check(smoke=smoke)
    if not smoke:
        version.check(places.exports / pipeline.name)
    grow_memory()
    device = detect()
    job = keep_constants(settle(prepare(pipeline, places, progress, smoke=smoke), device, progress), progress)
    progress.wait(f"{job.builder.ref}, and trying its export")
    trainer = Trainer(job.pipeline, job.splits, job.builder, job.preprocess, device)
    check_model(job, trainer.model)
    run = resume or new_run(job, places, smoke, deterministic)
    places = places.of(run, smoke=smoke)
    clock.stop("start-up")
    if smoke:
        progress.line("smoke      two steps and a few test images, to try the way; nothing is published")
    _device_truth(trainer, device, progress)
    progress.line(f"run        {run}")
    progress.line()
    clock.stop("compile")
    with held(run), Verifier(progress) as verifier, spared_from_collection():
        verifier.start()  # now, so that it has imported what it needs when training is over
        with trainer.writer:
            result = run_training(trainer, run, progress, resume=resume is not None)
            accuracy = _test_accuracy(trainer, progress)
        clock.stop("train")
        finished = Finished(job, places, result, device, run, accuracy, _chance(trainer, accuracy, progress, smoke))
        outcome = export_and_publish(finished, verifier, progress, clock)
    _record_outcome(outcome)
    return outcome


def export_from_run(run: Path, places: Places, progress: Progress) -> Outcome:
    """Export the weights of a finished run again, as `train_and_export` does after training.

    Raises:
        ResumeError: training had not ended, or another process works in the run.
    """
    clock = Clock(None)
    pipeline, places, smoke = open_run(run, places)
    places = places.of(run, smoke=smoke)
    places.check()
    version.check(places.exports / pipeline.name)
    grow_memory()
    device = detect()
    job = keep_constants(prepare(pipeline, places, progress, smoke=smoke), progress)
    trainer = Trainer(job.pipeline, job.splits, job.builder, job.preprocess, device)
    result = trainer.restored(run, progress)
    clock.stop("start-up")
    with held(run), Verifier(progress) as verifier:
        verifier.start()
        accuracy = _test_accuracy(trainer, progress)
        finished = Finished(job, places, result, device, run, accuracy, _chance(trainer, accuracy, progress, smoke))
        outcome = export_and_publish(finished, verifier, progress, clock)
    _record_outcome(outcome)
    return outcome


def _test_accuracy(trainer: Trainer, progress: Progress) -> float:
    splits, views = trainer.splits, trainer.pipeline.train.test_views
    plain = trainer.evaluator.accuracy(splits.x_test, splits.y_test)
    progress.line()
    progress.line(
        f"test       {plain * 100:.2f} % of {len(splits.x_test):,} images, one view each: what the artifacts give"
    )
    if views == "none":
        return plain
    averaged = trainer.evaluator.accuracy(splits.x_test, splits.y_test, views)
    count = {"mirror": 2, "mirror_shift": 6}[views]
    progress.line(f"           {averaged * 100:.2f} % with the answers averaged over {count} views ({views})")
    return averaged


def _chance(trainer: Trainer, accuracy: float, progress: Progress, smoke: bool) -> Chance:
    """How ``accuracy`` stands beside always giving the same answer; told where it is no better, as two steps are."""
    chance = against_majority(accuracy, trainer.splits.y_test, trainer.splits.class_names)
    if not chance.better and not smoke:
        progress.line(f"           {chance.words()}")
    return chance


def _device_truth(trainer: Trainer, device: Device, progress: Progress) -> None:
    """The block that says, before training starts, what will compute, how, and for about how long."""
    settings, policy = trainer.pipeline.train, trainer.pipeline.precision.policy
    splits = trainer.splits
    progress.line(f"device     {device.describe(half=policy != 'float32')}")
    progress.line(f"policy     {policy}" + (" behind a guarded loss scale" if policy == "mixed_float16" else ""))
    progress.line(f"xla        {trainer.xla_reason}")
    sizes = ", ".join(f"{count:,} {part}" for part, count in splits.sizes.items())
    progress.line(f"data       {splits.source}: {sizes}; {splits.num_classes} classes, input {splits.input_shape}")
    progress.line(f"feed       {trainer.feed_reason}")
    progress.line(f"model      {trainer.builder.ref}: {parameters(trainer.model, settings.optimizer)}")
    for remark in (*trainer.builder.remarks, *remarks(trainer.pipeline, splits, trainer.model)):
        progress.line(f"note       {remark}")
    if trainer.xla:
        progress.status("compiling the training step ...")
    compiling = trainer.compile()
    step = trainer.measure_step()
    steps = trainer.steps_per_epoch
    total = step * steps * settings.epochs
    progress.line(
        f"steps      {steps} of {trainer.batch_size} images x {settings.epochs} epochs; "
        f"compiled in {duration(compiling)}; about {duration(total)} to go"
    )
    if policy != "float32" and not device.native_float16:
        _say_emulated(trainer, progress, measure=total >= WORTH_MEASURING)


def _say_emulated(trainer: Trainer, progress: Progress, *, measure: bool) -> None:
    """How much slower is measured, for half a minute with a large net, only where that is soon won back."""
    told = "it is computed in float32, more slowly"
    if measure:
        ratio = trainer.emulation_cost()
        slower = f"{ratio:.1f} times slower than" if ratio > 1.05 else "about as fast as"
        told = f"a measured step is {slower} float32"
    progress.line(
        f"           this CPU has no float16 arithmetic: {told}; --set precision.policy=float32 trains the same net, a "
        "GPU trains it in float16"
    )


def _record_outcome(outcome: Outcome) -> None:
    facts = {"seconds": outcome.seconds, "version": str(outcome.version), "smoke": outcome.smoke}
    facts |= {"test_accuracy": outcome.accuracy, "chance": outcome.chance.to_dict()}
    text = json.dumps(facts, indent=2)
    (outcome.run / OUTCOME).write_text(text + "\n", encoding="utf-8")
