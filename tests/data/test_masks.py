"""``masks:``: images and masks of their pixels' classes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tfhalf.config import Data
from tfhalf.data import Splits, load_splits
from tfhalf.data.resize import nearest
from tfhalf.errors import DataError

DATASETS = Path(os.environ.get("TFHALF_DATASETS", Path(__file__).parents[3] / "shared" / "datasets"))


def load(base: Path, kind: Any = "masks", **rest: Any) -> Splits:
    return load_splits(Data(source=f"masks:{base}", **rest), base=base, seed=0, kind=kind)


def write(base: Path, count: int = 5, high: int = 1, folders: tuple[str, str] = ("image", "label")) -> Path:
    """Images whose first pixel is their number, and masks of the numbers 0 to ``high`` in turn."""
    for name in folders:
        (base / name).mkdir(parents=True, exist_ok=True)
    for n in range(count):
        image = np.full((6, 4), n, np.uint8)
        Image.fromarray(image).save(base / folders[0] / f"{n}.png")
        mask = (np.arange(24).reshape(6, 4) + n) % 2 * high
        Image.fromarray(mask.astype(np.uint8)).save(base / folders[1] / f"{n}.png")
    return base


def test_pairs_by_name_in_the_order_people_count(tmp_path):
    splits = load(write(tmp_path, 12), validation=0, test=0.25)
    assert (splits.x_train.shape, splits.x_train.dtype) == ((9, 6, 4, 1), np.uint8)
    assert (splits.y_train.shape, splits.y_train.dtype) == ((9, 6, 4), np.int32)
    numbers = splits.x_train[:, 0, 0, 0]
    assert list(numbers) == sorted(numbers)
    assert np.array_equal(splits.y_train[:, 0, 0], numbers % 2)
    assert (splits.num_classes, splits.class_names) == (2, ("0", "1"))


def test_masks_of_0_and_255_are_said_to_be_0_and_1(tmp_path):
    said: list[str] = []
    splits = load_splits(
        Data(source=f"masks:{write(tmp_path, high=255)}"), base=tmp_path, seed=0, kind="masks", progress=said.append
    )
    assert set(splits.y_train.flat) == {0, 1}
    assert any(line.endswith("masks of 0 and 255 are read as classes 0 and 1") for line in said)


def test_parts_and_other_names_of_folders(tmp_path):
    for part, count in (("train", 4), ("val", 2), ("test", 3)):
        write(tmp_path / part, count, folders=("images", "masks"))
    assert load(tmp_path).sizes == {"train": 4, "validation": 2, "test": 3}


def test_masks_are_resized_to_the_nearest_class(tmp_path):
    splits = load(write(tmp_path), image_size=[3, 2])
    assert splits.x_train.shape[1:] == (3, 2, 1)
    assert splits.y_train.shape[1:] == (3, 2)
    assert set(splits.y_train.flat) <= {0, 1}
    mask = np.arange(12).reshape(1, 3, 4)
    assert np.array_equal(nearest(mask, (6, 8)), mask.repeat(2, 1).repeat(2, 2))
    assert np.array_equal(nearest(nearest(mask, (9, 12)), (3, 4)), mask)


def test_a_palette_s_indices_are_classes_and_gray_rgb_is_gray(tmp_path):
    write(tmp_path)
    for n in range(5):
        mask = Image.open(tmp_path / "label" / f"{n}.png")
        palette = Image.fromarray(np.asarray(mask))
        palette.putpalette([10, 200, 30, 250, 0, 9] + [0] * 762)
        assert palette.mode == "P"
        palette.save(tmp_path / "label" / f"{n}.png")
    assert set(load(tmp_path).y_train.flat) == {0, 1}
    Image.fromarray(np.asarray(mask)).convert("RGB").save(tmp_path / "label" / "4.png")
    assert set(load(tmp_path).y_train.flat) == {0, 1}


def test_what_does_not_fit_is_named(tmp_path):
    with pytest.raises(DataError, match="does not exist; accepted: a folder PATH/image"):
        load(tmp_path / "absent")
    with pytest.raises(DataError, match="holds no folder image/"):
        load(tmp_path)
    write(tmp_path)
    with pytest.raises(DataError, match=r"y_train has shape .*set task: segmentation"):
        load(tmp_path, "classes")
    (tmp_path / "label" / "3.png").rename(tmp_path / "label" / "three.png")
    with pytest.raises(
        DataError, match=r"image/3.png has no partner named '3' in label/.*add it, or take the file out"
    ):
        load(tmp_path)
    Image.new("L", (5, 6)).save(tmp_path / "label" / "3.png")
    (tmp_path / "label" / "three.png").unlink()
    with pytest.raises(DataError, match=r"label/3.png is 6 x 5 and its image 3.png 6 x 4"):
        load(tmp_path)
    Image.new("RGB", (4, 6), (1, 2, 3)).save(tmp_path / "label" / "3.png")
    with pytest.raises(DataError, match=r"label/3.png has colours; accepted: masks of one channel"):
        load(tmp_path)
    (tmp_path / "label" / "3.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"label/3.png holds no PNG, JPEG"):
        load(tmp_path)
    Image.new("L", (4, 6), 7).save(tmp_path / "label" / "3.png")
    with pytest.raises(DataError, match=r"class 2 has no pixel in y_train, whose labels are to be 0..7"):
        load(tmp_path, test=0.2)
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match="holds label/ and masks/"):
        load(tmp_path)


def test_a_link_that_leaves_the_folder_is_refused(tmp_path):
    write(tmp_path / "set")
    (tmp_path / "set" / "label" / "4.png").rename(tmp_path / "4.png")
    (tmp_path / "set" / "label" / "4.png").symlink_to(tmp_path / "4.png")
    with pytest.raises(DataError, match=r"label/4.png is a link that leaves .*; copy the file there"):
        load(tmp_path / "set")


@pytest.mark.skipif(not (DATASETS / "membrane").is_dir(), reason=f"{DATASETS} does not hold the data set membrane")
def test_membrane():
    splits = load(DATASETS / "membrane", image_size=[64, 64])
    assert sum(splits.sizes.values()) == 30
    assert splits.x_train.shape[1:] == (64, 64, 1)
    assert 0.7 < splits.y_train.mean() < 0.85
    splits = load(DATASETS / "membrane", image_size=[64, 64], test={"items": ["24-29"]})
    assert splits.sizes == {"train": 22, "validation": 2, "test": 6}
