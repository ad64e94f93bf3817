"""How good an artifact is at its task, beside the float32 model: its metrics on targets that are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tfhalf.artifacts.comparison import Limits, OutputParity
from tfhalf.tasks.facts import of_facts


def measured(
    output: OutputParity,
    facts: Mapping[str, Any],
    targets: np.ndarray,
    reference: np.ndarray,
    got: np.ndarray,
    limits: Limits,
) -> OutputParity:
    """``output`` with the metrics of the task that ``facts`` describe, and what of them falls short.

    Args:
        facts: of a manifest, see `Task.facts`.
        targets: of usual samples [N, ...]; ``reference`` and ``got`` are the answers to them.
    """
    task = of_facts(facts)
    if task is None:
        return output
    own = [metric for metric in task.metrics if metric.name != "accuracy" or output.accuracy is None]
    metrics = {metric.name: metric.measure(targets, got) for metric in own}
    before = {metric.name: metric.measure(targets, reference) for metric in own}
    problems = []
    for metric in own:
        mine, other = metrics[metric.name], before[metric.name]
        if metric.share or metric.higher:
            lost, most = (other - mine) * 100, limits.max_accuracy_drop
            few = 100 / max(1, len(targets))  # a drop finer than one item of a small set cannot be held
            if most is not None and not lost <= max(most, few if most else 0.0):
                problems.append(f"{metric.name} is {lost:.3g} points lower, {most:g} allowed")
        elif limits.max_error_growth is not None:
            growth = 100 * (mine / other - 1) if other else (0.0 if mine == other else np.inf)
            if not growth <= limits.max_error_growth:
                problems.append(f"{metric.name} is {growth:.3g} % larger, {limits.max_error_growth:g} % allowed")
    return replace(
        output,
        metrics=metrics,
        reference_metrics=before,
        problems=(*output.problems, *problems),
    )


def short_of(output: OutputParity, facts: Mapping[str, Any], limits: Limits) -> OutputParity:
    """``output`` with what its metrics, or its accuracy, lack of ``limits.min_metrics``. A minimum of an error
    (``rmse``) is the most that it may be; of several outputs one is called OUTPUT_METRIC, or METRIC of all.

    Args:
        facts: of the output's task, see `measured`; none of an output that has no task.
    """
    if not limits.min_metrics:
        return output
    task = of_facts(facts) if facts else None
    errors = {metric.name for metric in task.offered if not metric.higher} if task else set()
    known = dict(output.metrics)
    if output.accuracy is not None:
        known.setdefault("accuracy", output.accuracy / 100)
    problems = []
    for name, bound in limits.min_metrics.items():
        name = name if name in known else name.removeprefix(f"{output.name}_")
        value = known.get(name)
        if value is None:  # another output's
            continue
        if name in errors and not value <= bound:
            problems.append(f"{name} is {value:.4g}, at most {bound:g} allowed")
        elif name not in errors and not value >= bound:
            problems.append(f"{name} is {value:.4g}, at least {bound:g} needed")
    return replace(output, problems=(*output.problems, *problems)) if problems else output
