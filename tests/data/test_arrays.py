"""Arrays: the validator, npz files, resizing, the memory guard."""

from __future__ import annotations

import contextlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfhalf.config import Data
from tfhalf.data import Splits, load_splits, memory
from tfhalf.data.check import Arrays, check
from tfhalf.data.decode.fit import Fit
from tfhalf.data.resize import resize
from tfhalf.errors import DataError

X = np.zeros((12, 4, 4, 3), np.uint8)
Y = np.arange(12) % 3


def load(path: Path, **rest: Any) -> Splits:
    return load_splits(Data(source=f"npz:{path.name}", **rest), base=path.parent, seed=0)


def with_value(x: np.ndarray, index: tuple[int, ...], value: Any) -> np.ndarray:
    changed = x.copy()
    changed[index] = value
    return changed


# --- npz -------------------------------------------------------------------------------------------------------------


def test_npz_with_names_and_absolute_path(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x_train=X, y_train=Y, x_test=X[:3], y_test=Y[:3], class_names=["a", "b", "ç"])
    splits = load_splits(Data(source=f"npz:{path}"), base=Path("/elsewhere"), seed=0)
    assert splits.class_names == ("a", "b", "ç")
    assert splits.sizes == {"train": 11, "validation": 1, "test": 3}
    assert splits.x_train.dtype == np.uint8


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">i4", "float16", ">f8"])
def test_the_source_dtype_is_kept_in_native_order(tmp_path, dtype):
    np.savez(tmp_path / "a.npz", x=X.astype(dtype), y=Y.astype(">i8"))
    splits = load(tmp_path / "a.npz")
    assert splits.x_train.dtype == np.dtype(dtype).newbyteorder("=")
    assert splits.x_train.dtype.isnative
    assert splits.y_train.dtype == np.int32


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "x_train, y_train missing, found: nothing; accepted: x_train, y_train"),
    "one key": ({"x": X}, "y missing, found: x; accepted"),
    "half a test": ({"x_train": X, "y_train": Y, "x_test": X}, "y_test missing, found: x_test, x_train, y_train"),
    "both forms": ({"x": X, "y": Y, "x_train": X, "y_train": Y}, "holds both x, y and x_train, y_train"),
    "unknown": ({"x": X, "y": Y, "X_test": X}, "unknown key 'X_test'; did you mean 'x_test'"),
    "objects in x": ({"x": np.array([[None]] * 3), "y": Y[:3]}, "x holds Python objects, which would run code"),
    "objects in y": ({"x": X, "y": Y.astype(object)}, "y holds Python objects, which would run code"),
    "objects in names": (
        {"x": X, "y": Y, "class_names": np.array(["a", "b", None])},
        "class_names holds Python objects",
    ),
    "rank 1": ({"x": Y, "y": Y}, r"x_train has shape \(12,\); accepted: \[N, ...\]"),
    "no pixels": ({"x": X[:, :0], "y": Y}, r"x_train has shape \(12, 0, 4, 3\)"),
    "scalar y": ({"x": X, "y": np.array(1)}, r"y_train has shape \(\)"),
    "one-hot y": ({"x": X, "y": np.eye(12)}, r"y_train has shape \(12, 12\); .*; it is one-hot: use y.argmax\(-1\)$"),
    "a column": ({"x": X, "y": Y[:, None]}, r"y_train has shape \(12, 1\); .*; use y\[:, 0\]$"),
    "a column of floats": (
        {"x": X, "y": Y[:, None] + 0.5},
        r"of y\[:, 0\]: this is a quantity to predict: set task: regression",
    ),
    "several labels": (
        {"x": X, "y": np.tri(12, 3, 1)},
        r"several labels here: set task: multilabel$",
    ),
    "soft labels": ({"x": X, "y": np.full((12, 4), 0.25)}, r"shares of classes .soft labels.: y.argmax\(-1\) keeps"),
    "several numbers": ({"x": X, "y": np.full((12, 4), 1.25)}, r"this is a quantity to predict: .*regression"),
    "pixel labels": (
        {"x": X, "y": X[..., 0]},
        r"parts of an item: set task: segmentation$",
    ),
    "a target": ({"x": X, "y": Y + 0.25}, r"holds float64; .*; this is a quantity to predict.*regression.*digitize"),
    "a date": (
        {"x": X, "y": Y.astype("M8[D]")},
        r"holds datetime64\[D\]; .*; a date or a time is not a class; make a number",
    ),
    "dates in x": (
        {"x": np.zeros((12, 2), "M8[s]"), "y": Y},
        r"make numbers of dates, for example days since the first",
    ),
    "bools in x": ({"x": X > 0, "y": Y}, r"x_train holds bool; accepted: integers or floats; use x.astype\('uint8'\)"),
    "weights by another name": (
        {"x": X, "y": Y, "sample_weights": Y},
        "'sample_weights'; did you mean 'sample_weight'",
    ),
    "weights of classes": ({"x": X, "y": Y, "class_weight": Y}, "give each item that of its class"),
    "weights twice": ({"x": X, "y": Y, "w": Y, "sample_weight": Y}, "holds both w and sample_weight"),
    "negative weights": ({"x": X, "y": Y, "w": Y - 1.0}, r"w_train\[0\] is -1.0; accepted: weights from 0 on"),
    "no weights": ({"x": X, "y": Y, "w": Y * 0}, "w_train holds zeros alone"),
    "weights of text": (
        {"x": X, "y": Y, "w": Y.astype(str)},
        r"w_train holds <U21 of shape \(12,\); accepted: numbers",
    ),
    "few weights": ({"x": X, "y": Y, "w": Y[:3]}, r"w_train holds int64 of shape \(3,\); accepted: numbers \[12\]"),
    "half a validation": ({"x_train": X, "y_train": Y, "x_val": X}, "y_val missing"),
    "weights of both forms": ({"x": X, "y": Y, "w_train": Y}, "holds both x, y and w_train"),
    "lengths": ({"x": X, "y": Y[:11]}, "x_train has 12 items and y_train 11"),
    "test lengths": ({"x_train": X, "y_train": Y, "x_test": X, "y_test": Y[:5]}, "x_test has 12 items and y_test 5"),
    "empty": ({"x": X[:0], "y": Y[:0]}, "x_train is empty"),
    "empty test": ({"x_train": X, "y_train": Y, "x_test": X[:0], "y_test": Y[:0]}, "x_test is empty"),
    "float labels": (
        {"x": X, "y": Y.astype(float)},
        r"float64; .* name classes, use y.astype\('int32'\); else this is a",
    ),
    "text label of no class": (
        {"x": X, "y": np.array(list("abd") * 4), "class_names": list("abc")},
        r"y_train\[2\] is 'd', which the training part lacks; accepted: 'a', 'b', 'c'; correct",
    ),
    "new text in test": (
        {"x_train": X, "y_train": np.array(list("ab") * 6), "x_test": X, "y_test": np.array(list("abc") * 4)},
        r"y_test\[2\] is 'c', which the training part lacks",
    ),
    "text and numbers": (
        {"x_train": X, "y_train": np.array(list("ab") * 6), "x_test": X, "y_test": Y},
        "y_test holds int64 and y_train text; both must be alike",
    ),
    "a column of text": ({"x": X, "y": np.array(list("abc") * 4)[:, None]}, r"use y\[:, 0\]$"),
    "one array and several": ({"x": X, "x/a": X, "y": Y}, "holds both x and x/...; accepted: one array, or several"),
    "several of other lengths": ({"x/a": X, "x/b": X[:3], "y": Y}, r"several lengths \(a: 12, b: 3\)"),
    "several, one wrong": ({"x/a": X, "x/b": X > 0, "y": Y}, r"x_train/b holds bool; accepted: integers or floats"),
    "several, one nan": ({"x/a": X, "x/b": np.full(12, np.nan), "y": Y}, r"x_train/b\[0\] is nan"),
    "several in train alone": (
        {"x_train/a": X, "x_train/b": X, "y_train": Y, "x_test": X, "y_test": Y},
        "one of x_test and x_train holds several arrays",
    ),
    "other names in test": (
        {"x_train/a": X, "y_train": Y, "x_test/b": X, "y_test": Y},
        "x_test holds b, x_train a; both must be alike",
    ),
    "text x": ({"x": np.full((12, 2), "a"), "y": Y}, "x_train holds <U1; accepted: integers or floats"),
    "complex x": ({"x": X.astype(complex), "y": Y}, "x_train holds complex128"),
    "negative": (
        {"x": X, "y": with_value(Y, (4,), -1)},
        r"y_train\[4\] is -1; .*np.searchsorted\(np.unique\(y_train\), y\)",
    ),
    "huge": ({"x": X, "y": with_value(Y, (7,), 2**40)}, r"y_train\[7\] is 1099511627776"),
    "gap": ({"x": X, "y": Y * 2}, r"class 1 has no item in y_train, whose labels are to be 0..4"),
    "from one": ({"x": X, "y": Y + 1}, "class 0 has no item"),
    "far label": ({"x": X, "y": with_value(Y, (3,), 2**31 - 1)}, "class 3 has no item"),
    "name without item": ({"x": X, "y": Y, "class_names": list("abcd")}, r"class 3 \('d'\) has no item"),
    "label without name": ({"x": X, "y": Y, "class_names": ["a", "b"]}, r"y_train\[2\] is 2 where class_names has 2"),
    "new in test": (
        {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y + 1},
        r"y_test\[2\] is 3 where the training part has 3 classes",
    ),
    "one class": ({"x": X, "y": Y * 0}, "y_train holds one class; at least two"),
    "names twice": ({"x": X, "y": Y, "class_names": list("aba")}, "class_names holds 'a' twice"),
    "names as numbers": ({"x": X, "y": Y, "class_names": [1, 2, 3]}, r"class_names has shape \(3,\) of int64"),
    "nan": ({"x": with_value(X.astype("f4"), (5, 1, 2, 0), np.nan), "y": Y}, r"x_train\[5, 1, 2, 0\] is nan"),
    "inf": (
        {
            "x_train": X.astype("f4"),
            "y_train": Y,
            "x_test": with_value(X.astype("f4"), (0, 0, 0, 1), -np.inf),
            "y_test": Y,
        },
        r"x_test\[0, 0, 0, 1\] is -inf; accepted: finite",
    ),
    "shapes differ": (
        {"x_train": X, "y_train": Y, "x_test": X[:, :2], "y_test": Y},
        "x_test holds uint8 items of shape",
    ),
    "dtypes differ": (
        {"x_train": X, "y_train": Y, "x_test": X.astype("f4"), "y_test": Y},
        "x_test holds float32 items",
    ),
}


def test_bools_are_two_classes(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=Y > 0)
    splits = load(tmp_path / "a.npz", validation=0)
    assert set(splits.y_train.tolist()) == {0, 1}
    assert splits.class_names == ("False", "True")


@pytest.mark.parametrize("dtype", ["U", "S", "O"])
def test_texts_become_classes_in_their_order(dtype):
    y = np.array(["dog", "cat", "ëlk"] if dtype != "S" else ["dog", "cat", "elk"])[Y].astype(dtype)
    arrays = check(Arrays(X, y, X[:2], y[:2]), "s")
    assert arrays.class_names == ("cat", "dog", "ëlk" if dtype != "S" else "elk")
    assert arrays.y_train.tolist() == [1, 0, 2] * 4
    assert arrays.y_test.tolist() == [1, 0]
    assert arrays.y_train.dtype == np.int32


def test_numbers_as_text_keep_the_order_of_their_values():
    arrays = check(Arrays(X, np.array(["10", "9", "-1"])[Y]), "s")
    assert arrays.class_names == ("-1", "9", "10")
    assert arrays.y_train[:3].tolist() == [2, 1, 0]


def test_class_names_give_texts_their_order():
    arrays = check(Arrays(X, np.array(["small", "large", "huge"])[Y], class_names=("small", "large", "huge")), "s")
    assert arrays.y_train.tolist() == Y.tolist()


# --- several inputs, outputs, weights --------------------------------------------------------------------------------


def test_several_inputs_and_outputs_of_an_npz(tmp_path):
    age, name = np.arange(12), np.array(["ann", "bo"] * 6)
    np.savez(tmp_path / "a.npz", **{"x/image": X, "x/age": age, "x/name": name, "y/kind": Y, "y/sex": Y > 0, "w": age})
    splits = load(tmp_path / "a.npz", test=0.25, validation=0)
    assert list(splits.x_train) == ["image", "age", "name"]
    x = splits.x_train.arrays
    assert (x["image"].shape, x["image"].dtype) == ((9, 4, 4, 3), np.uint8)
    assert (x["age"].shape, x["age"].dtype) == ((9, 1), age.dtype)  # whole numbers stay so
    assert (x["name"].shape, x["name"].dtype) == ((9, 1), np.int32)
    assert splits.vocabularies == {"name": ("", "[UNK]", *sorted(["ann", "bo"], key=splits.vocabularies["name"].index))}
    assert splits.output_classes == {"kind": ("0", "1", "2"), "sex": ("False", "True")}
    assert (splits.num_classes, splits.class_names, splits.input_shape) == (0, (), ())
    rows = x["age"][:, 0]
    assert np.array_equal(splits.w_train, rows.astype(np.float32))
    assert splits.w_train.dtype == np.float32
    assert np.array_equal(splits.y_train.arrays["kind"], Y[rows])
    assert np.array_equal(splits.y_train.arrays["sex"], (Y > 0)[rows])
    assert set(rows) | set(splits.x_test.arrays["age"][:, 0]) == set(range(12))


def test_validation_and_weights_of_parts(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=X, y_train=Y, x_val=X[:3], y_val=Y[:3], w_train=Y + 1, w_val=[1, 2, 3])
    splits = load(tmp_path / "a.npz", test=0.25)
    assert splits.sizes == {"train": 9, "validation": 3, "test": 3}
    assert np.array_equal(splits.w_train, splits.y_train + 1)
    assert np.array_equal(splits.w_test, splits.y_test + 1)
    assert splits.w_val.tolist() == [1, 2, 3]


def test_what_is_advised_works(tmp_path):
    """One-hot labels, and labels that do not begin at 0, changed as the messages say."""
    wrong = {"one-hot": np.eye(3)[Y], "from 7": Y * 2 + 7, "-1": Y * 5 - 1}
    for y in wrong.values():
        with pytest.raises(DataError):
            check(Arrays(X, y), "s")
        numbers = y.argmax(-1) if y.ndim == 2 else np.searchsorted(np.unique(y), y)
        assert (check(Arrays(X, numbers), "s").y_train == Y).all()


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_in_an_npz_is_named_in_one_line(tmp_path, case):
    content, message = WRONG[case]
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path / "a.npz")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("npz:a.npz: ")


def test_a_late_item_is_named_by_its_own_index():
    x = np.zeros((3000, 2), np.float32)
    x[2500, 1] = np.inf
    with pytest.raises(DataError, match=r"x_train\[2500, 1\] is inf"):
        check(Arrays(x, np.arange(3000) % 2), "s")


def test_declared_classes_may_lack_items():
    arrays = check(Arrays(X, Y + 1, class_names=tuple("abcde"), declared=True), "s")
    assert arrays.class_names == tuple("abcde")


def test_a_file_that_is_no_npz(tmp_path):
    cases = {
        "absent.npz": (None, "does not exist"),
        "text.npz": (b"hello, world", "is not an npz file"),
        "empty.npz": (b"", "is not an npz file"),
        "pickle.npz": (b"\x80\x04K\x01.", "is not an npz file"),
    }
    for name, (content, message) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            load(tmp_path / name)
    np.save(tmp_path / "array.npy", X)
    with pytest.raises(DataError, match=r"is a single array \(npy\)"):
        load(tmp_path / "array.npy")
    with pytest.raises(DataError, match="is a folder"):
        load_splits(Data(source="npz:../" + tmp_path.name), base=tmp_path, seed=0)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file(tmp_path, share):
    path = tmp_path / "a.npz"
    np.savez(path, x=X, y=Y)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match="is cut short"):
        load(path)


@given(place=st.floats(0, 0.999), bit=st.integers(0, 7), packed=st.booleans())
@settings(deadline=None, max_examples=150)
def test_a_flipped_bit_is_an_error_of_ours_or_harmless(tmp_path_factory, place, bit, packed):
    path = tmp_path_factory.getbasetemp() / "flipped.npz"
    (np.savez_compressed if packed else np.savez)(path, x=X[:, :2, :2], y=Y)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        assert sum(load(path).sizes.values()) == 12


def test_a_member_that_is_no_array(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"no array")
        archive.writestr("y.npy", b"\x93NUMPY\x01\x00\x10\x00broken header   ")
    with pytest.raises(DataError, match=r"[xy] is not a readable array|holds"):
        load(path)


def test_an_npz_too_large_for_the_memory_is_refused_unread(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((1000, 1000), np.uint8), y=np.arange(1000) % 2)
    monkeypatch.setattr(memory, "available", lambda: 1_000_000)
    with pytest.raises(DataError, match=r"needs about 1\.9 MiB of memory where 1\.0 MiB is available.*80%"):
        load(tmp_path / "a.npz")


# --- memory ----------------------------------------------------------------------------------------------------------


def test_available_memory_is_the_lesser_of_machine_and_container(tmp_path, monkeypatch):
    meminfo, cgroup = tmp_path / "meminfo", tmp_path / "cgroup"
    monkeypatch.setattr(memory, "_MEMINFO", meminfo)
    monkeypatch.setattr(memory, "_CGROUP", cgroup)
    assert memory.available() is None
    memory.guard(2**60, "s", "nothing is known, so nothing is refused")
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:  4000 kB\n")
    assert memory.available() == 4000 * 1024
    cgroup.mkdir()
    (cgroup / "memory.max").write_text("max\n")
    (cgroup / "memory.current").write_text("1000\n")
    assert memory.available() == 4000 * 1024
    (cgroup / "memory.max").write_text("3000\n")
    assert memory.available() == 2000
    (cgroup / "memory.stat").write_text("anon 600\ninactive_file 400\n")
    assert memory.available() == 2400
    memory.guard(1920, "s", "r")
    with pytest.raises(DataError, match=r"s: needs about .*; do this"):
        memory.guard(1921, "s", "do this")
    meminfo.write_text("MemTotal: 9000 kB\n")
    assert memory.available() == 2400


def test_available_memory_of_this_machine_is_known():
    assert (memory.available() or 0) > 2**20


# --- resizing --------------------------------------------------------------------------------------------------------


@given(
    x=hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int16, np.float32]),
        st.tuples(st.integers(2, 4), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4)),
        elements={"min_value": 0, "max_value": 200},
    ),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
@settings(deadline=None)
def test_resizing_keeps_dtype_count_channels_and_range(x, size):
    resized = resize(Arrays(x, np.arange(len(x))), Fit(size), "s").x_train
    assert resized.shape == (len(x), *size, x.shape[3])
    assert resized.dtype == x.dtype
    # Averages lie between the extremes, within rounding.
    assert resized.min() >= x.min() - 1e-3
    assert resized.max() <= x.max() + 1e-3


def test_resizing_averages_all_pixels_when_shrinking():
    x = np.zeros((2, 16, 16, 1), np.uint8)
    x[:, ::2] = 200
    small = resize(Arrays(x, np.arange(2)), Fit((2, 2)), "s").x_train
    assert np.abs(small.astype(int) - 100).max() <= 12


def test_image_size_in_a_pipeline_is_height_then_width(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=X, y_train=Y, x_test=X[:2], y_test=Y[:2])
    splits = load(tmp_path / "a.npz", image_size=[6, 8])
    assert splits.input_shape == (6, 8, 3)
    assert splits.x_test.shape == (2, 6, 8, 3)
    same = load(tmp_path / "a.npz", image_size=[4, 4])
    assert same.input_shape == (4, 4, 3)


def test_image_size_is_for_images(tmp_path):
    np.savez(tmp_path / "a.npz", x=X.reshape(12, -1), y=Y)
    with pytest.raises(DataError, match=r"x_train has shape \(\d+, 48\) and data\.image_size is set"):
        load(tmp_path / "a.npz", image_size=[6, 8])
