"""A task made again from what a manifest says of it, for the process that verifies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np

from tfhalf.errors import ArtifactError, ConfigError
from tfhalf.tasks import CLASSES, Targets, Task
from tfhalf.tasks.regression import Regression
from tfhalf.text import printable

_MOST = 1 << 20


def of_facts(facts: Mapping[str, Any]) -> Task | None:
    """The task that `Task.facts` described, with the metrics that were chosen for it; None where it is code of
    somebody's own, which an artifact cannot run.

    Raises:
        ArtifactError: what it needs is missing.
    """
    kind = CLASSES.get(str(facts.get("name")))
    if kind is None and targets_of_facts(facts):
        return None
    try:
        if kind is Regression:
            mean, std = (np.array(facts[key], np.float64) for key in ("mean", "std"))
            if mean.ndim == 1 and mean.shape == std.shape and np.isfinite([mean, std]).all() and (std > 0).all():
                unit = printable(str(facts.get("unit", "")), 40)
                return _with_metrics(Regression(mean.tolist(), std.tolist(), unit=unit), facts)
        if kind is not None and 1 <= int(facts["classes"]) <= _MOST:
            names = [str(k) for k in range(int(facts["classes"]))]
            return _with_metrics(kind(names), facts)  # type: ignore[call-arg]
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise _unknown(facts) from error
    raise _unknown(facts)


def quality_words(tasks: Mapping[str, Mapping[str, Any]], values: Mapping[str, float | None]) -> list[str]:
    """Of each output the first metric that ``values`` holds, for people: ``rmse 50,300 dollars``.

    Args:
        tasks: facts by output, of which there are several or one.
        values: by metric, of several outputs by OUTPUT_METRIC, as a manifest has those of the test part.

    Raises:
        ArtifactError: as `of_facts`.
    """
    words = []
    for output, facts in tasks.items():
        task = of_facts(facts)
        for metric in task.metrics if task else ():
            name = metric.name if metric.name in values else f"{output}_{metric.name}"
            if (value := values.get(name)) is not None:
                words.append(f"{name} {metric.words(value)}")
                break
    return words


def _with_metrics(task: Task, facts: Mapping[str, Any]) -> Task:
    if "metrics" in facts:  # a manifest from before they were written down has those that the task has by default
        offered = {metric.name: metric for metric in task.offered}
        task.metrics = tuple(offered[name] for name in facts["metrics"])
    return task


def targets_of_facts(facts: Mapping[str, Any]) -> Targets:
    """What targets the task is read with.

    Raises:
        ArtifactError: the facts do not say so.
    """
    known: tuple[Targets, ...] = get_args(Targets)
    for kind in known:
        if facts.get("targets") == kind:
            return kind
    raise _unknown(facts)


def _unknown(facts: Mapping[str, Any]) -> ArtifactError:
    return ArtifactError(f"the manifest's task {str(dict(facts))[:120]!r} is not one that is known; export again")
