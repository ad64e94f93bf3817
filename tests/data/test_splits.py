"""Splits: how validation and test are drawn, and which sources there are."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfhalf.config import Data
from tfhalf.data import Splits, load_splits
from tfhalf.data.draw import draw
from tfhalf.data.sources import digits
from tfhalf.errors import DataError, RefError

labels = st.lists(st.integers(0, 6), min_size=2, max_size=200).map(lambda y: np.unique(y, return_inverse=True)[1])


def load(base: Path, source: str, seed: int = 0, **rest: Any) -> Splits:
    return load_splits(Data(source=source, **rest), base=base, seed=seed)


def write_npz(path: Path, count: int = 60, classes: int = 3, test: int = 0, dtype: str = "uint8") -> None:
    """Items that hold their own number, so that each can be followed through the split."""
    x = np.arange(count).reshape(count, 1, 1, 1).astype(dtype)
    y = np.arange(count) % classes
    if not test:
        np.savez(path, x=x, y=y)
        return
    x_test = (np.arange(test) + count).reshape(test, 1, 1, 1).astype(dtype)
    np.savez(path, x_train=x, y_train=y, x_test=x_test, y_test=np.arange(test) % classes)


def numbers(x: np.ndarray) -> set[int]:
    return set(x.reshape(len(x)).tolist())


# --- drawing ---------------------------------------------------------------------------------------------------------


@given(y=labels, share=st.floats(0, 0.99), seed=st.integers(0, 2**31 - 1))
@settings(deadline=None)
def test_drawn_and_kept_are_disjoint_and_whole_and_every_class_keeps_an_item(y, share, seed):
    try:
        kept, drawn = draw(y, share, seed, key="k", source="s")
    except DataError:
        assert max(1, round(share * len(y))) > len(y) - len(np.unique(y))
        return
    assert sorted([*kept, *drawn]) == list(range(len(y)))
    assert list(kept) == sorted(kept)
    assert set(y[kept]) == set(y)
    assert len(drawn) == (max(1, round(share * len(y))) if share else 0)


@given(y=labels, data=st.data(), seed=st.integers(0, 2**31 - 1))
@settings(deadline=None)
def test_a_draw_is_stratified(y, data, seed):
    counts = np.bincount(y)
    number = data.draw(st.integers(0, len(y) - len(counts)))
    _, drawn = draw(y, number, seed, key="k", source="s")
    got = np.bincount(y[drawn], minlength=len(counts))
    exact = number * counts / len(y)
    assert got.sum() == number
    if (np.ceil(exact) <= counts - 1).all():
        assert (np.abs(got - exact) < 1).all()


@given(y=labels, seed=st.integers(0, 2**31 - 1))
@settings(deadline=None)
def test_a_draw_depends_on_its_seed_alone(y, seed):
    number = (len(y) - len(np.unique(y))) // 2
    first, again = (draw(y, number, seed, key="k", source="s") for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_another_seed_draws_other_items():
    y = np.zeros(1000, np.int32)
    assert not np.array_equal(draw(y, 100, 0, key="k", source="s")[1], draw(y, 100, 1, key="k", source="s")[1])


# --- load_splits -----------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**31 - 1), validation=st.one_of(st.integers(0, 57), st.floats(0, 0.9)))
@settings(deadline=None, max_examples=30)
def test_validation_comes_from_training_never_from_test(tmp_path_factory, seed, validation):
    base = tmp_path_factory.getbasetemp()
    if not (base / "v.npz").exists():
        write_npz(base / "v.npz", test=30)
    splits = load(base, "npz:v.npz", seed, validation=validation)
    train, val, test = (numbers(x) for x in (splits.x_train, splits.x_val, splits.x_test))
    assert train | val == set(range(60))
    assert not train & val
    assert test == set(range(60, 90))
    assert splits.sizes == {"train": len(train), "validation": len(val), "test": 30}
    for x, y in ((splits.x_train, splits.y_train), (splits.x_val, splits.y_val), (splits.x_test, splits.y_test)):
        assert y.dtype == np.int32
        assert np.array_equal(x.reshape(-1) % 3, y)


def test_without_a_test_set_a_share_is_split_off_that_does_not_depend_on_the_seed(tmp_path):
    write_npz(tmp_path / "a.npz")
    one, two = (load(tmp_path, "npz:a.npz", seed, test=0.25, validation=6) for seed in (1, 2))
    assert one.sizes == {"train": 39, "validation": 6, "test": 15}
    assert numbers(one.x_test) == numbers(two.x_test)
    assert numbers(one.x_val) != numbers(two.x_val)
    parts = [numbers(x) for x in (one.x_train, one.x_val, one.x_test)]
    assert set.union(*parts) == set(range(60))
    assert sum(map(len, parts)) == 60
    assert np.bincount(one.y_test).tolist() == [5, 5, 5]
    assert np.bincount(one.y_val).tolist() == [2, 2, 2]


def test_validation_may_be_empty(tmp_path):
    write_npz(tmp_path / "a.npz")
    splits = load(tmp_path, "npz:a.npz", validation=0)
    assert splits.sizes["validation"] == 0
    assert splits.x_val.shape == (0, 1, 1, 1)
    assert splits.y_val.dtype == np.int32


@pytest.mark.parametrize("validation", [60, 61, 58, 0.999])
def test_too_much_validation_is_refused(tmp_path, validation):
    write_npz(tmp_path / "a.npz", test=9)
    with pytest.raises(DataError, match=r"data\.validation is .* accepted: up to 57.*lower data\.validation"):
        load(tmp_path, "npz:a.npz", validation=validation)


def test_too_large_a_test_share_is_refused(tmp_path):
    write_npz(tmp_path / "a.npz", count=6)
    with pytest.raises(DataError, match=r"data\.test is 0\.9"):
        load(tmp_path, "npz:a.npz", test=0.9)


def test_the_result_is_said_and_frozen(tmp_path):
    write_npz(tmp_path / "a.npz")
    said: list[str] = []
    splits = load_splits(Data(source="npz:a.npz"), base=tmp_path, seed=0, progress=said.append)
    assert said == ["npz:a.npz: train 43, validation 5, test 12; 3 classes, items (1, 1, 1) uint8"]
    assert (splits.num_classes, splits.input_shape, splits.class_names) == (3, (1, 1, 1), ("0", "1", "2"))
    assert splits.source == "npz:a.npz"
    with pytest.raises(dataclasses.FrozenInstanceError):
        splits.num_classes = 4


# --- which source ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source", ["nix:name", "cifar10", "npz:", "tfds: ", "no such:thing", ":::", "npy:a.npy", "a b.c:d"]
)
def test_an_unknown_form_lists_the_accepted_ones(tmp_path, source):
    with pytest.raises(
        DataError,
        match=r"is not a known form.*accepted: tfds:NAME, folder:PATH, records:PATH, npz:PATH, sklearn:digits",
    ):
        load(tmp_path, source)


@pytest.mark.parametrize(("source", "near"), [("tdfs:cifar10", "tfds:cifar10"), ("Folder:x", "folder:x")])
def test_a_misspelt_scheme_gets_the_nearest(tmp_path, source, near):
    with pytest.raises(DataError, match=f"did you mean '{near}'"):
        load(tmp_path, source)


@pytest.mark.parametrize("source", ["tfds:cifar10", "folder:x", "npz:x.npz", "sklearn:digits"])
def test_args_are_for_callables_only(tmp_path, source):
    with pytest.raises(DataError, match=r"data\.args holds size; only file\.py:load"):
        load(tmp_path, source, args={"size": 3})


def test_digits(tmp_path):
    splits = load(tmp_path, "sklearn:digits")
    assert sum(splits.sizes.values()) == 1797
    assert splits.sizes["test"] == 359
    assert splits.input_shape == (8, 8, 1)
    assert splits.x_train.dtype == np.uint8
    assert (splits.x_train.min(), splits.x_train.max()) == (0, 255)
    assert len(np.unique(splits.x_train)) == 17
    assert splits.class_names == tuple("0123456789")


def test_digits_are_those_of_sklearn():
    """Read without it: importing it takes more than a second."""
    from sklearn.datasets import load_digits

    ours, theirs = digits.read("digits", "sklearn:digits"), load_digits()
    assert ours.x_train.shape == (1797, 8, 8, 1)
    np.testing.assert_array_equal(ours.x_train[..., 0], np.rint(theirs.images * (255 / 16)))
    np.testing.assert_array_equal(ours.y_train, theirs.target)
    assert (ours.x_train.dtype, ours.y_train.dtype) == (np.uint8, np.int32)
    assert ours.class_names == tuple(map(str, theirs.target_names))


@pytest.mark.parametrize("spec", [None, ModuleSpec("sklearn", None, is_package=True)])
def test_digits_of_a_sklearn_that_keeps_them_elsewhere(spec, monkeypatch):
    expected = digits.read("digits", "sklearn:digits")
    monkeypatch.setattr(digits, "find_spec", lambda name: spec)
    read = digits.read("digits", "sklearn:digits")
    np.testing.assert_array_equal(read.x_train, expected.x_train)
    np.testing.assert_array_equal(read.y_train, expected.y_train)


def test_other_sets_of_sklearn_are_refused(tmp_path):
    with pytest.raises(DataError, match="'iris' is not offered; accepted: sklearn:digits"):
        load(tmp_path, "sklearn:iris")


def test_importing_the_package_imports_no_heavy_library():
    code = (
        "import sys, tfhalf.data; from tfhalf.data.sources import digits; digits.read('digits', 'sklearn:digits'); "
        "print([m for m in ('tensorflow', 'keras', 'tensorflow_datasets', 'sklearn', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent
    )
    assert done.stdout.strip() == "[]"


# --- a callable ------------------------------------------------------------------------------------------------------

LOADERS = """
import numpy as np

def load(count=30, **more):
    x = np.arange(count * 4, dtype=np.float32).reshape(count, 4)
    return {"x": x, "y": np.arange(count) % 3, **more}

def whole():
    from tfhalf.data import Splits
    x, y = np.zeros((9, 2), np.float32), np.arange(9) % 3
    return Splits(x, y, x[:6] + 1, y[:6], x[:3] + 2, y[:3], 3, (2,), ("a", "b", "c"), "mine")

def without_validation():
    from tfhalf.data import Splits
    x, y = np.zeros((9, 2), np.float32), np.arange(9) % 3
    return Splits(x, y, x[:0], y[:0], x[:3] + 2, y[:3], 3, (2,), ("a", "b", "c"), "mine")

def fails(url):
    raise OSError("no such server\\nsecond line")

def lists():
    return {"x": [[1, 2], [3, 4], [5, 6], [7, 8]], "y": [0, 1, 0, 1], "class_names": ["no", "yes"]}

def pairs():
    return ([[1.0], [2.0], [3.0]], [0, 1, 0]), ([[4.0]], [1])


def triples():
    x, y = np.ones((4, 2)), np.array([0, 1, 0, 1])
    return (x, y, y + 1), (x * 2, y), (x * 3, y, y + 3)


def pair():
    return [[1.0]] * 4, [0, 1, 0, 1]


def four():
    return np.ones((4, 1)), np.ones((2, 1)), np.ones(4), np.ones(2)


def text():
    return "data.npz"


def inputs():
    return {"x": {"a": [[1.0]] * 4, "b": [1] * 4}, "y": ["no", "yes"] * 2}


def two_inputs():
    return {"x": [np.zeros((4, 3)), np.zeros((4, 2))], "y": [0, 1, 0, 1]}


def two_outputs():
    return {"x": np.zeros((4, 3)), "y": [np.zeros((4, 2)), np.ones((4, 3))]}


def ragged():
    return {"x": [[1, 2], [3]], "y": [0, 1]}

def objects():
    return {"x": np.array([[None, 1], [2, 3]]), "y": [0, 1]}

def nothing():
    return None
"""


@pytest.fixture
def loaders(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(LOADERS)
    return tmp_path


def test_a_callable_gets_args_and_its_arrays_pass_the_same_checks(loaders):
    splits = load(loaders, "mine.py:load", args={"count": 60})
    assert sum(splits.sizes.values()) == 60
    assert splits.x_train.dtype == np.float32
    assert splits.input_shape == (4,)
    with pytest.raises(DataError, match="unknown key 'class_name'; did you mean 'class_names'"):
        load(loaders, "mine.py:load", args={"class_name": 1})
    with pytest.raises(DataError, match=r"y_train has shape \(2, 1\)"):
        load(loaders, "mine.py:load", args={"y": [[0], [1]]})


def test_a_callable_may_return_lists(loaders):
    splits = load(loaders, "mine.py:lists", test=0.5, validation=0)
    assert splits.class_names == ("no", "yes")


def test_a_callable_may_return_splits(loaders):
    splits = load(loaders, "mine.py:whole")
    assert splits.sizes == {"train": 9, "validation": 6, "test": 3}
    assert splits.source == "mine.py:whole"
    assert splits.y_val.dtype == np.int32
    drawn = load(loaders, "mine.py:without_validation", validation=3)
    assert drawn.sizes == {"train": 6, "validation": 3, "test": 3}


def test_what_a_callable_raises_becomes_one_line_that_names_it(loaders):
    with pytest.raises(DataError) as caught:
        load(loaders, "mine.py:fails", args={"url": "u"})
    assert (
        str(caught.value)
        == "mine.py:fails: fails(url) fails: OSError: no such server second line; correct the function or data.args"
    )
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(DataError, match="fails: TypeError"):
        load(loaders, "mine.py:fails")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "returned a NoneType; accepted: a dict of x_train.*; or Splits; return one of them$"),
        ("ragged", "x is a list that makes no array"),
        ("objects", "x holds Python objects"),
        ("four", "returned a tuple; accepted: a dict of x_train.*\\(x, y\\), \\(x_test, y_test\\)"),
        ("text", "returned a str; accepted"),
    ],
)
def test_what_a_callable_returns_is_checked(loaders, name, message):
    with pytest.raises(DataError, match=message):
        load(loaders, f"mine.py:{name}")


def test_a_callable_may_return_pairs(loaders):
    splits = load(loaders, "mine.py:pairs", validation=0)
    assert splits.sizes == {"train": 3, "validation": 0, "test": 1}
    assert splits.x_test.tolist() == [[4.0]]
    assert sum(load(loaders, "mine.py:pair", validation=0, test=0.5).sizes.values()) == 4
    splits = load(loaders, "mine.py:triples")
    assert [x[0, 0] for x in (splits.x_train, splits.x_val, splits.x_test)] == [1, 2, 3]
    assert splits.w_train.tolist() == [1, 2, 1, 2]
    assert splits.w_val is None
    assert splits.w_test.tolist() == [3, 4, 3, 4]


def test_a_callable_may_return_several_inputs(loaders):
    splits = load(loaders, "mine.py:inputs", validation=0, test=0.5)
    assert {name: x.shape for name, x in splits.x_train.arrays.items()} == {"a": (2, 1), "b": (2, 1)}
    assert splits.class_names == ("no", "yes")
    splits = load(loaders, "mine.py:two_inputs", validation=0, test=0.5)
    assert {name: x.shape for name, x in splits.x_train.arrays.items()} == {"input_0": (2, 3), "input_1": (2, 2)}


def test_a_callable_may_return_several_outputs(loaders):
    data = Data(source="mine.py:two_outputs", validation=0, test=0.5)
    y = load_splits(data, base=loaders, seed=0, kind="numbers").y_train
    assert {name: part.shape for name, part in y.arrays.items()} == {"output_0": (2, 2), "output_1": (2, 3)}


@pytest.mark.parametrize("source", ["mine.py:lost", "absent.py:load", "absent.package:load"])
def test_a_reference_that_leads_nowhere_is_a_reference_error(loaders, source):
    with pytest.raises(RefError):
        load(loaders, source)


def test_a_module_is_a_source_too(tmp_path, monkeypatch):
    (tmp_path / "a_module_of_loaders.py").write_text(LOADERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load(tmp_path, "a_module_of_loaders:load").num_classes == 3


def test_items_are_called_by_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,note,y\n" + "".join(f"{k},{k % 3},word{k} word,{k % 2}\n" for k in range(40)))

    def table(**columns: str) -> str:
        roles = {"y": "target", "note": "ignore", **columns}
        return load(tmp_path, "csv:t.csv", columns=roles).noun

    assert load(tmp_path, "sklearn:digits").noun == "images"
    assert table() == table(b="category") == "rows"
    assert table(a="ignore", b="ignore", note="text") == "texts"
    assert table(note="text") == "rows"
    write_npz(tmp_path / "x.npz")
    assert load(tmp_path, "npz:x.npz").noun == "images"
    np.savez(tmp_path / "flat.npz", x=np.zeros((60, 4), np.float32), y=np.arange(60) % 3)
    assert load(tmp_path, "npz:flat.npz").noun == "items"
