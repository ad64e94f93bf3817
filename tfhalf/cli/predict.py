"""The command `tfhalf predict`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from tfhalf.artifacts.formats import FORMATS
from tfhalf.cli.options import JSON, PATH
from tfhalf.errors import InputError
from tfhalf.progress import Progress
from tfhalf.system.tensorflow import import_tensorflow
from tfhalf.text import clean


@click.command(short_help="Print what an export answers to images, texts, rows of a table or arrays.")
@click.argument("path", type=PATH)
@click.argument("files", type=PATH, nargs=-1)
@click.option("--text", "texts", multiple=True, metavar="TEXT", help="Text to answer; can be repeated.")
@click.option(
    "--row",
    "rows",
    multiple=True,
    metavar="JSON",
    help="Row of a table, as an object with a value for each column (of an image: its path); can be repeated.",
)
@click.option(
    "--runtime",
    type=click.Choice(list(FORMATS)),
    help="Artifact to answer with. [default: the first]",
)
@click.option(
    "--top", type=click.IntRange(1), default=3, show_default=True, help="Number of classes to print for each item."
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
@click.option("--masks", type=PATH, metavar="FOLDER", help="Folder to write a mask of each image in, as PNG files.")
@JSON
def predict(
    path: Path,
    files: tuple[Path, ...],
    texts: tuple[str, ...],
    rows: tuple[str, ...],
    runtime: str | None,
    top: int,
    value_range: tuple[float, float],
    masks: Path | None,
    as_json: bool,
) -> None:
    """Print what exports/NAME[/VERSION] answers to each image, text, row of a table, or row of arrays.

    FILES are images, and folders, of which every image below is taken in the order of their names; or files of texts,
    one a line; or .csv and .tsv files with a header, whose columns are taken by their names. An empty cell is the mean
    of the training data, where that had empty cells. Where a model takes images beside other inputs, their columns hold
    paths of image files, relative to the table's folder.

    An .npz file does for every model: an array for each input by its name, [N, ...] (.npy: for the only one). Arrays
    of str are texts or categories, which are looked up.
    """
    import_tensorflow(Progress(sys.stderr).line)
    from tfhalf.workflows.predict import Request, in_words
    from tfhalf.workflows.predict import predict as predicted

    answers, failed = [], 0
    request = Request(files, rows, runtime, top, value_range, masks, texts)
    for answer in predicted(path, request, lambda line: click.echo(clean(line), err=True)):
        failed += "error" in answer
        if as_json:
            answers.append(answer)
        else:
            click.echo(clean(in_words(answer)))
    if as_json:
        click.echo(json.dumps(answers, indent=2))
    if failed:
        raise InputError(f"{failed} of the images cannot be read; remove them or make them whole")
