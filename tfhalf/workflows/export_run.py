"""``tfhalf export RUN``: a run folder in, a published version out."""

from __future__ import annotations

import shlex
from pathlib import Path

from tfhalf.artifacts import version
from tfhalf.config import Pipeline
from tfhalf.errors import ResumeError
from tfhalf.numerics.constants import keep_constants
from tfhalf.progress import Progress
from tfhalf.system.device import Device, detect, grow_memory
from tfhalf.train.evaluate import Evaluator
from tfhalf.train.job import Job, Places, open_run, prepare
from tfhalf.train.objective import Objective
from tfhalf.train.record.model_file import MODEL
from tfhalf.train.record.outcome import read_outcome
from tfhalf.train.record.run_folder import held_if_free
from tfhalf.train.recurrent import choose_xla
from tfhalf.train.restore import Which, average_of, restore_run
from tfhalf.train.result import TrainResult
from tfhalf.verify.process import Verifier
from tfhalf.workflows.publish import Clock, Outcome, export_and_publish
from tfhalf.workflows.trained import evaluated, metric_words, record_published, record_trained


def export_run(run: Path, places: Places, progress: Progress, epoch: Which | None = None) -> Outcome:
    """Export, verify and publish the weights that ``run`` holds, as `train_and_export` does after training.

    Neither an optimizer nor a training program is made, and no training set is put on a device. The run is marked as
    published, unless its training goes on, or could.

    Args:
        epoch: the state to export, see `restore_run`; None is the one in which training ended.

    Raises:
        ResumeError: there is no such state; training had not ended, or another process works in the run, and ``epoch``
            does not say that it is to be exported all the same.
        ConfigError, ExportError, ParityError: as `train_and_export`.
    """
    clock = Clock(None)
    pipeline, places, smoke = open_run(run, places)
    places = places.of(run, smoke=smoke)
    places.check()
    version.check(places.exports / pipeline.name)
    with held_if_free(run) as alone:
        if not alone and epoch is None:
            raise ResumeError(
                f"{run}: another process works in it; wait for its end, or export it as it stands: "
                f"tfhalf export {shlex.quote(str(run))} --epoch last"
            )
        grow_memory()
        device = detect()
        job = keep_constants(prepare(pipeline, places, progress, smoke=smoke), progress)
        result = restore_run(job, run, epoch, progress.line)
        progress.line(f"run        {run}, {_described(result, pipeline, job.objective)}")
        average = average_of(pipeline.train.optimizer)
        if average and not result.ended:
            progress.line(f"           with {average}, as the end of training would have left them")
        clock.stop("start-up")
        newest = epoch is None or epoch == "last"
        with Verifier(progress) as verifier:
            verifier.start()
            evaluator = _evaluator(job, result, device)
            finished = evaluated(job, places, result, device, run, evaluator, progress, draws=alone and newest)
            has_ended = result.ended or bool(read_outcome(run))
            if alone and result.ended and not (run / MODEL).exists():  # of a version of tfhalf that wrote none
                record_trained(finished, clock.seconds, progress)
            outcome = export_and_publish(finished, verifier, progress, clock)
        if alone and has_ended:
            record_published(finished, outcome)
        else:
            progress.line("           the run is not marked as published: its training had not ended")
    return outcome


def _described(result: TrainResult, pipeline: Pipeline, objective: Objective) -> str:
    """Which state of a run it is."""
    done, epochs = len(result.epochs), pipeline.train.epochs
    if result.ended:
        return f"trained for {done} epoch{'s' if done != 1 else ''}"
    more = f" and {result.steps_more:,} steps" if result.steps_more else ""
    last = result.epochs[-1].val_metrics if result.epochs and not result.steps_more else {}
    averaged = " by the weights before averaging" if average_of(pipeline.train.optimizer) else ""
    accuracy = f" ({metric_words(objective, last)} of the validation part{averaged})" if last else ""
    return f"as it stood after epoch {done} of {epochs}{more}{accuracy}"


def _evaluator(job: Job, result: TrainResult, device: Device) -> Evaluator:
    settings, half = job.pipeline.train, job.pipeline.precision.policy != "float32"
    xla, _ = choose_xla(settings.xla, device, result.model, half=half)
    return Evaluator.of(result.model, job.preprocess, job.objective, len(job.splits.x_test), xla=xla)
