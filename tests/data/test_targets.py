"""Targets by kind: numbers, labels, masks, steps; and that draws without classes are at random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfhalf.config import Data
from tfhalf.data import Splits, load_splits
from tfhalf.data.check import Arrays, check
from tfhalf.data.columns import Columns
from tfhalf.data.decode.fit import Fit
from tfhalf.data.resize import resize
from tfhalf.errors import DataError

X = np.zeros((12, 3), np.float32)
IMAGES = np.zeros((12, 4, 6, 3), np.uint8)
N = np.arange(12)
MASKS = np.arange(24).reshape(4, 6) % 3 + 0 * N[:, None, None]
TAGS = np.array([["DET", "NOUN", ""], ["NOUN", "", ""]])[N % 2]


def y_of(y: Any, kind: Any, x: Any = X, **rest: Any) -> Arrays:
    return check(Arrays(x, np.asarray(y)), "s", kind, **rest)


@pytest.mark.parametrize("dtype", ["float32", "float64", ">f8", "int16", "uint8", "float16"])
def test_numbers_are_float32_columns(dtype):
    y = y_of(N.astype(dtype), "numbers").y_train
    assert (y.dtype, y.shape) == (np.float32, (12, 1))
    assert y[:, 0].tolist() == N.tolist()
    two = y_of(np.stack([N, -N.astype(float)], 1).astype(dtype if dtype[0] != "u" else "i4"), "numbers")
    assert two.y_train.shape == (12, 2)
    assert two.class_names == ()


def test_labels_are_0_or_1():
    for y in (N[:, None] % np.array([2, 3]) == 0, np.eye(12)[:, :3], np.eye(12, dtype=np.int8)[:, :3]):
        arrays = y_of(y, "multi")
        assert arrays.y_train.dtype == np.float32
        assert np.array_equal(arrays.y_train, y)
        assert arrays.class_names == tuple(map(str, range(y.shape[1])))


def test_masks_are_classes_of_pixels():
    for y in (MASKS, MASKS[..., None].astype(np.uint8), MASKS.astype(float)):
        arrays = y_of(y, "masks", IMAGES)
        assert (arrays.y_train.dtype, arrays.y_train.shape) == (np.int32, (12, 4, 6))
        assert arrays.class_names == ("0", "1", "2")
    void = np.where(MASKS == 2, 255, MASKS)
    for y, ignore in ((void.astype(np.uint8), 255), (np.where(MASKS == 2, -1, MASKS), None)):
        arrays = y_of(y, "masks", IMAGES, ignore=ignore)
        assert np.array_equal(arrays.y_train, np.where(MASKS == 2, -1, MASKS))
        assert arrays.class_names == ("0", "1")
    said: list[str] = []
    arrays = y_of((MASKS > 0) * 255, "masks", IMAGES, say=said.append)
    assert np.array_equal(arrays.y_train, MASKS > 0)
    assert said == ["s: masks of 0 and 255 are read as classes 0 and 1"]


def test_steps_may_not_count():
    y = np.stack([N % 3, N % 2, np.full(12, -1)], 1)
    arrays = y_of(y, "steps")
    assert arrays.y_train.dtype == np.int32
    assert np.array_equal(arrays.y_train, y)
    assert arrays.class_names == ("0", "1", "2")
    assert np.array_equal(y_of(np.where(y < 0, 99, y), "steps", ignore=99).y_train, y)


def test_steps_may_be_texts_of_which_the_empty_one_does_not_count():
    arrays = y_of(TAGS, "steps")
    assert arrays.class_names == ("DET", "NOUN")
    assert arrays.y_train[:2].tolist() == [[0, 1, -1], [1, -1, -1]]


WRONG: dict[str, tuple[Any, str, str]] = {
    "numbers of rank 3": (MASKS, "numbers", r"y_train has shape \(12, 4, 6\); accepted: numbers \[N\], or \[N, K\]"),
    "no numbers": (np.zeros((12, 0)), "numbers", r"y_train has shape \(12, 0\)"),
    "words as numbers": (
        N.astype(str),
        "numbers",
        "holds <U21; .*these are names of classes: set task: classification",
    ),
    "dates as numbers": (N.astype("M8[D]"), "numbers", r"holds datetime64\[D\]; accepted: numbers"),
    "nan": (np.where(N == 3, np.nan, N), "numbers", r"y_train\[3\] is nan; accepted: finite values"),
    "beyond float32": (np.where(N == 3, 1e39, N), "numbers", r"y_train\[3\] is 1e\+39, which float32 does not hold"),
    "one label": (N % 2, "multi", r"y_train has shape \(12,\); .*use y\[:, None\] for one label"),
    "two as a label": (N[:, None] % 3, "multi", r"y_train\[2, 0\] is 2; accepted: 0 or 1"),
    "words as labels": (
        N[:, None].astype(str),
        "multi",
        "y_train holds <U21; accepted: 0 or 1 for each item and label",
    ),
    "a class an item as masks": (N, "masks", r"y_train has shape \(12,\); accepted: a class for each pixel"),
    "shares as masks": (np.zeros((12, 4, 6, 3)), "masks", r"use y.argmax\(-1\) where the last axis"),
    "masks of another size": (MASKS[:, :2], "masks", r"x_train has shape \(12, 4, 6, 3\) and y_train \(12, 2, 6\)"),
    "a class without pixel": (MASKS * 2, "masks", "class 1 has no pixel in y_train"),
    "negative pixels": (MASKS - 2, "masks", r"y_train\[0, 0, 0\] is -2; accepted: labels 0"),
    "no pixel": (MASKS * 0 - 1, "masks", "y_train holds -1 alone, which does not count; give some a class"),
    "half pixels": (MASKS / 2, "masks", "y_train holds float64; accepted: integer labels"),
    "one class of pixels": (MASKS * 0, "masks", "y_train holds one class; at least two are needed; add pixels"),
    "a class an item as steps": (N, "steps", r"y_train has shape \(12,\); accepted: a class for each step"),
    "no step": (np.full((12, 2), -1), "steps", "y_train holds -1 alone, which does not count"),
    "negative steps": (N[:, None] - 5, "steps", r"y_train\[0, 0\] is -5"),
    "float steps": (N[:, None] / 2, "steps", "y_train holds float64; accepted: integer labels"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_its_kind_is_named_in_one_line(case):
    y, kind, message = WRONG[case]
    with pytest.raises(DataError, match=message) as caught:
        y_of(y, kind, IMAGES if kind == "masks" else X)
    assert "\n" not in str(caught.value)


def test_parts_are_compared():
    with pytest.raises(DataError, match="y_test has 3 columns and y_train 2"):
        check(Arrays(X, np.ones((12, 2)), X, np.ones((12, 3))), "s", "numbers")
    wrong = np.where((N == 1)[:, None, None] & (np.arange(24).reshape(4, 6) == 9), 3, MASKS)
    with pytest.raises(DataError, match=r"y_test\[1, 1, 3\] is 3 where the training part has 3 classes"):
        check(Arrays(IMAGES, MASKS, IMAGES, wrong), "s", "masks")
    with pytest.raises(DataError, match="y_train is one array and another part's y several"):
        check(Arrays(X, N % 2, X, Columns({"a": N % 2})), "s")
    with pytest.raises(DataError, match="y_test does not hold the outputs a, b of y_train"):
        check(Arrays(X, Columns({"a": N % 2, "b": N % 2}), X, Columns({"a": N % 2})), "s")
    with pytest.raises(DataError, match=r"s, output 'b': y_train holds one class"):
        check(Arrays(X, Columns({"a": N % 2, "b": N * 0})), "s")
    with pytest.raises(DataError, match=r"y_train/b has shape \(12, 3\)"):
        check(Arrays(X, Columns({"a": N % 2, "b": X})), "s")


def test_several_outputs_may_be_of_several_kinds():
    kinds = {"kind": "classes", "where": "numbers", "mask": "masks"}
    y = Columns({"kind": N % 3, "where": np.ones((12, 4)), "mask": MASKS})
    arrays = check(Arrays(IMAGES, y), "s", kinds)
    assert {name: part.shape for name, part in arrays.y_train.arrays.items()} == {
        "kind": (12,),
        "where": (12, 4),
        "mask": (12, 4, 6),
    }
    assert arrays.output_classes == {"kind": ("0", "1", "2"), "where": (), "mask": ("0", "1", "2")}
    small = resize(arrays, Fit((2, 3)), "s", kinds)
    assert small.x_train.shape == (12, 2, 3, 3)
    assert small.y_train.arrays["mask"].shape == (12, 2, 3)
    assert small.y_train.arrays["where"].shape == (12, 4)
    with pytest.raises(DataError, match="y is one array where the outputs to learn are kind, where, mask"):
        check(Arrays(IMAGES, N % 3), "s", kinds)
    with pytest.raises(DataError, match="y holds 'other' where the outputs to learn are kind"):
        check(Arrays(IMAGES, Columns({"other": N})), "s", kinds)
    with pytest.raises(DataError, match="y_train lacks the outputs mask, where; accepted: kind, where, mask"):
        check(Arrays(IMAGES, Columns({"kind": N % 3})), "s", kinds)


def test_class_names_are_as_many_as_labels():
    names = ("a", "b", "c")
    assert check(Arrays(X, np.eye(12)[:, :3], class_names=names), "s", "multi").class_names == names
    with pytest.raises(DataError, match="class_names has 3 names and y_train 2 labels"):
        check(Arrays(X, np.eye(12)[:, :2], class_names=names), "s", "multi")


def load(base: Path, y: Any, kind: Any, seed: int = 0, **rest: Any) -> Splits:
    np.savez(base / "a.npz", x=np.arange(100)[:, None], y=y)
    return load_splits(Data(source="npz:a.npz", **rest), base=base, seed=seed, kind=kind)


def test_a_draw_without_classes_is_at_random_and_repeats(tmp_path):
    y = np.linspace(0, 1, 100)
    one, two, other = (load(tmp_path, y, "numbers", seed) for seed in (1, 1, 2))
    assert one.sizes == {"train": 72, "validation": 8, "test": 20}
    assert np.array_equal(one.x_val, two.x_val)
    assert np.array_equal(one.x_test, other.x_test)
    assert not np.array_equal(one.x_val, other.x_val)
    assert set(one.x_train[:, 0]) | set(one.x_val[:, 0]) | set(one.x_test[:, 0]) == set(range(100))
    assert np.allclose(one.y_val[:, 0], y[one.x_val[:, 0]])
    with pytest.raises(DataError, match=r"up to 79, so that one is left to train on; lower data\.validation"):
        load(tmp_path, y, "numbers", validation=80)


@pytest.mark.parametrize(
    ("y", "kind", "words"),
    [
        (np.arange(100.0), "numbers", "1 number to predict"),
        (np.ones((100, 3)), "numbers", "3 numbers to predict"),
        (np.ones((100, 3)), "multi", "3 labels to predict"),
        (np.arange(100)[:, None] % [2, 3], "steps", "3 classes"),
    ],
)
def test_the_result_is_said(tmp_path, y, kind, words):
    said: list[str] = []
    np.savez(tmp_path / "a.npz", x=np.arange(100)[:, None], y=y)
    load_splits(Data(source="npz:a.npz"), base=tmp_path, seed=0, kind=kind, progress=said.append)
    assert said == [f"npz:a.npz: train 72, validation 8, test 20; {words}, items (1,) int64"]


def test_images_and_masks_are_resized_together(tmp_path):
    np.savez(tmp_path / "a.npz", x=IMAGES, y=MASKS)
    splits = load_splits(Data(source="npz:a.npz", image_size=(8, 3)), base=tmp_path, seed=0, kind="masks")
    assert splits.x_train.shape[1:] == (8, 3, 3)
    assert splits.y_val.shape[1:] == (8, 3)
    assert np.array_equal(splits.y_test[0], MASKS[0].repeat(2, 0)[:, 1::2])
