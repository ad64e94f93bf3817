"""What the smaller commands do: verify a version, predict images, write the starters."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf import config
from tfhalf.errors import ArtifactError, InputError
from tfhalf.export import manifest as manifests
from tfhalf.export.version import find_version
from tfhalf.files import check_writable
from tfhalf.isolated import not_covered
from tfhalf.progress import Progress


def verify_version(path: Path, data_dir: str | None, progress: Progress) -> tuple[Path, list[Any]]:
    """Verify ``exports/NAME[/VERSION]`` over its test set, or the samples beside it; returns the version directory and
    the comparisons.

    Raises:
        ArtifactError, IntegrityError, DataError: no such version, changed files, or the test data is not to be had.
    """
    directory = find_version(path)
    if manifests.read_kind(directory) == "model":
        from tfhalf.samples import verify_samples

        found: list[Any] = list(verify_samples(directory, progress))
        _say_not_covered(manifests.read(directory, kind="model"), progress)
        return directory, found
    manifest = manifests.read(directory)
    manifests.check_files(directory, manifest)  # before data is loaded: a changed file is told at once
    from tfhalf.data import load_splits
    from tfhalf.device import grow_memory
    from tfhalf.verify import verify_directory

    grow_memory()
    data = config.Data.model_validate_json(_json(manifest["config"]["data"]))
    base = (directory / manifest["pipeline_file"]).resolve().parent  # older versions hold an absolute path
    splits = load_splits(data, base=base, seed=manifest["seed"], data_dir=data_dir, progress=progress.status)
    n = manifest["data"]["sizes"]["test"]  # fewer than there are after a --smoke run
    found = list(verify_directory(directory, splits.x_test[:n], splits.y_test[:n], progress))
    _say_not_covered(manifest, progress)
    return directory, found


def _say_not_covered(manifest: dict[str, Any], progress: Progress) -> None:
    for told in not_covered(manifest["config"]["export"]["formats"]):
        progress.line(told)


def predict_images(path: Path, images: Sequence[Path], runtime: str | None, top: int) -> list[dict[str, Any]]:
    """The ``top`` labels of each image file, by an artifact of ``exports/NAME[/VERSION]``.

    Raises:
        ArtifactError: no such version, or it lacks that format.
        InputError: a file is no image.
    """
    directory = find_version(path)
    manifest = manifests.read(directory)
    manifests.check_files(directory, manifest)
    shape = manifest["input"]["shape"][1:]
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise ArtifactError(f"{directory}: takes arrays of shape {shape}, not images")
    batch = np.stack([_read_image(image, shape) for image in images])
    from tfhalf.runtime import open_predictor

    predictor = open_predictor(directory, runtime or manifest["config"]["export"]["formats"][0])
    probabilities = predictor(batch)["probabilities"]
    answers = []
    for image, row in zip(images, probabilities, strict=True):
        best = np.argsort(-row)[:top]
        labels = [{"label": manifest["labels"][k], "probability": float(row[k])} for k in best]
        answers.append({"image": str(image), "labels": labels})
    return answers


def write_starters(directory: Path) -> list[Path]:
    """Copy the starter pipelines and models into ``directory``; returns the files.

    Raises:
        InputError: it exists and is not empty.
    """
    if os.path.lexists(directory) and (not directory.is_dir() or os.listdir(directory)):
        raise InputError(f"{directory}: is not empty; give a new or empty folder")
    check_writable(directory, "folder")
    there = directory.exists()
    here = Path(__file__).resolve().parent
    # In a wheel they lie within the package; in a checkout beside it.
    root = here / "starters" if (here / "starters").is_dir() else here.parent
    written = []
    try:
        for folder, pattern in (("pipelines", "*.yaml"), ("models", "*.py")):
            for source in sorted((root / folder).glob(pattern)):
                target = directory / folder / source.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
                written.append(target)
    except OSError as error:
        for name in ("pipelines", "models"):  # it was new or empty: half of the starters are none
            shutil.rmtree(directory / name, ignore_errors=True)
        if not there:
            shutil.rmtree(directory, ignore_errors=True)
        raise InputError(f"{directory}: cannot be written: {error.strerror}; give another folder") from None
    return written


def _read_image(path: Path, shape: Sequence[int]) -> np.ndarray:
    """Float32 [H, W, C] with values 0..255, resized to the model's input."""
    from PIL import Image, UnidentifiedImageError

    from tfhalf.data.resize import fitted

    try:
        with Image.open(path) as image:
            return fitted(image, shape).astype(np.float32)
    except FileNotFoundError:
        raise InputError(f"{path}: no such image") from None
    except Image.DecompressionBombError:
        raise InputError(f"{path}: has more pixels than is safe to decode; make it smaller") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        why = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(
            f"{path}: cannot be read as an image ({why}); PNG, JPEG, WebP, BMP, GIF and TIFF can"
        ) from None


def _json(value: Any) -> str:
    import json

    return json.dumps(value)
