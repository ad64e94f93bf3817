"""What `tfhalf predict` does: images, texts or rows of a table, through an artifact; of each what its outputs say."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf.artifacts import fields as columns
from tfhalf.artifacts.lookups import Lookups
from tfhalf.artifacts.manifest import Version, open_version
from tfhalf.artifacts.record import Manifest
from tfhalf.errors import ArtifactError, InputError
from tfhalf.tasks import answers
from tfhalf.tasks.answers import Meaning
from tfhalf.text import printable
from tfhalf.workflows import predict_text
from tfhalf.workflows.image_files import MAX_CLASSES, MAX_VALUES, RAW, ImageFile, MaskFolder, image_files, read_image
from tfhalf.workflows.table_rows import Table, read_files, read_row

MAX_IMAGES = 100_000
_BATCH = 64
_BATCH_VALUES = 1 << 24
_ROWS = 1024

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What `tfhalf predict` was called with: ``files`` of images, texts or tables, ``rows`` as JSON, and ``texts``.

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


@dataclass(frozen=True)
class Model:
    """An artifact that answers people. ``outputs`` are those that are shown, by name; ``batch`` is how many items it
    takes at a time, where that number is fixed."""

    directory: Path
    manifest: Manifest
    outputs: dict[str, Meaning]
    batch: int | None

    def answers(self, predictor: Any, inputs: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
        """The outputs for ``count`` items, float64 [N, ...]; a fixed batch is filled up.

        Raises:
            ArtifactError: an output is not of the shape that its task has.
        """
        short = max(0, (self.batch or 0) - count)
        whole = {name: np.concatenate([x, *[x[-1:]] * short]) if short else x for name, x in inputs.items()}
        arrays = predictor(whole)
        shown = {}
        for name, meaning in self.outputs.items():
            array = np.asarray(arrays.get(name, np.empty(0)))[:count]
            if len(array) != count or not meaning.fits(array.shape[1:]):
                raise ArtifactError(
                    f"{self.directory}: gives {printable(name, 40)} of shape {array.shape} to {count} items, not "
                    f"{meaning.task} of each"
                    + (f"; its manifest lists {len(meaning.labels)} labels" if meaning.labels else "")
                )
            shown[name] = array.astype(np.float64)
        return shown

    def answer(self, rows: Mapping[str, np.ndarray], top: int) -> dict[str, Any]:
        """Of one item's ``rows`` what the only output says, or what each of several does, below ``outputs``."""
        each = {name: self.outputs[name].answer(row, top) for name, row in rows.items()}
        return next(iter(each.values())) if len(each) == 1 else {"outputs": each}


@dataclass(frozen=True)
class ImageModel(Model):
    """One that takes images: ``shape`` is (height, width, channels), where None takes any size."""

    input: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, int | None, int]


def predict(path: Path, request: Request, say: Say) -> Iterator[dict[str, Any]]:
    """Give the answer for each item, by an artifact of ``exports/NAME[/VERSION]``.

    ``say`` hears what of a table is not read.

    Yields:
        ``image``, or ``file`` and ``line``, or ``row``, or ``text``; and what `Meaning.answer` gives, of several
        outputs each below ``outputs``. ``mask`` is the file of an image's mask, ``masks`` those of several outputs. An
        image of a folder that cannot be read has ``error`` instead.

    Raises:
        ArtifactError: there is no such version, it lacks that format, or takes neither images nor tables.
        InputError: a file or a row does not fit, or there are none or too many.
    """
    version = open_version(path)
    lookups = Lookups.read(version.directory)
    lookups.check(version.manifest.inputs, version.directory)
    texts = predict_text.takes_texts(version.manifest, lookups, request.files) and not request.rows
    if request.texts and predict_text.takes_texts(version.manifest, lookups) and not texts:
        raise InputError(f"{version.directory}: received --text beside a table; give one of them at a time")
    if request.texts and not texts:
        raise InputError(f"{version.directory}: does not take a text alone; leave --text out")
    if texts:
        yield from _of_texts(version, lookups, request)
    elif columns.takes_table(version.manifest, lookups):
        yield from _of_tables(version, lookups, request, say)
    else:
        yield from _of_images(_image_model(version), request)


def predict_images(
    path: Path, images: Sequence[Path], runtime: str | None, top: int, value_range: tuple[float, float] = RAW
) -> Iterator[dict[str, Any]]:
    """`predict` of a version that takes images."""
    yield from _of_images(_image_model(open_version(path)), Request(images, (), runtime, top, value_range))


def in_words(answer: Mapping[str, Any]) -> str:
    """An answer of `predict` as a line."""
    if "error" in answer:
        return str(answer["error"])
    if "text" in answer:
        where = predict_text.in_words(answer)
    elif "file" in answer:
        where = f"{answer['file']}:{answer['line']}"
    else:
        where = answer.get("image") or f"row {answer['row']}"
    several = answer.get("outputs")
    said = "; ".join(f"{name}: {answers.in_words(one)}" for name, one in several.items()) if several else None
    masks = [answer["mask"]] if "mask" in answer else answer.get("masks", {}).values()
    wrote = f"  -> {', '.join(masks)}" if masks else ""
    return f"{where}: {said if said is not None else answers.in_words(answer)}{wrote}"


def _meanings(version: Version) -> dict[str, Meaning]:
    """What is shown of a version: its tasks' outputs; of one that says nothing of tasks, its classes.

    Raises:
        ArtifactError: there are none.
    """
    manifest = version.manifest
    shown = answers.meanings(manifest.tasks, [port.name for port in manifest.outputs], manifest.classes)
    if not shown:
        raise ArtifactError(
            f"{version.directory}: none of its outputs are classes; serve or the runtimes give its numbers"
        )
    return shown


def _opened(model: Model, runtime: str | None) -> Any:
    from tfhalf.runtimes.open import open_predictor

    return open_predictor(model.directory, runtime or model.manifest.formats[0].name)


# --- texts ------------------------------------------------------------------------------------------------------------


def _of_texts(version: Version, lookups: Lookups, request: Request) -> Iterator[dict[str, Any]]:
    if not request.texts and not request.files:
        raise InputError(f"{version.directory}: takes texts; give --text TEXT, or a file of texts, one a line")
    model = Model(version.directory, version.manifest, _meanings(version), version.manifest.batch)

    @cache  # after the first texts: a wrong path is told sooner than a runtime opens
    def predictor() -> Any:
        return _opened(model, request.runtime)

    def answer(inputs: Mapping[str, np.ndarray], count: int) -> list[dict[str, Any]]:
        outputs = model.answers(predictor(), inputs, count)
        rows = ({name: array[k] for name, array in outputs.items()} for k in range(count))
        return [model.answer(row, request.top) for row in rows]

    yield from predict_text.predict_texts(version.manifest, lookups, request.texts, request.files, answer)


# --- tables -----------------------------------------------------------------------------------------------------------


def _of_tables(version: Version, lookups: Lookups, request: Request, say: Say) -> Iterator[dict[str, Any]]:
    manifest = version.manifest
    own = columns.fields_of(manifest, lookups)
    model = Model(version.directory, manifest, _meanings(version), manifest.batch)
    if request.masks:
        raise InputError(f"{version.directory}: takes tables, of which there are no masks; leave --masks out")
    if not request.files and not request.rows:
        raise InputError(f"{version.directory}: takes tables; give a .csv or .tsv file, or --row with a JSON object")
    predictor = None
    for table in _tables(request, own, say):
        if predictor is None:  # after the first table: a wrong path is told sooner than a runtime opens
            predictor = _opened(model, request.runtime)
        size = model.batch or _ROWS
        for start in range(0, len(table), size):
            facts = table.facts[start : start + size]
            inputs = table.inputs(slice(start, start + size), own, manifest, lookups)
            outputs = model.answers(predictor, inputs, len(facts))
            for k, fact in enumerate(facts):
                yield {**fact, **model.answer({name: rows[k] for name, rows in outputs.items()}, request.top)}


def _tables(request: Request, own: Sequence[columns.Field], say: Say) -> Iterator[Table]:
    yield from read_files(request.files, own, say)
    for number, text in enumerate(request.rows, 1):
        yield read_row(text, number, own, say)


# --- images -----------------------------------------------------------------------------------------------------------


def _of_images(model: ImageModel, request: Request) -> Iterator[dict[str, Any]]:
    if request.rows or not request.files:
        raise InputError(
            f"{model.directory}: takes images; give image files or folders" + ", not --row" * bool(request.rows)
        )
    files = list(image_files(request.files, MAX_IMAGES))
    masks = _masks(model, request, files)
    predictor = None
    for batch in _batches(files, model):
        rows: list[np.ndarray] = []
        read: list[tuple[ImageFile, str | None]] = []
        for file in batch:
            try:
                rows.append(read_image(file.path, model.shape, model.dtype, request.value_range))
                read.append((file, None))
            except InputError as error:
                if file.listed:
                    raise
                read.append((file, str(error)))
        if rows and predictor is None:  # after the first images: a wrong path is told sooner than a runtime opens
            predictor = _opened(model, request.runtime)
        outputs = model.answers(predictor, {model.input: np.stack(rows)}, len(rows)) if rows else {}
        number = iter(range(len(rows)))
        for file, error_text in read:
            if error_text is not None:
                yield {"image": str(file.path), "error": error_text}
                continue
            k = next(number)
            item = {name: array[k] for name, array in outputs.items()}
            written = _written(model, item, file, masks) if masks else {}
            yield {"image": str(file.path), **model.answer(item, request.top), **written}


def _masks(model: ImageModel, request: Request, files: Sequence[ImageFile]) -> MaskFolder | None:
    if request.masks is None:
        return None
    of_masks = [meaning for meaning in model.outputs.values() if meaning.is_mask]
    if not of_masks:
        raise InputError(f"{model.directory}: gives no mask; leave --masks out")
    if any(len(meaning.labels) > MAX_CLASSES for meaning in of_masks):
        raise InputError(f"{model.directory}: has more than the {MAX_CLASSES} classes of a PNG file's palette; leave "
                         "--masks out")  # fmt: skip
    return MaskFolder(request.masks, [file.path for file in files])


def _written(model: ImageModel, item: Mapping[str, np.ndarray], file: ImageFile, masks: MaskFolder) -> dict[str, Any]:
    """The files of an image's masks."""
    several = len(model.outputs) > 1
    paths = {
        name: str(masks.write(file, model.outputs[name].mask(row), row.shape[-1], name if several else ""))
        for name, row in item.items()
        if model.outputs[name].is_mask
    }
    return {"masks": paths} if several else {"mask": next(iter(paths.values()))}


def _image_model(version: Version) -> ImageModel:
    """What a version says of itself.

    Raises:
        ArtifactError: it takes no images, or gives nothing that is shown.
    """
    directory, manifest = version.directory, version.manifest
    if len(manifest.inputs) != 1:
        names = ", ".join(printable(port.name, 40) for port in manifest.inputs[:4])
        raise ArtifactError(f"{directory}: takes {names}, not one image")
    (port,), meanings = manifest.inputs, _meanings(version)
    sides, shape = port.shape[1:], printable(str(port.dims()[1:]), 60)
    if len(sides) != 3 or sides[-1] not in (1, 3):
        raise ArtifactError(f"{directory}: takes arrays of shape {shape}, not images")
    if math.prod(side or 1 for side in sides) > MAX_VALUES:
        raise ArtifactError(
            f"{directory}: its manifest says images of {shape}, {math.prod(side or 1 for side in sides):,} values, "
            f"more than the {MAX_VALUES:,} that are made ready; it is damaged, export again"
        )
    if port.dtype == "string":
        raise ArtifactError(f"{directory}: takes text, not images")
    size = (sides[0], sides[1], sides[2] or 1)
    return ImageModel(directory, manifest, meanings, manifest.batch, port.name, np.dtype(port.dtype), size)


def _batches(files: list[ImageFile], model: ImageModel) -> Iterator[list[ImageFile]]:
    """Images that are run together: one by one where each keeps its size, as many as a call takes where that is
    fixed."""
    height, width, channels = model.shape
    each = height * width * channels if height and width else _BATCH_VALUES
    size = model.batch or max(1, min(_BATCH, _BATCH_VALUES // each))
    for start in range(0, len(files), size):
        yield files[start : start + size]
