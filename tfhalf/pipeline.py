"""The main job: train, export, verify, publish."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfhalf import config
from tfhalf.data import Preprocess, Splits, load_splits
from tfhalf.device import Device, detect, grow_memory
from tfhalf.errors import ConfigError, ParityError, ResumeError
from tfhalf.export import manifest as manifests
from tfhalf.export import triton, version
from tfhalf.export.artifacts import describe, write_artifacts
from tfhalf.progress import Progress, duration, size
from tfhalf.report import parity_rows, report
from tfhalf.train.build import Builder
from tfhalf.train.evaluate import Evaluator, float32_exactly
from tfhalf.train.loop import Trainer, TrainResult
from tfhalf.verify import Comparison, Reference, data_sha256, to_dict, verify_fresh

SMOKE_STEPS = 2
SMOKE_TEST_IMAGES = 256


@dataclass(frozen=True)
class Places:
    """Where things are: the pipeline file, the folders that results go into, and TFDS's data."""

    pipeline: Path
    runs: Path
    exports: Path
    data_dir: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What the main job leaves. ``version`` is the published directory; ``seconds`` split by stage."""

    version: Path
    run: Path
    accuracy: float
    comparisons: tuple[Comparison, ...]
    seconds: dict[str, float]


def train_and_export(
    pipeline: config.Pipeline,
    places: Places,
    progress: Progress,
    *,
    smoke: bool = False,
    resume: Path | None = None,
    started: float | None = None,
) -> Outcome:
    """Train ``pipeline``, export it in float16, verify the artifacts in a fresh process, and publish them.

    Args:
        smoke: two steps, one epoch and a few hundred test images; everything else for real.
        resume: a run folder to take up again.
        started: `time.perf_counter` at the start of the process, for the split of time.

    Raises:
        TrainingError, ExportError, ParityError: the job fell short; nothing was published.
    """
    clock = _Clock(started)
    grow_memory()
    device = detect()
    job = prepare(pipeline, places, progress, smoke=smoke)
    run = resume or _new_run(job, places)
    trainer = Trainer(job.pipeline, job.splits, job.builder, job.preprocess, device)
    clock.stop("start-up")
    _device_truth(trainer, device, progress)
    clock.stop("compile")
    result = trainer.run(run, progress, resume=resume is not None)
    accuracy = _test_accuracy(trainer, progress)
    clock.stop("train")
    outcome = export_run(job, places, result, device, run, progress, clock, accuracy)
    _timings(run, outcome)
    return outcome


@dataclass(frozen=True)
class Job:
    """A pipeline with its data loaded and its builder resolved."""

    pipeline: config.Pipeline
    splits: Splits
    preprocess: Preprocess
    builder: Builder


def prepare(pipeline: config.Pipeline, places: Places, progress: Progress, *, smoke: bool = False) -> Job:
    """Load the data and resolve the builder; with ``smoke``, cut both the data and the training short."""
    base = places.pipeline.resolve().parent
    splits = load_splits(
        pipeline.data, base=base, seed=pipeline.seed, data_dir=places.data_dir, progress=progress.status
    )
    progress.clear()
    preprocess = Preprocess.fit(pipeline.data.normalize, splits.x_train)
    if smoke:
        pipeline, splits = _cut(pipeline, splits)
    builder = Builder(pipeline, base, input_shape=splits.input_shape, num_classes=splits.num_classes)
    return Job(pipeline, splits, preprocess, builder)


def export_run(
    job: Job,
    places: Places,
    result: TrainResult,
    device: Device,
    run: Path,
    progress: Progress,
    clock: _Clock,
    accuracy: float,
) -> Outcome:
    """Export a trained model, verify it, and publish it as the next version.

    Raises:
        ParityError: an artifact does not answer like the float32 model; it is kept as ``failed-N``.
    """
    pipeline, splits = job.pipeline, job.splits
    base = places.exports / pipeline.name
    with version.staging(base) as folder:
        progress.line()
        progress.line(f"export     float16, {', '.join(pipeline.export.formats)}")
        artifacts, rebuilt = write_artifacts(
            result.model,
            folder,
            pipeline,
            mean=job.preprocess.mean,
            std=job.preprocess.std,
            input_shape=splits.input_shape,
            labels=splits.class_names,
        )
        _reference(job, result.model).save(folder)
        lost = rebuilt.counts
        progress.line(
            f"           {lost.total:,} parameters in float16: {lost.clamped} clamped, {lost.flushed} flushed to 0, "
            f"{lost.subnormal} subnormal; {len(rebuilt.folded)} norms folded"
        )
        for artifact in artifacts:
            progress.line(f"           {artifact.format}: {size(artifact.bytes)}")
        manifest = {
            "schema": manifests.SCHEMA,
            "name": pipeline.name,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "config": pipeline.dump(),
            "pipeline_file": str(places.pipeline),
            "seed": pipeline.seed,
            "git_revision": manifests.git_revision(places.pipeline.resolve().parent),
            "versions": manifests.versions(),
            "hardware": {"device": device.describe(), "kind": device.kind, "cpu_cores": device.cpu_cores},
            "data": {"source": splits.source, "sizes": splits.sizes, "preprocess": job.preprocess.to_dict()},
            "labels": list(splits.class_names),
            **describe(rebuilt, splits.input_shape, splits.num_classes),
            "artifacts": [asdict(artifact) for artifact in artifacts],
            "training": {
                "policy": pipeline.precision.policy,
                "epochs": len(result.epochs),
                "steps": sum(row.steps for row in result.epochs),
                "last_epoch": asdict(result.epochs[-1]) if result.epochs else None,
                "test_accuracy": accuracy,
                "test_views": pipeline.train.test_views,
                "loss_scale": result.loss_scale,
                "skipped": result.skipped,
                "seconds": result.seconds,
            },
            "files": manifests.file_hashes(folder),
        }
        manifests.write(folder, manifest)
        clock.stop("export")
        progress.line(f"verify     a fresh process runs each artifact over {len(splits.x_test):,} test images")
        comparisons = verify_fresh(folder, splits.x_test, splits.y_test, progress)
        clock.stop("verify")
        published = _publish(folder, base, job, manifest, comparisons)
    for row in parity_rows(comparisons):
        progress.line("           " + "  ".join(format(cell, w) for cell, w in zip(row, _WIDTHS, strict=True)).rstrip())
    if not all(c.passed for c in comparisons):
        problems = "; ".join(f"{c.artifact}: {', '.join(c.problems)}" for c in comparisons if c.problems)
        raise ParityError(f"not published, kept as {published}: {problems}")
    return Outcome(published, run, accuracy, tuple(comparisons), dict(clock.seconds))


_WIDTHS = ("<16", "<24", ">7", ">8", ">8", ">8", ">8", ">3", ">9", "<5")


def _publish(folder: Path, base: Path, job: Job, manifest: dict[str, Any], comparisons: list[Comparison]) -> Path:
    passed = all(c.passed for c in comparisons)
    with version.numbered(base) as number:
        whole = {**manifest, "version": number, "verification": [to_dict(c) for c in comparisons]}
        manifests.write(folder, whole)
        (folder / "report.md").write_text(report(whole, comparisons), encoding="utf-8")
        if passed and "onnx" in job.pipeline.export.formats:
            splits = job.splits
            text = triton.config(job.pipeline.name, splits.input_shape, splits.num_classes)
            version.replace_file(base / "config.pbtxt", text)
        return version.publish(folder, base, number, failed=not passed)


def _reference(job: Job, trained: keras.Model) -> Reference:
    """Answers of the same net built in float32, with TF32 off, over the test set."""
    judge = job.builder("float32")
    judge.set_weights(trained.get_weights())
    splits = job.splits
    with float32_exactly():
        evaluator = Evaluator(judge, mean=np.asarray(job.preprocess.mean), std=np.asarray(job.preprocess.std))
        logits = evaluator.logits(splits.x_test)
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return Reference(shifted / shifted.sum(-1, keepdims=True), splits.y_test, data_sha256(splits.x_test))


def _test_accuracy(trainer: Trainer, progress: Progress) -> float:
    splits, views = trainer.splits, trainer.pipeline.train.test_views
    plain = trainer.evaluator.accuracy(splits.x_test, splits.y_test)
    progress.line()
    progress.line(
        f"test       {plain * 100:.2f} % of {len(splits.x_test):,} images, one view each: what the artifacts give"
    )
    if views == "none":
        return plain
    mean, std = np.asarray(trainer.preprocess.mean), np.asarray(trainer.preprocess.std)
    averaged = Evaluator(trainer.model, mean=mean, std=std, views=views).accuracy(splits.x_test, splits.y_test)
    count = {"mirror": 2, "mirror_shift": 6}[views]
    progress.line(f"           {averaged * 100:.2f} % with the answers averaged over {count} views ({views})")
    return averaged


def _cut(pipeline: config.Pipeline, splits: Splits) -> tuple[config.Pipeline, Splits]:
    size = min(pipeline.train.batch_size, max(1, len(splits.x_train) // SMOKE_STEPS))
    steps = SMOKE_STEPS * size
    train = pipeline.train.model_copy(update={"epochs": 1, "batch_size": size})
    n = SMOKE_TEST_IMAGES
    splits = replace(
        splits,
        x_train=splits.x_train[:steps],
        y_train=splits.y_train[:steps],
        x_val=splits.x_val[:n],
        y_val=splits.y_val[:n],
        x_test=splits.x_test[:n],
        y_test=splits.y_test[:n],
    )
    return pipeline.model_copy(update={"train": train}), splits


def _new_run(job: Job, places: Places) -> Path:
    stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    for attempt in range(1000):
        run = places.runs / job.pipeline.name / (stamp if not attempt else f"{stamp}-{attempt}")
        try:
            run.mkdir(parents=True)
        except FileExistsError:
            continue
        (run / "pipeline.yaml").write_text(job.pipeline.to_yaml(), encoding="utf-8")
        where = {"pipeline_file": str(places.pipeline.resolve()), "data_dir": places.data_dir}
        (run / "run.json").write_text(json.dumps({**where, "versions": manifests.versions()}, indent=2) + "\n")
        return run
    raise ConfigError(f"{places.runs / job.pipeline.name}: holds a thousand runs of this second; choose another --runs")


def open_run(run: Path, places: Places) -> tuple[config.Pipeline, Places]:
    """The pipeline of a run folder, and the places it was started with.

    Raises:
        ConfigError, ResumeError: this is no run folder, or its pipeline file is gone.
    """
    try:
        where = json.loads((run / "run.json").read_text(encoding="utf-8"))
        source = Path(where["pipeline_file"])
    except FileNotFoundError:
        raise ConfigError(f"{run}: is no run folder (it has no run.json); runs/NAME holds them") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResumeError(f"{run / 'run.json'}: cannot be read: {error}; start the run anew") from None
    pipeline = config.load_pipeline(run / "pipeline.yaml")
    return pipeline, replace(places, pipeline=source, data_dir=places.data_dir or where.get("data_dir"))


def export_from_run(run: Path, pipeline: config.Pipeline, places: Places, progress: Progress) -> Outcome:
    """Export the weights of a finished run's last checkpoint, as `train_and_export` does after training."""
    clock = _Clock(None)
    grow_memory()
    device = detect()
    job = prepare(pipeline, places, progress)
    trainer = Trainer(job.pipeline, job.splits, job.builder, job.preprocess, device)
    result = trainer.restored(run)
    clock.stop("start-up")
    accuracy = _test_accuracy(trainer, progress)
    return export_run(job, places, result, device, run, progress, clock, accuracy)


def _device_truth(trainer: Trainer, device: Device, progress: Progress) -> None:
    """The block that says, before training starts, what will compute, how, and for about how long."""
    settings, policy = trainer.pipeline.train, trainer.pipeline.precision.policy
    splits = trainer.splits
    progress.line(f"device     {device.describe()}")
    progress.line(f"policy     {policy}" + (" behind a guarded loss scale" if policy == "mixed_float16" else ""))
    progress.line(f"xla        {trainer.xla_reason}")
    sizes = ", ".join(f"{count:,} {part}" for part, count in splits.sizes.items())
    progress.line(f"data       {splits.source}: {sizes}; {splits.num_classes} classes, input {splits.input_shape}")
    progress.line(f"model      {trainer.builder.ref}: {trainer.model.count_params():,} parameters")
    if trainer.xla:
        progress.status("compiling the training step ...")
    compiling = trainer.compile()
    step = trainer.measure_step()
    steps = trainer.steps_per_epoch
    total = step * steps * settings.epochs
    progress.line(
        f"steps      {steps} of {trainer.batch_size} images x {settings.epochs} epochs; compiled in {duration(compiling)}; "
        f"about {duration(total)} to go"
    )
    if policy != "float32" and not device.native_float16:
        _say_emulated(trainer, progress)
    progress.line()


def _say_emulated(trainer: Trainer, progress: Progress) -> None:
    ratio = trainer.emulation_cost()
    slower = f"{ratio:.1f} times slower than" if ratio > 1.05 else "about as fast as"
    progress.line(
        f"           this CPU has no float16 arithmetic: a measured step is {slower} float32; "
        "--set precision.policy=float32 trains the same net, a GPU trains it in float16"
    )


class _Clock:
    """Seconds by stage, the first counted from the start of the process."""

    def __init__(self, started: float | None) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter() if started is None else started

    def stop(self, stage: str) -> None:
        """End ``stage`` now."""
        now = time.perf_counter()
        self.seconds[stage] = now - self._last
        self._last = now


def _timings(run: Path, outcome: Outcome) -> None:
    text = json.dumps({"seconds": outcome.seconds, "version": str(outcome.version), "pid": os.getpid()}, indent=2)
    (run / "outcome.json").write_text(text + "\n")
