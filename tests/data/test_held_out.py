"""``data.test`` that names what is held out: the source's validation part, or items."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from tfhalf.config import Data, HeldOut, load_pipeline
from tfhalf.data import LazyImages, Splits, load_splits
from tfhalf.data.held_out import held_out
from tfhalf.data.sources import tfds
from tfhalf.errors import ConfigError, DataError

NAMES = ("val", "validation", "dev", "valid")
ROLES = {"y": "target"}


def load(base: Path, source: str, *, seed: int = 0, kind: Any = "classes", said: Any = None, **rest: Any) -> Splits:
    data = Data(source=source, **rest)
    return load_splits(data, base=base, seed=seed, kind=kind, progress=None if said is None else said.append)


def write_npz(path: Path, *parts: str, start: int = 0) -> None:
    """Twenty items for ``train`` and six for every other part, which hold their own number."""
    arrays, count = {}, start
    for part in parts:
        size = 20 if part == "train" else 6
        arrays |= {
            f"x_{part}": np.arange(count, count + size, dtype=np.float32)[:, None],
            f"y_{part}": np.arange(size) % 2,
        }
        count += size
    np.savez(path, **arrays)


def write_table(path: Path, start: int, count: int, empty: tuple[int, ...] = ()) -> None:
    rows = [f"{'' if n in empty else start + n},{'ab'[n % 2]}\n" for n in range(count)]
    path.write_text("x,y\n" + "".join(rows))


def write_image(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(path)


def numbers(x: Any) -> list[int]:
    return sorted(int(item.reshape(-1)[0]) for item in np.asarray(x[:]))


# --- the validation part ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_validation_part_of_an_archive_is_the_test_part(tmp_path, name):
    write_npz(tmp_path / "a.npz", "train", "val")
    splits = load(tmp_path, "npz:a.npz", test=name, validation=4)
    assert numbers(splits.x_test) == list(range(20, 26))
    assert splits.sizes == {"train": 16, "validation": 4, "test": 6}
    assert numbers(splits.x_train) + numbers(splits.x_val) != numbers(splits.x_test)
    assert sorted(numbers(splits.x_train) + numbers(splits.x_val)) == list(range(20))
    assert splits.unread == ()
    assert load(tmp_path, "npz:a.npz", test=name, validation=0).sizes["validation"] == 0


def test_the_test_part_is_the_same_for_each_seed_and_validation_is_not(tmp_path):
    write_npz(tmp_path / "a.npz", "train", "val")
    one, two = (load(tmp_path, "npz:a.npz", seed=seed, test="dev", validation=8) for seed in (1, 2))
    assert np.array_equal(one.x_test, two.x_test)
    assert numbers(one.x_val) != numbers(two.x_val)


@pytest.mark.parametrize("file", ["dev", "val", "validation", "valid"])
def test_the_dev_file_of_a_folder_of_tables(tmp_path, file):
    write_table(tmp_path / "train.csv", 0, 20)
    write_table(tmp_path / f"{file}.csv", 100, 6)
    splits = load(tmp_path, "csv:.", columns=ROLES, test="dev")
    assert splits.x_test[:, 0].tolist() == [100, 101, 102, 103, 104, 105]
    assert splits.sizes == {"train": 18, "validation": 2, "test": 6}


@pytest.mark.parametrize("decode", ["eager", "lazy"])
def test_the_val_folder_of_images(tmp_path, decode):
    for part, count in (("train", 6), ("val", 2)):
        for kind in ("cat", "dog"):
            for n in range(count):
                write_image(tmp_path / part / kind / f"{n}.png", n + 100 * (part == "val"))
    splits = load(tmp_path, "folder:.", test="val", validation=2, decode=decode)
    assert isinstance(splits.x_train, LazyImages) is (decode == "lazy")
    assert splits.sizes == {"train": 10, "validation": 2, "test": 4}
    assert numbers(splits.x_test) == [100, 100, 101, 101]


def test_the_val_folder_of_masks(tmp_path):
    for part, count in (("train", 6), ("val", 2)):
        for n in range(count):
            write_image(tmp_path / part / "image" / f"{n}.png", n + 100 * (part == "val"))
            write_image(tmp_path / part / "label" / f"{n}.png", n % 2)
    splits = load(tmp_path, "masks:.", kind="masks", test="validation", validation=1)
    assert splits.sizes == {"train": 5, "validation": 1, "test": 2}
    assert numbers(splits.x_test) == [100, 101]
    assert splits.y_test.shape == (2, 4, 4)


def test_the_validation_part_of_a_function_with_weights(tmp_path):
    (tmp_path / "own.py").write_text(
        "import numpy as np\n"
        "def part(start, n):\n"
        "    x = np.arange(start, start + n, dtype='f4')[:, None]\n"
        "    return x, np.arange(n) % 2, x[:, 0] + 1\n"
        "def load():\n"
        "    return {'train': part(0, 20), 'validation': part(50, 4)}\n"
    )
    splits = load(tmp_path, "own.py:load", test="val")
    assert numbers(splits.x_test) == [50, 51, 52, 53]
    assert splits.w_test.tolist() == [51, 52, 53, 54]


def test_texts_learn_no_word_of_the_part_that_is_held_out(tmp_path):
    (tmp_path / "train.tsv").write_text("y\tx\n" + "a\tgood film\nb\tbad film\n" * 8)
    (tmp_path / "dev.tsv").write_text("y\tx\na\tgood plot\n")
    splits = load(tmp_path, "csv:.", columns={"y": "target", "x": "text"}, test="dev")
    assert "plot" not in splits.vocabularies["x"]
    assert splits.texts["x"].unknown == 0.5
    assert splits.texts["x"].samples == ("good plot",)


@pytest.mark.parametrize("source", ["npz:a.npz", "sklearn:digits"])
def test_a_source_without_such_a_part_is_refused_and_the_remedy_works(tmp_path, source):
    write_npz(tmp_path / "a.npz", "train")
    with pytest.raises(DataError, match=r"data\.test is dev and .* no validation part .* share .* such as 0\.2"):
        load(tmp_path, source, test="dev")
    assert load(tmp_path, source, test=0.2).sizes["test"] > 3


@pytest.mark.parametrize("test", ["dev", {"items": [1]}])
def test_a_source_with_a_test_part_is_refused_and_the_remedy_works(tmp_path, test):
    write_npz(tmp_path / "a.npz", "train", "val", "test")
    with pytest.raises(DataError, match=r"data\.test .* test part of its own; .* remove data\.test, or take that part"):
        load(tmp_path, "npz:a.npz", test=test)
    assert numbers(load(tmp_path, "npz:a.npz").x_test) == list(range(26, 32))
    write_npz(tmp_path / "a.npz", "train", "val")
    assert load(tmp_path, "npz:a.npz", test=test).sizes["test"] == (6 if test == "dev" else 1)


def test_validation_on_a_part_of_the_source_is_said(tmp_path):
    write_npz(tmp_path / "a.npz", "train", "val")
    said: list[str] = []
    load(tmp_path, "npz:a.npz", said=said)
    assert (
        "validation on the 6 items of its own part, not data.validation; it has no test part: that is drawn" in said[0]
    )
    said.clear()
    load(tmp_path, "npz:a.npz", said=said, test="dev")
    assert not any("validation on" in line for line in said)


# --- sets of TFDS, which may have both parts -------------------------------------------------------------------------


def builder(monkeypatch: pytest.MonkeyPatch, *parts: str, labels: bool = True) -> Any:
    """Three images of each part, which hold the part's number; without ``labels`` those of ``test`` are -1."""
    known = {name: SimpleNamespace(num_examples=3) for name in parts}
    features = {"label": SimpleNamespace(names=["a"])}
    info = SimpleNamespace(splits=known, features=features)
    monkeypatch.setattr(tfds, "_keys", lambda *_: ("image", "label"))
    monkeypatch.setattr(tfds, "_item", lambda *_: (2, 2, 1))
    monkeypatch.setattr(tfds, "_needed", lambda *_: 1)
    monkeypatch.setattr(tfds.fetch, "prepare", lambda *_: None)

    def read_part(_: Any, part: str, *rest: Any) -> tuple[np.ndarray, np.ndarray]:
        y = np.full(3, -1 if part == "test" and not labels else 0)
        return np.full((3, 2, 2, 1), parts.index(part), np.uint8), y

    monkeypatch.setattr(tfds, "_read_part", read_part)
    return SimpleNamespace(info=info, data_path="p")


def test_the_validation_part_of_tfds_where_that_of_the_test_has_no_labels(monkeypatch):
    made = builder(monkeypatch, "train", "validation", "test", labels=False)
    with pytest.raises(DataError, match=r"'test' has no labels; .* set data\.test: validation, or"):
        tfds.read_builder(made, None, "tfds:x", lambda line: None)
    said: list[str] = []
    arrays = tfds.read_builder(made, None, "tfds:x", said.append, on_validation=True)
    assert (arrays.x_test, arrays.y_test) == (None, None)
    assert arrays.x_val is not None
    assert np.all(arrays.x_val == 1)
    assert "tfds:x: the part 'test' is not read, since data.test names 'validation'" in said


def test_tfds_without_a_validation_part(monkeypatch):
    made = builder(monkeypatch, "train", "test")
    arrays = tfds.read_builder(made, None, "tfds:x", lambda line: None, on_validation=True)
    assert (arrays.x_test, arrays.x_val) == (None, None)
    arrays = tfds.read_builder(builder(monkeypatch, "train", "validation"), None, "tfds:x", lambda line: None)
    assert arrays.x_test is not None
    assert np.all(arrays.x_test == 1)


# --- items -----------------------------------------------------------------------------------------------------------


def test_masks_by_the_names_of_their_files(tmp_path):
    for n in range(12):
        write_image(tmp_path / "image" / f"{n}.png", n)
        write_image(tmp_path / "label" / f"{n}.png", n % 2)
    splits = load(tmp_path, "masks:.", kind="masks", test={"items": [2, "8-11"]}, validation=0)
    assert numbers(splits.x_test) == [2, 8, 9, 10, 11]
    assert numbers(splits.x_train) == [0, 1, 3, 4, 5, 6, 7]
    assert np.array_equal(splits.x_test[:, 0, 0, 0] % 2, splits.y_test[:, 0, 0])


@pytest.mark.parametrize("decode", ["eager", "lazy"])
def test_images_of_a_folder_by_the_names_of_their_files(tmp_path, decode):
    for kind in ("cat", "dog"):
        for n in range(5):
            write_image(tmp_path / kind / f"day{n}.png", n)
    splits = load(tmp_path, "folder:.", test={"items": ["day1", "day4"]}, validation=0, decode=decode)
    assert numbers(splits.x_test) == [1, 1, 4, 4]
    assert numbers(splits.x_train) == [0, 0, 2, 2, 3, 3]


def test_rows_of_a_table_by_their_numbers_whichever_are_dropped(tmp_path):
    write_table(tmp_path / "a.csv", 0, 12, empty=(1, 3))
    splits = load(tmp_path, "csv:a.csv", columns=ROLES, test={"items": [0, "8-11"]}, validation=0, empty="drop")
    assert splits.x_test[:, 0].tolist() == [0, 8, 9, 10, 11]
    assert splits.x_train[:, 0].tolist() == [2, 4, 5, 6, 7]
    with pytest.raises(DataError, match=r"data\.test\.items: 3 names no item .* numbers from 0 to 11"):
        load(tmp_path, "csv:a.csv", columns=ROLES, test={"items": [3]}, empty="drop")


def test_items_of_other_sources_by_number_beside_their_own_validation(tmp_path):
    write_npz(tmp_path / "a.npz", "train", "val")
    splits = load(tmp_path, "npz:a.npz", test={"items": ["0-3"]})
    assert numbers(splits.x_test) == [0, 1, 2, 3]
    assert numbers(splits.x_val) == list(range(20, 26))
    assert splits.sizes["train"] == 16


@pytest.mark.parametrize(
    ("items", "names", "message"),
    [
        ([9], (), r"9 names no item of the training part; accepted: numbers from 0 to 3; correct it"),
        (["2-9"], (), r"'2-9' names no item"),
        (["3-2"], (), r"'3-2' ends before it begins; write 2-3"),
        (["cta"], ("cat", "ox", "7"), r"'cta' names no item .*numbers from 7 to 7, cat, ox; did you mean 'cat'\?"),
        (["0-3"], (), r"holds out every item of class 0; accepted: at least one"),
        ([0, 2], (), r"holds out every item of class 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_held_out(items, names, message):
    with pytest.raises(DataError, match=message):
        held_out(items, names, np.arange(4, dtype=np.int32) % 2, "s")


def test_every_item_without_classes_is_refused():
    with pytest.raises(DataError, match="holds out every item; accepted"):
        held_out(["0-3"], (), np.zeros(4, np.int32), "s")


def test_a_name_that_looks_like_a_range_and_numbers_with_zeros_before_them():
    names = ("24-29", "024", "025", "x")
    assert held_out(["24-29"], names, np.zeros(4, np.int32), "s")[1].tolist() == [0]
    assert held_out(["24-25"], names, np.zeros(4, np.int32), "s")[1].tolist() == [1, 2]
    assert held_out([24], names, np.zeros(4, np.int32), "s")[1].tolist() == [1]
    assert held_out(["024"], names, np.zeros(4, np.int32), "s")[1].tolist() == [1]


@given(st.sets(st.integers(0, 29), min_size=1, max_size=29), st.booleans())
@settings(deadline=None, max_examples=40)
def test_kept_and_held_out_are_disjoint_and_whole(chosen, named):
    names = tuple(f"{n:03}" for n in range(30)) if named else ()
    kept, drawn = held_out([str(n) for n in sorted(chosen)], names, np.zeros(30, np.int32), "s")
    assert set(drawn) == chosen
    assert sorted([*kept, *drawn]) == list(range(30))


# --- the pipeline file -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", [0.2, 0.5, "dev", "val", {"items": [1, "2-3", "a b"]}])
def test_what_is_accepted_is_read_again_as_it_was_written(test):
    data = Data(source="npz:a.npz", test=test)
    assert Data(**json.loads(data.model_dump_json())) == data
    assert isinstance(data.test, HeldOut) is isinstance(test, dict)


@pytest.mark.parametrize(
    "test", [0, 1, 1.5, True, "test", "", {}, {"items": []}, {"items": [-1]}, {"items": [""]}, None]
)
def test_what_is_not_accepted(test):
    with pytest.raises(ValidationError):
        Data(source="npz:a.npz", test=test)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("test: dve", r"data\.test: received 'dve', accepted: a share in \(0, 1\), the .*; did you mean 'dev'\?"),
        ("test: 2", r"data\.test: received 2, accepted: a share in \(0, 1\).*\{items: \[\.\.\.\]\}"),
        ("test: {items: 24-29}", r"data\.test\.items: received '24-29', accepted: a list of at least 1, each "),
        ("test: {rows: [1]}", r"data\.test\.rows: unknown key 'rows'.*\(accepted: items\)"),
        ("test: {items: [1.5]}", r"data\.test\.items\[0\]: received 1\.5, accepted: a whole number >= 0, or text"),
    ],
)  # fmt: skip
def test_messages_for_the_pipeline_file(tmp_path, line, message):
    file = tmp_path / "p.yaml"
    file.write_text(f"name: p\nmodel: {{build: m.py:f}}\ndata:\n  source: npz:a.npz\n  {line}\n")
    with pytest.raises(ConfigError, match=message):
        load_pipeline(file)
