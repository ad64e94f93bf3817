"""BatchNormalization, with the activation after it, in fewer passes over memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from keras import layers
from tensorflow.compiler.tf2xla.ops import gen_xla_ops

from tfhalf.system.group import ALONE, Group


def is_plain(layer: Any) -> bool:
    """Whether `batch_normalization` computes what ``layer`` does."""
    return type(layer) is layers.BatchNormalization and not layer.renorm


def batch_normalization(
    layer: Any,
    inputs: Any,
    training: bool | None = None,
    mask: Any = None,
    activation: Callable[..., Any] | None = None,
    group: Group = ALONE,
) -> Any:
    """``activation`` is the operation that follows, if it is computed here with the layer. Statistics are those of the
    rows of all processes of ``group``."""
    if not (training and layer.trainable) or mask is not None:
        y = type(layer).call(layer, inputs, training=training, mask=mask)
        return y if activation is None else activation(y)
    axis = layer.axis % len(inputs.shape)
    channels = inputs.shape[axis]
    gamma = tf.cast(layer.gamma.value, tf.float32) if layer.scale else tf.ones([channels])
    beta = tf.cast(layer.beta.value, tf.float32) if layer.center else tf.zeros([channels])
    pivot = tf.stop_gradient(tf.convert_to_tensor(layer.moving_mean.value))
    y, mean, variance = normalize(
        inputs, gamma, beta, pivot, axis=axis, epsilon=layer.epsilon, activation=activation or tf.identity, group=group
    )
    momentum = layer.momentum
    layer.moving_mean.assign(layer.moving_mean.value * momentum + mean * (1 - momentum))
    layer.moving_variance.assign(layer.moving_variance.value * momentum + variance * (1 - momentum))
    return tf.cast(y, layer.compute_dtype)


def normalize(
    x: Any,
    gamma: Any,
    beta: Any,
    pivot: Any,
    *,
    axis: int,
    epsilon: float,
    activation: Callable[[Any], Any],
    group: Group = ALONE,
) -> tuple[Any, Any, Any]:
    """Batch normalization (Ioffe and Szegedy, arXiv:1502.03167) and the activation after it, in two passes over ``x``
    and two over its gradient.

    ``var = mean((x - pivot)^2) - (mean(x) - pivot)^2``: with a pivot near the mean the difference cancels little (Chan,
    Golub and LeVeque 1983, on shifted data). The gradient's two passes each work out the activation's gradient; left to
    itself, XLA writes it to memory once and reads it twice.

    Args:
        x: floats; channels lie along ``axis``.
        gamma, beta, pivot: float32 [channels]; no gradient goes to ``pivot``.
        activation: of one number at a time.
        group: the processes that have the other rows of the batch. The gradients of gamma and beta are those of this
            process's rows.

    Returns:
        The activation in x's dtype and shape; mean and variance of the batch, float32 [channels], through which no
        gradient goes.
    """
    others = [i for i in range(len(x.shape)) if i != axis]
    shape = [x.shape[i] if i == axis else 1 for i in range(len(x.shape))]

    def wide(vector: Any) -> Any:
        return tf.reshape(vector, shape)

    @tf.custom_gradient
    def run(x: Any, gamma: Any, beta: Any) -> Any:
        shifted = tf.cast(x, tf.float32) - wide(pivot)
        count = tf.cast(tf.size(x) // tf.size(gamma), tf.float32) * group.size
        total, squares = group.sums(_two_sums(shifted, tf.square(shifted), others))
        offset = total / count
        variance = tf.maximum(squares / count - tf.square(offset), 0.0)
        mean, inverse = offset + pivot, tf.math.rsqrt(variance + epsilon)
        factor = inverse * gamma
        shift = beta - offset * factor
        y = activation(shifted * wide(factor) + wide(shift))

        def before(x: Any, dy: Any) -> tuple[Any, Any]:
            """The gradient of the normalised values, and ``x`` less its mean, both float32."""
            x = tf.cast(x, tf.float32)
            normalised = (x - wide(pivot)) * wide(factor) + wide(shift)
            with tf.GradientTape() as tape:
                tape.watch(normalised)
                y = activation(normalised)
            return tape.gradient(y, normalised, tf.cast(dy, tf.float32)), x - wide(mean)

        def gradient(dy: Any, *_: Any) -> Any:
            slope, centred = before(x, dy)
            d_beta, d_variance = tf.reduce_sum(slope, others), tf.reduce_sum(slope * centred, others)
            # Behind a barrier the same numbers are others to XLA, which else would keep them from the pass before.
            slope, centred = before(*barrier(x, dy))
            all_beta, all_variance = group.sums([d_beta, d_variance])
            along = tf.square(inverse) * all_variance / count
            dx = wide(factor) * (slope - wide(all_beta / count) - centred * wide(along))
            return tf.cast(dx, x.dtype), d_variance * inverse, d_beta

        return (tf.cast(y, x.dtype), mean, variance), gradient

    result: tuple[Any, Any, Any] = run(x, gamma, beta)
    return result


def barrier(*tensors: Any) -> list[Any]:
    """The same tensors, in memory, and not known to be the same by any later step of compilation."""
    result: list[Any] = gen_xla_ops.xla_optimization_barrier(list(tensors))
    return result


def _two_sums(a: Any, b: Any, axes: list[int]) -> tuple[Any, Any]:
    """Sums of ``a`` and of ``b``, float32 of one shape, over ``axes``: one reduction, and so one last kernel, not
    two."""
    zero, add = tf.constant(0.0), _add_pairs.get_concrete_function()
    one, other = gen_xla_ops.xla_variadic_reduce_v2([a, b], [zero, zero], dimensions_to_reduce=axes, reducer=add)
    return one, other


@tf.function(input_signature=[tf.TensorSpec([], tf.float32)] * 4, autograph=False)
def _add_pairs(a: Any, b: Any, c: Any, d: Any) -> tuple[Any, Any]:
    return a + c, b + d
