"""Colours and shapes changed at random: each operation beside Pillow's, and draws that are functions of the seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from tfhalf.config import Colour, RandAugment
from tfhalf.data.augment import Draws
from tfhalf.data.colour import colour, turned
from tfhalf.data.rand_augment import OPERATIONS, apply, rand_augment

RANDOM = np.random.default_rng(0)
HEIGHT, WIDTH = 24, 20
# Smooth pictures, a flat one, a noisy one, and one of few values.
SMOOTH = np.stack(
    [
        Image.fromarray(RANDOM.integers(0, 256, (4, 4, 3), np.uint8)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        for _ in range(5)
    ]
)
X = np.concatenate(
    [
        SMOOTH // 2 + 40,
        np.full((1, HEIGHT, WIDTH, 3), 77, np.uint8),
        RANDOM.integers(0, 256, (1, HEIGHT, WIDTH, 3), np.uint8),
        100 + 9 * RANDOM.integers(0, 2, (1, HEIGHT, WIDTH, 3), np.uint8),
    ]
).astype(np.uint8)
N = len(X)
GRAY = X[..., :1]


def drawn(seed: int = 0, step: int = 0, rows: int = N) -> Draws:
    return Draws(seed, tf.constant(step), rows)


def both(function: Any, *arguments: Any) -> tuple[np.ndarray, np.ndarray]:
    """What ``function`` gives, compiled by XLA and not."""
    plain = tf.function(function, autograph=False)(*arguments)
    return plain.numpy(), tf.function(function, jit_compile=True, autograph=False)(*arguments).numpy()


def by_pillow(image: np.ndarray, name: str, sign: int, share: float) -> np.ndarray:
    """One operation on one uint8 image [H, W, 3], as torchvision's RandAugment does it with Pillow."""
    picture, by = Image.fromarray(image), sign * share

    def warped(*matrix: float) -> Image.Image:
        return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)

    factor = 1 + 0.9 * by
    result = {
        "identity": lambda: picture,
        "shear_x": lambda: warped(1, 0.3 * by, 0, 0, 1, 0),
        "shear_y": lambda: warped(1, 0, 0, 0.3 * by, 1, 0),
        "translate_x": lambda: warped(1, 0, int(150 / 331 * WIDTH * by), 0, 1, 0),
        "translate_y": lambda: warped(1, 0, 0, 0, 1, int(150 / 331 * HEIGHT * by)),
        "rotate": lambda: picture.rotate(30 * by, Image.Resampling.NEAREST),
        "brightness": lambda: ImageEnhance.Brightness(picture).enhance(factor),
        "colour": lambda: ImageEnhance.Color(picture).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(picture).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(picture).enhance(factor),
        "posterize": lambda: ImageOps.posterize(picture, 8 - round(4 * share)),
        "solarize": lambda: ImageOps.solarize(picture, 255 * (1 - share)),
        "autocontrast": lambda: ImageOps.autocontrast(picture),
        "equalize": lambda: ImageOps.equalize(picture),
    }[name]()
    return np.asarray(result)


# Of Pillow's that are whole numbers, or are moved by a whole number of pixels, every pixel is the same.
EXACT = {"identity", "translate_x", "translate_y", "posterize", "solarize", "equalize", "shear_x", "shear_y"}


@pytest.mark.parametrize("magnitude", [9, 25])
def test_each_operation_is_pillow_s(magnitude: int) -> None:
    run = tf.function(lambda x, o, s: apply(x, o, s, magnitude), autograph=False)
    for number, name in enumerate(OPERATIONS):
        for sign in (-1, 1):
            got = run(tf.constant(X), tf.fill([N], number), tf.fill([N], (sign + 1) // 2)).numpy()
            assert got.dtype == np.uint8
            expected = np.stack([by_pillow(one, name, sign, magnitude / 30) for one in X])
            off = np.abs(got.astype(int) - expected)
            if name == "rotate":  # pixels whose middle falls between two may come from either
                assert (off > 0).any(-1).mean() < 0.02, (name, sign)
            else:
                assert off.max() <= (0 if name in EXACT else 1), (name, sign, off.max())


def test_operations_of_one_layer_do_not_mix() -> None:
    """Each image gets its own operation alone, whatever its neighbours get; equalised ones are any and all."""
    numbers = tf.range(14 * 2) % 14
    x = tf.constant(np.resize(X, (28, HEIGHT, WIDTH, 3)))
    signs = tf.cast(tf.range(28) >= 14, tf.int32)
    plain, compiled = both(lambda x: apply(x, numbers, signs, 17), x)
    each = np.concatenate([apply(x[i : i + 1], numbers[i : i + 1], signs[i : i + 1], 17).numpy() for i in range(28)])
    np.testing.assert_array_equal(plain, each)
    assert np.abs(plain.astype(int) - compiled).max() <= 1
    assert (plain != compiled).mean() < 1e-3
    everyone = apply(x, tf.fill([28], 13), signs, 17).numpy()
    expected = [np.asarray(ImageOps.equalize(Image.fromarray(one))) for one in x.numpy()]
    np.testing.assert_array_equal(everyone, np.stack(expected))


def test_rand_augment_draws_by_seed_step_and_row() -> None:
    config = RandAugment()
    x = tf.constant(np.resize(X, (64, HEIGHT, WIDTH, 3)))
    run = tf.function(lambda x, step: rand_augment(x, Draws(3, step, 64), config), autograph=False)
    one = run(x, tf.constant(0)).numpy()
    np.testing.assert_array_equal(one, run(x, tf.constant(0)).numpy())
    assert (one != run(x, tf.constant(1)).numpy()).any((1, 2, 3)).mean() > 0.8
    changed = (one != x.numpy()).any((1, 2, 3)).mean()
    assert 0.7 < changed < 1  # two operations, of which identity and others leave some as they are
    halves = [rand_augment(x[32 * d :][:32], Draws(3, tf.constant(0), 32, d, 2), config).numpy() for d in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(halves), one)
    floats = rand_augment(tf.cast(x, tf.float32) + 0.3, Draws(3, tf.constant(0), 64), config)
    np.testing.assert_array_equal(floats.numpy(), one)


def test_operations_are_drawn_evenly() -> None:
    numbers = Draws(1, tf.constant(5), 20_000).integers(16, 0, len(OPERATIONS), 2).numpy()
    for layer in range(2):
        counts = np.bincount(numbers[:, layer], minlength=14)
        assert np.abs(counts - 20_000 / 14).max() < 5 * np.sqrt(20_000 / 14)
    assert abs(np.corrcoef(numbers.T)[0, 1]) < 0.03


def test_gray_images_are_augmented() -> None:
    for number in range(14):
        got = apply(tf.constant(GRAY), tf.fill([N], number), tf.fill([N], 1), 9).numpy()
        assert got.shape == GRAY.shape
        if OPERATIONS[number] in ("identity", "colour"):
            np.testing.assert_array_equal(got, GRAY)


@pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation"])
def test_colour_changes_by_a_factor_within_its_range(kind: str) -> None:
    many = np.repeat(X[:1], 200, 0)
    got = colour(tf.constant(many), drawn(rows=200), Colour(**{kind: 0.4})).numpy()
    assert got.dtype == np.float32
    assert 0 <= got.min() <= got.max() <= 255
    enhance = {"brightness": ImageEnhance.Brightness, "contrast": ImageEnhance.Contrast,
               "saturation": ImageEnhance.Color}[kind]  # fmt: skip
    image = enhance(Image.fromarray(X[0]))
    lowest, highest = (np.asarray(image.enhance(factor), float) for factor in (0.6, 1.4))
    least, most = np.minimum(lowest, highest) - 1.01, np.maximum(lowest, highest) + 1.01
    assert (got >= least).all()
    assert (got <= most).all()
    assert np.abs(got - lowest).mean((1, 2, 3)).min() < 1  # nearly the ends are drawn, of 200
    assert np.abs(got - highest).mean((1, 2, 3)).min() < 1
    assert len(np.unique(got.mean((1, 2, 3)) if kind == "brightness" else got.std((1, 2, 3)))) > 190


def test_all_of_colour_in_one_expression_is_one_after_another() -> None:
    config = Colour(brightness=0.3, contrast=0.3, saturation=0.3)
    middle = tf.constant(np.clip(X, 90, 150))  # nothing is clipped, so the order is all the same
    got = colour(middle, drawn(), config)
    saturated = colour(middle, drawn(), Colour(saturation=0.3))
    contrasted = colour(saturated, drawn(), Colour(contrast=0.3))
    np.testing.assert_allclose(got, colour(contrasted, drawn(), Colour(brightness=0.3)), atol=1e-3)
    brightened = colour(middle, drawn(), Colour(brightness=0.3))
    contrasted = colour(brightened, drawn(), Colour(contrast=0.3))
    np.testing.assert_allclose(got, colour(contrasted, drawn(), Colour(saturation=0.3)), atol=1e-3)


def test_colour_is_the_same_compiled_and_on_several_devices() -> None:
    config = Colour(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    plain, compiled = both(lambda x, step: colour(x, Draws(7, step, N), config), tf.constant(X), tf.constant(3))
    np.testing.assert_allclose(plain, compiled, atol=1e-2)
    assert (plain != colour(tf.constant(X), drawn(7, 4), config).numpy()).any()
    halves = [colour(tf.constant(X[4 * d :][:4]), Draws(7, tf.constant(3), 4, d, 2), config) for d in (0, 1)]
    np.testing.assert_allclose(np.concatenate(halves), plain, atol=1e-2)
    assert colour(X, drawn(), None) is X
    grays = colour(tf.constant(GRAY), drawn(), Colour(saturation=0.9, hue=0.5))
    np.testing.assert_array_equal(grays, GRAY)


def test_hue_turns_as_the_hexcone_does() -> None:
    import colorsys

    x = RANDOM.integers(0, 256, (1, 10, 10, 3)).astype(np.float32)
    x[0, 0, :3] = [[9, 9, 9], [0, 0, 0], [255, 0, 0]]
    for share in (-0.5, -0.2, 0.0, 0.1, 0.33, 0.5):
        got = turned(tf.constant(x), tf.fill([1, 1, 1, 1], share)).numpy()
        for before, after in zip(x.reshape(-1, 3), got.reshape(-1, 3), strict=True):
            h, s, v = colorsys.rgb_to_hsv(*(before / 255))
            np.testing.assert_allclose(after, 255 * np.asarray(colorsys.hsv_to_rgb((h + share) % 1, s, v)), atol=0.01)
    np.testing.assert_allclose(turned(tf.constant(x), tf.zeros([1, 1, 1, 1])), x, atol=1e-3)


def test_smoothing_is_pillow_s() -> None:
    """What sharpness pulls toward: a factor of 0 shows it whole."""
    from tfhalf.data.rand_augment import _smooth

    expected = np.stack([np.asarray(Image.fromarray(one).filter(ImageFilter.SMOOTH)) for one in X])
    got = _smooth(tf.constant(X, tf.float32)).numpy()
    assert np.abs(got - expected).max() <= 1
    assert (got != expected).mean() < 0.05
