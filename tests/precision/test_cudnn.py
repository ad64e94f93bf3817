"""Layers that Keras hands to cuDNN where there is a GPU."""

from __future__ import annotations

import keras
import pytest
from keras import layers

from tfhalf.precision.cudnn import by_cudnn, leave_cudnn


@pytest.mark.parametrize("kind", [layers.GRU, layers.LSTM])
def test_recurrent_layers_wherever_they_stand(kind: type[keras.layers.Layer]) -> None:
    x = keras.Input((5, 3))
    inner = keras.Sequential([keras.Input((5, 3)), layers.Bidirectional(kind(4, return_sequences=True, name="inner"))])
    plain = kind(4, name="plain", use_cudnn=False)
    model = keras.Model(x, layers.Dense(2)(plain(inner(x))))
    assert {layer.name.rpartition("_")[2] for layer in by_cudnn(model)} == {"inner"}
    leave_cudnn(model)
    assert by_cudnn(model) == []


def test_others_are_none() -> None:
    x = keras.Input((5, 3))
    assert by_cudnn(keras.Model(x, layers.SimpleRNN(4)(layers.Conv1D(3, 2)(x)))) == []
