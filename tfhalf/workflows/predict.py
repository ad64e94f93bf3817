"""What `tfhalf predict` does: images, or texts, through an artifact, the most probable classes of each."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf.artifacts.lookups import Lookups
from tfhalf.artifacts.manifest import Version, open_version
from tfhalf.data.image_formats import DAMAGE, FORMATS, SUFFIXES, WORDS, is_image
from tfhalf.errors import ArtifactError, InputError
from tfhalf.files import open_regular
from tfhalf.text import one_line, printable
from tfhalf.workflows import predict_text

MAX_VALUES = 1 << 26
"""Of one image: what a manifest says of its size is bounded before room is made for it."""
MAX_IMAGES = 100_000
_BATCH = 64
_BATCH_VALUES = 1 << 24
_RAW = (0.0, 255.0)


@dataclass(frozen=True)
class Classifier:
    """An artifact that takes images. ``shape`` is (height, width, channels), where None takes any size; ``batch`` how
    many it takes at a time, where that number is fixed."""

    directory: Path
    input: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, int | None, int]
    output: str
    labels: tuple[str, ...]
    formats: tuple[str, ...]
    batch: int | None = None


def predict(
    path: Path,
    files: Sequence[Path],
    texts: Sequence[str],
    runtime: str | None,
    top: int,
    value_range: tuple[float, float] = _RAW,
) -> Iterator[dict[str, Any]]:
    """`predict_images`, or of a version that takes texts the ``top`` classes of each of ``texts``, and of each line of
    ``files``; see `predict_text.predict_texts`.

    Raises:
        ArtifactError, InputError: as both do.
    """
    version = open_version(path)
    directory, manifest, lookups = version.directory, version.manifest, Lookups.read(version.directory)
    if not predict_text.takes_texts(manifest, lookups, files):
        if texts:
            raise InputError(f"{directory}: does not take a text alone; leave --text out")
        if not files:
            raise InputError(f"{directory}: takes images; give image files or folders")
        yield from predict_images(path, files, runtime, top, value_range)
        return
    lookups.check(manifest.inputs, directory)
    output = manifest.class_output
    if output is None:
        raise ArtifactError(f"{directory}: none of its outputs are classes; serve or the runtimes give its numbers")
    if not texts and not files:
        raise InputError(f"{directory}: takes texts; give --text TEXT, or a file of texts, one a line")
    formats = tuple(kind.name for kind in manifest.formats)
    dtype, labels = np.dtype(manifest.inputs[0].dtype), manifest.labels
    shape = (None, None, 1)
    model = Classifier(directory, manifest.inputs[0].name, dtype, shape, output.name, labels, formats, manifest.batch)
    yield from predict_text.predict_texts(manifest, lookups, texts, files, _Answers(model, runtime, top))


class _Answers:
    """The ``top`` classes of each item of a batch; the artifact is opened for the first."""

    def __init__(self, model: Classifier, runtime: str | None, top: int) -> None:
        self._model, self._runtime, self._top = model, runtime, top
        self._predictor: Any = None

    def __call__(self, inputs: Mapping[str, np.ndarray], count: int) -> list[dict[str, Any]]:
        from tfhalf.runtimes.open import open_predictor

        if self._predictor is None:
            self._predictor = open_predictor(self._model.directory, self._runtime or self._model.formats[0])
        rows = _outputs(self._model, self._predictor, list(inputs[self._model.input]))
        return [{"labels": _ranked(row, self._model.labels, self._top)} for row in rows]


def predict_images(
    path: Path, images: Sequence[Path], runtime: str | None, top: int, value_range: tuple[float, float] = _RAW
) -> Iterator[dict[str, Any]]:
    """Give the ``top`` classes of each image, by an artifact of ``exports/NAME[/VERSION]``.

    Args:
        path: the version, or the folder of versions.
        images: image files, and folders, whose images are taken recursively in the order of their names.
        runtime: which artifact answers; None for the first.
        top: how many classes of each image.
        value_range: what black and white become; 0 and 255 are what a file holds.

    Yields:
        ``image``, and ``labels``: each with ``label`` and ``probability``, or ``score`` where the output's rows are no
        probabilities. An image of a folder that cannot be read has ``error`` instead.

    Raises:
        ArtifactError: there is no such version, it lacks that format, or takes no images or gives no classes.
        InputError: a file is not an image, or a folder has none or too many.
    """
    model = _classifier(open_version(path))
    files = list(_files(images))
    from tfhalf.runtimes.open import open_predictor

    predictor = None
    for batch in _batches(files, model):
        rows: list[np.ndarray] = []
        answers: list[dict[str, Any]] = []
        for file, listed in batch:
            try:
                rows.append(_read_image(file, model, value_range))
                answers.append({"image": str(file)})
            except InputError as error:
                if listed:
                    raise
                answers.append({"image": str(file), "error": str(error)})
        if rows and predictor is None:  # after the first images: a wrong path is told sooner than a runtime opens
            predictor = open_predictor(model.directory, runtime or model.formats[0])
        outputs = iter(_outputs(model, predictor, rows) if predictor is not None and rows else ())
        for answer in answers:
            yield answer if "error" in answer else {**answer, "labels": _ranked(next(outputs), model.labels, top)}


def in_words(answer: dict[str, Any]) -> str:
    """An answer of `predict` as a line."""
    if "error" in answer:
        return str(answer["error"])
    rows = answer["labels"]
    figures = (f"{row['probability'] * 100:.2f} %" if "probability" in row else f"{row['score']:.4g}" for row in rows)
    ranked = (f"{row['label']} {value}" for row, value in zip(rows, figures, strict=True))
    what = predict_text.in_words(answer) if "text" in answer else answer["image"]
    return f"{what}: {'  '.join(ranked)}"


def _classifier(version: Version) -> Classifier:
    """What a version says of itself.

    Raises:
        ArtifactError: it is not a classifier of images.
    """
    directory, manifest = version.directory, version.manifest
    if len(manifest.inputs) != 1:
        names = ", ".join(printable(port.name, 40) for port in manifest.inputs[:4])
        raise ArtifactError(f"{directory}: takes {names}, not one image")
    (port,), output = manifest.inputs, manifest.class_output
    if output is None:
        raise ArtifactError(f"{directory}: none of its outputs are classes; serve or the runtimes give its numbers")
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
    return Classifier(
        directory,
        port.name,
        np.dtype(port.dtype),
        (sides[0], sides[1], sides[2] or 1),
        output.name,
        manifest.labels,
        tuple(kind.name for kind in manifest.formats),
        manifest.batch,
    )


def _files(images: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """Every image file, and whether it was listed itself."""
    count = 0
    for path in images:
        inside = _inside(path) if path.is_dir() else [path]
        for file in inside:
            count += 1
            if count > MAX_IMAGES:
                raise InputError(f"{path}: more than {MAX_IMAGES:,} images; give fewer at a time")
            yield file, inside == [path]


def _inside(folder: Path) -> list[Path]:
    """The images below a folder, in the order of their names; hidden ones and links to folders are left out."""

    def fail(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be listed: {error.strerror}; make it readable") from None

    images: list[Path] = []
    for where, folders, names in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        images += [Path(where) / name for name in names if is_image(Path(name)) and not name.startswith(".")]
        if len(images) > MAX_IMAGES:
            raise InputError(f"{folder}: holds more than {MAX_IMAGES:,} images; give fewer at a time")
    if not images:
        raise InputError(f"{folder}: holds no image; {WORDS} are read, by the suffixes {' '.join(SUFFIXES)}")
    return sorted(images)


def _batches(files: list[tuple[Path, bool]], model: Classifier) -> Iterator[list[tuple[Path, bool]]]:
    """Images that are run together: one by one where each keeps its size, as many as a call takes where that is
    fixed."""
    height, width, channels = model.shape
    each = height * width * channels if height and width else _BATCH_VALUES
    size = model.batch or max(1, min(_BATCH, _BATCH_VALUES // each))
    for start in range(0, len(files), size):
        yield files[start : start + size]


def _outputs(model: Classifier, predictor: Any, rows: list[np.ndarray]) -> np.ndarray:
    whole = [*rows, *rows[-1:] * ((model.batch or 0) - len(rows))]  # a fixed batch is filled up
    outputs = np.asarray(predictor({model.input: np.stack(whole)}).get(model.output, np.empty(0)))[: len(rows)]
    classes = len(model.labels) or (outputs.shape[-1] if outputs.ndim else 0)
    if outputs.shape != (len(rows), classes):
        raise ArtifactError(
            f"{model.directory}: gives {printable(model.output, 40)} of shape {outputs.shape} to {len(rows)} items"
            + (f"; its manifest lists {len(model.labels)} labels" if model.labels else ", not a row of classes to each")
        )
    return outputs.astype(np.float64)


def _ranked(row: np.ndarray, labels: Sequence[str], top: int) -> list[dict[str, Any]]:
    """The best classes; their numbers are their names where the export has none."""
    kind = "probability" if row.min() >= -1e-6 and abs(row.sum() - 1) < 1e-2 else "score"
    return [{"label": labels[k] if labels else str(k), kind: float(row[k])} for k in np.argsort(-row)[:top]]


def _read_image(path: Path, model: Classifier, value_range: tuple[float, float]) -> np.ndarray:
    """[H, W, C] of the model's dtype, resized to its input, black and white as ``value_range`` says.

    Raises:
        InputError: the file is not an image, or has too many pixels.
    """
    from PIL import Image

    from tfhalf.data.resize import fitted

    height, width, channels = model.shape
    try:
        with open_regular(path) as file, Image.open(file, formats=FORMATS) as image:
            size = (height or image.height, width or image.width, channels)
            if math.prod(size) > MAX_VALUES:
                raise InputError(f"{path}: has {image.width} x {image.height} pixels; make it smaller")
            values = fitted(image, size, exact=value_range != _RAW)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such image") from None
    except Image.DecompressionBombError:
        raise InputError(f"{path}: has more pixels than is safe to decode; make it smaller") from None
    except DAMAGE as error:
        raise InputError(f"{path}: cannot be read as an image ({one_line(error, 120)}); {WORDS} can") from None
    low, high = value_range
    scaled = values if value_range == _RAW else values * ((high - low) / 255.0) + low
    return scaled.astype(model.dtype)
