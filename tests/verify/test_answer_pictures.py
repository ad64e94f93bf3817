"""Pictures of numbers and masks in a report, and who says what a version has learnt."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tfhalf.artifacts.contents import contents
from tfhalf.artifacts.lookups import Lookup, Lookups
from tfhalf.artifacts.record import Manifest
from tfhalf.artifacts.reference import Reference, Samples
from tfhalf.errors import ArtifactError
from tfhalf.progress import Progress
from tfhalf.tasks.answers import Meaning
from tfhalf.verify.html import answer_pictures
from tfhalf.verify.html.render import render
from tfhalf.verify.report import report
from tfhalf.workflows.answer_pictures import draw_answers

NUMBERS = {"name": "regression", "mean": [0.0], "std": [1.0], "unit": "$x^$", "columns": ["$rent_"]}
MASKS = {"name": "segmentation", "classes": 2, "class_names": ["$cell_", "wall"]}
LOOKUPS = Lookups({"town": Lookup("category", ("", "Bonn")), "note": Lookup("text", ("", "?", "good"), 9)})


def manifest(**more: Any) -> Manifest:
    facts = {
        "name": "net",
        "inputs": [
            {"name": "image", "dtype": "float32", "shape": ["batch", 4, 4, 1]},
        ],
        "outputs": [{"name": name, "dtype": "float32", "shape": ["batch", 1]} for name in ("value", "probabilities")],
        "tasks": {"value": NUMBERS, "probabilities": MASKS},
        "columns": {"numbers": ["age", "size"], "town": ["town"]},
        "artifacts": [{"format": "onnx"}],
        "limits": {},
        "reference": {},
        **more,
    }
    return Manifest.read(facts)


def answers(x: np.ndarray) -> dict[str, np.ndarray]:
    light = x / 255
    return {"value": x.mean((1, 2)), "probabilities": np.concatenate([1 - light, light], -1)}


def reference(x: np.ndarray) -> Reference:
    targets = {"value": x.mean((1, 2)) + 1, "probabilities": (x[..., 0] > 100).astype(np.int32)}
    targets["probabilities"][0, 0, 0] = -1
    return Reference(Samples({}, answers(x)), targets=targets)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (6, 4, 4, 1)).astype(np.float32)


def test_both_pictures_are_drawn(images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tfhalf.workflows.answer_pictures.open_predictor", lambda *_: lambda feeds: answers(feeds["image"])
    )
    inputs, progress = {"image": images}, Progress(quiet=True)
    pictures = draw_answers(tmp_path, tmp_path, manifest(), reference(images), inputs, progress)
    assert [path.name for path in pictures.values()] == ["predicted_value.png", "masks_probabilities.png"]
    for path in pictures.values():
        with Image.open(path) as picture:
            assert picture.width > 1000
    page = render(manifest(), [], views=pictures, lookups=LOOKUPS)
    assert "Answers to the test set" in page
    assert page.count("data:image/png") == 2
    assert "1 category: Bonn" in page


def test_an_artifact_that_does_not_open_stops_nothing(images: np.ndarray, tmp_path: Path) -> None:
    stream = io.StringIO()
    assert draw_answers(tmp_path, tmp_path, manifest(), reference(images), {"image": images}, Progress(stream)) == {}
    assert stream.getvalue().startswith("picture    of the answers left out: ")


def test_what_the_panels_of_masks_show() -> None:
    true, ours = np.array([[0, 1, -1]]), np.array([[0, 0, 0]])
    grey = np.zeros((1, 3, 3), np.uint8)
    shown = answer_pictures._differences(grey, true, ours, np.array([[0, 0, 1]]))
    assert shown.tolist() == [[[120] * 3, [213, 94, 0], [0, 158, 255]]]
    np.testing.assert_allclose(answer_pictures._share_right(true[None], ours[None]), [0.5])
    assert answer_pictures._coloured(true, 2)[0, 2].tolist() == [255, 255, 255]


def test_many_columns_and_constant_answers(tmp_path: Path) -> None:
    true = np.ones((3, 6), np.float32)
    meaning = Meaning("regression")
    answer_pictures.draw_numbers(
        tmp_path / "a.png", "$net_", answer_pictures.Answers(meaning, true, true, true, "onnx")
    )
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_what_a_version_says_of_itself() -> None:
    assert contents(manifest(), LOOKUPS) == {
        "task": ["value: regression of $rent_ in $x^$", "probabilities: segmentation, 2 classes: $cell_, wall"],
        "columns": ["numbers: age, size"],
        "words": ["town: 1 category: Bonn", "note: texts of up to 9 words, of a vocabulary of 3"],
    }
    assert contents(manifest(tasks={}, columns={}), Lookups()) == {}
    text = report(manifest(), [], LOOKUPS)
    assert "- task: value: regression of $rent_ in $x^$\n" in text


def test_inspect_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tfhalf.inspect import look
    from tfhalf.inspect.facts import Account

    LOOKUPS.write(tmp_path)
    account = Account(tmp_path, "ONNX", 1)
    monkeypatch.setattr("tfhalf.artifacts.manifest.read", lambda _: manifest())
    look._describe(tmp_path, account)
    assert account.facts["words"].startswith("town: 1 category: Bonn; note: texts")

    def damaged(_: Path) -> Manifest:
        raise ArtifactError("it is damaged")

    monkeypatch.setattr("tfhalf.artifacts.manifest.read", damaged)
    look._describe(tmp_path, account)
    assert account.notes == ["it is damaged"]
