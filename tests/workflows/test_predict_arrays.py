"""`tfhalf predict` of arrays: .npz and .npy files, for any version."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from serve_helpers import LABELS, expected, images, make_version

from tfhalf.artifacts.lookups import Lookup, Lookups
from tfhalf.artifacts.manifest import Version
from tfhalf.artifacts.record import Manifest
from tfhalf.cli import main
from tfhalf.errors import InputError, UnsupportedError
from tfhalf.workflows import predict, predict_model
from tfhalf.workflows.predict import Request, in_words

LOOKUPS = Lookups(
    {"town": Lookup("category", ("", "Bonn", "Trier")), "note": Lookup("text", ("", "[UNK]", "good", "film"), 3)}
)
SERIES = {"name": "series", "dtype": "float32", "shape": ["batch", 4, 1]}
TOWN = {"name": "town", "dtype": "int32", "shape": ["batch", 1]}
NOTE = {"name": "note", "dtype": "int32", "shape": ["batch", 3]}
TOKENS = {"name": "tokens", "dtype": "int32", "shape": ["batch", "length"]}
SUNSPOTS = {"name": "regression", "mean": [0.0], "std": [1.0], "unit": "spots", "columns": ["next"]}


class Sums:
    """Answers with the sum of each input, float32 [N, 1], and with the first input as it is."""

    def __init__(self) -> None:
        self.seen: list[dict[str, np.ndarray]] = []

    def __call__(self, x: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.seen.append(dict(x))
        if any((one == 9999).any() for one in x.values()):
            raise UnsupportedError("v", "opens and does not run (test): 9999 is beyond the end")
        total = sum(one.reshape(len(one), -1).sum(1) for one in x.values())
        return {"total": np.asarray(total, np.float32)[:, None], "same": next(iter(x.values()))}


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A version of these inputs and outputs in ``tmp_path``, and what its artifact is called with."""

    def make(*inputs: dict[str, Any], tasks: bool = False, both: bool = False) -> Sums:
        runtime = Sums()
        shape = inputs[0]["shape"]
        outputs = [{"name": "total", "dtype": "float32", "shape": [shape[0], 1]}]
        outputs += [{"name": "same", "dtype": "float32", "shape": shape}] * both
        described = {
            "name": "net", "inputs": inputs, "outputs": outputs, "tasks": {"total": SUNSPOTS} if tasks else {},
            "artifacts": [{"format": "onnx"}], "limits": {}, "reference": {},
        }  # fmt: skip
        names = {one["name"] for one in inputs}
        Lookups({name: one for name, one in LOOKUPS.by_input.items() if name in names}).write(tmp_path)
        version = Version(tmp_path, Manifest.read(described))
        monkeypatch.setattr(predict, "open_version", lambda path: version)
        monkeypatch.setattr("tfhalf.runtimes.open.open_predictor", lambda *_: runtime)
        return runtime

    return make


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def predicted(*files: Path, **more: Any) -> tuple[list[dict[str, Any]], list[str]]:
    said: list[str] = []
    return list(predict.predict(Path("v"), Request(files, **more), said.append)), said


def test_a_time_series(net: Any, tmp_path: Path) -> None:
    runtime = net(SERIES, tasks=True)
    path = saved(tmp_path / "a.npz", series=np.arange(8).reshape(2, 4, 1))
    answers, said = predicted(path)
    assert answers[1] == {
        "file": str(path), "index": 1, "values": [{"name": "next", "value": 22.0}], "unit": "spots",
    }  # fmt: skip
    assert [in_words(one) for one in answers] == [f"{path}[0]: next 6 spots", f"{path}[1]: next 22 spots"]
    assert (runtime.seen[0]["series"].dtype, said) == (np.float32, [])


def test_outputs_without_a_task_are_numbers(net: Any, tmp_path: Path) -> None:
    net(SERIES, tasks=True, both=True)
    values = np.zeros((1, 4, 1))
    values[0, 1] = np.nan
    (answer,), _ = predicted(saved(tmp_path / "a.npz", x=values))
    assert answer["outputs"]["same"] == {"shape": [4, 1], "array": [[0.0], [None], [0.0], [0.0]]}
    assert in_words(answer).endswith("a.npz[0]: total: next not finite spots; same: [4, 1] 0  not finite  0  0")
    json.dumps(answer, allow_nan=False)
    np.save(tmp_path / "a.npy", np.ones((2, 4, 1), np.uint8))
    net(SERIES)
    answers, _ = predicted(tmp_path / "a.npy")
    assert [in_words(one).partition(".npy")[2] for one in answers] == ["[0]: 4", "[1]: 4"]


def test_rows_go_in_batches_and_a_fixed_one_is_filled_up(
    net: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a.npz", series=np.arange(280).reshape(70, 4, 1))
    runtime = net(SERIES)
    assert [one["index"] for one in predicted(path)[0]] == list(range(70))
    assert [len(x["series"]) for x in runtime.seen] == [64, 6]
    monkeypatch.setattr(predict_model, "_VALUES", 40)  # as of large rows
    runtime = net(SERIES)
    assert len(predicted(path)[0]) == 70
    assert [len(x["series"]) for x in runtime.seen] == [10] * 7
    runtime = net({**SERIES, "shape": [48, 4, 1]})
    assert [one["array"] for one in predicted(path)[0]][69] == [276.0 + 277 + 278 + 279]
    assert [len(x["series"]) for x in runtime.seen] == [48, 48]


def test_texts_and_categories_are_looked_up(net: Any, tmp_path: Path) -> None:
    runtime = net(TOWN, NOTE)
    path = saved(tmp_path / "a.npz", town=["Trier", " Bonn", "Rome"], note=np.array([["Good film!"], [""], ["bad"]]))
    answers, said = predicted(path)
    assert runtime.seen[0]["town"].tolist() == [[2], [1], [0]]
    assert runtime.seen[0]["note"].tolist() == [[2, 3, 0], [0, 0, 0], [1, 0, 0]]
    assert [one["array"] for one in answers] == [[7.0], [1.0], [1.0]]
    assert said == [f"{path}: town holds 'Rome', which training did not: in 1 row it counts as not known"]
    predicted(saved(path, town=[[1]], note=[[3, 2, 0]]))
    assert runtime.seen[1]["note"].tolist() == [[3, 2, 0]]


def test_token_numbers_of_any_length(net: Any, tmp_path: Path) -> None:
    runtime = net(TOKENS)
    predicted(saved(tmp_path / "a.npz", tokens=[[1, 2, 3]]), saved(tmp_path / "b.npz", tokens=[[1.0, 2.0]]))
    assert [x["tokens"].tolist() for x in runtime.seen] == [[[1, 2, 3]], [[1, 2]]]
    with pytest.raises(
        InputError, match=r"c\.npz\[0:2\]: opens and does not run \(test\): 9999 is beyond .*correct them"
    ):
        predicted(saved(tmp_path / "c.npz", tokens=[[1], [9999]]))
    net(SERIES)
    with pytest.raises(UnsupportedError):  # of numbers, which are no indices, it is not the file's fault
        predicted(saved(tmp_path / "d.npz", series=np.full((1, 4, 1), 9999)))


WHOLE = {"town": ["Bonn"], "series": np.zeros((1, 4, 1))}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"town": None}, "lacks the array 'town', and has 'series'; accepted: town int32 [batch, 1], series float32"),
        ({"town": None, "series": None}, "lacks the array 'town' and of 1 more inputs, and has none"),
        ({"y": [1]}, "has 'y' besides, which the version does not take; accepted: town int32 [batch, 1], series"),
        ({"town": ["Bonn"] * 2}, "the arrays have different numbers of rows (town 2, series 1)"),
        ({"series": np.zeros((1, 5, 1))}, "series has shape (1, 5, 1); ['batch', 4, 1] is accepted"),
        ({"series": np.zeros((0, 4, 1))}, "series has shape (0, 4, 1), which is empty"),
        ({"series": np.float32(1)}, "series has shape (); ['batch', 4, 1] is accepted"),
        ({"series": np.full((1, 4, 1), "a")}, "series is <U1; accepted: float32; convert it"),
        ({"series": np.full((1, 4, 1), 1e99)}, "series is float64, and holds values that float32 does not"),
        ({"series": np.array([None])}, "cannot be read ('series' holds Python objects"),
        ({"town": [b"Bonn"]}, "town holds bytes (|S4); accepted: texts, numpy's str; decode them"),
        ({"town": [["Bonn", "Trier"]]}, "town has texts of shape (1, 2); accepted: [N] or [N, 1]"),
        ({"town": np.zeros(0, "U3")}, "town has texts of shape (0,); accepted: [N]"),
        ({"town": [[3]]}, "town holds numbers from 3 to 3; accepted: those of its words, 0 to 2, or texts"),
        ({"town": [[-1]]}, "town holds numbers from -1 to -1"),
        ({"town": [[0.5]]}, "town is float64, and holds values that int32 does not"),
        ({"town": np.array([0x110000], np.uint32).view("U1")}, "town holds what is not Unicode text"),
    ],
)
def test_arrays_that_do_not_fit(net: Any, tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    runtime = net(TOWN, SERIES)
    path = tmp_path / "a.npz"
    saved(path, **{name: x for name, x in {**WHOLE, **arrays}.items() if x is not None})
    with pytest.raises(InputError, match=re.escape(f"{path}: {words}")):
        predicted(path)
    assert runtime.seen == []


def test_files_that_do_not_fit(net: Any, tmp_path: Path) -> None:
    net(TOWN, SERIES)
    path = saved(tmp_path / "a.npz", **WHOLE)
    content = path.read_bytes()
    for damaged in (b"", b"PK\x03\x04", content[:-40], content[:200] + b"\xff" * 40 + content[240:]):
        (tmp_path / "b.npz").write_bytes(damaged)
        with pytest.raises(InputError, match=r"b\.npz: cannot be read \(.*\); give an \.npz file of numbers and texts"):
            predicted(tmp_path / "b.npz")
    with pytest.raises(InputError, match=r"c\.npz: does not exist; give an \.npz file"):
        predicted(tmp_path / "c.npz")
    with pytest.raises(InputError, match=r"a\.csv: received beside arrays"):
        predicted(path, tmp_path / "a.csv")
    np.save(tmp_path / "a.npy", WHOLE["series"])
    with pytest.raises(InputError, match=r"a\.npy: is one array; accepted: town int32 \[batch, 1\], series"):
        predicted(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("more", "option"),
    [({"rows": ["{}"]}, "--row"), ({"texts": ["a"]}, "--text"), ({"masks": Path("m")}, "--masks"),
     ({"value_range": (0.0, 1.0)}, "--range")],
)  # fmt: skip
def test_options_that_arrays_do_not_take(net: Any, tmp_path: Path, more: dict[str, Any], option: str) -> None:
    net(TOWN, SERIES)
    with pytest.raises(InputError, match=f"received {option} beside arrays, which are taken as they are; leave it out"):
        predicted(saved(tmp_path / "a.npz", **WHOLE), **more)


def test_the_command_answers_for_a_file(tmp_path: Path) -> None:
    make_version(tmp_path, "net", 1)
    x = images(3)
    path = saved(tmp_path / "a.npz", image=x.astype(np.uint8))
    told = CliRunner().invoke(main, ["predict", str(tmp_path / "net"), str(path), "--json"])
    assert told.exit_code == 0, told.output
    best = [one["labels"][0] for one in json.loads(told.stdout)]
    np.testing.assert_allclose([one["probability"] for one in best], expected(x).max(1), atol=2e-3)
    assert [one["label"] for one in best] == [LABELS[k] for k in expected(x).argmax(1)]
    lines = CliRunner().invoke(main, ["predict", str(tmp_path / "net"), str(path), "--top", "1"]).stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"{path}[{k}]" for k in range(3)]
    refused = CliRunner().invoke(main, ["predict", str(tmp_path / "net"), str(tmp_path / "b.npz")])
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
