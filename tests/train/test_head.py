"""Answers that are no logits, wherever in the code they are made into probabilities."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops
from train_helpers import classes

from tfhalf.errors import ConfigError
from tfhalf.precision.policy import policy
from tfhalf.train.head import refuse_probabilities

X = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)


class Ends(layers.Layer):
    """A head whose code says how it ends."""

    def __init__(self, end) -> None:
        super().__init__()
        self.end, self.dense = end, layers.Dense(3)

    def build(self, shape) -> None:
        self.dense.build(shape)

    def call(self, x):
        return self.end(self.dense(x))


def by_hand(x):
    powers = ops.exp(x - ops.max(x, -1, keepdims=True))
    return powers / ops.sum(powers, -1, keepdims=True)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (lambda x: ops.cast(ops.softmax(x), "float32"), "ends in a softmax, which would be taken for logits"),
        (ops.sigmoid, r"ends in a sigmoid .in the code of a layer or of a subclass."),
        (
            by_hand,
            r"are probabilities .each row sums to 1., which would be taken for logits; return what stands",
        ),
        (lambda x: ops.mean(ops.softmax(ops.stack([x, x + 1], 1)), 1), "are probabilities"),
    ],
)
@pytest.mark.parametrize("name", ["float32", "mixed_float16"])
def test_probabilities_are_refused(end, words: str, name: str) -> None:
    with policy(name):
        x = keras.Input((5,))
        model = keras.Model(x, Ends(end)(x))
    with pytest.raises(ConfigError, match=words):
        refuse_probabilities(model, X, classes(3))


@pytest.mark.parametrize("end", [lambda x: x, lambda x: x * 3, ops.log_softmax, lambda x: ops.relu(x) + 1])
def test_logits_pass(end) -> None:
    x = keras.Input((5,))
    refuse_probabilities(keras.Model(x, Ends(end)(x)), X, classes(3))
