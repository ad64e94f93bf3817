"""Weights drawn by the initializers that a pipeline names."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from train_loops import NET, trainer, values

from tfhalf.errors import ConfigError
from tfhalf.train.initial.drawn import draw_weights


def model(width: int = 400) -> keras.Model:
    x = keras.Input((300,))
    return keras.Model(x, layers.Dense(3, name="head")(layers.Dense(width, name="body")(x)))


def weight(net: keras.Model, path: str) -> np.ndarray:
    return np.asarray(next(variable for variable in net.variables if variable.path == path))


def test_what_a_pattern_matches_is_drawn_anew() -> None:
    """With the variance that K. He et al. (arXiv:1502.01852, equation 10) give; the last pattern counts."""
    net = model()
    before = weight(net, "body/bias")
    draw_weights(net, {"kernel": "he_normal", "^head": {"name": "TruncatedNormal", "stddev": 0.001}}, 3)
    assert weight(net, "body/kernel").std() == pytest.approx((2 / 300) ** 0.5, rel=0.02)
    assert weight(net, "head/kernel").std() < 0.0011
    np.testing.assert_array_equal(weight(net, "body/bias"), before)


def test_the_seed_decides() -> None:
    one, two, other, wide = model(), model(), model(), model(500)
    for net, seed in ((one, 3), (two, 3), (other, 4), (wide, 3)):
        keras.utils.set_random_seed(len(net.layers) + seed)
        draw_weights(net, {"kernel": "glorot_uniform"}, seed)
    np.testing.assert_array_equal(weight(one, "body/kernel"), weight(two, "body/kernel"))
    assert (weight(one, "body/kernel") != weight(other, "body/kernel")).any()
    assert (weight(one, "body/kernel")[0, :3] != weight(one, "head/kernel")[0]).any()  # not the same numbers twice


@pytest.mark.parametrize(
    ("initializers", "said"),
    [
        ({"kernle": "he_normal"}, "'kernle' matches no weight; the model has body/kernel, body/bias"),
        ({"kernel": "he_norm"}, "received 'he_norm'; accepted: a name of keras.initializers"),
        ({"kernel": {"name": "HeNormal", "stddev": 2}}, "accepted: a name of keras.initializers, such as he_normal"),
        ({"kernel": {"stddev": 2}}, "accepted: a name of keras.initializers"),
        ({"bias": "identity"}, "'identity' does not take body/bias of shape (400,)"),
    ],
)
def test_what_is_malformed(initializers: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        draw_weights(model(), initializers, 0)  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pipeline_starts_from_them(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    plain, zeros = (trainer(tmp_path, model__initializers=one).state.model for one in ({}, {"head/kernel": "zeros"}))
    assert not weight(zeros, "head/kernel").any()
    assert weight(plain, "head/kernel").any()
    np.testing.assert_array_equal(weight(zeros, "conv/kernel"), weight(plain, "conv/kernel"))
    assert values(trainer(tmp_path))
