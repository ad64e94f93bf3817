"""The layers of a pipeline's net whose constants float16 makes 0 or infinite; they train and ship in float32."""

from __future__ import annotations

from collections.abc import Iterator

import keras

from tfhalf.numerics.auto_islands import settled
from tfhalf.numerics.islands import layers_before, owners_of
from tfhalf.precision.constants import Lost, Trace, has_extremes, lost, traced_graph
from tfhalf.precision.islands import Island
from tfhalf.precision.keras_graph import operations
from tfhalf.precision.policy import layer_path
from tfhalf.progress import Progress
from tfhalf.train.job import Job

_ROUNDS = 4
_SHOWN = 4


def keep_constants(job: Job, progress: Progress) -> Job:
    """The job itself; or, where a constant of its net needs float32, with the layers in ``precision.keep_float32``
    that `constant_layers` names, and a line for each.

    Training, export, resumed runs and the manifest get the list: they keep the same layers.
    """
    islands = constant_layers(job)
    for line in constant_lines(islands):
        progress.line(line)
    return with_layers(job, islands)


def with_layers(job: Job, islands: tuple[Island, ...]) -> Job:
    """The job with more layers in ``precision.keep_float32``; the job itself where there are none."""
    patterns = job.pipeline.precision.islands
    return settled(job, (*patterns, *(island.pattern for island in islands))) if islands else job


def constant_layers(job: Job) -> tuple[Island, ...]:
    """The layers to keep in float32, beside those that the pipeline keeps already, in the order of the net.

    A layer is one whose own arithmetic holds the constant. An operation of `keras.ops` computes in float32 if something
    that it takes is: so the layers before it are kept, and those after it that take a constant which is infinite.
    """
    wide = job.model("float32")
    trace = traced_graph(wide)
    if not has_extremes(trace):
        return ()
    reasons: dict[str, dict[str, None]] = {}
    for _ in range(_ROUNDS):
        known = with_layers(job, tuple(Island(path, ()) for path in reasons))
        added = False
        for name, constants in lost(trace, traced_graph(known.model("mixed_float16"))).items():
            for path, reason in _layers_of(wide, trace, name, constants):
                added = added or path not in reasons
                reasons.setdefault(path, {}).setdefault(reason)
        if not added:
            break
    order = [layer_path(layer) for layer in dict.fromkeys(owners_of(wide).values())]
    return tuple(Island(path, tuple(reasons[path])) for path in order if path in reasons)


def constant_lines(islands: tuple[Island, ...]) -> list[str]:
    """What is said of the layers: how many, and why."""
    if not islands:
        return []
    count = "1 layer stays" if len(islands) == 1 else f"{len(islands)} layers stay"
    shown = [f"constants  {count} in float32, in training and in what is exported"]
    shown += [f"           {island.path}: {'; '.join(island.reasons)}" for island in islands[:_SHOWN]]
    if len(islands) > _SHOWN:
        shown.append(
            f"           and {len(islands) - _SHOWN} more; the run's pipeline.yaml and the manifest list them all"
        )
    return shown


def _layers_of(model: keras.Model, trace: Trace, name: str, constants: Lost) -> Iterator[tuple[str, str]]:
    """The layers that have to compute in float32 for the constant of one operation, each with the reason."""
    named, owners = operations(model), owners_of(model)
    operation = named[name]
    if id(operation) in owners:
        yield layer_path(owners[id(operation)]), str(constants)
        return
    for layer in layers_before(operation, owners):
        yield layer_path(layer), f"feeds {name}: {constants}"
    if constants.large:
        for layer in _layers_after(name, trace, named, owners):
            yield layer_path(layer), f"takes what {name} gives: {constants}"


def _layers_after(name: str, trace: Trace, named: dict[str, object], owners: dict[int, object]) -> Iterator[object]:
    """The next layers after an operation, through other operations."""
    todo, seen = [name], {name}
    while todo:
        one = todo.pop()
        for giver, taker in trace.edges:
            if giver == one and taker not in seen:
                seen.add(taker)
                if id(named[taker]) in owners:
                    yield owners[id(named[taker])]
                else:
                    todo.append(taker)
