"""``tfhalf export``: a finished run again, or any Keras model, as float16 artifacts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import click

from tfhalf.artifacts.formats import BY_DEFAULT, FORMATS
from tfhalf.cli.options import DATA_DIR, EXPORTS, JSON, PATH, QUIET, epoch_value, load_tensorflow, progress_for
from tfhalf.cli.output import say_outcome
from tfhalf.errors import ConfigError


@click.command("export", short_help="Export a finished run again, or any Keras model.")
@click.argument("model", metavar="MODEL")
@EXPORTS
@click.option(
    "--epoch",
    callback=epoch_value,
    metavar="best|last|N",
    help="Export a run's weights after epoch N, the best or the last that it keeps, even if it was stopped or goes on. "
    "[default: those that training ended with]",
)
@click.option("--name", metavar="NAME", help="Name of the export. [default: the name of the file]")
@click.option(
    "--format",
    "formats",
    metavar="A,B",
    help=f"Formats to write: {', '.join(FORMATS)}, or all. [default: {','.join(BY_DEFAULT)}]",
)
@click.option("--verify-with", type=PATH, metavar="DATA.npz", help="Inputs to compare on. [default: drawn at random]")
@click.option(
    "--size",
    "sizes",
    multiple=True,
    metavar="NAME=SIZE",
    help="Size to draw where an input is open: audio=16000, image=300x200.",
)
@click.option(
    "--keep-float32",
    multiple=True,
    metavar="PATTERN|auto|list",
    help="Keep matching layers in float32; auto measures which, list prints their names.",
)
@click.option(
    "--labels", type=PATH, metavar="FILE", help="File that names the classes: a name on each line, in their order."
)
@click.option(
    "--custom", type=PATH, metavar="FILE.py", help="Python file that defines the model's own layers. It is run."
)
@click.option(
    "--weights", type=PATH, metavar="FILE", help="Weights for file.py:build: .weights.h5, .keras or a SavedModel."
)
@click.option("--arg", "arguments", multiple=True, metavar="NAME=VALUE", help="Argument to call file.py:build with.")
@click.option("--opset", type=click.IntRange(13, 25), default=18, show_default=True, help="ONNX operator set to write.")
@click.option(
    "--bisect-seconds",
    type=click.FloatRange(0),
    default=120.0,
    show_default=True,
    help="Time to search for the smallest set of layers to keep in float32.",
)
@click.option(
    "--max-difference",
    type=float,
    help="Largest difference to allow, relative to an output's largest magnitude. [default: 0.05]",
)
@click.option(
    "--mean-difference",
    type=float,
    help="Mean difference to allow, relative to an output's root mean square. [default: 0.01]",
)
@click.option("--allow-float32", is_flag=True, help="Publish even where no parameter is float16.")
@DATA_DIR
@QUIET
@JSON
def export(
    model: str,
    data_dir: str | None,
    exports: Path,
    epoch: Literal["best", "last"] | int | None,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Export MODEL in float16, compare each artifact with the float32 model in a fresh process, and publish it.

    MODEL: a folder of runs/NAME, a .keras file, or file.py:build (with --weights).

    A .keras file is read in safe mode and cannot run code; --custom, file.py:build and a run's pipeline do.
    """
    if (Path(model) / "run.json").is_file():
        _export_run(Path(model), data_dir, exports, epoch, quiet, as_json, options)
        return
    if epoch is not None:
        raise ConfigError(
            f"--epoch {epoch}: {model} is not a run folder; leave --epoch out, or give a folder of runs/NAME"
        )
    from tfhalf.export.request import LIST, read_options, read_request

    request, chosen = read_request(model, **options), read_options(exports, **options)
    progress = progress_for(quiet, as_json)
    load_tensorflow(progress)
    from tfhalf.export.model import export_model, layer_names

    if LIST in chosen.keep_float32:
        names = layer_names(request, chosen)
        click.echo(json.dumps(names) if as_json else "\n".join(names))
        return
    exported = export_model(request, chosen, progress)
    if as_json:
        click.echo(json.dumps({**exported.manifest.to_dict(), "version": str(exported.version)}, indent=2))
        return
    progress.line()
    progress.line(f"published  {exported.version}", always=True)


def _export_run(
    run: Path,
    data_dir: str | None,
    exports: Path,
    epoch: Literal["best", "last"] | int | None,
    quiet: bool,
    as_json: bool,
    options: dict[str, Any],
) -> None:
    own = (
        "name",
        "formats",
        "verify_with",
        "sizes",
        "keep_float32",
        "custom",
        "weights",
        "arguments",
        "allow_float32",
        "labels",
    )
    ignored = [name for name in own if options[name]]
    if ignored:
        words = {"formats": "format", "sizes": "size", "arguments": "arg"}
        names = ", ".join(f"--{words.get(name, name.replace('_', '-'))}" for name in ignored)
        raise ConfigError(f"{names}: a run is exported as its pipeline says; change runs/.../pipeline.yaml's export")
    progress = progress_for(quiet, as_json)
    load_tensorflow(progress)
    from tfhalf.train.job import Places
    from tfhalf.workflows.export_run import export_run

    outcome = export_run(run, Places(Path(), run.parent.parent, exports, data_dir), progress, epoch)
    say_outcome(outcome, progress, as_json)
