"""Numbers measured in one's own fit: exact counts, and a training that does not notice."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfhalf.errors import ConfigError
from tfhalf.numerics.callback import NumericsCallback, scale_exponent
from tfhalf.precision.loss_scale import GuardedLossScaleOptimizer
from tfhalf.precision.policy import policy

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(64, 6, 6, 1)).astype(np.float32), RNG.integers(0, 3, 64)


class Own(keras.Model):
    """A subclass, of the same layers as `sequential`."""

    def __init__(self, parts: list[Any]) -> None:
        super().__init__(name="own")
        self.parts = parts

    def call(self, x: Any) -> Any:
        for part in self.parts:
            x = part(x)
        return x


def net(kind: str) -> keras.Model:
    with policy("mixed_float16"):
        parts = [
            *(layers.Conv2D(4, 3, name="conv", kernel_regularizer="l2"), layers.BatchNormalization(name="norm")),
            *(layers.ReLU(name="relu"), layers.Dropout(0.3, name="drop"), layers.Flatten(name="flat")),
            layers.Dense(3, dtype="float32", name="head"),
        ]
        return Own(parts) if kind == "subclass" else keras.Sequential([keras.Input((6, 6, 1)), *parts], name="net")


def fitted(kind: str, *callbacks: Any) -> tuple[keras.Model, dict[str, list[float]]]:
    keras.utils.set_random_seed(1)
    model = net(kind)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(GuardedLossScaleOptimizer(keras.optimizers.Adam(1e-2)), loss, metrics=["accuracy"])
    history = model.fit(X, Y, batch_size=16, epochs=3, verbose=0, callbacks=list(callbacks))
    return model, history.history


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sequential", "subclass"])
def test_training_goes_on_bit_for_bit(kind: str) -> None:
    callback = NumericsCallback(X[:16], Y[:16])
    measured, logs = fitted(kind, callback)
    plain, before = fitted(kind)
    for one, other in (
        (measured.variables, plain.variables),
        (measured.optimizer.variables, plain.optimizer.variables),
    ):
        assert len(one) == len(other)
        assert all(
            np.array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b)) for a, b in zip(one, other, strict=True)
        )
    assert {name: logs[name] for name in before} == before
    assert set(logs) - set(before) == set(callback.records[0].logs)
    assert [layer.dtype_policy.name for layer in measured.layers] == [layer.dtype_policy.name for layer in plain.layers]
    paths = {"conv", "norm", "relu", "drop", "flat", "head"}
    for kind_of in ("activations", "activation gradients"):
        assert {name.rpartition("/")[2] for name in callback.records[0].histograms[kind_of]} == paths


def line(kernel: float, optimizer: Any, **compiled: Any) -> keras.Model:
    """y = kernel x, of one number; its policy hides what float16 does to it."""
    with policy("mixed_float16"):
        dense = layers.Dense(1, use_bias=False, kernel_initializer=keras.initializers.Constant(kernel), name="dense")
        model = keras.Sequential(
            [keras.Input((1,)), dense, layers.Activation("linear", dtype="float32", name="end")], name="line"
        )
    model.compile(optimizer, "mse", **compiled)
    return model


def test_shares_are_exact() -> None:
    """Activations 2^-26, 2^-20, 1 and 2^17: one is flushed, one subnormal, one overflows."""
    x = np.array([[2.0**-26], [2.0**-20], [1.0], [2.0**17]], np.float32)
    model = line(1.0, keras.optimizers.SGD(0.0))
    callback = NumericsCallback(x, x)
    model.fit(x, x, batch_size=4, verbose=0, callbacks=[callback])
    (record,) = callback.records
    shares = record.shares("activations", "line/dense")
    assert (shares.flushed, shares.subnormal, shares.normal, shares.overflowed) == (0.25, 0.25, 0.25, 0.25)
    assert shares.zero == 0
    assert record.logs["float16_activations_flushed"] == 0.25
    assert [row[1].overflowed for row in record.worst("activations", 1)] == [0.25]
    assert record.shares("weights").normal == 1


@pytest.mark.parametrize(("scale", "flushed"), [(1.0, 1.0), (2.0**10, 0.0)])
def test_gradients_count_times_the_loss_scale(scale: float, flushed: float) -> None:
    """d/dw (w x - y)^2 = 2 (w x - y) x, here 2^-26."""
    x, y = np.full((1, 1), 2.0**-13, np.float32), np.full((1, 1), 0.0, np.float32)
    optimizer = GuardedLossScaleOptimizer(keras.optimizers.SGD(0.0), initial_scale=scale)
    model = line(0.5, optimizer)
    callback = NumericsCallback(x, y)
    model.fit(x, y, verbose=0, callbacks=[callback])
    (record,) = callback.records
    assert record.scale_exponent == int(np.log2(scale))
    assert record.histograms["weight gradients"]["line/dense/kernel"].largest == 2.0**-26
    assert record.logs["float16_weight_gradients_flushed"] == flushed


@pytest.mark.slow
def test_how_often_and_what_changes_between() -> None:
    callback = NumericsCallback(X[:8], Y[:8], every=2)
    model, _ = fitted("sequential", callback)
    assert [record.epoch for record in callback.records] == [0, 1]
    first, second = (record.histograms["weights"] for record in callback.records)
    assert any(not np.array_equal(first[name].counts, second[name].counts) for name in first)
    model.get_layer("conv").trainable = False  # traced again, without its gradient
    model.compile(model.optimizer.inner_optimizer, model.loss)
    model.fit(X, Y, epochs=1, verbose=0, callbacks=[callback])
    assert not [name for name in callback.records[-1].histograms["weight gradients"] if "conv" in name]


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="every 0: a number of epochs, 1 or more"):
        NumericsCallback(X, Y, every=0)
    callback = NumericsCallback(X, Y)
    callback.set_model(net("sequential"))
    with pytest.raises(ConfigError, match=r"the model is not compiled.*: call compile\(\) first"):
        callback.on_train_begin()


def test_the_exponent_of_a_scale() -> None:
    plain = keras.optimizers.SGD()
    assert scale_exponent(plain) == 0
    assert scale_exponent(keras.optimizers.SGD(loss_scale_factor=1000.0)) == 9
    assert scale_exponent(keras.optimizers.LossScaleOptimizer(plain)) == 15
