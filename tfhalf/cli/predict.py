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


@click.command(short_help="Print the most probable labels of images.")
@click.argument("path", type=PATH)
@click.argument("images", type=PATH, nargs=-1, required=True)
@click.option(
    "--runtime",
    type=click.Choice(list(FORMATS)),
    help="Artifact to answer with. [default: the first]",
)
@click.option(
    "--top", type=click.IntRange(1), default=3, show_default=True, help="Number of labels to print for each image."
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
    path: Path, images: tuple[Path, ...], runtime: str | None, top: int, value_range: tuple[float, float], as_json: bool
) -> None:
    """Print the most probable labels of each of IMAGES, as exports/NAME[/VERSION] answers.

    Of a folder every image below it is taken, in the order of their names.
    """
    import_tensorflow()
    from tfhalf.workflows.predict import in_words, predict_images

    answers = []
    for answer in predict_images(path, images, runtime, top, value_range):
        answers.append(answer)
        if not as_json:
            click.echo(clean(in_words(answer)))
    if as_json:
        click.echo(json.dumps(answers, indent=2))
    if failed := sum("error" in answer for answer in answers):
        raise InputError(f"{failed} of the images cannot be read; remove them or make them whole")
