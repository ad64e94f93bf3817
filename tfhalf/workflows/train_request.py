"""What ``tfhalf train`` is asked for: a new run, or one that is taken up. Known before TensorFlow is imported, so that
bad input is told at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tfhalf import config
from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts import version
from tfhalf.data import check_at_hand
from tfhalf.errors import ArtifactError, ConfigError
from tfhalf.train.record import outcome, run_folder
from tfhalf.train.record.resume import check_pipeline

NEWEST = "newest"  # in place of RUN: the newest unfinished run of the pipeline


@dataclass(frozen=True)
class Request:
    """``pipeline`` is trained, ``source`` the file that it came from; ``run`` is taken up, where there is one, or a new
    one begins from ``origin``."""

    pipeline: config.Pipeline
    source: Path
    run: Path | None
    data_dir: str | None
    smoke: bool
    deterministic: bool
    origin: run_folder.Origin | None = None

    def facts(self) -> dict[str, str]:
        """What all processes that train together must have alike, each key of the pipeline by its name."""
        facts = {"--smoke": self.smoke, "--deterministic": self.deterministic, "--resume": self.run is not None}
        return {**{name: str(value) for name, value in facts.items()}, **self.pipeline.values()}


def check(
    source: Path | None,
    overrides: Sequence[str],
    *,
    resume: str | None,
    runs_folder: Path,
    data_dir: str | None = None,
    smoke: bool = False,
    deterministic: bool = False,
    on_blowup: str | None = None,
    origin: Path | None = None,
    epoch: Literal["best", "last"] | int | None = None,
) -> Request:
    """What the options come to.

    Args:
        source: the pipeline file; None takes the run's own pipeline.
        resume: a run folder, or `NEWEST`; None starts a new run.
        deterministic: a run that is taken up has to be so already.
        on_blowup: ``train.blowup.action``, which a run that is taken up may change.
        origin: a run folder whose state at ``epoch`` a new run begins from; with ``source`` None by its own pipeline.

    Raises:
        ConfigError: the options do not go together, the file is at fault, or the run was trained with other settings.
        DataError: the pipeline's data cannot be had.
        ResumeError: the run folder is damaged.
    """
    if source is None and resume is None and origin is None:
        raise ConfigError("give a PIPELINE file, --resume RUN, or both")
    if resume is not None and origin is not None:
        raise ConfigError("--resume goes on with a run, --from begins a new one: give one of them")
    if epoch is not None and origin is None:
        raise ConfigError(f"--epoch {epoch}: says which state of --from RUN to begin from; give that, or leave it out")
    other = [override for override in overrides if not override.startswith("train.epochs=")]
    if resume is not None and (smoke or (source is None and other)):
        raise ConfigError(
            "--resume takes the run's own settings, train.epochs apart; --set and --smoke belong to a new run, which "
            "--from RUN begins from its weights"
        )
    if origin is None and source is None and resume == NEWEST:
        raise ConfigError("--resume without RUN takes PIPELINE's newest unfinished run: give PIPELINE, or name RUN")
    settings = [*overrides, f"train.blowup.action={on_blowup}"] if on_blowup else overrides
    pipeline = None if source is None else config.load_pipeline(source, settings)
    if origin is not None:
        return begun_from(
            pipeline,
            source,
            run_folder.Origin(origin, epoch),
            data_dir=data_dir,
            smoke=smoke,
            deterministic=deterministic,
            overrides=settings,
        )
    if pipeline is not None:
        check_at_hand(pipeline.data, data_dir)
    if resume is None:
        assert source is not None
        assert pipeline is not None
        return Request(pipeline, source, None, data_dir, smoke, deterministic)
    if source is None and Path(resume).suffix in (".yaml", ".yml"):
        raise ConfigError(f"{resume}: is a pipeline file; put it before --resume")
    run = run_folder.newest_unfinished(runs_folder, pipeline.name) if pipeline and resume == NEWEST else Path(resume)
    more = settings if source is None else settings[len(overrides) :]
    return resumed(pipeline, run, source, data_dir=data_dir, deterministic=deterministic, overrides=more)


def resumed(
    pipeline: config.Pipeline | None,
    run: Path,
    source: Path | None,
    *,
    data_dir: str | None,
    deterministic: bool,
    overrides: Sequence[str] = (),
) -> Request:
    """The request that takes up ``run``, with ``overrides`` of what may change.

    Args:
        pipeline: the one that has to train the same; None takes the run's own.
        source: where ``pipeline`` is from; None is the file that the run was started with.
        deterministic: whether the run has to be so already.

    Raises:
        ConfigError: the run was trained with other settings.
        ResumeError: the run folder is damaged.
    """
    facts = run_folder.facts(run)
    if deterministic and not facts.get("deterministic"):
        raise ConfigError(f"{run}: was started without --deterministic; leave it out, or start the run anew")
    return Request(
        _same(pipeline, run, overrides),
        _source(source, run, facts),
        run,
        data_dir or facts.get("data_dir"),
        bool(facts.get("smoke")),
        bool(facts.get("deterministic")),
    )


def begun_from(
    pipeline: config.Pipeline | None,
    source: Path | None,
    origin: run_folder.Origin,
    *,
    data_dir: str | None,
    smoke: bool,
    deterministic: bool,
    overrides: Sequence[str] = (),
) -> Request:
    """The request for a new run that begins from ``origin``.

    Args:
        pipeline: what it trains; None takes the run's own, with ``overrides``.
        source: where ``pipeline`` is from; None is the file that the run was started with.

    Raises:
        ConfigError: ``origin`` is not a run folder, or its pipeline does not take ``overrides``.
        DataError: the pipeline's data cannot be had.
        ResumeError: the run folder is damaged.
    """
    facts = run_folder.facts(origin.run)
    if pipeline is None:
        pipeline = config.load_pipeline(origin.run / run_folder.PIPELINE, overrides)
    data_dir = data_dir or facts.get("data_dir")
    check_at_hand(pipeline.data, data_dir)
    source = _source(source, origin.run, facts)
    return Request(pipeline, source, None, data_dir, smoke, deterministic, origin)


def _source(source: Path | None, run: Path, facts: Mapping[str, Any]) -> Path:
    """The file that a pipeline's paths are relative to: of the copy in ``run``, and where there is no ``source``, the
    one that the run was started with."""
    if source is None or source.resolve() == (run / run_folder.PIPELINE).resolve():
        return Path(facts["pipeline_file"])
    return source


def published(run: Path, exports: Path, name: str) -> Path | None:
    """The version of ``name`` that ``run`` published before it was stopped, so that its outcome is not written yet; the
    outcome is written now. None where there is none, or where the outcome was there already."""
    facts = run_folder.facts(run)
    identity = facts.get("id")
    if identity is None or outcome.published_version(run):
        return None
    base = run_folder.exports_of(run, exports, smoke=bool(facts.get("smoke"))) / name
    for number in reversed(version.versions(base)):
        try:
            training = manifests.read(base / str(number)).training
        except ArtifactError:
            continue  # damaged: it is not known to be of this run
        # One that was exported before training had ended is not the run's last word.
        if training is not None and training.run == identity and training.ended:
            there = base / str(number)
            facts = {**outcome.read_outcome(run), "version": str(there)}
            outcome.write_outcome(run, facts | {"test_accuracy": training.test_accuracy})
            return there
    return None


def _same(pipeline: config.Pipeline | None, run: Path, overrides: Sequence[str]) -> config.Pipeline:
    """The run's own pipeline, or ``pipeline``, which must train the same."""
    own = config.load_pipeline(run / run_folder.PIPELINE, overrides)
    if pipeline is None:
        check_pipeline({"pipeline": config.load_pipeline(run / run_folder.PIPELINE).dump()}, own, run)
        return own
    if pipeline.precision.keep_float32 == "auto":  # the run's list is what was found
        precision = pipeline.precision.model_copy(update={"keep_float32": own.precision.keep_float32})
        pipeline = pipeline.model_copy(update={"precision": precision})
    if "normalize" not in pipeline.data.model_fields_set:  # what the model takes decided
        data = pipeline.data.model_copy(update={"normalize": own.data.normalize})
        pipeline = pipeline.model_copy(update={"data": data})
    check_pipeline({"pipeline": own.dump()}, pipeline, run)
    return pipeline
