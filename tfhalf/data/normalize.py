"""The normalisation of inputs by TensorFlow, the same in training, evaluation and the artifacts' program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfhalf.data.preprocess import AnyPreprocess, ColumnsPreprocess, Preprocess
from tfhalf.precision.policy import takes_integers


def normalizer(preprocess: AnyPreprocess, model: keras.Model) -> Callable[[Any], Any]:
    """``(x - shift) * scale`` in float32, of each input; what a ``model`` takes as integers, or is to stay as it is,
    becomes int32 and is not changed. Several inputs come out as ``model`` takes them: by name, or in its order."""
    if isinstance(preprocess, ColumnsPreprocess):
        each = {name: _one(own, whole=own is None) for name, own in preprocess.by_input.items()}

        def several(x: Any) -> Any:
            return arranged(model, {name: each[name](tensor) for name, tensor in x.items()})

        return several
    return _one(preprocess, whole=takes_integers(model))


def _one(preprocess: Preprocess | None, *, whole: bool) -> Callable[[Any], Any]:
    if preprocess is None or whole:
        return lambda x: tf.cast(x, tf.int32)
    shift, scale = preprocess.shift_and_scale()
    plain = not shift.any() and bool(np.all(scale == 1))
    missing = preprocess.missing

    def normalized(x: Any) -> Any:
        x = tf.cast(x, tf.float32)
        x = x if plain else (x - shift) * scale
        return tf.where(tf.math.is_nan(x), tf.zeros_like(x), x) if missing else x

    return normalized


def arranged(model: keras.Model, x: dict[str, Any]) -> Any:
    """Tensors by input name as ``model`` takes them: Keras sorts a dict by its keys where a model has a list."""
    if isinstance(model._inputs_struct, dict):
        return {name: x[name] for name in model._inputs_struct}
    return [x[tensor.name] for tensor in model.inputs]
