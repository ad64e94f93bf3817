"""What `tfhalf train` and `tfhalf export` say in the end."""

from __future__ import annotations

import json
from typing import Any

import click

from tfhalf.progress import Progress, duration


def say_outcome(outcome: Any, progress: Progress, as_json: bool) -> None:
    """The published version, how its artifacts compared, and how the time was split."""
    if as_json:
        facts = {
            "version": str(outcome.version),
            "smoke": outcome.smoke,
            "run": str(outcome.run),
            "test_accuracy": outcome.accuracy,
            "test_metrics": outcome.metrics,
            "chance": outcome.chance.to_dict(),
            "comparisons": [c.to_dict() for c in outcome.comparisons],
            "seconds": outcome.seconds,
        }
        click.echo(json.dumps(facts, indent=2))
        return
    progress.line()
    split = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in outcome.seconds.items())
    progress.line(f"time       {split}; in all {duration(sum(outcome.seconds.values()))}")
    if outcome.smoke:
        progress.line(f"smoke      {outcome.version}: verified, not published; exports/ is as it was", always=True)
    else:
        progress.line(f"published  {outcome.version}", always=True)
        if not outcome.chance.better:
            progress.line(f"warning    {outcome.chance.words()}", always=True)
    progress.line(f"run        {outcome.run}")
