"""A run whose training has ended: how good it is, and what its folder says of that."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tfhalf.data import Splits
from tfhalf.progress import Progress
from tfhalf.system.device import Device
from tfhalf.tasks import Several
from tfhalf.train.chance import against_constant
from tfhalf.train.evaluate import Evaluator
from tfhalf.train.job import Job, Places
from tfhalf.train.objective import Objective
from tfhalf.train.record import model_file
from tfhalf.train.record.outcome import RunOutcome, read_outcome
from tfhalf.train.result import TrainResult
from tfhalf.workflows.publish import Finished, Outcome
from tfhalf.workflows.reference import test_targets


def evaluated(
    job: Job,
    places: Places,
    result: TrainResult,
    device: Device,
    run: Path,
    evaluator: Evaluator,
    progress: Progress,
    *,
    draws: bool = True,
) -> Finished:
    """``result`` with its metrics on the test set, in words too: in one view as the artifacts have it, in those of
    ``train.test_views``, and beside always giving the same answer. The processes that share ``device`` share the test
    set."""
    splits, views, objective = job.splits, job.pipeline.train.test_views, job.objective
    answers = evaluator.answers(splits.x_test, group=device.group)
    _, metrics = objective.scores(splits.y_test, answers)
    items = f"{len(splits.x_test):,} {splits.noun}"
    progress.line()
    shown = "one view each: what the artifacts give" if splits.has_images else "what the artifacts give"
    progress.line(f"test       {metric_words(objective, metrics)} of {items}, {shown}")
    if views != "none":
        answers = evaluator.answers(splits.x_test, views, device.group)
        _, metrics = objective.scores(splits.y_test, answers)
        count = {"mirror": 2, "mirror_shift": 6}[views]
        line = metric_words(objective, metrics)
        progress.line(f"           {line} with the answers averaged over {count} views ({views})")
    predictions = objective.predictions(answers)
    several = isinstance(job.task, Several)
    truth = test_targets(splits)
    chance = against_constant(job.task, truth, predictions if several else predictions[job.task.output])
    finished = Finished(job, places, result, device, run, metrics, chance, draws)
    if not chance.better and not finished.smoke:  # two steps are no better
        progress.line(f"           {chance.words()}")
    return finished


def learnt(job: Job) -> str:
    """In a line, what is learnt from which inputs."""
    splits = job.splits
    inputs = ", ".join(f"{name} {shape}" for name, shape in splits.shapes.items())
    return f"{job.task.words()}, input {splits.input_shape if len(splits.shapes) == 1 else inputs}"


def size_words(splits: Splits) -> str:
    """How many items each part holds."""
    return ", ".join(f"{count:,} {part}" for part, count in splits.sizes.items())


def metric_words(objective: Objective, values: Mapping[str, float]) -> str:
    """``95.41 %`` of an accuracy alone; else each metric by its name."""
    if [metric.name for metric in objective.metrics] == ["accuracy"]:
        return objective.metrics[0].words(values["accuracy"])
    return ", ".join(f"{metric.name} {metric.words(values[metric.name])}" for metric in objective.metrics)


def record_trained(finished: Finished, seconds: dict[str, float], progress: Progress) -> None:
    """Write the run's ``model.keras``, and the ``outcome.json`` of a run that has published nothing yet.

    Raises:
        TrainingError: the disk does not take the model.
    """
    digest = model_file.save_model(finished.result.model, finished.run, progress)
    _outcome(finished, seconds, digest, None).write(finished.run)


def record_published(finished: Finished, outcome: Outcome) -> None:
    """Write down in the run's ``outcome.json`` what was published of it."""
    digest = read_outcome(finished.run).get("model_sha256")
    _outcome(finished, outcome.seconds, digest, outcome.version).write(finished.run)


def _outcome(finished: Finished, seconds: dict[str, float], digest: str | None, version: Path | None) -> RunOutcome:
    result = finished.result
    return RunOutcome(
        smoke=finished.smoke,
        epochs=len(result.epochs),
        test_accuracy=finished.accuracy,
        test_metrics=dict(finished.metrics),
        chance=finished.chance.to_dict(),
        loss_scale=result.loss_scale,
        skipped=result.skipped,
        seconds=dict(seconds),
        model_sha256=digest,
        version=None if version is None else str(version),
        metric_facts=[
            {"name": one.name, "higher": one.higher, "share": one.share, "unit": one.unit}
            for one in finished.job.objective.metrics
        ],
        noun=finished.job.splits.noun,
        remat=result.remat,
    )
