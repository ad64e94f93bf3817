"""Recurrent layers that Keras hands to cuDNN where there is a GPU."""

from __future__ import annotations

from typing import Any

import keras

from tfhalf.precision.policy import flat_layers


def by_cudnn(model: keras.Model) -> list[Any]:
    """The layers of ``model`` that cuDNN computes on a GPU: their kernels (CudnnRNN) are neither in XLA nor in ONNX,
    and run on no CPU."""
    kinds = (keras.layers.LSTM, keras.layers.GRU)
    return [layer for layer in flat_layers(model) if isinstance(layer, kinds) and layer.use_cudnn is not False]


def leave_cudnn(model: keras.Model) -> None:
    """Have every layer of ``model`` compute its steps in a loop; Keras keeps no such setting in a configuration."""
    for layer in by_cudnn(model):
        layer.use_cudnn = False
