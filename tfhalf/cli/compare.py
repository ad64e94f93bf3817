"""``tfhalf compare``."""

from __future__ import annotations

import json
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfhalf.cli.options import JSON, PATH, QUIET, load_tensorflow, pipeline_options, progress_for
from tfhalf.errors import ArtifactError, ConfigError
from tfhalf.progress import Progress

if TYPE_CHECKING:
    from tfhalf.compare.offers import Offers
    from tfhalf.export.request import Request

MODEL_FILES = (".keras", ".h5", ".hdf5")
_OF_MODELS = {"verify_with": "--verify-with", "sizes": "--size", "labels": "--labels"}
_OF_SOURCES = {"custom": "--custom", "weights": "--weights", "arguments": "--arg"}
_OF_EXPORTS = {"model": "--model", "test_set": "--pipeline"}
_OF_PIPELINES = {"policies": "--policies", "vary": "--vary", "overrides": "--set", "margin": "--margin"}
_OF_PIPELINES |= {"aim": "--target", "retry": "--retry", "ray": "--ray", "at_once": "--at-once"}


@click.command(short_help="Compare dtype policies of a pipeline, or the formats of an export or a model.")
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
@click.option(
    "--formats", metavar="NAMES", help="Artifacts to export, with commas. [default: the pipeline's; of a model all]"
)
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
@click.option(
    "--at-once",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Run N trainings on each GPU, or on a machine without one: sooner, and none as fast as alone. [default: 1]",
)
@click.option("--retry", is_flag=True, help="Try again what failed; its folder is kept under another name.")
@click.option(
    "--model", metavar="MODEL", help="Float32 model of an export, where it is not beside it: what export takes."
)
@click.option(
    "--pipeline",
    "test_set",
    type=PATH,
    metavar="FILE",
    help="Pipeline to take an export's test set from, if it is code.",
)
@click.option("--verify-with", type=PATH, metavar="DATA.npz", help="Inputs to compare a model on. [default: drawn]")
@click.option("--size", "sizes", multiple=True, metavar="NAME=SIZE", help="Size to draw where a model's input is open.")
@click.option("--labels", type=PATH, metavar="FILE", help="File that names a model's classes, one on each line.")
@click.option(
    "--custom", type=PATH, metavar="FILE.py", help="Python file that defines a model's own layers. It is run."
)
@click.option("--weights", type=PATH, metavar="FILE", help="Weights for file.py:build.")
@click.option("--arg", "arguments", multiple=True, metavar="NAME=VALUE", help="Argument to call file.py:build with.")
@click.option(
    *("-o", "--out"),
    type=PATH,
    metavar="DIR",
    help="Folder to keep all of it and the report in. [default: comparisons/NAME]",
)
@QUIET
@JSON
def compare(target: Path, bench: bool, out: Path | None, quiet: bool, as_json: bool, **options: Any) -> None:
    """Train the pipeline TARGET under each dtype policy, with several seeds, export and verify each, and compare them.

    Every training is an ordinary run below --out. What has ended is not run again: the same command goes on where it
    was stopped, and a larger --seeds or another --vary adds to what is there. One training runs on each GPU.

    TARGET may also be exports/NAME[/VERSION], or a model as tfhalf export takes it: then formats are compared, by size,
    answers and speed here, beside the same model in float32 and bfloat16, and it is said which to deploy. Of a model
    every format is made that this machine can run.

    A pipeline runs the Python that it names, and so do file.py:build and --custom: read one before you run it.
    """
    progress = progress_for(quiet, as_json)
    if (target / "run.json").is_file():
        raise ConfigError(f"{target}: is a run folder; compare what it exported: tfhalf compare exports/NAME")
    if _is_model(target):
        _refuse(f"{target} is a model", options, {**_OF_PIPELINES, **_OF_EXPORTS})
        _of_model(target, options, out, progress, bench=bench, as_json=as_json)
    elif target.is_dir():
        _refuse(f"{target} is an export", options, {**_OF_PIPELINES, **_OF_MODELS, "formats": "--formats"})
        _of_export(target, options, out, progress, bench=bench, as_json=as_json)
    else:
        _refuse(f"{target} is a pipeline", options, {**_OF_EXPORTS, **_OF_MODELS, **_OF_SOURCES})
        _of_pipeline(target, options, out, progress, bench=bench, as_json=as_json)


def _refuse(what: str, options: dict[str, Any], words: dict[str, str]) -> None:
    """Raise ConfigError where ``options`` have values that do not go with ``what``."""
    from tfhalf.bench.run import refuse

    refuse(what, {word: options[name] for name, word in words.items()})


def _is_model(target: Path) -> bool:
    """Whether `tfhalf export` takes it as a model: a file, ``file.py:build``, or a SavedModel of Keras 2."""
    if target.is_dir():
        return (target / "keras_metadata.pb").is_file() and not (target / "manifest.json").is_file()
    code = re.search(r"(\.py|^[\w.]+):\w+$", str(target)) is not None
    return target.suffix in MODEL_FILES or (code and not target.exists())


def _of_pipeline(
    target: Path, options: dict[str, Any], out: Path | None, progress: Progress, *, bench: bool, as_json: bool
) -> None:
    from tfhalf.compare.plan import make_plan
    from tfhalf.data import check_at_hand

    of_plan = {name: options[name] for name in ("policies", "seeds", "vary", "formats", "data_dir")}
    plan = make_plan(target, options["overrides"], **of_plan)
    check_at_hand(plan.pipeline.data, plan.data_dir)
    from tfhalf.compare.matrix import Bench, Matrix
    from tfhalf.compare.report.terminal import show
    from tfhalf.compare.report.write import TABLE, write_reports
    from tfhalf.compare.table import make_table

    folder = out or Path("comparisons") / plan.pipeline.name
    ray, at_once = options["ray"], options["at_once"]
    if ray and at_once:
        raise ConfigError(
            "--at-once: shares the GPUs of this machine, and --ray places trainings; leave one of them out"
        )
    settings = Bench() if bench else None
    results = Matrix(plan, folder, progress, settings, options["retry"], ray=ray, at_once=at_once or 1).run()
    table = make_table(plan, results, margin=options["margin"], target=options["aim"], command=_command())
    paths = write_reports(table, folder)
    if as_json:
        click.echo((folder / TABLE).read_text(encoding="utf-8"), nl=False)
        return
    show(table, progress)
    progress.line(f"report     {', '.join(str(path) for path in paths)}", always=True)


def _of_export(
    target: Path, options: dict[str, Any], out: Path | None, progress: Progress, *, bench: bool, as_json: bool
) -> None:
    """The formats of a version, beside the model that it was made from."""
    from tfhalf.artifacts.manifest import open_version
    from tfhalf.artifacts.version import find_version

    named = _request(options["model"], options) if options["model"] else None
    if named is None and (options["weights"] or options["arguments"]):
        raise ConfigError("--weights, --arg: go with --model file.py:build; give that too, or leave them out")
    version = open_version(find_version(target))
    load_tensorflow(progress)
    from tfhalf.compare.float32_model import Sources
    from tfhalf.compare.formats import FORMATS_FOLDER, alone_in, compare_formats
    from tfhalf.compare.matrix import Bench

    sources = Sources(named, options["custom"], options["test_set"], options["data_dir"])
    with alone_in((out or Path("comparisons") / version.manifest.name) / FORMATS_FOLDER) as folder:
        settings = Bench() if bench else None
        table = compare_formats(version, folder, sources, progress, settings, command=_command())
        _show(table, folder, progress, as_json)


def _of_model(
    target: Path, options: dict[str, Any], out: Path | None, progress: Progress, *, bench: bool, as_json: bool
) -> None:
    """A model exported in every format of this machine, and these formats."""
    from tfhalf.export.request import read_options

    request = _request(str(target), options)
    if ":" not in request.model and not target.exists():
        raise ArtifactError(f"{target}: does not exist; give a model file, exports/NAME or a pipeline")
    folder = out or Path("comparisons") / re.sub(r"[^A-Za-z0-9_.-]", "_", Path(str(target).partition(":")[0]).stem)
    chosen = read_options(
        folder / "exports",
        name=None,
        formats=options["formats"] or "savedmodel",
        keep_float32=(),
        opset=18,
        bisect_seconds=120.0,
        max_difference=None,
        mean_difference=None,
        **{name: options[name] for name in _OF_MODELS},
    )
    chosen = chosen if options["formats"] else replace(chosen, formats=None)  # all that can be made here
    load_tensorflow(progress)
    from tfhalf.compare.float32_model import Sources
    from tfhalf.compare.formats import FORMATS_FOLDER, alone_in, compare_formats
    from tfhalf.compare.matrix import Bench
    from tfhalf.compare.model import exported

    with alone_in(folder / FORMATS_FOLDER) as inner:
        version, absent = exported(request, chosen, inner, progress)
        settings, sources = Bench() if bench else None, Sources(request, options["custom"])
        table = compare_formats(version, inner, sources, progress, settings, absent=absent, command=_command())
        _show(table, inner, progress, as_json)


def _request(model: str, options: dict[str, Any]) -> Request:
    from tfhalf.export.request import read_request

    return read_request(model, **{name: options[name] for name in _OF_SOURCES})


def _command() -> str:
    return shlex.join(["tfhalf", *sys.argv[1:]])


def _show(table: Offers, folder: Path, progress: Progress, as_json: bool) -> None:
    from tfhalf.compare.report.offers import lines
    from tfhalf.compare.report.write import write_offers

    paths = write_offers(table, folder)
    if as_json:
        click.echo(json.dumps(table.to_dict(), indent=2))
        return
    progress.line()
    for line in lines(table):
        progress.line(line, always=True)
    progress.line(f"report     {', '.join(str(path) for path in paths)}", always=True)
