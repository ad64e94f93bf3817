"""Recurrent layers in training: cuDNN is not in XLA, and computes no right gradient in bfloat16."""

from __future__ import annotations

import keras
import pytest
from keras import layers
from recurrent_net import KINDS, recurrent

from tfhalf.precision.cudnn import by_cudnn
from tfhalf.system.device import Device, cpu
from tfhalf.train.recurrent import choose_xla

GPU = Device("GPU", "a GPU", (9, 0), 2**30, True, True, 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "by"), [("float32", 2), ("mixed_float16", 2), ("mixed_bfloat16", 0)])
def test_bfloat16_is_not_trained_by_cudnn(kind: type[keras.layers.Layer], name: str, by: int) -> None:
    model = recurrent(kind, name)
    xla, reason = choose_xla("auto", GPU, model, half=name != "float32")
    assert len(by_cudnn(model)) == by
    assert xla == (by == 0)
    assert ("gradients are wrong in bfloat16" in reason) == (by == 0)


def test_every_net_of_a_training_leaves_cudnn() -> None:
    """With XLA those for images of other sizes too; on a CPU nothing is said of it."""
    one, other = recurrent(layers.GRU, "mixed_float16"), recurrent(layers.GRU, "mixed_float16")
    assert choose_xla("on", GPU, one, other, half=True)[0]
    assert by_cudnn(one) == by_cudnn(other) == []
    assert "cuDNN" not in choose_xla("auto", cpu(), recurrent(layers.GRU, "mixed_bfloat16"), half=True)[1]
