"""Recurrent layers in training: by cuDNN, or in a loop that XLA compiles."""

from __future__ import annotations

from typing import Literal

import keras

from tfhalf.precision.cudnn import by_cudnn, leave_cudnn
from tfhalf.system.device import Device, xla_decision

_WRONG = "; the recurrent layers leave cuDNN, whose gradients are wrong in bfloat16"


def choose_xla(
    mode: Literal["auto", "on", "off"], device: Device, *models: keras.Model, half: bool
) -> tuple[bool, str]:
    """`xla_decision` for ``models``, whose recurrent layers leave cuDNN where XLA compiles them, and in bfloat16.

    TensorFlow 2.21 hands cuDNN bfloat16 layers too: what they answer is right, and their gradients are off by as much
    as they are large (seen on an H200, GRU and LSTM, with masks and without).
    """
    narrow = [layer for model in models for layer in by_cudnn(model) if layer.compute_dtype == "bfloat16"]
    for layer in narrow:
        layer.use_cudnn = False
    xla, reason = xla_decision(mode, device, half=half, recurrent=any(by_cudnn(model) for model in models))
    for model in models if xla else ():
        leave_cudnn(model)
    return xla, reason + (_WRONG if narrow and device.kind == "GPU" else "")
