"""The ``tfhalf`` command: parse, call, print.

TensorFlow is imported by the commands that need it, not by ``--help``.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click

from tfhalf._version import __version__
from tfhalf.cli.compare import compare
from tfhalf.cli.devices import DEVICES, NAMES, RAY, device_options, on_ray, sharing
from tfhalf.cli.doctor import doctor
from tfhalf.cli.export import export
from tfhalf.cli.group import Group, thread_failed
from tfhalf.cli.inspect import inspect
from tfhalf.cli.numerics import float16, numerics
from tfhalf.cli.options import (
    DATA_DIR,
    EXPORTS,
    JSON,
    PATH,
    QUIET,
    RUNS,
    epoch_value,
    load_tensorflow,
    pipeline_options,
    progress_for,
)
from tfhalf.cli.output import say_outcome
from tfhalf.cli.predict import predict
from tfhalf.cli.serve import serve
from tfhalf.progress import Progress
from tfhalf.system.programs import keep_programs
from tfhalf.text import clean

_STARTED = time.perf_counter()


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="tfhalf")
def main() -> None:
    """Train Keras models in half precision, export truly float16 artifacts, and prove that they answer like float32."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what matters comes as an exception too
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    threading.excepthook = thread_failed


@main.command(short_help="Train a pipeline, export it, verify the artifacts, publish them.")
@click.argument("pipeline", type=PATH, required=False)
@pipeline_options
@click.option(
    "--smoke", is_flag=True, help="Try everything with two steps and a few hundred test images; publish nothing."
)
@click.option(
    "--resume",
    is_flag=False,
    flag_value="newest",
    metavar="[RUN]",
    help="Go on with the run folder RUN. Without RUN, with the newest unfinished one of PIPELINE.",
)
@click.option(
    "--from",
    "origin",
    type=PATH,
    metavar="RUN",
    help="Begin a new run with the weights, the optimizer's state and the loss scale of the run folder RUN; by its own "
    "pipeline, where PIPELINE is left out.",
)
@click.option(
    "--epoch",
    callback=epoch_value,
    metavar="best|last|N",
    help="Take the state of --from RUN after epoch N, the best or the last that it keeps. [default: last]",
)
@click.option("--deterministic", is_flag=True, help="Compute the same bits each time, on a GPU too; slower.")
@click.option(
    "--on-blowup",
    type=click.Choice(["stop", "rollback"]),
    help="Set train.blowup.action: what to do when the loss blows up.",
)
@device_options
@RAY
@EXPORTS
@RUNS
@QUIET
@JSON
def train(
    pipeline: Path | None,
    overrides: tuple[str, ...],
    exports: Path,
    runs: Path,
    quiet: bool,
    as_json: bool,
    ray: str | None,
    **options: Any,
) -> None:
    """Train PIPELINE, export it in float16, verify the artifacts and publish them.

    A pipeline runs the Python that it names: read one before you run it.

    SIGINT and SIGTERM end training after a checkpoint, with exit code 130 and 143; --resume goes on from there.
    """
    from tfhalf.workflows.train_request import check, published

    where = {name: options.pop(name) for name in NAMES}
    request = check(pipeline, overrides, runs_folder=runs, **options)  # before TensorFlow: bad input shows at once
    if request.run is not None and (there := published(request.run, exports, request.pipeline.name)):
        if as_json:
            click.echo(json.dumps({"version": str(there), "run": str(request.run)}, indent=2))
        else:
            Progress(quiet=quiet).line(f"published  {there}, before the run was stopped", always=True)
        return
    progress = progress_for(quiet, as_json)
    if ray is not None:
        click.get_current_context().exit(on_ray(ray, where, progress))
    loading = {"deterministic": request.deterministic}
    with sharing(progress, request.facts(), loading=loading, **where) as group:
        from tfhalf.train.job import Places
        from tfhalf.workflows.train import take_part, train_and_export

        places = Places(request.source, runs, exports, request.data_dir)
        how: dict[str, Any] = {
            "smoke": request.smoke,
            "resume": request.run,
            "deterministic": request.deterministic,
            "origin": request.origin,
            "started": _STARTED,
            "group": group,
        }
        if not group.first:
            take_part(request.pipeline, places, Progress(sys.stderr, quiet=True), **how)
            return
        outcome = train_and_export(request.pipeline, places, progress, **how)
    say_outcome(outcome, progress, as_json)


@main.command(short_help="Validate a pipeline; train nothing.")
@click.argument("pipeline", type=PATH)
@pipeline_options
@click.option(
    "--measure", is_flag=True, help="Also print what keep_float32: auto would keep, by training a few steps in float32."
)
@JSON
def check(pipeline: Path, overrides: tuple[str, ...], data_dir: str | None, measure: bool, as_json: bool) -> None:
    """Validate PIPELINE, load its data, build its model and callbacks, try its export, and print what it resolves to.

    Nothing is written, and nothing that --measure trains is kept.
    """
    from tfhalf.config import load_pipeline
    from tfhalf.data import check_at_hand

    loaded = load_pipeline(pipeline, overrides)
    check_at_hand(loaded.data, data_dir)
    progress = Progress(sys.stderr)  # standard output is the pipeline, or JSON
    load_tensorflow(progress)
    from tfhalf.train.job import Places
    from tfhalf.workflows.check import check_pipeline

    places = Places(pipeline, Path("runs"), Path("exports"), data_dir)
    checked = check_pipeline(loaded, places, progress, measure=measure)
    if as_json:
        click.echo(json.dumps(checked.facts, indent=2))
        return
    click.echo(checked.pipeline.to_yaml().rstrip())
    for line in checked.lines:
        click.echo(f"# {line}")


@main.command(short_help="Compare published artifacts with the float32 model.")
@click.argument("path", type=PATH)
@click.option(
    "--pipeline",
    type=PATH,
    metavar="FILE",
    help="Take the test data that the pipeline FILE names; needed where those come from code, which an export never "
    "runs.",
)
@DATA_DIR
@QUIET
@JSON
def verify(path: Path, pipeline: Path | None, data_dir: str | None, quiet: bool, as_json: bool) -> None:
    """Compare the artifacts of exports/NAME[/VERSION] with the float32 model, over the whole test set."""
    progress = progress_for(quiet, as_json)
    load_tensorflow(progress)
    from tfhalf.workflows.verify import verify_version

    directory, comparisons = verify_version(path, data_dir, progress, pipeline)
    passed = all(c.passed for c in comparisons)
    if as_json:
        rows = [c.to_dict() for c in comparisons]
        click.echo(json.dumps({"version": str(directory), "passed": passed, "comparisons": rows}, indent=2))
    else:
        from tfhalf.verify.report import table_lines

        click.echo("\n".join(table_lines(comparisons)))
        problems = [f"{c.artifact}: {problem}" for c in comparisons for problem in c.problems]
        verdict = "every artifact holds" if passed else "FALLS SHORT: " + "; ".join(problems)
        click.echo(clean(f"{directory}: {verdict}"))
    click.get_current_context().exit(0 if passed else 1)


@main.command(short_help="Measure how fast a pipeline trains, or an export answers.")
@click.argument("target", type=PATH)
@pipeline_options
@click.option("--policies", metavar="A,B", help="Dtype policies to train under. [default: all but float16]")
@click.option("--repeats", type=click.IntRange(1, 1000), help="Timed repeats of each policy. [default: 5]")
@click.option(
    "--batch-sizes",
    metavar="1,8,32|auto",
    help="Batch sizes to call an export with [default: 1,8,32,128,512], or to train a pipeline with; auto: up to the "
    "largest that fits.",
)
@click.option(
    "--seconds", type=float, default=2.0, show_default=True, help="Time to spend on each repeat, or on each batch size."
)
@click.option("--feed", is_flag=True, help="Measure a pipeline's feed and its step apart, too.")
@DEVICES
@click.option("--plot", type=PATH, metavar="FILE", help="Draw the result into FILE: PNG or SVG by its suffix.")
@QUIET
@JSON
def bench(target: Path, plot: Path | None, quiet: bool, as_json: bool, **options: Any) -> None:
    """Measure how fast TARGET trains under each policy (a pipeline), or answers in each runtime (exports/NAME).

    Each row has a process of its own. A pipeline runs the Python that it names: read one before you run it.
    """
    from tfhalf.bench import plots, run, tables
    from tfhalf.system import plotting

    plotting.check(plot)
    progress = progress_for(quiet, as_json)
    keep_programs(progress.line)  # by the processes of the rows
    results = run.bench(target, run.Options(**options), progress)
    if as_json:
        click.echo(json.dumps(results.to_dict(), indent=2))
    else:
        tables.show(results, progress)
    plots.draw(results, plot)  # after what was measured, which is there even if the disk is full
    run.check(results)


main.add_command(compare)
main.add_command(doctor)
main.add_command(export)
main.add_command(float16)
main.add_command(inspect)
main.add_command(numerics)
main.add_command(predict)
main.add_command(serve)


@main.command(short_help="Write starter pipelines and models.")
@click.argument("directory", type=PATH)
def init(directory: Path) -> None:
    """Write the starter pipelines and models into DIRECTORY, which must be new or empty."""
    from tfhalf.workflows.verify import write_starters

    for path in write_starters(directory):
        click.echo(path)
    click.echo("own data: copy a file of pipelines/templates into pipelines, and fill it in")
    click.echo(f"next: cd {directory} && tfhalf train pipelines/digits.yaml")


if __name__ == "__main__":
    main()
