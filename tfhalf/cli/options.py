"""Options that several commands take, and where their progress goes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from tfhalf.progress import Progress
from tfhalf.system.tensorflow import import_tensorflow

PATH = click.Path(path_type=Path)
DATA_DIR = click.option(
    "--data-dir", metavar="DIR", help="Folder in which TensorFlow Datasets keeps its data. [TFDS_DATA_DIR]"
)
EXPORTS = click.option(
    *("-o", "--exports"),
    type=PATH,
    default=Path("exports"),
    show_default=True,
    metavar="DIR",
    help="Folder to publish NAME/VERSION in.",
)
RUNS = click.option(
    "--runs",
    type=PATH,
    default=Path("runs"),
    show_default=True,
    metavar="DIR",
    help="Folder to keep run folders in: checkpoints, curves, logs.",
)
QUIET = click.option("-q", "--quiet", is_flag=True, help="Print the result alone.")
JSON = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON; progress goes to standard error."
)
_SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the pipeline, such as train.epochs=3.",
)


def epoch_value(ctx: click.Context, param: click.Parameter, value: str | None) -> Literal["best", "last"] | int | None:
    """``best``, ``last``, or the number of an epoch, from 1."""
    if value is None or value in ("best", "last"):
        return value  # type: ignore[return-value]  # mypy does not narrow a str by `in`
    if value.isascii() and value.isdigit() and 0 < len(value) < 10 and int(value):
        return int(value)
    raise click.BadParameter(f"{value!r}; accepted: best, last, or the number of an epoch, from 1")


def pipeline_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--set`` and ``--data-dir``, for commands that take a pipeline file."""
    return DATA_DIR(_SET(function))


def load_tensorflow(progress: Progress, *, deterministic: bool = False) -> None:
    """As `import_tensorflow`, which keeps XLA's programs, with a word before: it takes seconds, on a slow disk many."""
    if "tensorflow" not in sys.modules:
        progress.wait("TensorFlow")
    import_tensorflow(progress.line, deterministic=deterministic)


def progress_for(quiet: bool, as_json: bool) -> Progress:
    """Progress goes to standard output, or to standard error where that carries JSON."""
    return Progress(sys.stderr if as_json else sys.stdout, quiet)
