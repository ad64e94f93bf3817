"""A trained model exported, compared and published: the second half of the main job."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from threading import Thread
from typing import Any

from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts import record
from tfhalf.artifacts.comparison import Comparison, Confusion
from tfhalf.artifacts.record import Artifact, Manifest
from tfhalf.artifacts.reference import Reference, basis_line
from tfhalf.artifacts.share import share_lines
from tfhalf.export.program import input_ports
from tfhalf.export.rebuild.rebuild import Rebuilt
from tfhalf.export.write import described, parameters, write_artifacts
from tfhalf.progress import Progress
from tfhalf.system.device import Device
from tfhalf.train.chance import Chance
from tfhalf.train.job import Job, Places
from tfhalf.train.record import curves, plot
from tfhalf.train.record.run_folder import facts
from tfhalf.train.result import TrainResult
from tfhalf.verify.html import classes
from tfhalf.verify.process import Verifier
from tfhalf.verify.publish import publish, publish_compared
from tfhalf.verify.report import export_lines
from tfhalf.verify.scores import confusion
from tfhalf.verify.version import TestSet
from tfhalf.workflows.answer_pictures import draw_answers
from tfhalf.workflows.reference import float32_reference, limits_of, lookups_of, test_inputs, test_targets
from tfhalf.workflows.widen import Widening, pipeline_with

_ORIGIN = record.ReferenceFacts(origin="test set")


@dataclass(frozen=True)
class Outcome:
    """What the main job leaves. ``version`` is the published directory, of a ``smoke`` run in its own folder;
    ``seconds`` split by stage."""

    version: Path
    run: Path
    metrics: dict[str, float]
    comparisons: tuple[Comparison, ...]
    seconds: dict[str, float]
    chance: Chance
    smoke: bool = False

    @property
    def accuracy(self) -> float | None:
        """Share of right answers on the test set, 0 to 1; None of a task that has none."""
        return self.metrics.get("accuracy")


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

    ``metrics`` on the test set. ``draws``: its pictures in the run's folder are drawn anew.
    """

    job: Job
    places: Places
    result: TrainResult
    device: Device
    run: Path
    metrics: dict[str, float]
    chance: Chance
    draws: bool = True

    @property
    def accuracy(self) -> float | None:
        """Share of right answers, 0 to 1; None of a task that has none."""
        return self.metrics.get("accuracy")

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
    export = RunExport(finished, verifier, progress, clock, Widening(job, finished.result.model))
    published, manifest = publish_compared(export, finished.places.exports / job.pipeline.name, progress)
    seconds, comparisons = dict(clock.seconds), manifest.comparisons
    return Outcome(published, finished.run, finished.metrics, comparisons, seconds, finished.chance, finished.smoke)


@dataclass
class RunExport:
    """A trained model as `verify.publish.publish_compared` takes it. ``widening`` knows the layers to keep in float32;
    ``rebuilt`` is what was written last."""

    finished: Finished
    verifier: Verifier
    progress: Progress
    clock: Clock
    widening: Widening
    rebuilt: Rebuilt | None = None

    @cached_property
    def reference(self) -> Reference:
        """The float32 net's answers over the test set."""
        return float32_reference(self.finished.job, self.finished.result.model)

    def write(self, folder: Path) -> Manifest:
        """Write the formats of the pipeline, with the layers of ``widening`` in float32."""
        job, splits = self.finished.job, self.finished.job.splits
        lookups = lookups_of(splits)
        revision = manifests.git_revision(self.finished.places.pipeline.resolve().parent)
        artifacts, self.rebuilt = write_artifacts(
            self.finished.result.model,
            folder,
            pipeline_with(job.pipeline, self.widening.kept),
            preprocess=job.preprocess,
            inputs=input_ports(splits.shapes, splits.dtypes),
            task=job.task,
            labels=splits.class_names,
            git_revision=revision,
            lookups=lookups,
        )
        _say_export(artifacts, self.rebuilt, self.progress)
        self.reference.save(folder)
        lookups.write(folder)
        manifest = _manifest(self.finished, self.reference, artifacts, self.rebuilt, folder, revision)
        return manifest.model_copy(update=_searched(self.widening))

    def compare(self, folder: Path) -> list[Comparison]:
        """In a fresh process, over the test set; the run's pictures are drawn meanwhile."""
        finished, progress = self.finished, self.progress
        job, pipeline = finished.job, finished.job.pipeline
        self.clock.stop("export")
        basis = basis_line(self.reference.basis(_ORIGIN))
        progress.line(f"verify     a fresh process runs each artifact; {basis}")
        scaled = pipeline.precision.scaled
        # While another process works: until now it would have held Python's lock, which this one had need of.
        with ExitStack() as drawing:
            if finished.draws and (epochs := finished.result.epochs):
                monitor = job.objective.monitor
                drawing.callback(plot.draw_beside(finished.run, pipeline.name, epochs, monitor, scaled, progress).join)
            return self.verifier(folder, TestSet(test_inputs(job), test_targets(job.splits)))

    def widen(self, failing: list[Comparison]) -> bool:
        """Search for layers on the test images that float16 answers worst."""
        assert self.rebuilt is not None
        if not self.widening.more(self.rebuilt.model, self.reference, failing, self.progress):
            return False
        self.clock.stop("search")
        self.progress.line("export     again, with these layers in float32")
        return True

    def publish(self, folder: Path, manifest: Manifest, comparisons: list[Comparison]) -> tuple[Path, Manifest]:
        """With the run's curves, and how the classes were answered."""
        finished, run = self.finished, self.finished.run
        labels, answers = finished.job.splits.class_names, _answers(self.reference, comparisons)
        pictures = {
            "Loss, accuracy and learning rate of each epoch": run / curves.PICTURE,
            "Loss and loss scale of each step": run / plot.PICTURE,
        }
        with ExitStack() as saving:
            if finished.draws and answers:  # beside the publishing: its picture takes a part of a second
                drawn = (run, finished.job.pipeline.name, labels, answers, self.progress)
                thread = Thread(target=classes.save, args=drawn)
                thread.start()
                saving.callback(thread.join)
            inputs = test_inputs(finished.job)
            views = draw_answers(folder, run, manifest, self.reference, inputs, self.progress) if finished.draws else {}
            published = publish(
                folder, folder.parent, manifest, comparisons, answers=answers, pictures=pictures, views=views
            )
        self.clock.stop("verify")
        return published


def _searched(widening: Widening) -> dict[str, Any]:
    """The manifest's account of layers that the pipeline does not keep in float32 and the artifacts need so."""
    if not widening.kept or widening.result is None:
        return {}
    result = widening.result
    return {
        "islands": tuple(record.Island(path=island.path, reason=island.reason) for island in widening.kept),
        "search": {"tests": result.tests, "complete": result.complete, "seconds": result.seconds},
    }


def _say_export(artifacts: list[Artifact], rebuilt: Rebuilt, progress: Progress) -> None:
    shares = share_lines(parameters(rebuilt.model.weights))
    for text in (*export_lines(rebuilt.counts, rebuilt.folded, artifacts), *shares):
        progress.line(f"           {text}")


def _manifest(
    finished: Finished,
    reference: Reference,
    artifacts: list[Artifact],
    rebuilt: Rebuilt,
    folder: Path,
    git_revision: str | None,
) -> Manifest:
    job, device = finished.job, finished.device
    pipeline, splits = job.pipeline, job.splits
    verify = pipeline.verify
    data = {"source": splits.source, "sizes": splits.sizes, "preprocess": job.preprocess.to_dict(), "noun": splits.noun}
    return Manifest(
        name=pipeline.name,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        smoke=finished.smoke,
        labels=tuple(splits.class_names),
        artifacts=tuple(artifacts),
        limits=limits_of(verify, job.task),
        tasks=job.task.port_facts(),
        columns={name: tuple(names) for name, names in splits.columns.items()},
        reference=reference.basis(_ORIGIN),
        **described(rebuilt, input_ports(splits.shapes, splits.dtypes), job.task),
        config=record.Config.read(pipeline.dump()),
        pipeline_file=relative_to_version(folder.parent / "1", finished.places.pipeline),
        seed=pipeline.seed,
        data=record.Data.read(data),
        training=record.Training.read(_training(finished)),
        hardware={"device": device.describe(), "kind": device.kind, "cpu_cores": device.cpu_cores},
        versions=manifests.versions(),
        git_revision=git_revision,
        files=manifests.file_hashes(folder),
    )


def _training(finished: Finished) -> dict[str, Any]:
    pipeline, result = finished.job.pipeline, finished.result
    return {
        "policy": pipeline.precision.policy,
        "epochs": len(result.epochs),
        "ended": result.ended,
        "steps": sum(row.steps for row in result.epochs),
        "last_epoch": result.epochs[-1].to_dict() if result.epochs else None,
        "test_accuracy": finished.accuracy,
        "test_metrics": finished.metrics,
        "chance": finished.chance.to_dict(),
        "test_views": pipeline.train.test_views,
        "loss_scale": None if pipeline.precision.loss_scale.mode == "none" else result.loss_scale,
        "skipped": result.skipped,
        "skipped_at_floor": sum(row.skipped_at_floor for row in result.epochs),
        "rollbacks": list(result.rollbacks),
        "remat": result.remat,
        "deterministic": bool(facts(finished.run).get("deterministic")),
        "run": facts(finished.run).get("id"),
        "weights": facts(finished.run).get("weights"),
        "seconds": result.seconds,
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
    if reference.labels is None:
        return {}
    top = reference.usual.outputs["probabilities"].argmax(-1)
    whole = [c for c in comparisons if c.usual == reference.usual.count and c.confusion]
    return {classes.FLOAT32: confusion(reference.labels, top)} | {c.artifact: c.confusion for c in whole}
