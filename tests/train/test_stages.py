"""Stages of a training: which size when, the same weights for all of them, the same step; weights that stand still."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from train_helpers import quiet, splits
from train_loops import StopAfter, Stopped, run_folder, trainer, values

from tfhalf.config import Train
from tfhalf.errors import ConfigError
from tfhalf.train.loop import run_training
from tfhalf.train.stages import PLAIN, Stage, Stages, call, scaled_down

pytestmark = pytest.mark.slow  # it trains


def test_every_size_has_an_equal_part_of_the_epochs() -> None:
    def sizes(sizes: tuple[int, ...], epochs: int, shape: tuple[int, ...] = (32, 32, 3)) -> list[int | None]:
        stages = Stages(sizes, epochs, shape)
        return [stages.of(epoch).size for epoch in range(epochs)]

    assert sizes((24, 28, 32), 9) == [24, 24, 24, 28, 28, 28, None, None, None]
    assert sizes((24, 28, 32), 8) == [24, 24, 24, 28, 28, 28, None, None]
    assert sizes((32, 24, 32), 3) == [None, 24, None]
    assert sizes((), 3, (32, 16, 3)) == [None] * 3
    assert Stages((24, 28, 32), 9, (32, 32, 3)).all == (Stage(24), Stage(28), PLAIN)
    assert Stages((32, 24, 32), 3, (32, 32, 3)).all == (PLAIN, Stage(24))
    assert Stages((32, 24, 32), 3, (32, 32, 3)).sizes == (24,)


PATHS = ("stem/kernel", "stem/bias", "norm/beta", "head/kernel")


def test_variables_stand_still_after_their_epochs() -> None:
    stages = Stages((24, 32), 6, (32, 32, 3), {"^stem": 3, "bias|norm": 2}, PATHS)
    expected = [Stage(24)] * 2 + [Stage(24, (1, 2)), *[Stage(None, (0, 1, 2))] * 3]
    found = [stages.of(epoch) for epoch in range(6)]
    assert [(s.size, sorted(s.frozen)) for s in found] == [(s.size, sorted(s.frozen)) for s in expected]
    assert len(stages.all) == 3
    assert Stages((), 2, (8,), {"^stem": 5}, PATHS).all == (PLAIN,)


@pytest.mark.parametrize(
    ("freeze_after", "message"),
    [
        ({"tail": 1}, "train.freeze_after: 'tail' matches no variable that is trained; there are stem/kernel"),
        ({".": 1}, "leaves nothing to train in the last epochs"),
    ],
)
def test_patterns_that_freeze_nothing_or_all(freeze_after: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Stages((), 2, (8,), freeze_after, PATHS)


def test_a_pattern_that_is_none() -> None:
    with pytest.raises(ValueError, match="is not a regular expression"):
        Train(freeze_after={"(": 1})


@pytest.mark.parametrize(
    ("sizes", "shape", "message"),
    [((40,), (32, 32, 3), "40 is larger than the images"), ((8,), (8, 9, 1), "square"), ((8,), (64,), "square")],
)
def test_sizes_that_the_images_do_not_allow(sizes: tuple[int, ...], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Stages(sizes, 3, shape)


def test_a_size_needs_an_epoch() -> None:
    with pytest.raises(ValueError, match="2 sizes for 1 epochs"):
        Train(epochs=1, sizes=(4, 8))


@pytest.mark.parametrize(("old", "new"), [(32, 24), (32, 28), (9, 4), (8, 8)])
def test_scaling_down_is_bilinear_over_all_that_a_pixel_covers(old: int, new: int) -> None:
    x = np.random.default_rng(0).normal(size=(3, old, old, 2)).astype(np.float32)
    expected = tf.image.resize(x, (new, new), antialias=True).numpy()
    np.testing.assert_allclose(scaled_down(tf.constant(x), new).numpy(), expected, atol=1e-5)


def net(side: int) -> keras.Model:
    image = keras.Input((side, side, 3))
    x = keras.layers.Conv2D(4, 3, kernel_regularizer=keras.regularizers.L2(0.1), name="conv")(image)
    x = keras.layers.BatchNormalization(name="norm")(x)
    return keras.Model(image, keras.layers.Dense(2, name="head")(keras.layers.GlobalMaxPooling2D()(x)))


def test_a_twin_trains_the_variables_of_the_model() -> None:
    model, twin, alone = net(8), net(6), net(6)
    alone.set_weights(model.get_weights())
    untouched = [v.numpy() for v in twin.variables]
    x = tf.constant(np.random.default_rng(0).normal(size=(5, 6, 6, 3)).astype(np.float32))
    variables = [v.value for v in model.trainable_variables]
    with tf.GradientTape() as tape:
        answers, losses = call(model, twin, x)
        loss = tf.reduce_sum(answers**2) + tf.add_n(losses)
    gradients = tape.gradient(loss, variables)
    with tf.GradientTape() as tape:
        expected = alone(x, training=True)
        alone_loss = tf.reduce_sum(expected**2) + tf.add_n(alone.losses)
    for got, wanted in zip(gradients, tape.gradient(alone_loss, [v.value for v in alone.trainable_variables]),
                           strict=True):  # fmt: skip
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(answers, expected, rtol=1e-6)
    for variable, same in zip(model.variables, alone.variables, strict=True):
        np.testing.assert_allclose(variable.numpy(), same.numpy(), rtol=1e-6)
    assert (model.get_layer("norm").moving_mean.numpy() != 0).any()
    for variable, before in zip(twin.variables, untouched, strict=True):
        np.testing.assert_array_equal(variable.numpy(), before)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_whole_training(folder: Path, policy: str) -> None:
    side = splits().input_shape[0]
    options: dict[str, Any] = {"train__sizes": (side - 2, side), "train__epochs": 4, "precision__policy": policy}
    one = trainer(folder, **options)
    one.program.compile()
    assert one.program.measure_step() > 0
    result = run_training(one, run_folder(folder, "one"), quiet())
    assert result.epochs[-1].loss < result.epochs[0].loss
    plain = trainer(folder, **{**options, "train__sizes": ()})
    plain.program.compile()
    run_training(plain, run_folder(folder, "plain"), quiet())
    changed = [not np.array_equal(a, b) for a, b in zip(values(one), values(plain), strict=True)]
    assert any(changed)


def test_weights_that_depend_on_the_size_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.sizes: .*pool globally"):
        trainer(folder, model__build="net.py:build_broken", train__sizes=(4,))


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize("feed", ["resident", "streamed"])
def test_what_stands_still_moves_no_more(folder: Path, policy: str, feed: str) -> None:
    one = trainer(
        folder,
        train__freeze_after={"^conv": 2, "gamma": 3},
        train__feed=feed,
        train__optimizer={"learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.01, "clip_norm": 5.0},
        train__accumulate=2,
        precision__policy=policy,
    )
    one.program.compile()
    moved = []
    for epoch in range(4):
        before = [v.numpy() for v in one.state.model.trainable_variables]
        result = one.program.feed(
            one.program.order(epoch), epoch, epoch * one.program.steps_per_epoch, one.program.stages.of(epoch)
        )
        assert result.steps == one.program.steps_per_epoch
        changes = zip(one.state.model.trainable_variables, before, strict=True)
        moved.append({v.path for v, old in changes if not np.array_equal(v.numpy(), old)})
    paths = {v.path for v in one.state.model.trainable_variables}
    still = {path for path in paths if path.startswith("conv")}
    assert moved == [paths, paths, paths - still, paths - still - {"norm/gamma"}]


def test_the_variable_is_named_by_its_index_among_all(folder: Path) -> None:
    one = trainer(folder, model__build="net.py:build_broken", train__freeze_after={"early": 1, "head": 1})
    paths = []
    for epoch in (0, 1):
        result = one.program.feed(one.program.order(epoch)[:1], epoch, 0, one.program.stages.of(epoch))
        paths.append(one.program.step.variables[int(result.variable[0])].path)
    assert [path.split("/")[0] for path in paths] == ["culprit", "culprit"]


def test_a_frozen_training_resumes_where_it_was(folder: Path) -> None:
    def ended(name: str, stop: bool) -> list[np.ndarray]:
        one = trainer(folder, train__freeze_after={"^conv": 2})
        one.program.compile()
        run = run_folder(folder, name)
        if stop:
            with pytest.raises(Stopped):
                run_training(one, run, StopAfter(3))
            one = trainer(folder, train__freeze_after={"^conv": 2})
            one.program.compile()
        run_training(one, run, quiet(), resume=stop)
        return values(one)

    for whole, resumed in zip(ended("whole", False), ended("resumed", True), strict=True):
        np.testing.assert_array_equal(whole, resumed)
