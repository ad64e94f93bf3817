"""``synthetic:HxWxC``: random images that can be learned, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfhalf.config import Data
from tfhalf.data import Splits, load_splits, memory
from tfhalf.data.sources import synthetic
from tfhalf.errors import DataError


def load(source: str, **data: Any) -> Splits:
    return load_splits(Data(source=source, **data), base=Path(), seed=0)


def test_what_it_makes() -> None:
    splits = load("synthetic:6x5x3", args={"classes": 7, "train": 70, "test": 14}, validation=0)
    assert splits.x_train.shape == (70, 6, 5, 3)
    assert splits.x_test.shape == (14, 6, 5, 3)
    assert splits.x_train.dtype == splits.x_test.dtype == np.uint8
    assert splits.class_names == tuple("0123456")
    assert np.bincount(splits.y_train).tolist() == [10] * 7
    assert np.bincount(splits.y_test).tolist() == [2] * 7
    assert splits.y_train.tolist() != sorted(splits.y_train.tolist())
    assert not np.array_equal(splits.x_train[:14], splits.x_test)


def test_what_it_makes_by_default() -> None:
    splits = load("synthetic:2x2x1", validation=0)
    assert splits.sizes == {"train": 5120, "validation": 0, "test": 512}
    assert splits.num_classes == 10


def test_the_same_arguments_give_the_same_images() -> None:
    one = load("synthetic:4x4x3", args={"train": 50})
    again = load("synthetic:4x4x3", args={"train": 50})
    assert np.array_equal(one.x_train, again.x_train)
    assert np.array_equal(one.y_train, again.y_train)


def test_images_are_made_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "_BLOCK", 5 * 3 * 3 * 7)  # 50 images in blocks of seven: the last block holds one
    x = load("synthetic:5x3x3", args={"train": 50}, validation=0).x_train  # 45 bytes: words are cut
    assert len(np.unique(x.reshape(50, -1), axis=0)) == 50
    assert (x.reshape(50, -1).std(1) > 20).all()


def test_noise_is_uniform_and_shifted_by_the_class() -> None:
    splits = load("synthetic:16x16x3", args={"classes": 4, "train": 400}, validation=0)
    x = splits.x_train
    assert x.min() == 0
    assert x.max() == 127 + 128
    means = np.stack([x[splits.y_train == k].mean((0, 1, 2)) for k in range(4)])
    for channel in range(
        3
    ):  # noise has the mean 63.5; four even shifts from 0 to 128, in an order of the channel's own
        assert np.allclose(sorted(means[:, channel]), 63.5 + np.array([0, 43, 85, 128]), atol=1)
    first = x[splits.y_train == 0][..., 0].astype(int)
    assert len(np.unique(first)) == 128
    assert first.std() == pytest.approx(128 / 12**0.5, rel=0.02)


def test_a_classifier_can_do_better_than_chance() -> None:
    """The nearest mean colour, learned on the training part."""
    splits = load("synthetic:12x12x3", args={"classes": 20, "train": 400, "test": 100}, validation=0)
    colour = splits.x_train.mean((1, 2))
    means = np.stack([colour[splits.y_train == k].mean(0) for k in range(20)])
    nearest = ((splits.x_test.mean((1, 2))[:, None] - means) ** 2).sum(-1).argmin(1)
    assert (nearest == splits.y_test).mean() > 0.25


@pytest.mark.parametrize(
    "shape",
    [
        *("224x224", "224x224x3x1", "0x224x3", "-1x2x3", "axbxc", "224X224X3", "4097x1x1", " 8x8x3", "8x8x3 "),
        "8x8x\N{ARABIC-INDIC DIGIT THREE}",
    ],
)
def test_malformed_shapes(shape: str) -> None:
    with pytest.raises(DataError) as raised:
        load(f"synthetic:{shape}")
    message = str(raised.value)
    assert f"{shape!r} is not a shape; accepted: synthetic:HEIGHTxWIDTHxCHANNELS, each from 1 to 4096" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"clases": 3}, "holds 'clases'; did you mean 'classes'?; accepted: classes, train, test"),
        ({"size": 3}, "holds 'size'; accepted: classes, train, test"),
        ({"classes": 1}, "data.args.classes is 1; accepted: a whole number, at least 2"),
        ({"classes": "ten"}, "data.args.classes is 'ten'; accepted: a whole number, at least 2"),
        ({"classes": True}, "data.args.classes is True"),
        ({"train": 99.5}, "data.args.train is 99.5"),
        ({"test": 0}, "data.args.test is 0; accepted: a whole number, at least 1"),
        ({"classes": 20, "train": 19}, "data.args.train is 19 for 20 classes; accepted: at least one image a class"),
    ],
)
def test_malformed_arguments(args: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError) as raised:
        load("synthetic:8x8x3", args=args)
    assert words in str(raised.value)
    assert str(raised.value).startswith("synthetic:8x8x3: ")


def test_more_than_the_memory_holds_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 10**6)
    with pytest.raises(DataError, match=r"needs about .* lower data\.args\.train"):
        load("synthetic:64x64x3", args={"train": 100, "test": 10})
    assert len(load("synthetic:8x8x3", args={"train": 100, "test": 10}).x_test) == 10


def test_what_other_sources_take() -> None:
    with pytest.raises(DataError, match=r"only file\.py:load, package\.module:load and synthetic:HxWxC take args"):
        load("sklearn:digits", args={"classes": 3})
    with pytest.raises(DataError, match=r"did you mean 'synthetic:8x8x3'\?"):
        load("synthetik:8x8x3")
    with pytest.raises(DataError, match=r"data\.decode is lazy"):
        load("synthetic:8x8x3", decode="lazy")
