"""What artifacts must at least be good for, `verify.min`, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping

from tfhalf.errors import ConfigError
from tfhalf.tasks import CLASSES, Several, Task
from tfhalf.tasks.metrics import Metric, accuracy
from tfhalf.train.objective import Objective


def check_minimums(minimums: Mapping[str, float], objective: Objective) -> None:
    """Refuse what no artifact would be held to, or none could reach.

    Args:
        minimums: by metric, see `tfhalf.config.schema.Verify`.

    Raises:
        ConfigError: artifacts are not measured by a metric of that name, or it is a share and the bound is beyond 1.
    """
    if not minimums:
        return
    measured = _measured(objective.task)
    for name, bound in minimums.items():
        metric = measured.get(name)
        if metric is None:
            raise ConfigError(f"verify.min: received {name!r}, {_accepted(name, measured, objective)}")
        if metric.share and not 0 <= bound <= 1:
            hint = f", as {bound / 100:g} for {bound:g} %" if 1 < bound <= 100 else ""
            raise ConfigError(f"verify.min: {name} is a share, received {bound:g}, accepted: 0 to 1{hint}")


def _accepted(name: str, measured: Mapping[str, Metric], objective: Objective) -> str:
    trained = {metric.name for metric in objective.metrics}
    known = ", ".join(measured) or "nothing"
    if name in trained:
        return f"which only training can measure; accepted: {known}"
    chosen = {metric.name for metric in getattr(objective.task, "offered", ())}
    return f"accepted: {known}" + (f"; or name {name} in task.metrics as well" if name in chosen else "")


def _measured(task: Task) -> dict[str, Metric]:
    """What artifacts are measured by, by name. A task of one's own is code, which the process that verifies does not
    run: of its answers the accuracy alone is known, where they are classes."""
    if isinstance(task, Several):
        each = {name: _measured(one) for name, one in task.tasks.items()}
        own = {f"{name}_{metric}": one for name, metrics in each.items() for metric, one in metrics.items()}
        return own | {metric: one for metrics in each.values() for metric, one in metrics.items() if metric not in own}
    known = {metric.name: metric for metric in task.metrics} if task.name in CLASSES else {}
    return {"accuracy": accuracy(), **known} if task.exclusive and task.targets == "classes" else known
