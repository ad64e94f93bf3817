"""A model's answers held against what training takes them for: logits."""

from __future__ import annotations

import keras
import numpy as np

from tfhalf.errors import ConfigError
from tfhalf.precision.policy import takes_integers
from tfhalf.tasks import Task
from tfhalf.train import traced
from tfhalf.train.heads import REFUSED, ends_in_a_linear_layer

SAMPLES = 16
_LINEAR = ("BiasAdd", "MatMul", "BatchMatMulV2", "Einsum", "Conv2D", "LogSoftmax")
_ADVICE = "which would be taken for logits; return what stands before the softmax, which is added in float32"


def refuse_probabilities(model: keras.Model, x: np.ndarray, task: Task) -> None:
    """Refuse a model whose code ends in a softmax or a sigmoid where `as_logits` cannot take it off: in a subclass, in
    a layer of one's own, before a mean.

    Args:
        x: some normalised inputs, float32 [N, ...]; `SAMPLES` do.

    Raises:
        ConfigError: it ends so, or its answers to ``x`` are probabilities: each row sums to one.
    """
    if not task.class_names or ends_in_a_linear_layer(model):
        return
    end = traced.closing(model).lower()
    if end == "sigmoid" and task.exclusive:
        raise ConfigError(REFUSED[end].format(where="in the code of a layer or of a subclass"))
    if end in ("softmax", "sigmoid"):
        raise ConfigError(f"model.build: the model ends in a {end}, {_ADVICE.replace('softmax', end)}")
    if end in _LINEAR or not len(x):
        return
    inputs = keras.ops.cast(x, "int32") if takes_integers(model) else keras.ops.convert_to_tensor(x)
    answers = keras.ops.convert_to_numpy(model(inputs, training=False)).astype(np.float64)
    if answers.min() >= 0 and np.allclose(answers.sum(-1), 1, atol=1e-2):
        raise ConfigError(f"model.build: the model's answers are probabilities (each row sums to 1), {_ADVICE}")
