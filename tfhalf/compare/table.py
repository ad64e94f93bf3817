"""The table of a comparison, from what its cells came to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date

import numpy as np

from tfhalf.compare.plan import Cell, Plan
from tfhalf.compare.records import (
    Artifact,
    Comparison,
    Difference,
    Latency,
    MetricFacts,
    Result,
    Row,
    Setting,
    Target,
    TimeTo,
)
from tfhalf.compare.statistics import difference, summary, time_to

Values = Mapping[Setting, Mapping[int, Result]]


def make_table(
    plan: Plan,
    results: Mapping[Cell, Result],
    *,
    margin: float | None = None,
    target: float | None = None,
    command: str = "",
) -> Comparison:
    """All rows, with their differences to their references.

    Args:
        margin: the loss that does not count: points of a share, percent of other metrics. None takes what the pipeline
            allows its artifacts, ``verify.max_accuracy_drop`` and ``verify.max_error_growth``.
        target: the first metric's value on the validation part whose time is taken; None takes the reference's mean at
            the end, less the margin.
    """
    results = {cell: results[cell] for cell in plan.cells if cell in results}  # in whichever order they ended
    by_setting: Values = {
        setting: {cell.seed: result for cell, result in results.items() if cell.setting == setting}
        for setting in plan.settings
    }
    facts = next((result.facts for result in results.values() if result.facts), ())
    aim = _target(plan, by_setting, facts, margin, target)
    rows = tuple(_row(plan, setting, by_setting, facts, margin, aim) for setting in plan.settings)
    trained = [result for result in results.values() if result.device]
    return Comparison(
        plan.pipeline.name,
        facts,
        rows,
        aim,
        command,
        date.today().isoformat(),
        "; ".join(dict.fromkeys(result.device for result in trained)),
        _versions(trained),
        len(plan.cells) - len(results),
    )


def _versions(results: Sequence[Result]) -> dict[str, str]:
    """Of each package; several, where cells were trained with several."""
    names = dict.fromkeys(name for result in results for name in result.versions)
    every = {name: dict.fromkeys(result.versions.get(name, "none") for result in results) for name in names}
    return {name: ", ".join(versions) for name, versions in every.items()}


def _row(
    plan: Plan,
    setting: Setting,
    by_setting: Values,
    facts: Sequence[MetricFacts],
    margin: float | None,
    target: Target | None,
) -> Row:
    own = {seed: result for seed, result in by_setting[setting].items() if not result.error}
    some = list(own.values())
    base = plan.reference_of(setting)
    metrics = {one.name: _values(own, one.name) for one in facts}
    differences, against_first = (
        _differences(plan, metrics, {} if other is None else by_setting[other], facts, margin)
        for other in (base, plan.first_of(setting))
    )
    return Row(
        setting,
        base is None,
        tuple(by_setting[setting]),
        {seed: result.error for seed, result in by_setting[setting].items() if result.error},
        {seed: result.problem for seed, result in own.items() if result.problem},
        {name: summary(list(values.values())) for name, values in metrics.items() if values},
        differences,
        _gaps(some, facts),
        _time_to(list(by_setting[setting].values()), facts, target),
        summary([result.items_per_s for result in some]) if some else None,
        some[0].noun if some else "items",
        max((result.memory_bytes for result in some), default=0),
        some[0].memory_of if some else "",
        sum(result.skipped for result in some),
        _artifacts(some),
        _latency(some),
        by_setting[setting],
        against_first,
    )


def _differences(
    plan: Plan,
    own: Mapping[str, Mapping[int, float]],
    others: Mapping[int, Result],
    facts: Sequence[MetricFacts],
    margin: float | None,
) -> dict[str, Difference]:
    """By metric, of the seeds' values ``own``, to the results ``others`` of another setting."""
    trained = {seed: result for seed, result in others.items() if not result.error}
    differences = {}
    for one in facts:
        theirs = _values(trained, one.name)
        if own[one.name] and theirs:
            differences[one.name] = difference(own[one.name], theirs, one, _margin(plan, one, theirs, margin))
    return differences


def _values(results: Mapping[int, Result], metric: str) -> dict[int, float]:
    return {seed: result.metrics[metric] for seed, result in results.items() if metric in result.metrics}


def _margin(plan: Plan, facts: MetricFacts, reference: Mapping[int, float], margin: float | None) -> float:
    """In the metric's own unit."""
    if facts.share:
        return (plan.pipeline.verify.max_accuracy_drop if margin is None else margin) / 100
    percent = plan.pipeline.verify.max_error_growth if margin is None else margin
    finite = [abs(value) for value in reference.values() if math.isfinite(value)]
    return percent / 100 * float(np.mean(finite)) if finite else 0.0


def _target(
    plan: Plan, by_setting: Values, facts: Sequence[MetricFacts], margin: float | None, target: float | None
) -> Target | None:
    """Of the first metric on the validation part; None where there is no such part."""
    if not facts:
        return None
    first, name = facts[0], f"val_{facts[0].name}"
    if target is not None:
        return Target(name, target)
    base = next(setting for setting in plan.settings if plan.reference_of(setting) is None)
    ends = {
        seed: result.history[-1][name]
        for seed, result in by_setting[base].items()
        if not result.error and result.history and result.history[-1].get(name) is not None
    }
    if not ends:
        return None
    allowed = _margin(plan, first, ends, margin)
    mean = float(np.mean(list(ends.values())))
    return Target(name, mean - allowed if first.higher else mean + allowed)


def _time_to(results: Sequence[Result], facts: Sequence[MetricFacts], target: Target | None) -> TimeTo | None:
    """Of runs that failed too: they never got there."""
    if target is None or not results:
        return None
    higher = facts[0].higher
    seconds: list[float | None] = []
    for result in results:
        rows = [row for row in result.history if row.get(target.metric) is not None]
        reached = (
            row for row in rows if (row[target.metric] >= target.value) == higher or row[target.metric] == target.value
        )
        seconds.append(next((row["elapsed"] for row in reached), None))
    return time_to(seconds)


def _gaps(results: Sequence[Result], facts: Sequence[MetricFacts]) -> dict[str, float]:
    """The last epoch's metrics of the training items, as they were answered while weights moved, less the test's."""
    gaps = {}
    for one in facts:
        pairs = [(r.history[-1].get(one.name), r.metrics.get(one.name)) for r in results if r.history]
        known = [train - test for train, test in pairs if train is not None and test is not None]
        if known:
            gaps[one.name] = float(np.mean(known))
    return gaps


def _artifacts(results: Sequence[Result]) -> tuple[Artifact, ...]:
    """Sizes of the first seed that published; metrics are means."""
    published = [result for result in results if result.artifacts]
    if not published:
        return ()
    rows = []
    for artifact in published[0].artifacts:
        same = [one for result in published for one in result.artifacts if one.format == artifact.format]
        metrics = {
            name: float(np.mean([one.metrics[name] for one in same if name in one.metrics]))
            for name in artifact.metrics
        }
        rows.append(Artifact(artifact.format, artifact.bytes, metrics))
    return tuple(rows)


def _latency(results: Sequence[Result]) -> tuple[Latency, ...]:
    """Of the first seed that was benched."""
    return next((result.latency for result in results if result.latency), ())
