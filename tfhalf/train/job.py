"""A pipeline made ready to run: its data loaded, its builder resolved, its run folder made."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import keras

from tfhalf import config
from tfhalf.artifacts import manifest as manifests
from tfhalf.data import LazyImages, Splits, load_splits
from tfhalf.data.columns import Columns
from tfhalf.data.preprocess import AnyPreprocess, fit
from tfhalf.data.text import text_lines
from tfhalf.errors import ConfigError
from tfhalf.files import check_writable, replacing
from tfhalf.progress import Progress
from tfhalf.tasks import Task
from tfhalf.train.build import Builder
from tfhalf.train.initial.weights import Initial, from_run, load
from tfhalf.train.integers import keep_integers
from tfhalf.train.objective import Objective
from tfhalf.train.record import run_folder as runs
from tfhalf.train.tasks import make_objective, targets_of

SMOKE_STEPS = 2
SMOKE_BATCH = 128
SMOKE_TEST_IMAGES = 256
SMOKE_AGREEMENT = 95.0  # percent
SMOKE_ACCURACY_DROP = 2.0  # points


@dataclass(frozen=True)
class Places:
    """Where things are: the pipeline file, the folders that results go into, and TFDS's data."""

    pipeline: Path
    runs: Path
    exports: Path
    data_dir: str | None = None

    def of(self, run: Path, *, smoke: bool) -> Places:
        """These places for ``run``: what a smoke run exports stays in its folder, where no server takes it over."""
        return replace(self, exports=runs.exports_of(run, self.exports, smoke=smoke))

    def check(self, *, smoke: bool = False) -> None:
        """Before anything is trained; a ``smoke`` run writes into ``runs`` alone.

        Raises:
            ConfigError: ``exports`` or ``runs`` is not a folder that can be written to, nor can become one.
        """
        check_writable(self.runs, "--runs")
        if not smoke:
            check_writable(self.exports, "--exports")


@dataclass(frozen=True)
class Job:
    """A pipeline with its data loaded and its builder resolved; `with_weights` reads what it starts from."""

    pipeline: config.Pipeline
    splits: Splits
    preprocess: AnyPreprocess
    builder: Builder
    objective: Objective
    initial: Initial | None = None  # of a run that begins, where its weights are not drawn

    @property
    def task(self) -> Task:
        """What is learnt."""
        return self.objective.task

    def model(self, policy_name: str | None = None, size: int | None = None) -> keras.Model:
        """The pipeline's net under ``policy_name``, or its own policy, with the layers in float32 that it keeps so; see
        `Builder`."""
        precision = self.pipeline.precision
        return self.builder(policy_name or precision.policy, keep_float32=precision.islands, size=size)


def splits_of(pipeline: config.Pipeline, base: Path, data_dir: str | None, say: Callable[[str], None]) -> Splits:
    """The data of ``pipeline``, whose file lies in ``base``, with targets as its tasks take them."""
    return load_splits(
        pipeline.data,
        base=base,
        seed=pipeline.seed,
        data_dir=data_dir,
        progress=say,
        kind=targets_of(pipeline, base),
        ignore={name: one.ignore for name, one in pipeline.outputs.items()} or pipeline.task.ignore,
    )


def prepare(pipeline: config.Pipeline, places: Places, progress: Progress, *, smoke: bool = False) -> Job:
    """Load the data, resolve the builder, and find how inputs are normalised; with ``smoke``, cut data and training
    short."""
    base = places.pipeline.resolve().parent
    progress.wait(pipeline.data.source)
    splits = splits_of(pipeline, base, places.data_dir, progress.status)
    progress.clear()
    for line in text_lines(splits.texts, splits.vocabularies):
        progress.line(f"text       {line}")
    job = job_of(pipeline, splits, base, progress)
    return _cut(job) if smoke else job


def job_of(pipeline: config.Pipeline, splits: Splits, base: Path, progress: Progress, sample: Any = None) -> Job:
    """The job of data that is loaded, whose pipeline file lies in ``base``.

    Args:
        sample: what normalisation is measured on; None is all training items.
    """
    objective = make_objective(pipeline, splits, base)
    builder = builder_of(pipeline, base, splits, objective.task)
    pipeline = keep_integers(pipeline, splits, builder, progress)
    x = splits.x_train if sample is None else sample
    if isinstance(x, LazyImages) and pipeline.data.normalize == "standardize" and x.sampled < len(x):
        progress.line(f"normalise  by mean and std of a fixed sample: {x.sampled:,} of {len(x):,} training images")
    return Job(pipeline, splits, fit(pipeline.data, x), builder, objective)


def builder_of(pipeline: config.Pipeline, base: Path, splits: Splits, task: Task) -> Builder:
    """The pipeline's builder, for the inputs of ``splits``."""
    several = isinstance(splits.x_train, Columns)
    return Builder(
        pipeline.model,
        base,
        input_shape=splits.shapes if several else splits.input_shape,
        task=task,
        dtypes=splits.dtypes,
        categories={name: len(words) for name, words in splits.vocabularies.items()},
    )


def with_weights(job: Job, origin: runs.Origin | None = None) -> Job:
    """The job of a run that begins, with what it starts from: ``origin``, else the pipeline's ``model.weights``.

    Raises:
        ConfigError, ResumeError: as `weights.load` and `weights.from_run`.
    """
    ref = job.pipeline.model.weights
    if origin is not None:
        return replace(job, initial=from_run(origin.run, origin.epoch, job.model()))
    return job if ref is None else replace(job, initial=load(ref, job.builder.base, job.model()))


def new_run(job: Job, places: Places, smoke: bool, deterministic: bool = False) -> Path:
    """A new folder ``runs/NAME/STAMP`` holding the resolved pipeline, where it came from, and how it was started."""
    stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    for attempt in range(1000):
        run = places.runs / job.pipeline.name / (stamp if not attempt else f"{stamp}-{attempt}")
        try:
            run.mkdir(parents=True)
        except FileExistsError:
            continue
        (run / runs.PIPELINE).write_text(job.pipeline.to_yaml(), encoding="utf-8")
        facts = {
            "id": uuid.uuid4().hex,
            "pipeline_file": str(places.pipeline.resolve()),
            "data_dir": places.data_dir,
            "smoke": smoke,
            "deterministic": deterministic,
            "weights": job.initial.facts() if job.initial else None,
            "versions": manifests.versions(),
        }
        with replacing(run / runs.FACTS) as beside:  # a folder is a run as soon as it has the file
            beside.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        return run
    raise ConfigError(f"{places.runs / job.pipeline.name}: holds a thousand runs of this second; choose another --runs")


def open_run(run: Path, places: Places) -> tuple[config.Pipeline, Places, bool]:
    """The pipeline of a run folder, the places it was started with, and whether it was a smoke run.

    Raises:
        ConfigError, ResumeError: this is not a run folder, or its pipeline file is gone.
    """
    where = runs.facts(run)
    pipeline = config.load_pipeline(run / runs.PIPELINE)
    source = Path(where["pipeline_file"])
    places = replace(places, pipeline=source, data_dir=places.data_dir or where.get("data_dir"))
    return pipeline, places, bool(where.get("smoke"))


def _cut(job: Job) -> Job:
    """One epoch of two small steps, with looser parity thresholds.

    A net that has hardly learned is undecided between classes; a wrong artifact still fails.
    """
    pipeline, splits = job.pipeline, job.splits
    size = min(pipeline.train.batch_size, SMOKE_BATCH, max(1, len(splits.x_train) // SMOKE_STEPS))
    train = pipeline.train.model_copy(update={"epochs": 1, "batch_size": size})
    loose = {
        "max_accuracy_drop": max(SMOKE_ACCURACY_DROP, pipeline.verify.max_accuracy_drop),
        "min_agreement": min(SMOKE_AGREEMENT, pipeline.verify.min_agreement),
    }
    steps, n = SMOKE_STEPS * size, SMOKE_TEST_IMAGES
    changed = {"train": train, "verify": pipeline.verify.model_copy(update=loose)}
    return replace(job, pipeline=pipeline.model_copy(update=changed), splits=splits.head(steps, n))
