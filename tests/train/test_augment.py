"""Random changes to a batch: what they may give, how often, and that they are functions of seed and step."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tfhalf.config import Augment
from tfhalf.data.augment import Draws, augment, cutout

N = 400
X = np.random.default_rng(0).integers(0, 256, (N, 6, 5, 3)).astype(np.uint8)
INDEX = np.arange(N, dtype=np.int32)
FLIPPED = X[:, :, ::-1]


def run(config: Augment, *, index: Any = INDEX, seed: int = 0, epoch: int = 0, step: int = 0, jit: bool = False) -> Any:
    def changed(x: Any, epoch: Any, step: Any) -> Any:
        draws = Draws(seed, step, len(index))
        images, masks = augment(x, tf.constant(index), draws, config=config, epoch=epoch)
        assert masks is None
        return images

    changed = tf.function(changed, jit_compile=True, autograph=False) if jit else changed
    return changed(tf.constant(X[: len(index)]), tf.constant(epoch), tf.constant(step)).numpy()


def drawn(seed: int, step: int) -> Draws:
    return Draws(seed, tf.constant(step), N)


def flips(config: Augment, **how: Any) -> np.ndarray:
    """Which images were flipped; each must be itself or its mirror image."""
    got = run(config, **how)
    same, mirrored = (got == X).all((1, 2, 3)), (got == FLIPPED).all((1, 2, 3))
    assert (same ^ mirrored).all()
    return mirrored


def test_no_augmentation_changes_nothing() -> None:
    got = run(Augment())
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, X)


def test_alternating_flips_take_turns() -> None:
    config = Augment(flip="alternating")
    epochs = [flips(config, epoch=epoch, step=epoch * 7) for epoch in range(5)]
    for one, two in pairwise(epochs):
        np.testing.assert_array_equal(one, ~two)
    assert 0.4 < epochs[0].mean() < 0.6
    np.testing.assert_array_equal(epochs[0], flips(config, epoch=0, step=99))  # the step plays no part


def test_alternating_flips_go_by_the_place_in_the_training_set() -> None:
    order = np.random.default_rng(1).permutation(N).astype(np.int32)
    config = Augment(flip="alternating")
    np.testing.assert_array_equal(flips(config, index=order), flips(config)[order])
    other = flips(config, seed=1) ^ flips(config)
    assert 0.4 < other.mean() < 0.6
    for lag in (1, 2, 4):  # no pattern along the set
        alike = (flips(config)[lag:] == flips(config)[:-lag]).mean()
        assert 0.38 < alike < 0.62


def test_random_flips_are_drawn_anew_each_step() -> None:
    config = Augment(flip="random")
    one, two = flips(config, step=0), flips(config, step=1)
    assert 0.4 < one.mean() < 0.6
    assert 0.4 < (one ^ two).mean() < 0.6
    np.testing.assert_array_equal(one, flips(config, step=0, epoch=3))
    assert (one != flips(config, step=0, seed=1)).any()


@pytest.mark.parametrize("padding", ["reflect", "zeros"])
def test_crops_are_windows_of_the_padded_image(padding: str) -> None:
    config = Augment(crop=2, crop_padding=padding)
    got = run(config)
    assert got.shape == X.shape
    assert got.dtype == X.dtype
    mode = {"reflect": "reflect", "zeros": "constant"}[padding]
    padded = np.pad(X, [(0, 0), (2, 2), (2, 2), (0, 0)], mode=mode)
    found = np.zeros((5, 5), int)
    for image, whole in zip(got, padded, strict=True):
        hits = [(r, c) for r in range(5) for c in range(5) if np.array_equal(whole[r : r + 6, c : c + 5], image)]
        assert len(hits) == 1, "an image that is no window of its padded self"
        found[hits[0]] += 1
    assert found.min() >= 3, found  # 16 are expected in each of 25 places
    assert found.max() <= 40, found
    assert (run(config, step=1) != got).any()


def test_flip_and_crop_together() -> None:
    config = Augment(flip="alternating", crop=1, crop_padding="zeros")
    got = run(config)
    expected = np.where(flips(Augment(flip="alternating"))[:, None, None, None], FLIPPED, X)
    padded = np.pad(expected, [(0, 0), (1, 1), (1, 1), (0, 0)])
    for image, whole in zip(got, padded, strict=True):
        assert any(np.array_equal(whole[r : r + 6, c : c + 5], image) for r in range(3) for c in range(3))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_cutout_squares(size: int) -> None:
    ones = tf.ones([N, 6, 5, 3])
    got = cutout(ones, drawn(0, 3), size=size).numpy()
    assert set(np.unique(got)) == {0, 1}
    seen = set()
    for image in got:
        hole = image[..., 0] == 0
        assert (image == image[..., :1]).all()  # every channel alike
        sides = []
        for axis, length in ((1, 6), (0, 5)):
            line = hole.any(axis)
            # A window of `size` round a centre within the image, as much of it as lies inside.
            fits = [c for c in range(length) if np.array_equal(
                line, [c - size // 2 <= i < c - size // 2 + size for i in range(length)])]  # fmt: skip
            assert fits, line
            sides.append((line, fits[0]))
        np.testing.assert_array_equal(hole, sides[0][0][:, None] & sides[1][0][None])
        seen.add((sides[0][1], sides[1][1]))
    assert len(seen) >= 25  # of 30 centres, fewer where two give the same square at the edge
    np.testing.assert_array_equal(got, cutout(ones, drawn(0, 3), size=size).numpy())
    assert (got != cutout(ones, drawn(0, 4), size=size).numpy()).any()
    assert (got != cutout(ones, drawn(1, 3), size=size).numpy()).any()


def test_no_cutout() -> None:
    x = tf.ones([2, 3, 3, 1])
    assert cutout(x, drawn(0, 0), size=0) is x


@pytest.mark.parametrize("flip", ["random", "alternating"])
def test_the_compiled_program_draws_the_same(flip: str) -> None:
    config = Augment(flip=flip, crop=2)
    for epoch, step in ((0, 0), (3, 41)):
        plain = run(config, epoch=epoch, step=step, seed=5)
        np.testing.assert_array_equal(plain, run(config, epoch=epoch, step=step, seed=5))
        np.testing.assert_array_equal(plain, run(config, epoch=epoch, step=step, seed=5, jit=True))
    holes = tf.function(lambda x: cutout(x, drawn(5, 2), size=3), jit_compile=True)
    x = tf.cast(X, tf.float32)
    np.testing.assert_array_equal(holes(x).numpy(), cutout(x, drawn(5, 2), size=3).numpy())


def test_the_largest_seed() -> None:
    config = Augment(flip="alternating", crop=1)
    assert (run(config, seed=2**31 - 1) != run(config, seed=0)).any()


@pytest.mark.parametrize("compiled", [False, True])
def test_devices_that_share_a_batch_draw_what_one_draws(compiled: bool) -> None:
    def numbers(rows: int, device: int, devices: int) -> Any:
        return Draws(3, tf.constant(7), rows, device, devices).integers(2, 0, 1000, 4)

    run = tf.function(numbers, jit_compile=True, autograph=False) if compiled else numbers
    whole = run(12, 0, 1).numpy()
    for devices in (2, 3, 4):
        parts = [run(12 // devices, device, devices).numpy() for device in range(devices)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_each_salt_of_each_seed_draws_apart_from_all_others() -> None:
    drawn = {
        Draws(seed, tf.constant(7), 6).integers(salt, 0, 2**30).numpy().tobytes()
        for seed in (0, 1, 2**31 - 1)
        for salt in range(64)
    }
    assert len(drawn) == 3 * 64
    for salt in range(8):  # as they were drawn before there were more
        key = tf.constant([5 * 8 + salt, 7], tf.int64)
        before = tf.random.stateless_uniform([6, 2], key, 0, 99, tf.int32, alg="philox")
        np.testing.assert_array_equal(Draws(5, tf.constant(7), 6).integers(salt, 0, 99, 2), before)
