"""A trained model exported, judged and published: the second half of the main job."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import cache, partial
from pathlib import Path
from threading import Thread
from typing import Any

import keras

from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts import triton, version
from tfhalf.artifacts.artifact import Artifact
from tfhalf.artifacts.share import share_lines
from tfhalf.errors import ParityError
from tfhalf.export.rebuild.rebuild import Rebuilt
from tfhalf.export.write import describe, parameters, write_artifacts
from tfhalf.progress import Progress
from tfhalf.runtimes.child import not_covered
from tfhalf.system.device import Device, float32_exactly
from tfhalf.train.chance import Chance
from tfhalf.train.evaluate import Evaluator
from tfhalf.train.job import Job, Places
from tfhalf.train.record import curves, plot
from tfhalf.train.record.run_folder import facts
from tfhalf.train.result import TrainResult
from tfhalf.verify.html import classes, render
from tfhalf.verify.process import Verifier
from tfhalf.verify.reference import Edges, Reference, basis, data_sha256, edge_inputs
from tfhalf.verify.report import SCALED, export_lines, problems, report, table_lines, uncovered
from tfhalf.verify.scores import Confusion, confusion
from tfhalf.verify.test_set import Comparison
from tfhalf.workflows.widen import Widening, pipeline_with


@dataclass(frozen=True)
class Outcome:
    """What the main job leaves. ``version`` is the published directory, of a ``smoke`` run in its own folder;
    ``seconds`` split by stage."""

    version: Path
    run: Path
    accuracy: float
    comparisons: tuple[Comparison, ...]
    seconds: dict[str, float]
    chance: Chance
    smoke: bool = False


class Clock:
    """Seconds by stage, the first counted from the start of the process."""

    def __init__(self, started: float | None) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter() if started is None else started

    def stop(self, stage: str) -> None:
        """End ``stage`` now; one that comes again takes the sum."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now


@dataclass(frozen=True)
class Finished:
    """A training run that has ended, or is exported as it stands: what it was, what came of it, where.

    ``accuracy`` on the test set, 0 to 1. ``draws``: its pictures in the run's folder are drawn anew.
    """

    job: Job
    places: Places
    result: TrainResult
    device: Device
    run: Path
    accuracy: float
    chance: Chance
    draws: bool = True

    @property
    def smoke(self) -> bool:
        """Whether it was cut short, as the run folder says."""
        return bool(facts(self.run).get("smoke"))


def export_and_publish(finished: Finished, verifier: Verifier, progress: Progress, clock: Clock) -> Outcome:
    """Export a trained model, verify it in a fresh process, and publish it as the next version.

    Where an artifact falls short, the layers that it needs in float32 are looked for, and all are written again.

    Raises:
        ExportError: the model cannot be rebuilt in float16, or a format cannot hold it.
        ParityError: an artifact does not answer like the float32 model; it is kept as ``failed-N``.
    """
    job = finished.job
    progress.line()
    progress.line(f"export     float16, {', '.join(job.pipeline.export.formats)}")
    reference = cache(partial(_reference, job, finished.result.model))
    widening = Widening(job, finished.result.model)
    while (attempt := _attempt(finished, reference, widening, verifier, progress, clock)) is None:
        progress.line("export     again, with these layers in float32")
    published, comparisons = attempt
    progress.line()
    uncompared = _not_covered(job, comparisons)
    for text in [*table_lines(comparisons), *(f"           {told}" for told in uncompared)]:
        progress.line(text)
    if not all(c.passed for c in comparisons):
        raise ParityError(f"not published, kept as {published}: {problems(comparisons)}")
    seconds = dict(clock.seconds)
    return Outcome(
        published, finished.run, finished.accuracy, tuple(comparisons), seconds, finished.chance, finished.smoke
    )


def _attempt(
    finished: Finished,
    reference_of: Callable[[], Reference],
    widening: Widening,
    verifier: Verifier,
    progress: Progress,
    clock: Clock,
) -> tuple[Path, list[Comparison]] | None:
    """What was published, or kept as ``failed-N``, and how it compared; None where ``widening`` has found layers to
    keep in float32, with which all is to be written again."""
    job = finished.job
    splits = job.splits
    base = finished.places.exports / job.pipeline.name
    revision = manifests.git_revision(finished.places.pipeline.resolve().parent)
    with version.staging(base) as folder:
        artifacts, rebuilt = write_artifacts(
            finished.result.model,
            folder,
            pipeline_with(job.pipeline, widening.kept),
            preprocess=job.preprocess,
            input_shape=splits.input_shape,
            labels=splits.class_names,
            git_revision=revision,
        )
        _say_export(artifacts, rebuilt, progress)
        reference = reference_of()
        reference.save(folder)
        manifest = _manifest(finished, artifacts, rebuilt, folder, revision) | _searched(widening)
        manifests.write(folder, manifest)
        clock.stop("export")
        progress.line(f"verify     a fresh process runs each artifact; {basis(len(splits.x_test), reference.edges)}")
        scaled = job.pipeline.precision.policy == SCALED
        # While another process works: until now it would have held Python's lock, which this one had need of.
        with ExitStack() as drawing:
            if finished.draws and (epochs := finished.result.epochs):
                drawing.callback(plot.draw_beside(finished.run, job.pipeline.name, epochs, scaled, progress).join)
            comparisons = verifier(folder, splits.x_test, splits.y_test)
        failing = [c for c in comparisons if not c.passed]
        if failing and widening.more(rebuilt.model, reference, failing, progress):
            clock.stop("search")
            return None
        manifest["not_covered"] = _not_covered(job, comparisons)
        answers = _answers(reference, comparisons)
        labels = splits.class_names
        with ExitStack() as saving:
            if finished.draws:  # beside the publishing: its picture takes a part of a second
                thread = Thread(target=classes.save, args=(finished.run, job.pipeline.name, labels, answers, progress))
                thread.start()
                saving.callback(thread.join)
            published = _publish(folder, base, finished, manifest, comparisons, answers)
        clock.stop("verify")
    return published, comparisons


def _not_covered(job: Job, comparisons: list[Comparison]) -> list[str]:
    return [*not_covered(job.pipeline.export.formats), *uncovered(comparisons)]


def _searched(widening: Widening) -> dict[str, Any]:
    """The manifest's account of layers that the pipeline does not keep in float32 and the artifacts need so."""
    if not widening.kept or widening.found is None:
        return {}
    found = widening.found
    return {
        "islands": [asdict(island) for island in widening.kept],
        "search": {"tests": found.tests, "complete": found.complete, "seconds": found.seconds},
    }


def _say_export(artifacts: list[Artifact], rebuilt: Rebuilt, progress: Progress) -> None:
    for text in [*export_lines(rebuilt.counts, rebuilt.folded, artifacts), *share_lines(parameters(rebuilt.model))]:
        progress.line(f"           {text}")


def _manifest(
    finished: Finished, artifacts: list[Artifact], rebuilt: Rebuilt, folder: Path, git_revision: str | None
) -> dict[str, Any]:
    job, result, device = finished.job, finished.result, finished.device
    pipeline, splits, source = job.pipeline, job.splits, finished.places.pipeline
    return {
        "schema": manifests.SCHEMA,
        "name": pipeline.name,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **({"smoke": True} if finished.smoke else {}),
        "config": pipeline.dump(),
        "pipeline_file": relative_to_version(folder.parent / "1", source),
        "seed": pipeline.seed,
        "git_revision": git_revision,
        "versions": manifests.versions(),
        "hardware": {"device": device.describe(), "kind": device.kind, "cpu_cores": device.cpu_cores},
        "data": {"source": splits.source, "sizes": splits.sizes, "preprocess": job.preprocess.to_dict()},
        "labels": list(splits.class_names),
        **describe(rebuilt, splits.input_shape, splits.num_classes),
        "artifacts": [asdict(artifact) for artifact in artifacts],
        "training": {
            "policy": pipeline.precision.policy,
            "epochs": len(result.epochs),
            "ended": result.ended,
            "steps": sum(row.steps for row in result.epochs),
            "last_epoch": asdict(result.epochs[-1]) if result.epochs else None,
            "test_accuracy": finished.accuracy,
            "chance": finished.chance.to_dict(),
            "test_views": pipeline.train.test_views,
            "loss_scale": result.loss_scale,
            "skipped": result.skipped,
            "skipped_at_floor": sum(row.skipped_at_floor for row in result.epochs),
            "rollbacks": list(result.rollbacks),
            "deterministic": bool(facts(finished.run).get("deterministic")),
            "run": facts(finished.run).get("id"),
            "seconds": result.seconds,
        },
        "files": manifests.file_hashes(folder),
    }


def relative_to_version(version: Path, file: Path) -> str:
    """``file`` relative to a ``version`` directory, which names no folder above the one that holds both; where that one
    lies above the home directory its name alone, for the way would name the user."""
    common, home = Path(os.path.commonpath([version.resolve(), file.resolve()])), Path.home().resolve()
    if common == common.parent or (common in home.parents):
        return file.name
    return Path(os.path.relpath(file.resolve(), version.resolve())).as_posix()


def _answers(reference: Reference, comparisons: list[Comparison]) -> dict[str, Confusion]:
    """The confusion matrices of the float32 model and of what answered the whole test set."""
    answers = {classes.FLOAT32: confusion(reference.y, reference.probabilities.argmax(-1))}
    return answers | {c.artifact: c.confusion for c in comparisons if c.images == len(reference.y)}


def _publish(
    folder: Path,
    base: Path,
    finished: Finished,
    manifest: dict[str, Any],
    comparisons: list[Comparison],
    answers: dict[str, Confusion],
) -> Path:
    job, run, passed = finished.job, finished.run, all(c.passed for c in comparisons)
    pictures = {
        "Loss, accuracy and learning rate of each epoch": run / curves.PICTURE,
        "Loss and loss scale of each step": run / plot.PICTURE,
    }
    with version.numbered(base) as number:
        whole = {**manifest, "version": number, "verification": [c.to_dict() for c in comparisons]}
        render.write(folder, whole, comparisons, answers=answers, pictures=pictures)
        manifests.write(folder, whole)
        (folder / "report.md").write_text(report(whole, comparisons), encoding="utf-8")
        if passed and "onnx" in job.pipeline.export.formats:
            splits = job.splits
            text = triton.config(job.pipeline.name, splits.input_shape, splits.num_classes)
            version.replace_file(base / "config.pbtxt", text)
        return version.publish(folder, base, number, failed=not passed)


def _reference(job: Job, trained: keras.Model) -> Reference:
    """Answers of the same net built in float32, with TF32 off, over the test set."""
    judge = job.model("float32")
    judge.set_weights(trained.get_weights())
    splits = job.splits
    with float32_exactly():
        evaluator = Evaluator(judge, job.preprocess)
        probabilities = evaluator.probabilities(splits.x_test)
        x, kinds = edge_inputs(splits.x_test)
        edges = Edges(x, kinds, evaluator.probabilities(x))
    return Reference(probabilities, splits.y_test, data_sha256(splits.x_test), edges)
