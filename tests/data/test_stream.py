"""Datasets and generators that a function of one's own returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfhalf.config import Data
from tfhalf.data import Splits, load_splits, memory
from tfhalf.data.sources import stream
from tfhalf.errors import DataError

LOADERS = """
import itertools

import numpy as np

X, Y = np.arange(40, dtype=np.float32).reshape(10, 4), np.arange(10) % 2

def dataset(batch=0, drop=False, prefetch=False, weights=False, repeat=False):
    import tensorflow as tf
    dataset = tf.data.Dataset.from_tensor_slices((X, Y, Y + 1.0) if weights else (X, Y))
    if batch:
        dataset = dataset.batch(batch, drop_remainder=drop)
    if repeat:
        dataset = dataset.repeat()
    return dataset.map(lambda *item: item).prefetch(1) if prefetch else dataset

def two():
    return dataset(3), dataset(3).take(2)

def by_part():
    return {"train": dataset(), "validation": dataset(3).take(1), "test": (X, Y)}

def twice():
    return {"train": dataset(), "val": dataset(), "validation": dataset()}

def named():
    import tensorflow as tf
    x = {"a": X, "b": Y}
    return tf.data.Dataset.from_tensor_slices((x, {"kind": Y, "odd": Y == 1})).batch(4)

def sequences():
    import tensorflow as tf
    return tf.data.Dataset.from_tensor_slices((X.reshape(10, 4, 1), X.astype(int) % 3))

def unlabelled():
    import tensorflow as tf
    return tf.data.Dataset.from_tensor_slices(X)

def generator(count=10):
    for n in range(count):
        yield X[n % 10], "odd" if n % 2 else "even", 1 + n

def pairs():
    for n in range(6):
        yield (X[n], X[n, :2]), n % 2

def fails():
    yield X[0], 0
    raise OSError("the disk is gone")

def ragged():
    yield X[0], 0
    yield X[0, :2], 1

def changing():
    yield X[0], 0
    yield {"a": X[0]}, 1

def empty():
    yield from ()

def endless():
    for n in itertools.count():
        yield np.zeros(1000), n % 2

def alone():
    yield X[0]
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(LOADERS)
    return tmp_path


def load(base: Path, name: str, kind: Any = "classes", **args: Any) -> Splits:
    data = Data(source=f"mine.py:{name}", args=args, validation=0, test=0.2)
    return load_splits(data, base=base, seed=0, kind=kind)


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"batch": 3},
        {"batch": 5, "drop": True},
        {"batch": 5, "drop": True, "prefetch": True},
        {"batch": 3, "prefetch": True},
        {"weights": True, "batch": 4},
    ],
)
def test_a_dataset_is_read_whole_and_batches_taken_apart(base, args):
    splits = load(base, "dataset", **args)
    assert splits.sizes == {"train": 8, "validation": 0, "test": 2}
    assert splits.input_shape == (4,)
    rows = np.concatenate([splits.x_train, splits.x_test])[:, 0]
    assert sorted(rows) == list(range(0, 40, 4))
    assert np.array_equal(splits.y_train, splits.x_train[:, 0] / 4 % 2)
    if "weights" in args:
        assert np.array_equal(splits.w_train, splits.y_train + 1)


def test_steps_are_not_batches(base):
    splits = load(base, "sequences", "steps")
    assert splits.x_train.shape == (8, 4, 1)
    assert splits.y_train.shape == (8, 4)


def test_two_datasets_are_training_and_test(base):
    assert load(base, "two").sizes == {"train": 10, "validation": 0, "test": 6}


def test_parts_may_have_names(base):
    assert load(base, "by_part").sizes == {"train": 10, "validation": 3, "test": 10}
    with pytest.raises(DataError, match="returned a dict; accepted"):
        load(base, "twice")


def test_a_dataset_of_several_inputs_and_outputs(base):
    splits = load(base, "named")
    assert {name: x.shape[1:] for name, x in splits.x_train.arrays.items()} == {"a": (4,), "b": (1,)}
    assert splits.output_classes == {"kind": ("0", "1"), "odd": ("False", "True")}


def test_a_generator_is_read_whole(base):
    splits = load(base, "generator", count=2500)
    assert splits.sizes == {"train": 2000, "validation": 0, "test": 500}
    assert splits.class_names == ("even", "odd")
    n = splits.w_train.astype(int) - 1
    assert np.array_equal(splits.y_train, n % 2)
    assert np.array_equal(splits.x_train[:, 0], n % 10 * 4)
    splits = load(base, "pairs")
    assert {name: x.shape[1:] for name, x in splits.x_train.arrays.items()} == {"input_0": (4,), "input_1": (2,)}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", "fails: OSError: the disk is gone; correct the function or data.args"),
        ("ragged", r"train item 1 has shape \(2,\), one before it \(4,\); all must be alike; pad or crop them"),
        ("changing", r"train item 1 has another form than the first \(a, one array, not one array, one array\)"),
        ("empty", "gives no train items; at least one is needed"),
        ("alone", r"train item 0 is a ndarray; accepted: \(x, y\) or \(x, y, weight\)"),
        ("unlabelled", r"train item 0 is a ndarray; accepted: \(x, y\)"),
    ],
)
def test_what_does_not_fit_is_named(base, name, message):
    with pytest.raises(DataError, match=message):
        load(base, name)


def test_what_has_no_end_is_refused(base, monkeypatch):
    with pytest.raises(DataError, match=r"the dataset has no end; .*take .repeat\(\) out of it"):
        load(base, "dataset", repeat=True)
    monkeypatch.setattr(stream, "_GUARDED", 2**20)
    monkeypatch.setattr(memory, "available", lambda: 10 * 2**20)
    with pytest.raises(DataError, match=r"[\d,]+ items read: needs about .*or let it end"):
        load(base, "endless")


def test_long_reading_is_said(base, monkeypatch):
    monkeypatch.setattr(stream, "_EVERY", 0.0)
    said: list[str] = []
    data = Data(source="mine.py:generator")
    load_splits(data, base=base, seed=0, progress=said.append)
    assert said[0] == "mine.py:generator: 1 train items read, 0 MiB"
    assert len(said) == 11
