"""Random resized crops: geometry against numpy and Pillow, the rule of torchvision, and draws that stay the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfhalf.config import Augment, Data
from tfhalf.data.augment import Draws
from tfhalf.data.crop import _BITS, SALT, Crop, OnCanvas, resized

DRAW = np.random.default_rng(0)
SIDES = DRAW.integers(5, 65, (40, 2)).astype(np.int32)
PIXELS = DRAW.integers(0, 256, (40, 64, 64, 3)).astype(np.uint8)


def boxes(crop: Crop, sides: np.ndarray, seed: int = 3, step: int = 5) -> np.ndarray:
    return crop.boxes(tf.constant(sides), Draws(seed, tf.constant(step), len(sides))).numpy()


def reference(
    sides: np.ndarray, drawn: np.ndarray, scale: tuple[float, float], ratio: tuple[float, float]
) -> list[int]:
    """RandomResizedCrop.get_params of torchvision, with ``drawn`` in place of its generator."""
    height, width = (int(side) for side in sides)
    even = drawn.astype(np.float64) / 2**_BITS
    for area, shape in zip(even[:10], even[10:20], strict=True):
        target = height * width * (scale[0] + area * (scale[1] - scale[0]))
        wide = math.exp(math.log(ratio[0]) + shape * (math.log(ratio[1]) - math.log(ratio[0])))
        w, h = round(math.sqrt(target * wide)), round(math.sqrt(target / wide))
        if 0 < w <= width and 0 < h <= height:
            return [int(even[20] * (height - h + 1)), int(even[21] * (width - w + 1)), h, w]
    h, w = height, width
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return [(height - h) // 2, (width - w) // 2, h, w]


@pytest.mark.parametrize(
    ("scale", "ratio"), [((0.08, 1.0), (0.75, 4 / 3)), ((0.9, 1.0), (0.75, 4 / 3)), ((0.3, 0.3), (2.0, 3.0))]
)
def test_boxes_are_torchvisions(scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    crop = Crop((8, 8), scale, ratio)
    sides = np.concatenate([SIDES, [[64, 5], [5, 64]]]).astype(np.int32)
    drawn = Draws(3, tf.constant(5), len(sides)).integers(SALT, 0, 1 << _BITS, 22).numpy()
    expected = np.array([reference(*row, scale, ratio) for row in zip(sides, drawn, strict=True)])
    differ = (boxes(crop, sides) != expected).any(1)
    assert differ.mean() < 0.05  # a side that float32 rounds the other way
    assert np.abs(boxes(crop, sides) - expected)[differ].max(initial=0) <= 1


def test_boxes_lie_in_their_images_and_have_the_areas_that_are_drawn() -> None:
    sides = np.tile(np.array([[375, 500]], np.int32), (4000, 1))
    top, left, height, width = boxes(Crop((8, 8)), sides).T
    assert (top.min(), left.min()) >= (0, 0)
    assert (top + height).max() <= 375
    assert (left + width).max() <= 500
    share = height * width / (375 * 500)
    assert 0.078 < share.min() < 0.1
    draws = np.random.default_rng(0).integers(0, 1 << _BITS, (4000, 22))
    rule = np.array([reference(sides[0], row, (0.08, 1.0), (0.75, 4 / 3)) for row in draws])
    assert abs(share.mean() - (rule[:, 2] * rule[:, 3] / (375 * 500)).mean()) < 0.02
    assert 0.74 < (width / height).min() < 0.8
    assert 1.25 < (width / height).max() < 1.35


def test_pixels_are_as_pillow_resizes_the_box() -> None:
    where = boxes(Crop((16, 24)), SIDES)
    out = resized(tf.constant(PIXELS), tf.constant(where), 16, 24).numpy()
    for image, (top, left, height, width), mine in zip(PIXELS, where, out, strict=True):
        box = Image.fromarray(image[top : top + height, left : left + width])
        own = np.asarray(box.resize((24, 16), Image.Resampling.BILINEAR), np.float32)
        assert np.abs(mine - own).max() <= 1.01  # Pillow rounds twice
    half = resized(tf.constant(PIXELS), tf.constant(where), 16, 24, half=True).numpy()
    assert half.dtype == np.float32
    assert np.abs(half - out).max() < 0.5
    assert np.abs(half - out).mean() < 0.05


def test_what_lies_beyond_an_image_is_not_seen() -> None:
    crop, draws = Crop((8, 8)), Draws(0, tf.constant(0), 40)
    other = PIXELS.copy()
    for image, (height, width) in zip(other, SIDES, strict=True):
        image[height:], image[:, width:] = 255 - image[height:], 0
    one, two = (crop(OnCanvas(tf.constant(x), tf.constant(SIDES)), draws).numpy() for x in (PIXELS, other))
    np.testing.assert_array_equal(one, two)


def test_draws_go_by_seed_step_and_row() -> None:
    crop = Crop((8, 8))
    one = boxes(crop, SIDES)
    np.testing.assert_array_equal(one, boxes(crop, SIDES))
    assert (one != boxes(crop, SIDES, step=6)).any(1).mean() > 0.8
    assert (one != boxes(crop, SIDES, seed=4)).any(1).mean() > 0.8
    halves = [
        crop.boxes(tf.constant(SIDES[part * 20 : part * 20 + 20]), Draws(3, tf.constant(5), 20, part, 2)).numpy()
        for part in (0, 1)
    ]
    np.testing.assert_array_equal(np.concatenate(halves), one)


def test_compiled_it_cuts_the_same() -> None:
    crop, draws = Crop((12, 12)), Draws(1, tf.constant(2), 40)
    plain = crop(OnCanvas(tf.constant(PIXELS), tf.constant(SIDES)), draws)
    compiled = tf.function(lambda x, sides: crop(OnCanvas(x, sides), draws), jit_compile=True)(PIXELS, SIDES)
    np.testing.assert_allclose(compiled, plain, atol=1e-3)
    smaller = crop(OnCanvas(tf.constant(PIXELS), tf.constant(SIDES)), draws, 6)
    assert smaller.shape == (40, 6, 6, 3)


def test_images_that_fill_theirs() -> None:
    whole = Crop((64, 64), None)(OnCanvas.of(tf.constant(PIXELS)), Draws(0, tf.constant(0), 40))
    np.testing.assert_allclose(whole, PIXELS, atol=1e-3)


# --- the pipeline file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"augment": {"resized_crop": {}}}, "resized_crop needs image_size"),
        ({"augment": {"resized_crop": {}}, "image_size": (8, 8), "decode": "eager"}, "decode is eager; leave it out"),
        ({"augment": {"resized_crop": {}, "crop": 4}, "image_size": (8, 8)}, "keep one of the two"),
        ({"augment": {"resized_crop": {"scale": (1.0, 0.1)}}, "image_size": (8, 8)}, r"write \[0.1, 1.0\]"),
        ({"augment": {"resized_crop": {"ratio": (0.0, 1.0)}}, "image_size": (8, 8)}, "greater than or equal"),
    ],
)
def test_what_a_pipeline_cannot_have(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Data.model_validate({"source": "folder:a", **values})


def test_its_defaults_are_inceptions() -> None:
    crop = Augment.model_validate({"resized_crop": {}}).resized_crop
    assert crop is not None
    assert (crop.scale, crop.ratio) == ((0.08, 1.0), (0.75, 1.3333))
