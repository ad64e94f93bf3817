"""`tfhalf predict` of tables, of masks, and of several outputs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tfhalf.artifacts.lookups import Lookup, Lookups
from tfhalf.artifacts.manifest import Version
from tfhalf.artifacts.record import Manifest
from tfhalf.errors import InputError
from tfhalf.workflows import predict
from tfhalf.workflows.predict import Request, in_words

TOWNS = Lookups({"town": Lookup("category", ("", "Bonn", "Trier"))})
REGRESSION = {"name": "regression", "mean": [0.0], "std": [1.0], "unit": "EUR", "columns": ["rent"]}
BOTH = {"name": "binary", "classes": 2, "class_names": ["no", "yes"]}
MASKS = {"name": "segmentation", "classes": 2, "class_names": ["cell", "wall"]}


class Rents:
    """age + 10 size + 100 town, with 7 for an age that is not known; and whether that is above 50."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, x: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.sizes.append(len(x["town"]))
        numbers = np.where(np.isnan(x["numbers"]), 7, x["numbers"])
        rent = numbers @ np.array([[1.0], [10.0]]) + 100 * x["town"]
        above = (rent > 50).astype(np.float32)
        return {"value": rent, "large": np.concatenate([1 - above, above], 1)}


def facts(inputs: list[dict[str, Any]], tasks: dict[str, Any], shapes: dict[str, list[Any]]) -> dict[str, Any]:
    return {
        "name": "net",
        "inputs": inputs,
        "outputs": [{"name": name, "dtype": "float32", "shape": shape} for name, shape in shapes.items()],
        "tasks": tasks,
        "columns": {"numbers": ["age", "size"], "town": ["town"]} if len(inputs) == 2 else {},
        "artifacts": [{"format": "onnx"}],
        "limits": {},
        "reference": {},
        "data": {
            "source": "csv:x",
            "sizes": {"test": 1},
            "preprocess": {"inputs": {"numbers": {"mean": [7.0, 0.0], "std": [1.0, 1.0], "missing": True}}},
        },
    }


def table(batch: Any, tasks: dict[str, Any]) -> dict[str, Any]:
    inputs = [
        {"name": "numbers", "dtype": "float32", "shape": [batch, 2]},
        {"name": "town", "dtype": "int32", "shape": [batch, 1]},
    ]
    return facts(inputs, tasks, {name: [batch, 1 + (name == "large")] for name in tasks})


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A version of these facts in ``tmp_path``, answered by ``runtime``."""

    def make(described: dict[str, Any], runtime: Any, lookups: Lookups) -> Any:
        lookups.write(tmp_path)
        version = Version(tmp_path, Manifest.read(described))
        monkeypatch.setattr(predict, "open_version", lambda path: version)
        monkeypatch.setattr("tfhalf.runtimes.open.open_predictor", lambda *_: runtime)
        return runtime

    return make


@pytest.fixture
def rents(net: Any) -> Rents:
    runtime: Rents = net(table("batch", {"value": REGRESSION}), Rents(), TOWNS)
    return runtime


def predicted(request: Request) -> tuple[list[dict[str, Any]], list[str]]:
    said: list[str] = []
    return list(predict.predict(Path("v"), request, said.append)), said


def csv(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_table_by_the_names_of_its_columns(rents: Rents, tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "town,id,size,age\nTrier,x,2,1\n\nRome,y,3,\n,z,1,1\n")
    answers, said = predicted(Request([path]))
    assert answers[0] == {
        "file": str(path), "line": 2, "values": [{"name": "rent", "value": 221.0}], "unit": "EUR",
    }  # fmt: skip
    assert [in_words(one).partition(".csv")[2] for one in answers] == [
        ":2: rent 221 EUR", ":4: rent 37 EUR", ":5: rent 11 EUR",
    ]  # fmt: skip
    assert said == [
        "a.csv: the version does not take id: ignored",
        "a.csv: column 'town' holds 'Rome', which training did not: in 1 row it counts as not known",
    ]


def test_rows_on_the_command_line(rents: Rents) -> None:
    rows = ['{"age": 1, "size": "2", "town": "Bonn"}', '{"age": null, "size": 0, "town": ""}']
    answers, said = predicted(Request(rows=rows))
    assert [in_words(one) for one in answers] == ["row 1: rent 121 EUR", "row 2: rent 7 EUR"]
    assert said == []


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("age=1", "--row 1 is not JSON"),
        ("[1]", "is not a JSON object"),
        ('{"age": 1}', r"has no column 'size', and of 1 more; needed: age, size, town; add it"),
        ('{"age": 1, "size": 2, "town": "", "x": 0}', "'x' is not a column; accepted: age, size, town"),
        ('{"age": [1], "size": 2, "town": ""}', r"column 'age' is \[1\]; accepted: a text or a number"),
        ('{"age": "old", "size": 2, "town": ""}', "column 'age' is 'old'; accepted: a number"),
        ("[" * 100_000, "is not JSON|is not a JSON object"),
    ],
)
def test_rows_that_do_not_fit(rents: Rents, row: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        predicted(Request(rows=[row]))


def test_files_that_do_not_fit(rents: Rents, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.csv, line 3, column 'age' is 'x'; accepted: a number"):
        predicted(Request([csv(tmp_path / "a.csv", "age,size,town\n1,2,\nx,2,\n")]))
    with pytest.raises(InputError, match=r"a\.csv has no column 'town'"):
        predicted(Request([csv(tmp_path / "a.csv", "age,size\n1,2\n")]))
    with pytest.raises(InputError, match=r"b\.png: is not a table"):
        predicted(Request([csv(tmp_path / "b.png", "")]))
    with pytest.raises(InputError, match=r"takes tables; give a \.csv"):
        predicted(Request())


def test_a_fixed_batch_is_filled_up_and_several_outputs_have_names(net: Any, tmp_path: Path) -> None:
    runtime = net(table(2, {"value": REGRESSION, "large": BOTH}), Rents(), TOWNS)
    answers, _ = predicted(Request([csv(tmp_path / "a.csv", "age,size,town\n1,0,\n2,9,\n3,0,\n")]))
    assert runtime.sizes == [2, 2]
    assert in_words(answers[1]).endswith("value: rent 92 EUR; large: yes 100.00 %  no 0.00 %")
    assert list(answers[0]["outputs"]) == ["value", "large"]
    json.dumps(answers)


def halves(x: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A wall where it is light."""
    light = x["image"][..., :1] / 255
    return {"probabilities": np.concatenate([1 - light, light], -1)}


def test_masks_are_as_large_as_their_images(net: Any, tmp_path: Path) -> None:
    image = {"name": "image", "dtype": "float32", "shape": ["batch", 4, 4, 1]}
    net(facts([image], {"probabilities": MASKS}, {"probabilities": ["batch", 4, 4, 2]}), halves, Lookups())
    (tmp_path / "in" / "b").mkdir(parents=True)
    light = np.zeros((8, 16), np.uint8)
    light[:, 12:] = 255
    for name in ("a.png", "b/a.jpg"):
        Image.fromarray(light).save(tmp_path / "in" / name, quality=100)
    answers, _ = predicted(Request([tmp_path / "in"], masks=tmp_path / "out"))
    assert answers[0]["shares"] == [{"label": "cell", "share": 0.75}, {"label": "wall", "share": 0.25}]
    assert in_words(answers[0]).endswith(f"a.png: cell 75.00 %  wall 25.00 %  -> {tmp_path}/out/a.png")
    for name in ("a.png", "b/a.png"):
        with Image.open(tmp_path / "out" / name) as mask:
            assert (mask.mode, mask.size) == ("P", (16, 8))
            np.testing.assert_array_equal(np.asarray(mask), light // 255)
            assert mask.getpalette()[:6] == [0, 114, 178, 230, 159, 0]
    with pytest.raises(InputError, match="is one of the images; give --masks another folder"):
        predicted(Request([tmp_path / "in" / "a.png"], masks=tmp_path / "in"))
    with pytest.raises(InputError, match="would be the mask of"):
        predicted(Request([tmp_path / "in" / "a.png", tmp_path / "in" / "b" / "a.jpg"], masks=tmp_path / "out"))
    with pytest.raises(InputError, match="not --row"):
        predicted(Request(rows=["{}"]))


def test_what_gives_no_masks(rents: Rents, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no masks"):
        predicted(Request(rows=["{}"], masks=tmp_path))


# --- an image together with the row of a table ------------------------------------------------------------------------


class Views:
    """The mean of an image, and age."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, x: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.shapes.append(x["view"].shape)
        return {"value": x["view"].mean((1, 2, 3), keepdims=True)[..., 0, 0] + x["age"]}


@pytest.fixture
def views(net: Any, tmp_path: Path) -> Any:
    """A version that takes a view and an age; three gray images of 10, 20 and 30, and a table of them."""

    def make(side: Any = 4, batch: Any = "batch") -> Views:
        inputs = [
            {"name": "view", "dtype": "float32", "shape": [batch, side, side, 3]},
            {"name": "age", "dtype": "float32", "shape": [batch, 1]},
        ]
        described = facts(inputs, {"value": REGRESSION}, {"value": [batch, 1]})
        runtime: Views = net({**described, "columns": {}}, Views(), Lookups())
        return runtime

    for k in (1, 2, 3):
        (tmp_path / f"{k}").mkdir()
        Image.new("L", (k + 3, 4), 10 * k).save(tmp_path / f"{k}/a.png")
    csv(tmp_path / "a.csv", "age,view\n1,1/a.png\n2, 2/a.png \n3,3/a.png\n")
    return make


def test_a_table_with_images(views: Any, tmp_path: Path) -> None:
    runtime = views()
    answers, said = predicted(Request([tmp_path / "a.csv"]))
    assert [in_words(one).partition(".csv")[2] for one in answers] == [
        ":2: rent 11 EUR", ":3: rent 22 EUR", ":4: rent 33 EUR",
    ]  # fmt: skip
    assert (runtime.shapes, said) == ([(3, 4, 4, 3)], [])
    answers, _ = predicted(Request([tmp_path / "a.csv"], value_range=(0.0, 2550.0)))
    assert [one["values"][0]["value"] for one in answers] == [101, 202, 303]


def test_a_table_with_images_of_any_size_and_a_fixed_batch(views: Any, tmp_path: Path) -> None:
    runtime = views("height")
    answers, _ = predicted(Request([tmp_path / "a.csv"]))
    assert [one["values"][0]["value"] for one in answers] == [11, 22, 33]
    assert runtime.shapes == [(1, 4, 4, 3), (1, 4, 5, 3), (1, 4, 6, 3)]
    runtime = views("height", batch=2)
    assert [one["values"][0]["value"] for one in predicted(Request([tmp_path / "a.csv"]))[0]] == [11, 22, 33]
    assert runtime.shapes == [(2, 4, 4, 3), (2, 4, 5, 3), (2, 4, 6, 3)]
    runtime = views(batch=2)
    assert [one["values"][0]["value"] for one in predicted(Request([tmp_path / "a.csv"]))[0]] == [11, 22, 33]
    assert runtime.shapes == [(2, 4, 4, 3), (2, 4, 4, 3)]


def test_a_row_with_an_image(views: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    views()
    monkeypatch.chdir(tmp_path)
    rows = ['{"age": 1, "view": "2/a.png"}', json.dumps({"age": 2, "view": str(tmp_path / "3/a.png")})]
    assert [in_words(one) for one in predicted(Request(rows=rows))[0]] == ["row 1: rent 21 EUR", "row 2: rent 32 EUR"]
    for row, words in (
        (
            '{"age": 1, "view": 3}',
            "--row 1, column 'view' is '3'; accepted: the path of an image file, relative to the w",
        ),
        (
            '{"age": 1, "view": null}',
            "--row 1, column 'view' is empty; accepted: the path of an image file; fill it in",
        ),
        ('{"age": 1}', r"--row 1 has no column 'view'; needed: view, age; add it$"),
        ('{"age": 1, "view": "a.csv"}', r"--row 1, column 'view': a\.csv: cannot be read as an image"),
    ):
        with pytest.raises(InputError, match=words):
            predicted(Request(rows=[row]))


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("4/a.png", r"a\.csv, line 3, column 'view' is '4/a\.png'; accepted: the path of an image file, relative to /"),
        ("", r"a\.csv, line 3, column 'view' is empty"),
        ("1", "column 'view' is '1'; accepted"),
        ("x" * 5000, "column 'view' is 'xxx"),
        ("a\0b", "column 'view' is 'a"),
        ("pipe", "column 'view' is 'pipe'"),
        ("a.csv", r"a\.csv, line 3, column 'view': .*a\.csv: cannot be read as an image"),
    ],
)
def test_cells_that_name_no_image(views: Any, tmp_path: Path, cell: str, words: str) -> None:
    runtime = views()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=words):
        predicted(Request([csv(tmp_path / "a.csv", f"age,view\n1,1/a.png\n2,{cell}\n")]))
    assert runtime.shapes == []
    with pytest.raises(InputError, match=r"1/a\.png: is not a table; this version takes tables: .* header, view, age$"):
        predicted(Request([tmp_path / "1/a.png"]))
