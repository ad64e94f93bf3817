"""Pictures of what an export answers to its test set, for the report and the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tfhalf.artifacts.record import Manifest
from tfhalf.artifacts.reference import Reference
from tfhalf.errors import ArtifactError
from tfhalf.progress import Progress
from tfhalf.runtimes.open import open_predictor
from tfhalf.tasks.answers import Meaning
from tfhalf.tasks.regression import Regression
from tfhalf.verify.html.answer_pictures import MASKS, NUMBERS, Answers, draw_masks, draw_numbers
from tfhalf.verify.version import run

_ROWS = 20_000
_VALUES = 1 << 26
"""Of the test items that are answered: so many rows at most, the first, of so many values together."""
_BATCH = 64


def draw_answers(
    folder: Path, run_folder: Path, manifest: Manifest, reference: Reference, inputs: Mapping[str, np.ndarray],
    progress: Progress,
) -> dict[str, Path]:  # fmt: skip
    """Draw numbers and masks of the version in ``folder`` into ``run_folder``; the pictures by caption.

    ``inputs`` are the test set's, by name, each [N, ...]. A version does not fail for want of a picture: ``progress``
    says what is left out.
    """
    meanings = {name: Meaning.of_facts(facts) for name, facts in manifest.tasks.items()}
    meanings = {
        name: one
        for name, one in meanings.items()
        if name in reference.targets and (one.is_mask or manifest.tasks[name]["name"] == Regression.name)
    }
    if not meanings:
        return {}
    formats = [kind.name for kind in manifest.formats]
    who = "onnx" if "onnx" in formats else formats[0]  # what opens fastest
    each = sum(x[0].size for x in (*inputs.values(), *(reference.usual.outputs[name] for name in meanings)))
    count = min(_ROWS, reference.usual.count, max(1, _VALUES // each))
    try:
        predictor = open_predictor(folder, who)
        dtypes = manifest.input_dtypes
        feeds = {name: x[:count].astype(dtypes[name], copy=False) for name, x in inputs.items()}
        if manifest.batch:
            count = count // manifest.batch * manifest.batch
            feeds = {name: x[:count] for name, x in feeds.items()}
        outputs = run(predictor, feeds, manifest.batch or _BATCH)
    except ArtifactError as error:
        progress.line(f"picture    of the answers left out: {error}")
        return {}
    pictures: dict[str, Path] = {}
    for name, meaning in meanings.items():
        answers = Answers(
            meaning, reference.targets[name][:count], reference.usual.outputs[name][:count], outputs[name], who
        )
        path = run_folder / (MASKS if meaning.is_mask else NUMBERS)
        path = path.with_stem(f"{path.stem}_{name}") if len(meanings) > 1 else path
        caption = _draw(
            path, f"{manifest.name}, {name}" if len(meanings) > 1 else manifest.name, answers, inputs, progress
        )
        pictures |= {f"{name}: {caption}": path} if caption else {}
    return pictures


def _draw(path: Path, title: str, answers: Answers, inputs: Mapping[str, np.ndarray], progress: Progress) -> str:
    """The picture's caption; empty where it could not be drawn."""
    images = next((x for x in inputs.values() if x.ndim == 4), None)
    try:
        if not answers.meaning.is_mask:
            draw_numbers(path, title, answers)
            return "predicted against true numbers, the residuals, and what differs from the float32 model"
        if images is not None and images.shape[1:3] == answers.true.shape[1:3]:
            draw_masks(path, title, images, answers)
            return "test images, their true and predicted masks, and where they differ"
    except ImportError:
        progress.line(f"picture    {path.name} is left out: matplotlib is not installed")
    except OSError as error:
        progress.line(f"picture    {path.name} is left out: {error}")
    return ""
