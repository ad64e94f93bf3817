"""The command `tfhalf predict`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tfhalf.artifacts.formats import FORMATS
from tfhalf.cli.options import JSON, PATH
from tfhalf.errors import InputError
from tfhalf.system.tensorflow import import_tensorflow
from tfhalf.text import clean


@click.command(short_help="Print the most probable labels of images or texts.")
@click.argument("path", type=PATH)
@click.argument("files", type=PATH, nargs=-1)
@click.option("--text", "texts", multiple=True, metavar="TEXT", help="Text to answer; can be repeated.")
@click.option(
    "--runtime",
    type=click.Choice(list(FORMATS)),
    help="Artifact to answer with. [default: the first]",
)
@click.option(
    "--top", type=click.IntRange(1), default=3, show_default=True, help="Number of labels to print for each item."
)
@click.option(
    "--range",
    "value_range",
    nargs=2,
    type=float,
    metavar="BLACK WHITE",
    default=(0.0, 255.0),
    show_default=True,
    help="Values that the model takes for black and white.",
)
@JSON
def predict(
    path: Path,
    files: tuple[Path, ...],
    texts: tuple[str, ...],
    runtime: str | None,
    top: int,
    value_range: tuple[float, float],
    as_json: bool,
) -> None:
    """Print the most probable labels of each image or text, as exports/NAME[/VERSION] answers.

    FILES are images, and folders, of which every image below is taken in the order of their names; or files of texts,
    one a line.
    """
    import_tensorflow()
    from tfhalf.workflows.predict import in_words
    from tfhalf.workflows.predict import predict as predicted

    answers = []
    for answer in predicted(path, files, texts, runtime, top, value_range):
        answers.append(answer)
        if not as_json:
            click.echo(clean(in_words(answer)))
    if as_json:
        click.echo(json.dumps(answers, indent=2))
    if failed := sum("error" in answer for answer in answers):
        raise InputError(f"{failed} of the images cannot be read; remove them or make them whole")
