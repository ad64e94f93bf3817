"""Images that keep their proportions: what is cut off, and that all ways of reading cut the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pydantic import ValidationError

from tfhalf.config import Data
from tfhalf.data import load_splits
from tfhalf.data.decode.fit import Fit
from tfhalf.data.resize import fitted
from tfhalf.data.sources import encoded
from tfhalf.errors import DataError

DRAW = np.random.default_rng(0)
USUAL = Fit((224, 224), 0.875)


def smooth(height: int, width: int) -> np.ndarray:
    """Uint8 [height, width, 3] without sharp edges."""
    coarse = DRAW.integers(0, 256, (7, 9, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def usual(image: Image.Image) -> np.ndarray:
    """As torchvision's Resize(256) and CenterCrop(224) give it, by Pillow."""
    scale = 256 / min(image.size)
    large = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = round((large.width - 224) / 2), round((large.height - 224) / 2)
    return np.asarray(large.crop((left, top, left + 224, top + 224)))


def test_a_box_in_the_middle() -> None:
    assert USUAL.box(375, 500) == (85.9375, 23.4375, 414.0625, 351.5625)
    assert Fit((10, 20), 1.0).box(100, 100) == (0, 25, 100, 75)
    assert Fit((10, 20)).box(100, 100) == (0, 0, 100, 100)
    left, top, right, bottom = Fit((7, 7), 1.0).box(33, 33)
    assert (left, top, right, bottom) == pytest.approx((0, 0, 33, 33))
    assert right <= 33
    assert bottom <= 33


def test_what_stays_as_it_is() -> None:
    assert Fit((8, 6)).leaves(8, 6)
    assert Fit((8, 6), 1.0).leaves(8, 6)
    assert not Fit((8, 6)).leaves(6, 8)
    assert not Fit((8, 6), 0.5).leaves(8, 6)
    assert not Fit((8, 6), 1.0).leaves(None, None)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (224, 224), (100, 130)])
def test_as_resized_to_256_and_cut_to_224(height: int, width: int) -> None:
    """But for the whole pixels that the larger image is rounded to."""
    image = Image.fromarray(smooth(height, width))
    differences = np.abs(np.asarray(USUAL.pillow(image), np.int16) - usual(image).astype(np.int16))
    assert differences.max() <= 12
    assert differences.mean() < 1.5
    stretched = np.asarray(Fit((224, 224)).pillow(image), np.int16)
    assert np.abs(stretched - usual(image).astype(np.int16)).mean() > 5


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        for index in range(10):
            file = tmp_path / "photos" / name / f"{index}.{'png' if index % 2 else 'jpg'}"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(smooth(40 + index, 60)).save(file)
    return tmp_path


def load(base: Path, **more: Any) -> Any:
    values = {"source": "folder:photos", "image_size": (16, 16), "center_crop": 0.8, "validation": 0, **more}
    return load_splits(Data.model_validate(values), base=base, seed=0)


def test_files_by_every_way_of_decoding_and_as_they_are_served(photos: Path) -> None:
    eager, lazy = load(photos, decode="eager"), load(photos, decode="lazy")
    for part in ("x_train", "x_test"):
        np.testing.assert_array_equal(getattr(lazy, part)[:], getattr(eager, part))
    cut = load(photos, augment={"resized_crop": {}})
    np.testing.assert_array_equal(cut.x_test[:], eager.x_test)
    assert (load(photos, center_crop=None).x_test != eager.x_test).mean() > 0.5
    files = sorted((photos / "photos").glob("*/*.png"))
    served = {fitted(Image.open(file), (16, 16, 3), 0.8).tobytes() for file in files}
    tested = {image.tobytes() for image in (*eager.x_train, *eager.x_test)}
    assert served <= tested


def test_arrays_and_what_tfds_decodes(tmp_path: Path) -> None:
    x = np.stack([smooth(40, 60) for _ in range(20)])
    np.savez(tmp_path / "a.npz", x_train=x, y_train=np.arange(20) % 2)
    arrays = load(tmp_path, source="npz:a.npz", test=0.5).x_train
    own = {np.asarray(Fit((16, 16), 0.8).pillow(Image.fromarray(image))).tobytes() for image in x}
    assert {image.tobytes() for image in arrays} <= own
    for height, width in ((40, 60), (61, 33)):  # TensorFlow's filter sees a pixel more at the edges
        image = smooth(height, width)
        by_tensorflow = encoded.resized(tf.constant(image), Fit((16, 16), 0.8)).numpy().astype(np.int16)
        by_pillow = np.asarray(Fit((16, 16), 0.8).pillow(Image.fromarray(image)), np.int16)
        assert by_tensorflow.shape == (16, 16, 3)
        assert np.abs(by_tensorflow - by_pillow)[1:-1, 1:-1].max() <= 1
        assert np.abs(by_tensorflow - by_pillow).mean() < 2
        stretched = np.asarray(Fit((16, 16)).pillow(Image.fromarray(image)), np.int16)
        assert np.abs(stretched - by_pillow).mean() > 12


def test_deep_images_of_gray(tmp_path: Path) -> None:
    deep = np.asarray(Image.fromarray(smooth(40, 60)[..., 0]), np.uint16) * 257
    image = Image.fromarray(deep)
    plain = np.asarray(Fit((16, 16), 0.8).pillow(Image.fromarray((deep // 257).astype(np.uint8))), np.float32)
    np.testing.assert_allclose(fitted(image, (16, 16, 1), 0.8, exact=True)[..., 0], plain, atol=1)


def test_what_cannot_be_cut(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="center_crop needs image_size, for example"):
        Data(source="folder:photos", center_crop=0.8)
    for share in (0, 1.1):
        with pytest.raises(ValidationError, match="center_crop"):
            Data(source="folder:photos", image_size=(8, 8), center_crop=share)
    data = Data(source="masks:photos", image_size=(8, 8), center_crop=0.8)
    with pytest.raises(DataError, match=r"^masks:photos: data\.center_crop is set, and each pixel has a class, also"):
        load_splits(data, base=tmp_path, seed=0, kind="masks")
