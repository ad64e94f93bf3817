"""``tfhalf inspect``: what an artifact holds, and whether it is really float16."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tfhalf.cli.options import JSON, PATH


@click.command("inspect", short_help="Show what an artifact holds, and whether it is really float16.")
@click.argument("artifact", type=PATH)
@JSON
def inspect(artifact: Path, as_json: bool) -> None:
    """Tell what ARTIFACT holds: its signature, parameters and operations by dtype, what is not float16, and why.

    ARTIFACT: a SavedModel folder, an ONNX, .keras, .h5 or .tflite file, of whatever origin, or exports/NAME[/VERSION].
    Nothing of it is run.
    """
    from tfhalf.inspect import look, show

    artifacts = look.inspect(artifact)
    click.echo(json.dumps(show.facts(artifacts), indent=2) if as_json else show.text(artifacts))
