"""Convolutions in groups as operators that every TensorFlow runs on a CPU, and that a converter can read.

Keras compiles them with XLA, since TensorFlow has no kernel for them on a CPU: a program of XLA's own within the graph,
which no converter opens. One channel to a group is a depthwise convolution; other groups are convolved one by one. For
ONNX, whose convolution has groups, the operator is left as it is: nothing runs it in TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
import tensorflow as tf

_FOR_ONNX: ContextVar[bool] = ContextVar("for_onnx", default=False)


@contextmanager
def for_onnx() -> Iterator[None]:
    """Functions that are traced within the block are for a converter alone."""
    token = _FOR_ONNX.set(True)
    try:
        yield
    finally:
        _FOR_ONNX.reset(token)


def is_grouped(layer: Any) -> bool:
    """Whether a layer is a convolution in groups that `replace` takes."""
    kinds = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
    return isinstance(layer, kinds) and layer.groups > 1 and layer.data_format == "channels_last"


def any_grouped(model: keras.Model) -> bool:
    """Whether a model holds one."""
    return any(map(is_grouped, model._flatten_layers()))


def replace(layer: Any) -> None:
    """Have a convolution in groups compute with plain operators; other layers stay as they are."""
    if is_grouped(layer):
        layer.convolution_op = _operator(layer)
        if layer.rank == 1:  # which does not use it
            layer.call = _call_1d(layer)


def _call_1d(layer: Any) -> Callable[[Any], Any]:
    def call(inputs: Any) -> Any:
        x = keras.ops.pad(inputs, layer._compute_causal_padding()) if layer.padding == "causal" else inputs
        y = layer.convolution_op(x, layer.kernel)
        if layer.use_bias:
            y = y + layer.bias
        return y if layer.activation is None else layer.activation(y)

    return call


def _operator(layer: Any) -> Callable[[Any, Any], Any]:
    strides, rates = list(layer.strides), list(layer.dilation_rate)
    padding = "VALID" if layer.padding == "causal" else layer.padding.upper()
    plain = layer.rank < 3 and min(strides) == max(strides) and (max(rates) == 1 or max(strides) == 1)

    def convolve(x: Any, kernel: Any) -> Any:
        return tf.nn.convolution(x, kernel, strides, padding, dilations=rates)

    def operator(inputs: Any, kernel: Any) -> Any:
        x, kernel = tf.convert_to_tensor(inputs), tf.convert_to_tensor(kernel)
        if _FOR_ONNX.get():
            return convolve(x, kernel)
        if plain and kernel.shape[-2] == 1:
            flat = layer.rank == 1  # an image of one row
            sizes = (1, *kernel.shape[:1]) if flat else kernel.shape[:2]
            deep = tf.reshape(kernel, (*sizes, layer.groups, -1))
            steps = [1, strides[0], strides[0], 1]
            y = tf.nn.depthwise_conv2d(
                x[:, None] if flat else x, deep, steps, padding, dilations=[1, *rates] if flat else rates
            )
            return y[:, 0] if flat else y
        parts = zip(tf.split(x, layer.groups, -1), tf.split(kernel, layer.groups, -1), strict=True)
        return tf.concat([convolve(part, weights) for part, weights in parts], -1)

    return operator
