"""A small recurrent net, which Keras hands to cuDNN where there is a GPU."""

from __future__ import annotations

import keras
from keras import layers

from tfhalf.precision.policy import policy

KINDS = [layers.GRU, layers.LSTM]


def recurrent(kind: type[keras.layers.Layer], name: str) -> keras.Model:
    with policy(name):
        x = keras.Input((5, 3))
        return keras.Model(x, layers.Dense(2, dtype="float32")(layers.Bidirectional(kind(4))(x)))
