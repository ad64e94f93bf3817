"""`tfhalf predict`: files and folders of images of every format, through any model of images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tfhalf.artifacts.manifest import Version
from tfhalf.artifacts.record import Manifest
from tfhalf.errors import InputError
from tfhalf.workflows import predict
from tfhalf.workflows.predict import Request


class Means:
    """Answers with the mean of each channel."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def __call__(self, x: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.seen.append(x["photo"])
        return {"kind": x["photo"].astype(np.float64).mean((1, 2))}


def port(shape: list[Any], dtype: str = "float32", batch: Any = "batch") -> dict[str, Any]:
    return {"name": "photo", "dtype": dtype, "shape": [batch, *shape]}


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A version with the given input, and what its artifact is asked."""
    runtime = Means()

    def make(
        shape: list[Any] | None = None,
        *,
        dtype: str = "float32",
        classes: bool = True,
        labels: tuple[str, ...] = (),
        batch: int | str = "batch",
    ) -> Means:
        facts = {
            "name": "net",
            "inputs": [port(shape or [4, 4, 3], dtype, batch)],
            "outputs": [{"name": "kind", "dtype": "float32", "shape": ["batch", 3], "classes": classes}],
            "labels": labels,
            "artifacts": [{"format": "onnx"}],
            "limits": {},
            "reference": {},
        }
        version = Version(Path("v"), Manifest.read(facts))
        monkeypatch.setattr(predict, "open_version", lambda path: version)
        monkeypatch.setattr("tfhalf.runtimes.open.open_predictor", lambda *_: runtime)
        return runtime

    return make


def photo(path: Path, colour: tuple[int, int, int] = (255, 51, 0), size: tuple[int, int] = (4, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def ask(images: list[Path], **more: Any) -> list[dict[str, Any]]:
    return list(predict.predict(Path("v"), Request(images, top=2, **more), lambda line: None))


def test_folders_are_taken_in_the_order_of_their_names(net: Any, tmp_path: Path) -> None:
    net()
    for name in ("b/2.bmp", "b/1.webp", "a/x/3.tiff", "c.gif", "d.PNG", ".hidden/1.png", "b/.1.png"):
        photo(tmp_path / name)
    (tmp_path / "b" / "notes.txt").write_text("no image")
    (tmp_path / "link").symlink_to(tmp_path)
    names = [Path(answer["image"]).relative_to(tmp_path).as_posix() for answer in ask([tmp_path])]
    assert names == ["a/x/3.tiff", "b/1.webp", "b/2.bmp", "c.gif", "d.PNG"]
    (answer,) = ask([tmp_path / "d.PNG"])
    assert answer["labels"] == [{"label": "0", "score": 255.0}, {"label": "1", "score": 51.0}]
    assert predict.in_words(answer).endswith("d.PNG: 0 255  1 51")


def test_labels_name_the_classes(net: Any, tmp_path: Path) -> None:
    net(labels=("red", "green", "blue"))
    (answer,) = ask([photo(tmp_path / "a.png")])
    assert [row["label"] for row in answer["labels"]] == ["red", "green"]


def test_a_fixed_batch_is_filled_up(net: Any, tmp_path: Path) -> None:
    runtime = net(batch=2)
    answers = ask([photo(tmp_path / f"{k}.png", (51 * k, 0, 0)) for k in range(3)], value_range=(0.0, 50.0))
    assert [x.shape for x in runtime.seen] == [(2, 4, 4, 3)] * 2
    assert [answer["labels"][0]["score"] for answer in answers] == [0.0, 10.0, 20.0]


def test_the_range_of_values(net: Any, tmp_path: Path) -> None:
    runtime = net()
    (answer,) = ask([photo(tmp_path / "a.png", (255, 0, 0))], value_range=(0.0, 1.0))
    assert answer["labels"][0] == {"label": "0", "probability": 1.0}
    assert runtime.seen[0].dtype == np.float32
    ask([photo(tmp_path / "a.png", (255, 0, 0))], value_range=(-1.0, 1.0))
    assert runtime.seen[1][0, 0, 0].tolist() == [1.0, -1.0, -1.0]


def test_open_sizes_keep_the_images_own(net: Any, tmp_path: Path) -> None:
    runtime = net(["height", "width", 3], dtype="uint8")
    ask([photo(tmp_path / "a.png", size=(6, 3)), photo(tmp_path / "b.png", size=(2, 5))])
    assert [(x.shape, x.dtype.name) for x in runtime.seen] == [((1, 3, 6, 3), "uint8"), ((1, 5, 2, 3), "uint8")]


def test_a_damaged_image_of_a_folder_stops_no_others(net: Any, tmp_path: Path) -> None:
    net()
    photo(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"nothing")
    photo(tmp_path / "c.png")
    one, two, three = ask([tmp_path])
    assert "b.png: cannot be read as an image" in two["error"]
    assert one["labels"] == three["labels"]
    with pytest.raises(InputError, match=r"b\.png: cannot be read as an image"):
        ask([tmp_path / "b.png"])


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (
            {"shape": [13]},
            r"a\.png: is not a table; this version takes tables: give a \.csv .* header, photo_0, photo_1",
        ),
        (
            {"shape": [22, 1]},
            r"takes photo float32 \[batch, 22, 1\]: not images, texts or rows of a table; give .*\.npz",
        ),
        ({"shape": [4, 4, 5]}, r"takes photo float32 \[batch, 4, 4, 5\]: not images"),
        ({"dtype": "string"}, r"takes photo string \[batch, 4, 4, 3\]: not images"),
        ({"shape": [1 << 20, 1 << 20, 3]}, "more than the 67,108,864 that are made ready"),
    ],
)
def test_what_is_no_classifier_of_images(net: Any, tmp_path: Path, made: dict[str, Any], words: str) -> None:
    net(**made)
    with pytest.raises(InputError, match=words):
        ask([photo(tmp_path / "a.png")])


def test_an_output_without_classes_is_numbers(net: Any, tmp_path: Path) -> None:
    net(classes=False)
    (answer,) = ask([photo(tmp_path / "a.png")])
    assert (answer["shape"], answer["array"]) == ([3], [255.0, 51.0, 0.0])
    assert predict.in_words(answer).endswith("a.png: [3] 255  51  0")


def test_empty_folders_and_too_many_images(net: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net()
    with pytest.raises(InputError, match=r"holds no image; PNG, JPEG, WebP, BMP, GIF and TIFF are read"):
        ask([tmp_path])
    for name in ("a.png", "b.png", "c.png"):
        photo(tmp_path / name)
    monkeypatch.setattr(predict, "MAX_IMAGES", 2)
    with pytest.raises(InputError, match="more than 2 images"):
        ask([tmp_path])
