"""A run whose training has ended: how good it is, and what its folder says of that."""

from __future__ import annotations

from pathlib import Path

from tfhalf.progress import Progress
from tfhalf.system.device import Device
from tfhalf.train.chance import against_majority
from tfhalf.train.evaluate import Evaluator
from tfhalf.train.job import Job, Places
from tfhalf.train.record import model_file
from tfhalf.train.record.outcome import RunOutcome, read_outcome
from tfhalf.train.result import TrainResult
from tfhalf.workflows.publish import Finished, Outcome


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
    """``result`` with its accuracy on the test set, in words too: in one view as the artifacts have it, in those of
    ``train.test_views``, and beside always giving the same answer."""
    splits, views = job.splits, job.pipeline.train.test_views
    accuracy = evaluator.accuracy(splits.x_test, splits.y_test)
    progress.line()
    progress.line(
        f"test       {accuracy * 100:.2f} % of {len(splits.x_test):,} images, one view each: what the artifacts give"
    )
    if views != "none":
        accuracy = evaluator.accuracy(splits.x_test, splits.y_test, views)
        count = {"mirror": 2, "mirror_shift": 6}[views]
        progress.line(f"           {accuracy * 100:.2f} % with the answers averaged over {count} views ({views})")
    chance = against_majority(accuracy, splits.y_test, splits.class_names)
    finished = Finished(job, places, result, device, run, accuracy, chance, draws)
    if not chance.better and not finished.smoke:  # two steps are no better
        progress.line(f"           {chance.words()}")
    return finished


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
        chance=finished.chance.to_dict(),
        loss_scale=result.loss_scale,
        skipped=result.skipped,
        seconds=dict(seconds),
        model_sha256=digest,
        version=None if version is None else str(version),
    )
