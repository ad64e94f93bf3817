"""BatchNormalization whose statistics are those of a whole batch, of which each process has a part."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from tfhalf.precision.policy import flat_layers
from tfhalf.system.group import Group
from tfhalf.train.kernels.calls import computed_by
from tfhalf.train.kernels.norm import is_plain


def to_synchronize(model: keras.Model, everywhere: bool) -> list[keras.Layer]:
    """The layers of ``model`` that take statistics over all processes: those that say so, or ``everywhere`` all."""
    return [layer for layer in flat_layers(model) if is_plain(layer) and (everywhere or layer.synchronized)]


def synchronized(norms: Iterable[keras.Layer], group: Group) -> AbstractContextManager[None]:
    """Within the block ``norms`` compute by `batch_normalization` over ``group``."""
    return computed_by(dict.fromkeys(norms, partial(batch_normalization, group=group)))


def batch_normalization(
    layer: Any, inputs: Any, training: bool | None = None, mask: Any = None, *, group: Group
) -> Any:
    """Batch normalization (Ioffe and Szegedy, arXiv:1502.03167) of this process's rows by the mean and the variance of
    those of all processes, in float32. Masked inputs are normalised by those of this process."""
    if not (training and layer.trainable) or mask is not None:
        return type(layer).call(layer, inputs, training=training, mask=mask)
    axis = layer.axis % len(inputs.shape)
    others = [i for i in range(len(inputs.shape)) if i != axis]
    shape = [inputs.shape[i] if i == axis else 1 for i in range(len(inputs.shape))]
    x = tf.cast(inputs, tf.float32)
    count = tf.cast(tf.size(x) // x.shape[axis], tf.float32) * group.size
    mean = group.sum(tf.reduce_sum(x, others)) / count
    centred = x - tf.reshape(mean, shape)
    variance = group.sum(tf.reduce_sum(tf.square(centred), others)) / count
    factor = tf.math.rsqrt(variance + layer.epsilon)
    if layer.scale:
        factor *= tf.cast(layer.gamma.value, tf.float32)
    y = centred * tf.reshape(factor, shape)
    if layer.center:
        y += tf.reshape(tf.cast(layer.beta.value, tf.float32), shape)
    for moving, now in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        moving.assign(moving.value * layer.momentum + tf.stop_gradient(now) * (1 - layer.momentum))
    return tf.cast(y, layer.compute_dtype)
