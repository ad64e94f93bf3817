"""Recurrent layers exported where there is a GPU: cuDNN's operations run nowhere else, and ONNX has none of them."""

from __future__ import annotations

import importlib
from typing import Any

import keras
import pytest
import tensorflow as tf
from keras import layers
from recurrent_net import KINDS, recurrent

from tfhalf.export.inputs import draw
from tfhalf.export.interface import interface_of
from tfhalf.export.islands.open import simulator_of
from tfhalf.export.load.model import Source
from tfhalf.export.program import named_program


class Own(keras.Model):
    """A subclass whose configuration says too little to be made again."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.steps, self.head = kind(4), layers.Dense(2)

    def call(self, x: Any, training: bool = False) -> Any:
        return self.head(self.steps(x))


def operations(function: Any) -> set[str]:
    """The operations of a traced function and of what it calls."""
    graph = function.get_concrete_function().graph.as_graph_def()
    return {node.op for part in (graph.node, *(f.node_def for f in graph.library.function)) for node in part}


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Keras think that there is a GPU: tracing needs none."""
    module = importlib.import_module("keras.src.backend.tensorflow.rnn")
    monkeypatch.setattr(module, "_is_gpu_available", lambda: True)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("style", ["graph", "subclass"])
def test_what_is_exported_on_a_gpu_runs_without_one(kind: type[keras.layers.Layer], style: str) -> None:
    """And is in ONNX: with cuDNN's operations it could be neither."""
    model = recurrent(kind, "mixed_float16") if style == "graph" else Own(kind)
    if style == "subclass":
        model(tf.zeros((1, 5, 3)))
    traced = tf.function(lambda x: model(x, training=False), input_signature=[tf.TensorSpec((None, 5, 3))])
    assert "CudnnRNNV3" in operations(traced)  # what Keras does by itself
    interface = interface_of(Source(model, "net", {}), None)
    inputs, _ = draw.draw(model, interface.inputs)
    simulator = simulator_of(model, interface, inputs)
    simulator.reference(inputs)
    shipped = simulator.ship(())
    made = named_program(
        lambda tensors: simulator.interface.answer(shipped.call, tensors),
        simulator.interface.inputs,
        shipped.weights,
        shipped.state,
        "",
    )
    assert not any("Cudnn" in name for name in operations(made.function))
