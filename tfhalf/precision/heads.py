"""What a classifier's last layer gives: logits, so that softmax and loss can be computed in float32."""

from __future__ import annotations

from typing import Any

import keras

from tfhalf.errors import ConfigError


def as_logits(model: keras.Model) -> tuple[keras.Model, bool]:
    """``model`` with a closing softmax taken off, and whether there was one.

    A float16 softmax loses small probabilities (below 6e-8 they are 0, and their loss infinite).

    Raises:
        ConfigError: the model has several outputs, or one that is not [N, classes].
    """
    if len(model.outputs) != 1:
        raise ConfigError(f"model.build: the model has {len(model.outputs)} outputs; a classifier with one is accepted")
    shape = model.outputs[0].shape
    if len(shape) != 2:
        raise ConfigError(
            f"model.build: the output has shape {tuple(shape)}; logits of shape [N, num_classes] are accepted"
        )
    last: Any = model.outputs[0]._keras_history.operation
    if isinstance(last, keras.layers.Softmax) or (
        isinstance(last, keras.layers.Activation) and last.activation is keras.activations.softmax
    ):
        # A list of one input would make Keras warn at every call with a bare tensor.
        inputs = model.inputs[0] if len(model.inputs) == 1 else model.inputs
        return keras.Model(inputs, last.input, name=model.name), True
    if getattr(last, "activation", None) is keras.activations.softmax:
        last.activation = keras.activations.linear
        return model, True
    return model, False
