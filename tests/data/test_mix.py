"""Mixup and CutMix: what is mixed with what, how much, and the targets that go with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from train_helpers import classes, smoothed_cross_entropy

from tfhalf.config import Augment
from tfhalf.data.augment import Draws
from tfhalf.data.mix import STEPS, Mixed, mix, partners, shares
from tfhalf.tasks import Multilabel, Regression
from tfhalf.train.mixed import mean_loss, sums
from tfhalf.train.objective import Objective, SeveralObjectives

N, HEIGHT, WIDTH = 400, 8, 6
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(N, HEIGHT, WIDTH, 3)).astype(np.float32)
Y = RANDOM.integers(0, 5, N).astype(np.int32)
BEFORE = np.roll(np.arange(N), 1)


def run(config: Augment, *, seed: int = 0, step: int = 0, jit: bool = False, x: Any = X) -> tuple[np.ndarray, Mixed]:
    def mixed(x: Any, y: Any, step: Any) -> Any:
        return mix(x, y, Draws(seed, step, x.shape[0]), config)

    function = tf.function(mixed, jit_compile=jit, autograph=False)
    got, targets = function(tf.constant(x), tf.constant(Y[: len(x)]), tf.constant(step))
    return got.numpy(), Mixed(targets.y.numpy(), targets.share.numpy())


def test_nothing_is_mixed_by_default() -> None:
    x, y = tf.constant(X), tf.constant(Y)
    got, targets = mix(x, y, Draws(0, tf.constant(0), N), Augment())
    assert got is x
    assert targets is y


def test_mixup_blends_each_image_with_the_one_before_it() -> None:
    got, targets = run(Augment(mixup=0.4))
    share = targets.share[:, None, None, None]
    np.testing.assert_allclose(got, share * X + (1 - share) * X[BEFORE], atol=1e-6)
    np.testing.assert_array_equal(targets.y, Y)
    assert len(np.unique(targets.share)) > 0.9 * N
    assert 0.4 < targets.share.mean() < 0.6


def boxes(got: np.ndarray) -> np.ndarray:
    """Where pixels are the partner's, [N, H, W]; all others are an image's own."""
    own, other = (got == X).all(-1), (got == X[BEFORE]).all(-1)
    assert (own ^ other).all()
    return other


def test_cutmix_puts_a_box_of_the_image_before_into_each() -> None:
    got, targets = run(Augment(cutmix=1.0))
    sizes = set()
    for box, share in zip(boxes(got), targets.share, strict=True):
        np.testing.assert_array_equal(box, box.any(1)[:, None] & box.any(0)[None])
        for line in (box.any(0), box.any(1)):
            assert (np.diff(np.flatnonzero(line)) == 1).all()
        assert share == pytest.approx(1 - box.mean())
        sizes.add(box.sum())
    assert len(sizes) > 10
    assert 0.6 < targets.share.mean() < 0.85  # half before boxes are cut off at the edges


def test_boxes_are_as_their_authors_draw_them() -> None:
    """Side by the root of what is left of a share, cut off at the edges: against a plain loop of draws."""
    many, side = 20_000, 16
    x = np.zeros((400, side, side, 1), np.float32)
    draw = np.random.default_rng(1)
    areas = []
    for _ in range(many):
        half = int(side * np.sqrt(1 - draw.beta(1.0, 1.0))) // 2
        lines = [min(centre + half, side) - max(centre - half, 0) for centre in draw.integers(0, side, 2)]
        areas.append(lines[0] * lines[1] / side**2)
    drawn = 1 - np.concatenate([run(Augment(cutmix=1.0), step=step, x=x)[1].share for step in range(5)])
    assert stats.ks_2samp(drawn, areas).pvalue > 1e-3
    assert abs(drawn.mean() - np.mean(areas)) < 0.02


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 8.0])
def test_shares_are_beta_distributed(alpha: float) -> None:
    table = shares(alpha)
    assert len(table) == STEPS
    assert (np.diff(table) >= 0).all()
    for moment in (1, 2, 4):
        assert np.mean(table**moment) == pytest.approx(stats.beta(alpha, alpha).moment(moment), abs=2e-5)
    lower = STEPS // 2  # near 1 a share has fewer digits than its probability
    even = (np.arange(STEPS) + 0.5) / STEPS
    np.testing.assert_allclose(stats.beta(alpha, alpha).cdf(table[:lower]), even[:lower], atol=1e-9)
    np.testing.assert_allclose(table, 1 - table[::-1], atol=1e-9)
    drawn = np.concatenate([run(Augment(mixup=alpha), step=step)[1].share for step in range(5)])
    for bound in (0.001, 0.1, 0.3, 0.5, 0.8, 0.99):
        below = stats.beta(alpha, alpha).cdf(bound)
        assert (drawn < bound).mean() == pytest.approx(below, abs=5 * np.sqrt(below * (1 - below) / len(drawn)))


def test_each_image_gets_one_of_both_by_a_coin() -> None:
    got, targets = run(Augment(mixup=1.0, cutmix=1.0))
    by_mixup = ~((got == X).all(-1) | (got == X[BEFORE]).all(-1)).all((1, 2))
    assert 0.4 < by_mixup.mean() < 0.6
    share = targets.share[:, None, None, None]
    np.testing.assert_allclose(got[by_mixup], (share * X + (1 - share) * X[BEFORE])[by_mixup], atol=1e-6)
    kept = (got == X).all(-1).mean((1, 2))
    np.testing.assert_allclose(targets.share[~by_mixup], kept[~by_mixup], atol=1e-6)


def test_a_share_of_the_images_is_mixed() -> None:
    got, targets = run(Augment(mixup=1.0, mix_probability=0.25))
    alone = (got == X).all((1, 2, 3))
    assert 0.65 < alone.mean() < 0.85
    assert (targets.share[alone] == 1).all()


@pytest.mark.parametrize("config", [Augment(mixup=0.2), Augment(cutmix=1.0), Augment(mixup=0.3, cutmix=0.7)])
def test_mixing_is_a_function_of_seed_step_and_row(config: Augment) -> None:
    one, targets = run(config, seed=3, step=5)
    np.testing.assert_array_equal(one, run(config, seed=3, step=5)[0])
    again, compiled = run(config, seed=3, step=5, jit=True)
    np.testing.assert_allclose(again, one, atol=1e-6)
    np.testing.assert_allclose(compiled.share, targets.share, atol=1e-7)
    assert (one != run(config, seed=3, step=6)[0]).any()
    assert (one != run(config, seed=4, step=5)[0]).any()
    half = N // 2  # of two devices each has a part of the rows and mixes these
    for device in (0, 1):
        rows = slice(half * device, half * (device + 1))
        x, y = tf.constant(X[rows]), tf.constant(Y[rows])
        _, part = mix(x, y, Draws(3, tf.constant(5), half, device, 2), config)
        np.testing.assert_array_equal(part.share, targets.share[rows])


# --- targets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_both_targets_by_their_shares(smoothing: float) -> None:
    answers = RANDOM.normal(size=(N, 5)).astype(np.float32)
    share = RANDOM.random(N).astype(np.float32)
    objective = Objective(classes(5, smoothing))
    got = mean_loss(objective, Mixed(tf.constant(Y), tf.constant(share)), tf.constant(answers))
    each = np.asarray([
        s * smoothed_cross_entropy(Y[[i]], answers[[i]], smoothing)
        + (1 - s) * smoothed_cross_entropy(Y[BEFORE][[i]], answers[[i]], smoothing)
        for i, s in enumerate(share)
    ])  # fmt: skip
    assert float(got) == pytest.approx(each.mean(), rel=1e-5)
    plain = mean_loss(objective, tf.constant(Y), tf.constant(answers))
    assert float(plain) == float(objective.loss(tf.constant(Y), tf.constant(answers)))
    weight = RANDOM.random(N).astype(np.float32)
    got = mean_loss(objective, Mixed(tf.constant(Y), tf.ones([N])), tf.constant(answers), tf.constant(weight))
    assert float(got) == pytest.approx(float(objective.loss(tf.constant(Y), tf.constant(answers), weight)), rel=1e-6)
    got = mean_loss(objective, Mixed(tf.constant(Y), tf.zeros([N])), tf.constant(answers), tf.constant(weight))
    other = objective.loss(tf.constant(Y[BEFORE]), tf.constant(answers), weight[BEFORE])
    assert float(got) == pytest.approx(float(other), rel=1e-6)


def test_several_outputs_are_mixed_together() -> None:
    names = ["a", "b"]
    y = {"kind": tf.constant([0, 1, 2]), "price": tf.constant([[1.0], [2.0], [4.0]]),
         "labels": tf.constant([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])}  # fmt: skip
    answers = {"kind": tf.random.stateless_normal([3, 3], [0, 1]), "price": tf.constant([[0.5], [1.5], [2.5]]),
               "labels": tf.random.stateless_normal([3, 2], [2, 3])}  # fmt: skip
    parts = {"kind": classes(3), "price": Regression([0.0], [1.0]), "labels": Multilabel(names)}
    objective = SeveralObjectives({k: Objective(task) for k, task in parts.items()}, dict.fromkeys(parts, 1.0))
    share = tf.constant([0.25, 0.5, 1.0])
    got = mean_loss(objective, Mixed(y, share), answers)
    expected = sum(
        float(tf.reduce_mean(share * task.loss(y[k], answers[k]) + (1 - share) * task.loss(partners(y[k]), answers[k])))
        for k, task in parts.items()
    )
    assert float(got) == pytest.approx(expected, rel=1e-6)
    assert sums(objective, Mixed(y, share), answers).shape == (objective.size,)


def test_weights_of_classes_are_those_of_each_target() -> None:
    objective = Objective(classes(5), class_weight=np.arange(5, dtype=np.float32))
    y, answers = tf.constant([1, 4]), tf.zeros([2, 5])
    got = mean_loss(objective, Mixed(y, tf.constant([0.75, 1.0])), answers)
    assert float(got) == pytest.approx(np.log(5) * ((0.75 * 1 + 0.25 * 4) + 4) / 2, rel=1e-6)


def test_metrics_are_those_of_the_target_that_counts_for_more() -> None:
    y = tf.constant([0, 1, 2, 3])
    answers = tf.one_hot([0, 0, 2, 2], 5)
    mixed = Mixed(y, tf.constant([0.9, 0.2, 0.5, 0.4]))
    assert mixed.main.numpy().tolist() == [0, 0, 2, 2]
    assert sums(Objective(classes(5)), mixed, answers).numpy().tolist() == [4, 4]
    assert sums(Objective(classes(5)), y, answers).numpy().tolist() == [2, 4]
    rows = {"a": tf.constant([[1.0], [2.0]]), "b": tf.constant([5, 6])}
    both = Mixed(rows, tf.constant([0.1, 0.9])).main
    assert both["a"].numpy().tolist() == [[2.0], [2.0]]
    assert both["b"].numpy().tolist() == [6, 6]
    assert partners(rows)["b"].numpy().tolist() == [6, 5]
