"""What `tfhalf predict` does: images, texts, rows of a table or arrays, through an artifact; of each what its outputs
say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf.artifacts import fields
from tfhalf.artifacts.lookups import Lookups
from tfhalf.artifacts.manifest import open_version
from tfhalf.errors import InputError
from tfhalf.tasks import answers
from tfhalf.workflows import predict_arrays, predict_text
from tfhalf.workflows.image_files import MAX_CLASSES, RAW, ImageFile, ImageInput, MaskFolder, image_files
from tfhalf.workflows.predict_model import BATCH, Model
from tfhalf.workflows.table_rows import Columns, Table, read_files, read_row

MAX_IMAGES = 100_000
_ROWS = 1024

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What `tfhalf predict` was called with: ``files`` of images, texts, tables or arrays, ``rows`` as JSON, ``texts``.

    ``runtime`` names the artifact that answers, None the first; ``top`` says how many classes of an item are listed;
    ``value_range`` what black and white become (0 and 255 are what a file holds); ``masks`` is a folder for the masks
    of images.
    """

    files: Sequence[Path] = ()
    rows: Sequence[str] = ()
    runtime: str | None = None
    top: int = 3
    value_range: tuple[float, float] = RAW
    masks: Path | None = None
    texts: Sequence[str] = ()


def predict(path: Path, request: Request, say: Say) -> Iterator[dict[str, Any]]:
    """Give the answer for each item, by an artifact of ``exports/NAME[/VERSION]``.

    ``say`` hears what of a table is not read.

    Yields:
        ``image``, or ``file`` and ``line``, or ``row``, or ``text``, or ``file`` and ``index``; and what
        `Meaning.answer` gives, of several outputs each below ``outputs``. ``mask`` is the file of an image's mask,
        ``masks`` those of several outputs. An image of a folder that cannot be read has ``error`` instead.

    Raises:
        ArtifactError: there is no such version, or it lacks that format.
        InputError: a file or a row does not fit, is not what the version takes, or there are none or too many.
    """
    version = open_version(path)
    manifest, lookups = version.manifest, Lookups.read(version.directory)
    lookups.check(manifest.inputs, version.directory)
    model = Model.of(version, request.runtime)
    if predict_arrays.takes_arrays(request.files):
        yield from _of_arrays(model, lookups, request, say)
        return
    texts = predict_text.takes_texts(manifest, lookups, request.files) and not request.rows
    if request.texts and predict_text.takes_texts(manifest, lookups) and not texts:
        raise InputError(f"{version.directory}: received --text beside a table; give one of them at a time")
    if request.texts and not texts:
        raise InputError(f"{version.directory}: does not take a text alone; leave --text out")
    if texts:
        yield from _of_texts(model, lookups, request)
    elif fields.takes_table(manifest, lookups):
        yield from _of_tables(model, lookups, request, say)
    elif len(manifest.inputs) == 1 and fields.is_image(manifest.inputs[0]):
        yield from _of_images(model, request)
    else:
        raise InputError(
            f"{version.directory}: takes {predict_arrays.examples(manifest.inputs)}: not images, texts or rows of a "
            "table; give a file DATA.npz with an array for each input, by its name"
        )


def in_words(answer: Mapping[str, Any]) -> str:
    """An answer of `predict` as a line."""
    if "error" in answer:
        return str(answer["error"])
    if "text" in answer:
        where = predict_text.in_words(answer)
    elif "index" in answer:
        where = f"{answer['file']}[{answer['index']}]"
    elif "file" in answer:
        where = f"{answer['file']}:{answer['line']}"
    else:
        where = answer.get("image") or f"row {answer['row']}"
    several = answer.get("outputs")
    said = "; ".join(f"{name}: {answers.in_words(one)}" for name, one in several.items()) if several else None
    masks = [answer["mask"]] if "mask" in answer else answer.get("masks", {}).values()
    wrote = f"  -> {', '.join(masks)}" if masks else ""
    return f"{where}: {said if said is not None else answers.in_words(answer)}{wrote}"


# --- arrays and texts -------------------------------------------------------------------------------------------------


def _of_arrays(model: Model, lookups: Lookups, request: Request, say: Say) -> Iterator[dict[str, Any]]:
    others = {
        "--row": bool(request.rows),
        "--text": bool(request.texts),
        "--masks": request.masks is not None,
        "--range": request.value_range != RAW,
    }
    if other := next((option for option, received in others.items() if received), None):
        raise InputError(
            f"{model.directory}: received {other} beside arrays, which are taken as they are; leave it out"
        )
    yield from predict_arrays.predict_arrays(model, lookups, request.files, request.top, say)


def _of_texts(model: Model, lookups: Lookups, request: Request) -> Iterator[dict[str, Any]]:
    if not request.texts and not request.files:
        raise InputError(f"{model.directory}: takes texts; give --text TEXT, or a file of texts, one a line")
    yield from predict_text.predict_texts(
        model.manifest, lookups, request.texts, request.files, partial(model.answers, top=request.top)
    )


# --- tables -----------------------------------------------------------------------------------------------------------


def _of_tables(model: Model, lookups: Lookups, request: Request, say: Say) -> Iterator[dict[str, Any]]:
    manifest, directory = model.manifest, model.directory
    own = fields.fields_of(manifest, lookups)
    if request.masks:
        raise InputError(f"{directory}: takes tables, of which there are no masks; leave --masks out")
    if not request.files and not request.rows:
        raise InputError(f"{directory}: takes tables; give a .csv or .tsv file, or --row with a JSON object")
    ports = {port.name: port for port in manifest.inputs}
    images = {
        field.name: ImageInput.of(ports[field.input], manifest, directory) for field in own if field.kind == "image"
    }
    taken = Columns(own, manifest, lookups, images, request.value_range)
    sizes = [image.values for image in images.values()]
    each = None if None in sizes else len(own) + sum(size or 0 for size in sizes)
    size = model.size(each, BATCH if images else _ROWS)
    for table in _tables(request, own, say):
        for start in range(0, len(table), size):
            facts = table.facts[start : start + size]
            inputs = table.inputs(slice(start, start + size), taken)
            for fact, answer in zip(facts, model.answers(inputs, len(facts), request.top), strict=True):
                yield {**fact, **answer}


def _tables(request: Request, own: Sequence[fields.Field], say: Say) -> Iterator[Table]:
    yield from read_files(request.files, own, say)
    for number, text in enumerate(request.rows, 1):
        yield read_row(text, number, own, say)


# --- images -----------------------------------------------------------------------------------------------------------


def _of_images(model: Model, request: Request) -> Iterator[dict[str, Any]]:
    image = ImageInput.of(model.manifest.inputs[0], model.manifest, model.directory)
    if request.rows or not request.files:
        raise InputError(
            f"{model.directory}: takes images; give image files or folders" + ", not --row" * bool(request.rows)
        )
    files = list(image_files(request.files, MAX_IMAGES))
    masks = _masks(model, request, files)
    size = model.size(image.values)
    for start in range(0, len(files), size):
        rows: list[np.ndarray] = []
        read: list[tuple[ImageFile, str | None]] = []
        for file in files[start : start + size]:
            try:
                rows.append(image.read(file.path, request.value_range))
                read.append((file, None))
            except InputError as error:
                if file.listed:
                    raise
                read.append((file, str(error)))
        outputs = model.run({image.name: np.stack(rows)}, len(rows)) if rows else {}
        number = iter(range(len(rows)))
        for file, error_text in read:
            if error_text is not None:
                yield {"image": str(file.path), "error": error_text}
                continue
            k = next(number)
            item = {name: array[k] for name, array in outputs.items()}
            written = _written(model, item, file, masks) if masks else {}
            yield {"image": str(file.path), **model.answer(item, request.top), **written}


def _masks(model: Model, request: Request, files: Sequence[ImageFile]) -> MaskFolder | None:
    if request.masks is None:
        return None
    of_masks = [meaning for meaning in model.outputs.values() if meaning.is_mask]
    if not of_masks:
        raise InputError(f"{model.directory}: gives no mask; leave --masks out")
    if any(len(meaning.labels) > MAX_CLASSES for meaning in of_masks):
        raise InputError(f"{model.directory}: has more than the {MAX_CLASSES} classes of a PNG file's palette; leave "
                         "--masks out")  # fmt: skip
    return MaskFolder(request.masks, [file.path for file in files])


def _written(model: Model, item: Mapping[str, np.ndarray], file: ImageFile, masks: MaskFolder) -> dict[str, Any]:
    """The files of an image's masks."""
    several = len(model.outputs) > 1
    paths = {
        name: str(masks.write(file, model.outputs[name].mask(row), row.shape[-1], name if several else ""))
        for name, row in item.items()
        if model.outputs[name].is_mask
    }
    return {"masks": paths} if several else {"mask": next(iter(paths.values()))}
