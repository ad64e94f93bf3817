"""``tfhalf compare``."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from tfhalf.cli.options import JSON, PATH, QUIET, pipeline_options, progress_for
from tfhalf.errors import ConfigError
from tfhalf.progress import Progress

MODEL_FILES = (".keras", ".h5", ".hdf5")


@click.command(short_help="Train a pipeline under several dtype policies, and say what each costs and buys.")
@click.argument("target", type=PATH)
@pipeline_options
@click.option(
    "--policies", metavar="NAMES", help="Dtype policies to compare, with commas. [default: all, float32 first]"
)
@click.option(
    "--seeds", type=int, default=3, show_default=True, help="Number of trainings of each, with seeds of their own."
)
@click.option(
    "--vary",
    multiple=True,
    metavar="KEY=A,B",
    help="Compare values of a key of the pipeline too, such as train.optimizer.learning_rate=0.1,0.01.",
)
@click.option("--formats", metavar="NAMES", help="Artifacts to export, with commas. [default: the pipeline's]")
@click.option(
    "--margin",
    type=click.FloatRange(0, 100),
    metavar="M",
    help="Loss that does not count: points of a share, percent of other metrics. [default: verify.max_accuracy_drop, "
    "verify.max_error_growth]",
)
@click.option(
    "--target",
    "aim",
    type=float,
    metavar="VALUE",
    help="First metric's value on the validation part whose time is taken. [default: the reference's, less the margin]",
)
@click.option("--bench/--no-bench", default=True, help="Measure how fast the artifacts answer, or leave that out.")
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Run the trainings on the machines of a Ray cluster, which share --out: auto, HOST:PORT or ray://HOST:PORT.",
)
@click.option("--retry", is_flag=True, help="Try again what failed; its folder is kept under another name.")
@click.option(
    *("-o", "--out"),
    type=PATH,
    metavar="DIR",
    help="Folder to keep every training and the report in. [default: comparisons/NAME]",
)
@QUIET
@JSON
def compare(
    target: Path,
    margin: float | None,
    aim: float | None,
    bench: bool,
    retry: bool,
    ray: str | None,
    out: Path | None,
    quiet: bool,
    as_json: bool,
    overrides: tuple[str, ...],
    **options: Any,
) -> None:
    """Train the pipeline TARGET under each dtype policy, with several seeds, export and verify each, and compare them.

    Every training is an ordinary run below --out. What has ended is not run again: the same command goes on where it
    was stopped, and a larger --seeds or another --vary adds to what is there. One training runs on each GPU.

    TARGET may also be exports/NAME[/VERSION]: then its formats are compared, by size, answers and speed here.

    A pipeline runs the Python that it names: read one before you run it.
    """
    from tfhalf.compare.plan import make_plan
    from tfhalf.data import check_at_hand

    progress = progress_for(quiet, as_json)
    if target.is_dir():
        own = {"--set": overrides, "--vary": options["vary"], "--policies": options["policies"], "--out": out}
        _formats(target, progress, bench=bench, as_json=as_json, refused={**own, "--ray": ray})
        return
    if target.suffix in MODEL_FILES:
        raise ConfigError(
            f"{target}: is a model; export it first, tfhalf export {target} --format all, then "
            f"tfhalf compare exports/{target.stem}"
        )
    plan = make_plan(target, overrides, **options)
    check_at_hand(plan.pipeline.data, plan.data_dir)
    from tfhalf.compare.matrix import Bench, Matrix
    from tfhalf.compare.report.terminal import show
    from tfhalf.compare.report.write import TABLE, write_reports
    from tfhalf.compare.table import make_table

    folder = out or Path("comparisons") / plan.pipeline.name
    results = Matrix(plan, folder, progress, Bench() if bench else None, retry, ray=ray).run()
    command = shlex.join(["tfhalf", *sys.argv[1:]])
    table = make_table(plan, results, margin=margin, target=aim, command=command)
    paths = write_reports(table, folder)
    if as_json:
        click.echo((folder / TABLE).read_text(encoding="utf-8"), nl=False)
        return
    show(table, progress)
    progress.line(f"report     {', '.join(str(path) for path in paths)}", always=True)


def _formats(target: Path, progress: Progress, *, bench: bool, as_json: bool, refused: dict[str, Any]) -> None:
    """The formats of a version.

    Raises:
        ConfigError: an option belongs to pipelines.
    """
    from tfhalf.bench.run import refuse

    refuse(f"{target} is an export", refused)
    from tfhalf.compare import formats
    from tfhalf.compare.matrix import Bench

    table = formats.compare_formats(target, progress, Bench() if bench else None)
    if as_json:
        click.echo(json.dumps(table.to_dict(), indent=2))
        return
    for line in formats.lines(table):
        progress.line(line, always=True)
