"""Recurrent layers that Keras hands to cuDNN, which knows no XLA."""

from __future__ import annotations

from typing import Any, Literal

import keras

from tfhalf.precision.policy import flat_layers
from tfhalf.system.device import Device, xla_decision


def by_cudnn(model: keras.Model) -> list[Any]:
    """The layers of ``model`` that cuDNN computes on a GPU: their kernels (CudnnRNN) are not in XLA."""
    kinds = (keras.layers.LSTM, keras.layers.GRU)
    return [layer for layer in flat_layers(model) if isinstance(layer, kinds) and layer.use_cudnn is not False]


def choose_xla(
    model: keras.Model, mode: Literal["auto", "on", "off"], device: Device, *, half: bool
) -> tuple[bool, str]:
    """`xla_decision` for ``model``, whose recurrent layers leave cuDNN where XLA compiles them."""
    layers = by_cudnn(model)
    xla, reason = xla_decision(mode, device, half=half, recurrent=bool(layers))
    for layer in layers if xla else ():
        layer.use_cudnn = False
    return xla, reason
