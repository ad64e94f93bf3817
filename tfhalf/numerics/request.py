"""What ``tfhalf numerics`` was asked, checked as far as it can be without TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tfhalf import config
from tfhalf.data import check_at_hand
from tfhalf.errors import ConfigError


@dataclass(frozen=True)
class Asked:
    """A pipeline, the file ``path`` that it was read from, a ``run`` to take up instead, and how much to measure."""

    path: Path | None
    pipeline: config.Pipeline | None
    data_dir: str | None
    run: Path | None
    steps: int
    every: int
    batch_size: int | None

    def facts(self) -> dict[str, str]:
        """What all processes that measure together must have alike, each option or key of the pipeline by its name."""
        options = {"--run": self.run, "--steps": self.steps, "--every": self.every, "--batch-size": self.batch_size}
        values = self.pipeline.values() if self.pipeline else {}
        return {**{name: str(value) for name, value in options.items()}, **values}


def check(
    path: Path | None,
    *,
    overrides: tuple[str, ...],
    data_dir: str | None,
    run: Path | None,
    steps: int,
    every: int,
    batch_size: int | None,
) -> Asked:
    """Read the pipeline file ``path``, where one is given.

    Raises:
        ConfigError, DataError: it is malformed, its data is not at hand, or the options do not go together.
    """
    if path is None and run is None:
        raise ConfigError("give a PIPELINE file, or --run RUN, or both")
    if run is not None and overrides:
        raise ConfigError("--run takes the run's own settings; --set belongs to a PIPELINE without it")
    if every > steps:
        raise ConfigError(f"--every {every}: nothing is measured in --steps {steps}; give at most as many")
    pipeline = None if path is None else config.load_pipeline(path, overrides)
    if pipeline is not None and run is None:
        check_at_hand(pipeline.data, data_dir)
    return Asked(path, pipeline, data_dir, run, steps, every, batch_size)
