"""`tfhalf check`: all that can be known of a pipeline without training it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tfhalf import config
from tfhalf.numerics.auto_islands import auto, auto_lines
from tfhalf.numerics.constants import constant_layers, constant_lines, with_layers
from tfhalf.progress import Progress
from tfhalf.train.batches import Batches
from tfhalf.train.callbacks import Callbacks
from tfhalf.train.job import Job, Places, prepare, with_weights
from tfhalf.train.optim.patterns import trained_variables
from tfhalf.train.remarks import parameters, remarks
from tfhalf.train.remat.choose import Remat
from tfhalf.train.stages import lines, stages_of
from tfhalf.train.state import optimizer_of
from tfhalf.workflows.rehearse import check_model
from tfhalf.workflows.trained import learnt, size_words

SETTLED_LATER = "auto is settled when training begins, by XLA's account of a step; without a GPU it needs train.xla=on"


@dataclass(frozen=True)
class Checked:
    """What a pipeline resolves to: ``facts`` for a program, ``lines`` for a person."""

    pipeline: config.Pipeline
    facts: dict[str, Any]
    lines: list[str]


def check_pipeline(pipeline: config.Pipeline, places: Places, progress: Progress, *, measure: bool) -> Checked:
    """Load the data, build the model, try whether it can be exported, and make the callbacks; nothing is written.

    Args:
        measure: also find what ``keep_float32: auto`` keeps, by a few steps in float32.

    Raises:
        DataError, RefError, ConfigError: the pipeline cannot be run as it is.
        ExportError: its model cannot be exported.
    """
    job = with_weights(prepare(pipeline, places, progress))
    job, islands = auto(job, progress, measure=measure)
    constants = constant_layers(job)
    if job.pipeline.precision.keep_float32 != "auto":
        job = with_layers(job, constants)
    checked, splits = job.pipeline, job.splits
    progress.wait(f"{job.builder.ref}, and trying its export")
    model = job.model()
    counted = parameters(model, checked.train.optimizer)
    trained = trained_variables(model, checked.train.optimizer)
    stages = lines(job, stages_of(job, model, trained), trained)
    batches = Batches(checked.train, len(splits.x_train))
    remat = Remat.of(() if checked.train.remat == "auto" else checked.train.remat, [model])
    check_model(job, model)
    callbacks, unheard = _check_callbacks(job)
    notes = [*job.builder.remarks, *remarks(checked, splits, model), *unheard]
    progress.clear()
    facts = {
        "pipeline": checked.dump(),
        "data": {"sizes": splits.sizes, "classes": list(splits.class_names), "input": splits.input_shape},
        "preprocess": job.preprocess.to_dict(),
        "model": {"name": model.name, "parameters": model.count_params(), "layers": len(model.layers)},
        "weights": job.initial.facts() if job.initial else None,
        "steps": sum(batches.plan),
        "callbacks": callbacks,
        "notes": notes,
        "constants": [island.to_dict() for island in constants],
        "islands": None if islands is None else [island.to_dict() for island in islands],
    }
    listed = [
        f"{places.pipeline}: valid",
        f"data: {size_words(splits)}; {learnt(job)}",
        f"model: {model.name}, {counted}, {len(model.layers)} layers",
        *([f"weights: {job.initial.line()}"] if job.initial else []),
        f"steps: {batches.words(splits.noun)}",
        *batches.lines(),
        *stages,
        *([f"remat: {remat.message or SETTLED_LATER}"] if checked.train.remat else []),
        *([f"callbacks: {', '.join(callbacks)}"] if callbacks else []),
        f"export: {', '.join(checked.export.formats)} can be made in float16",
        *(f"note: {note}" for note in notes),
        *constant_lines(constants),
        *auto_lines(checked, islands),
    ]
    return Checked(checked, facts, listed)


def _check_callbacks(job: Job) -> tuple[list[str], list[str]]:
    """The classes of the callbacks, of which each is created, and lines about them."""
    settings = job.pipeline.train
    callbacks = Callbacks(settings.callbacks, job.builder.base, job.objective.metrics)
    optimizer, _ = optimizer_of(job.pipeline, len(job.splits.x_train))
    unheard = callbacks.check(optimizer, validation=len(job.splits.x_val) > 0)
    return [ref for ref, _ in callbacks.makers], unheard
