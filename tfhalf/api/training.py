"""Pipelines: `train_pipeline`, `measure_numerics`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tfhalf.api.host import need_tensorflow, progress_of, python_words
from tfhalf.errors import ConfigError, ResumeError

if TYPE_CHECKING:
    from tfhalf.config import Pipeline
    from tfhalf.numerics.report import Report
    from tfhalf.progress import Progress
    from tfhalf.workflows.publish import Outcome
    from tfhalf.workflows.train_request import Request


def train_pipeline(
    pipeline: Pipeline | str | Path | None = None,
    *,
    runs: str | Path = "runs",
    exports: str | Path = "exports",
    data_dir: str | None = None,
    smoke: bool = False,
    resume: str | Path | None = None,
    from_run: str | Path | None = None,
    epoch: Literal["best", "last"] | int | None = None,
    deterministic: bool = False,
    verbose: bool = False,
) -> Outcome:
    """Train a pipeline, export it in float16, verify the artifacts in a fresh process, and publish them, as
    `tfhalf train` does. It sets Python's, numpy's and Keras' random seeds to the pipeline's.

    TensorFlow reads some settings when it is imported. Where tfhalf imports it, XLA's compiled GPU programs are kept in
    the user's cache folder for the next time; where the caller has, they are compiled anew, and the log says so. SIGINT
    and SIGTERM end training after a checkpoint, if this is called from the main thread.

    Args:
        pipeline: of `load_pipeline`, or the path of a pipeline file. Left out with ``from_run``, or with a run's folder
            as ``resume``, it is that run's own.
        runs: the folder for run folders: checkpoints, curves, how training went.
        exports: the folder for ``NAME/VERSION``.
        data_dir: where TensorFlow Datasets keeps its data.
        smoke: two steps and a few hundred test images; nothing is published.
        resume: the folder of a run to take up where it stopped, trained with the same pipeline; or ``"newest"``, the
            newest run of the pipeline in ``runs`` that has not ended.
        from_run: the folder of a run whose weights, optimizer's state and loss scale a new run begins with, in place of
            ``model.weights``. Its own pipeline, to change it, lies in it as ``pipeline.yaml``.
        epoch: of ``from_run``, the epoch whose end is taken, counted from 1, or ``"best"`` or ``"last"``, of those that
            it keeps. Default: its newest state.
        deterministic: compute the same bits each time, on a GPU too; slower. TensorFlow's operations stay so in this
            process. A run that is taken up is what it was started as, and has to be so where this is True.
        verbose: print what the command prints; otherwise it goes to the logger ``tfhalf``.

    Returns:
        ``version`` and ``run`` (directories), ``accuracy`` on the test set (0 to 1), ``comparisons`` of each artifact
        with the float32 model, ``seconds`` by stage, and ``chance``: how the accuracy stands beside always giving the
        same answer.

    Raises:
        InputError: the pipeline cannot be run as it is.
        TrainingError, ExportError, ParityError: the job fell short; nothing was published.
        ResumeError: the run cannot be taken up, or has published its version already; ``from_run`` does not keep
            ``epoch``.
        Interrupted: a signal ended training; ``resume`` goes on.
    """
    pipeline = None if pipeline is None else _loaded(pipeline)
    with python_words(**{"from": "from_run"}):
        if from_run is not None or epoch is not None:
            request = _beginning(pipeline, from_run, epoch, data_dir, smoke, resume, deterministic)
        else:
            request = _request(pipeline, Path(runs), Path(exports), data_dir, smoke, resume, deterministic)
        progress = progress_of(verbose)
        with _started(progress, deterministic=request.deterministic):
            from tfhalf.system.device import grow_memory
            from tfhalf.train.job import Places
            from tfhalf.workflows.train import train_and_export

            if not grow_memory():
                raise ConfigError(
                    "TensorFlow has taken the GPU's memory whole, and the process that verifies needs some: call "
                    "tf.config.experimental.set_memory_growth(gpu, True) for each GPU before anything runs on it"
                )
            return train_and_export(
                request.pipeline,
                Places(request.source, Path(runs), Path(exports), request.data_dir),
                progress,
                smoke=request.smoke,
                resume=request.run,
                deterministic=request.deterministic,
                origin=request.origin,
            )


def measure_numerics(
    pipeline: Pipeline | str | Path,
    *,
    steps: int = 200,
    every: int = 10,
    batch_size: int | None = None,
    data_dir: str | None = None,
    verbose: bool = False,
) -> Report:
    """Train a pipeline's net for some steps in float32, and measure what float16 makes of its weights, activations and
    gradients, as `tfhalf numerics` does. For a model in one's own ``fit``: `tfhalf.NumericsCallback`.

    Args:
        pipeline: of `load_pipeline`, or the path of a pipeline file.
        steps: training steps.
        every: every so many are measured.
        batch_size: instead of the pipeline's.
        data_dir: where TensorFlow Datasets keeps its data.
        verbose: print what the command prints; otherwise it goes to the logger ``tfhalf``.

    Returns:
        ``kinds``: a histogram by exponent for weights, activations and gradients; ``proposal``: the loss scale for
        them; ``islands``: the layers to keep in float32, with reasons; ``to_dict()``: all of it.

    Raises:
        InputError: the pipeline cannot be run, or an argument does not fit it.
        TrainingError: the loss is not finite in float32 either.
    """
    pipeline = _loaded(pipeline)
    from tfhalf.data import check_at_hand
    from tfhalf.numerics.request import Asked

    if not 1 <= every <= steps:
        raise ConfigError(f"every {every}: 1 to the number of steps, {steps}, is accepted")
    with python_words():
        check_at_hand(pipeline.data, data_dir)
        progress = progress_of(verbose)
        with _started(progress):
            from tfhalf.numerics.run import measure

            return measure(Asked(pipeline.file, pipeline, data_dir, None, steps, every, batch_size), progress)


def _request(
    pipeline: Pipeline | None,
    runs: Path,
    exports: Path,
    data_dir: str | None,
    smoke: bool,
    resume: str | Path | None,
    deterministic: bool,
) -> Request:
    """A new run, or the one to take up.

    Raises:
        ConfigError, ResumeError: as `train_pipeline`.
    """
    from tfhalf.data import check_at_hand
    from tfhalf.train.record.run_folder import newest_unfinished
    from tfhalf.workflows.train_request import NEWEST, Request, published, resumed

    if pipeline is None and resume in (None, NEWEST):
        raise ConfigError("no pipeline: give one, or the folder of a run as resume or as from_run")
    if pipeline is not None:
        check_at_hand(pipeline.data, data_dir)
    if resume is None:
        assert pipeline is not None
        return Request(pipeline, pipeline.file or Path("pipeline.yaml"), None, data_dir, smoke, deterministic)
    if smoke:
        raise ConfigError("resume takes the run's own settings; smoke belongs to a new run")
    run = newest_unfinished(runs, pipeline.name) if pipeline and resume == NEWEST else Path(resume)
    source = pipeline.file if pipeline else None
    request = resumed(pipeline, run, source, data_dir=data_dir, deterministic=deterministic)
    if there := published(run, exports, request.pipeline.name):
        raise ResumeError(f"{run}: has published {there} before it was stopped; nothing is left to be done")
    return request


def _beginning(
    pipeline: Pipeline | None,
    from_run: str | Path | None,
    epoch: Literal["best", "last"] | int | None,
    data_dir: str | None,
    smoke: bool,
    resume: str | Path | None,
    deterministic: bool,
) -> Request:
    """A new run that begins from another one.

    Raises:
        ConfigError: the arguments do not go together, or ``from_run`` is not a run folder.
        ResumeError: what it says of itself cannot be read.
    """
    from tfhalf.train.record.run_folder import Origin
    from tfhalf.workflows.train_request import begun_from

    if from_run is None:
        raise ConfigError(f"epoch={epoch!r}: says which state of from_run to begin from; give that, or leave it out")
    if resume is not None:
        raise ConfigError("resume goes on with a run, from_run begins a new one: give one of them")
    if epoch not in (None, "best", "last") and (not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 1):
        raise ConfigError(f"epoch={epoch!r}: 'best', 'last', or the number of an epoch, from 1, is accepted")
    origin = Origin(Path(from_run), epoch)
    source = pipeline.file if pipeline else None
    return begun_from(pipeline, source, origin, data_dir=data_dir, smoke=smoke, deterministic=deterministic)


def _loaded(pipeline: Pipeline | str | Path) -> Pipeline:
    from tfhalf.config import Pipeline, load_pipeline

    return pipeline if isinstance(pipeline, Pipeline) else load_pipeline(pipeline)


@contextmanager
def _started(progress: Progress, *, deterministic: bool = False) -> Iterator[None]:
    """Within the block there is TensorFlow, and as much of what the command sets before it as can be set.

    Raises:
        ConfigError: ``deterministic`` comes too late for a GPU.
    """
    from tfhalf.system.programs import are_kept, keep_programs, program_names, trim_programs
    from tfhalf.system.tensorflow import keep_same_bits, set_same_bits

    in_time = not deterministic or set_same_bits()
    if "tensorflow" not in sys.modules or are_kept() or program_names() is not None:
        keep_programs(progress.line)
    else:
        progress.line(
            "xla        compiled programs are not kept: TensorFlow was imported before tfhalf could say where"
        )
    need_tensorflow()
    if deterministic:
        keep_same_bits(in_time)
    try:
        yield
    finally:
        trim_programs(progress.line)
