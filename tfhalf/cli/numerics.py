"""The commands that look at numbers: ``tfhalf float16`` and ``tfhalf numerics``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tfhalf.cli.options import JSON, PATH, QUIET, pipeline_options, progress_for
from tfhalf.system.tensorflow import import_tensorflow


@click.command(short_help="Show what float16 makes of a number.", context_settings={"ignore_unknown_options": True})
@click.argument("values", metavar="[VALUE]...", nargs=-1)  # -0.5 is a value and no option
@click.option(
    "--op", type=click.Choice(["add", "sub", "mul", "div", "fma", "sum"]), help="Operation to compute with the values."
)
@JSON
def float16(values: tuple[str, ...], op: str | None, as_json: bool) -> None:
    """Print the bits, the neighbours and the error of each VALUE in float16, bfloat16 and float32.

    VALUE: 0.1, -1e-8, 1/3, 2^-24, inf, nan, 0x1.8p3, or a float16 pattern, 0x3c00 or 0b0011110000000000.
    Without one, what the formats can hold.
    """
    from tfhalf.float16 import show

    report = show.look(values, op, as_json)
    click.echo(json.dumps(report, indent=2) if as_json else report)


@click.command(short_help="Measure what float16 makes of a net's numbers.")
@click.argument("pipeline", type=PATH, required=False)
@pipeline_options
@click.option(
    "--run", type=PATH, metavar="RUN", help="Measure with the weights of the run folder RUN, by its own pipeline."
)
@click.option(
    "--steps", type=click.IntRange(1, 1_000_000), default=200, show_default=True, help="Number of steps to train."
)
@click.option(
    "--every", type=click.IntRange(1, 100_000), default=10, show_default=True, help="Measure one step of this many."
)
@click.option(
    "--batch-size", type=click.IntRange(1, 65536), help="Number of images in a step. [default: the pipeline's]"
)
@click.option("--plot", type=PATH, metavar="FILE", help="Draw the histograms into FILE: PNG or SVG by its suffix.")
@click.option("--all", "whole", is_flag=True, help="List every layer, not only those that lose most.")
@QUIET
@JSON
def numerics(pipeline: Path | None, plot: Path | None, whole: bool, quiet: bool, as_json: bool, **options: Any) -> None:
    """Train PIPELINE for some steps in float32, and report what float16 would make of its numbers.

    Weights, activations, their gradients and updates by exponent: what is zero, flushed, subnormal or overflows, at
    scale 1, at the loss scale in force, and at the one that this proposes with the layers to keep in float32. Nothing
    is written. A pipeline runs the Python that it names: read one before you run it.
    """
    from tfhalf.numerics import request
    from tfhalf.system import plotting

    plotting.check(plot)
    asked = request.check(pipeline, **options)
    progress = progress_for(quiet, as_json)
    import_tensorflow(progress.line)
    from tfhalf.numerics import plots, run, tables

    report = run.measure(asked, progress)
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
    else:
        tables.show(report, progress, whole)
    plots.draw(report, plot)  # last: what was measured is there even if the disk is full
