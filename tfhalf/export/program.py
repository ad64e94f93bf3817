"""The function that every artifact holds: raw float32 image in, float32 logits and probabilities out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

INPUT = "image"
OUTPUTS = ("logits", "probabilities")


@dataclass(frozen=True)
class Program:
    """A model with its preprocessing as one TensorFlow function.

    ``mean`` and ``std`` are float32 of shape [1] or [C]. ``function`` maps ``image`` float32 [N, *input_shape] to
    ``{"logits", "probabilities"}``, float32 [N, num_classes]; softmax is computed in float32.
    """

    model: keras.Model
    mean: np.ndarray
    std: np.ndarray
    input_shape: tuple[int, ...]
    function: Any


def make_program(
    model: keras.Model, mean: Sequence[float], std: Sequence[float], input_shape: Sequence[int]
) -> Program:
    """Join preprocessing, ``model`` (any dtype policy, giving logits) and softmax."""
    mean_, scale = np.asarray(mean, np.float32), (1 / np.asarray(std, np.float64)).astype(np.float32)
    plain = not mean_.any() and (scale == 1).all()
    shape = tuple(int(size) for size in input_shape)

    @tf.function(input_signature=[tf.TensorSpec((None, *shape), tf.float32, name=INPUT)])
    def serve(image: Any) -> dict[str, Any]:
        x = image if plain else (image - mean_) * scale
        logits = tf.cast(model(x, training=False), tf.float32)
        return {"logits": tf.identity(logits, "logits"), "probabilities": tf.nn.softmax(logits, name="probabilities")}

    return Program(model, mean_, np.asarray(std, np.float32), shape, serve)
