"""``tfhalf export MODEL --labels FILE``: names of classes, from the file to an answer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import keras
import pytest
from click.testing import CliRunner, Result
from keras import layers
from PIL import Image
from serve_helpers import client

from tfhalf.artifacts.manifest import open_version
from tfhalf.cli import main
from tfhalf.errors import ConfigError
from tfhalf.export import request
from tfhalf.export.request import read_options
from tfhalf.serve.settings import Settings

NAMES = ("cat", "Ä dog", "eel")


def options(labels: Path) -> Any:
    return read_options(
        Path("exports"),
        name=None,
        formats=None,
        verify_with=None,
        keep_float32=(),
        opset=18,
        bisect_seconds=1.0,
        max_difference=None,
        mean_difference=None,
        labels=labels,
    )


def test_a_name_is_a_line(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("\ufeffcat\r\n  Ä dog \neel\n\n", encoding="utf-8")
    assert options(file).labels == NAMES


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; give the name of a class on each line"),
        (b"\n\n", "is empty"),
        (b"cat\n\neel\n", "line 2 has nothing; accepted: a name of at most 500 characters"),
        (b"cat\n" + b"x" * 501, "line 2 has 501 characters; accepted"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (b"a\n" * 600, "cannot be read: it has 1,200 bytes, more than the 1,000 that are read"),
        (None, "does not exist; give a file with a class's name on each line"),
    ],
)
def test_files_that_hold_no_names(
    tmp_path: Path, content: bytes | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request, "MAX_LABELS", 1000)
    file = tmp_path / "labels.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        options(file)
    assert str(caught.value).startswith(f"--labels {file}: ")
    assert str(caught.value).isprintable()


# --- the command ------------------------------------------------------------------------------------------------------


def export(model: keras.Model, folder: Path, labels: str, *more: str) -> Result:
    model.save(folder / "net.keras")
    (folder / "labels.txt").write_text(labels, encoding="utf-8")
    arguments = ["export", str(folder / "net.keras"), "--labels", str(folder / "labels.txt"), "--format", "onnx"]
    return CliRunner().invoke(main, [*arguments, "-o", str(folder / "exports"), *more])


def classifier() -> keras.Model:
    photo = keras.Input((6, 6, 3), name="photo")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu")(photo))
    return keras.Model(photo, layers.Dense(3, activation="softmax", name="kind")(x))


@pytest.mark.slow
def test_names_reach_predict_and_serve(tmp_path: Path) -> None:
    done = export(classifier(), tmp_path, "\n".join(NAMES))
    assert done.exit_code == 0, done.output
    version = tmp_path / "exports" / "net"
    assert open_version(version).manifest.labels == NAMES
    image = tmp_path / "a.png"
    Image.new("RGB", (9, 9), (200, 50, 0)).save(image)
    told = CliRunner().invoke(main, ["predict", str(version), str(image), "--json"])
    (answer,) = json.loads(told.stdout)
    assert {row["label"] for row in answer["labels"]} == set(NAMES)

    async def work() -> None:
        async with client(Settings((tmp_path / "exports",), poll_seconds=0)) as c:
            answer = await c.post("/v2/models/net/classify", content=image.read_bytes())
            (prediction,) = answer.json()["predictions"]
            assert {row["label"]: row["index"] for row in prediction["classes"]} == {
                name: k for k, name in enumerate(NAMES)
            }
            assert sum(row["probability"] for row in prediction["classes"]) == pytest.approx(1, abs=1e-3)

    asyncio.run(work())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "labels", "words"),
    [
        (classifier, "cat\ndog\n", "--labels: holds 2 names, and the output kind has 3 classes; give a name for each"),
        (
            lambda: keras.Sequential([keras.Input((4,)), layers.Dense(1, activation="sigmoid", name="size")]),
            "cat\ndog\n",
            "--labels: none of the outputs size are classes; leave it out",
        ),
    ],
)
def test_as_many_names_as_classes(tmp_path: Path, model: Any, labels: str, words: str) -> None:
    done = export(model(), tmp_path, labels)
    assert done.exit_code == 2
    assert done.stderr.endswith(f"error: {words}\n")
    assert not list(tmp_path.glob("exports/net/[0-9]*"))
