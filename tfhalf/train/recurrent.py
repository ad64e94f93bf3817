"""Recurrent layers that Keras hands to cuDNN, which knows no XLA."""

from __future__ import annotations

from typing import Any

import keras

from tfhalf.precision.policy import flat_layers


def by_cudnn(model: keras.Model) -> list[Any]:
    """The layers of ``model`` that cuDNN computes on a GPU: their kernels (CudnnRNN) are not in XLA."""
    kinds = (keras.layers.LSTM, keras.layers.GRU)
    return [layer for layer in flat_layers(model) if isinstance(layer, kinds) and layer.use_cudnn is not False]
