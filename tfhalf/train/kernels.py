"""Layers computed in fewer passes over memory where XLA compiles the training step.

A training step of a convolutional net on a GPU is bound by memory between its convolutions. Keras' layers, as XLA
compiles them, read and write more than they must: statistics of BatchNormalization take two passes, the gradient of
max pooling is a slow SelectAndScatter, and a strided convolution of three channels leaves Tensor Cores idle. Each
function here computes what its layer computes, on the layer's own variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
import tensorflow as tf
from keras import layers

_FEW_CHANNELS = 4


@contextmanager
def fewer_passes(model: keras.Model) -> Iterator[None]:
    """Within the block the layers of ``model`` that have a faster equivalent compute by it; others are untouched.

    Only for tracing a program that XLA compiles: op by op, the equivalents are slower.
    """
    swapped = []
    for layer in model._flatten_layers(include_self=False):
        function = _equivalent(layer)
        if function is not None:
            layer.call = partial(function, layer)
            swapped.append(layer)
    try:
        yield
    finally:
        for layer in swapped:
            del layer.call


def _equivalent(layer: keras.Layer) -> Callable[..., Any] | None:
    kind = type(layer)
    if kind is layers.BatchNormalization and not layer.renorm and not layer.synchronized:
        return _batch_normalization
    if kind is layers.MaxPooling2D and layer.data_format == "channels_last":
        return _max_pooling
    if kind is layers.Conv2D and _is_stem(layer):
        return _stem_convolution
    return None


# --- BatchNormalization ----------------------------------------------------------------------------------------------


def _batch_normalization(layer: Any, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
    """Statistics in float32 from one pass over ``inputs``; then one multiplication and addition per value.

    ``var = mean((x - pivot)^2) - (mean(x) - pivot)^2`` with the moving mean as the pivot: near the batch's mean, so
    that the difference cancels little (Chan, Golub and LeVeque 1983, on shifted data).
    """
    if not (training and layer.trainable) or mask is not None:
        return type(layer).call(layer, inputs, training=training, mask=mask)
    x = tf.cast(inputs, tf.float32)
    axis = layer.axis % len(x.shape)
    others = [i for i in range(len(x.shape)) if i != axis]
    shape = [x.shape[i] if i == axis else 1 for i in range(len(x.shape))]
    pivot = tf.stop_gradient(tf.convert_to_tensor(layer.moving_mean.value))
    shifted = x - tf.reshape(pivot, shape)
    offset = tf.reduce_mean(shifted, others)
    variance = tf.maximum(tf.reduce_mean(tf.square(shifted), others) - tf.square(offset), 0.0)
    mean = offset + pivot
    momentum = layer.momentum
    layer.moving_mean.assign(layer.moving_mean.value * momentum + mean * (1 - momentum))
    layer.moving_variance.assign(layer.moving_variance.value * momentum + variance * (1 - momentum))
    factor = tf.math.rsqrt(variance + layer.epsilon)
    if layer.scale:
        factor *= tf.cast(layer.gamma.value, tf.float32)
    shift = -offset * factor
    if layer.center:
        shift += tf.cast(layer.beta.value, tf.float32)
    return tf.cast(shifted * tf.reshape(factor, shape) + tf.reshape(shift, shape), layer.compute_dtype)


# --- max pooling -----------------------------------------------------------------------------------------------------


def _max_pooling(layer: Any, inputs: Any) -> Any:
    (size, other), (stride, other_stride) = layer.pool_size, layer.strides
    height, width = inputs.shape[1:3]
    known = height is not None and width is not None
    if not known or size != other or stride != other_stride or stride > size or inputs.dtype.is_integer:
        return type(layer).call(layer, inputs)
    if layer.padding == "same":
        out = [-(-side // stride) for side in (height, width)]
        before = [max((o - 1) * stride + size - side, 0) // 2 for o, side in zip(out, (height, width), strict=True)]
    else:
        out, before = [(side - size) // stride + 1 for side in (height, width)], [0, 0]
    return max_pool(inputs, size=size, stride=stride, out=(out[0], out[1]), before=(before[0], before[1]))


def max_pool(x_NHWC: Any, *, size: int, stride: int, out: tuple[int, int], before: tuple[int, int]) -> Any:
    """Max pooling whose gradient goes, as cuDNN's does, to the first largest value of each window.

    Args:
        x_NHWC: floats [N, H, W, C].
        size, stride: of the window, the same in both directions; stride <= size.
        out: height and width of the result.
        before: rows above and columns left of the image that windows start in.

    Returns:
        [N, *out, C]. The forward pass keeps one byte per result: which value of its window it is.
    """
    height, width, channels = x_NHWC.shape[1:]
    reach = -(-size // stride)  # windows that a value may lie in, per direction
    rows, columns = ((o - 1 + reach) * stride for o in out)
    lowest = x_NHWC.dtype.min
    code = [(i, j, i * reach * stride + j) for i in range(size) for j in range(size)]

    @tf.custom_gradient
    def pool(x: Any) -> Any:
        sides = zip(before, (rows, columns), (height, width), strict=True)
        pads = [[b, max(total - b - side, 0)] for b, total, side in sides]
        padded = x if not any(map(any, pads)) else tf.pad(x, [[0, 0], *pads, [0, 0]], constant_values=lowest)
        best, place = None, None
        for i, j, number in code:
            value = padded[:, i : i + (out[0] - 1) * stride + 1 : stride, j : j + (out[1] - 1) * stride + 1 : stride]
            if best is None:
                best, place = value, tf.zeros_like(value, tf.int8)
                continue
            better = value > best
            best, place = tf.where(better, value, best), tf.where(better, tf.constant(number, tf.int8), place)

        def gradient(dy: Any) -> Any:
            return _spread(dy, place)

        return best, gradient

    def _spread(dy: Any, place: Any) -> Any:
        """Each window's gradient to the place that its largest value came from."""
        step = tf.reshape(tf.range(stride, dtype=tf.int32), [1, 1, stride, 1, 1, 1])
        own = step * (reach * stride) + tf.reshape(tf.range(stride, dtype=tf.int32), [1, 1, 1, 1, stride, 1])
        total = None
        for m in range(reach):
            for n in range(reach):
                moved = [[0, 0], [m, reach - 1 - m], [n, reach - 1 - n], [0, 0]]
                from_place, from_dy = tf.pad(place, moved, constant_values=-1), tf.pad(dy, moved)
                wanted = tf.cast(own + stride * (m * reach * stride + n), tf.int8)
                term = tf.where(
                    from_place[:, :, None, :, None] == wanted, from_dy[:, :, None, :, None], tf.zeros([], dy.dtype)
                )
                total = term if total is None else total + term
        full = tf.reshape(total, [-1, rows, columns, channels])
        full = full[:, before[0] : before[0] + height, before[1] : before[1] + width]
        missing = [max(height - full.shape[1], 0), max(width - full.shape[2], 0)]
        return tf.pad(full, [[0, 0], [0, missing[0]], [0, missing[1]], [0, 0]]) if any(missing) else full

    return pool(x_NHWC)


# --- strided convolution of an image ---------------------------------------------------------------------------------


def _is_stem(layer: Any) -> bool:
    few = layer.built and layer.kernel.shape[2] <= _FEW_CHANNELS
    plain = layer.data_format == "channels_last" and layer.groups == 1 and tuple(layer.dilation_rate) == (1, 1)
    square = layer.kernel_size[0] == layer.kernel_size[1] > 2
    return few and plain and square and tuple(layer.strides) == (2, 2) and layer.padding in ("same", "valid")


def _stem_convolution(layer: Any, inputs: Any) -> Any:
    """A convolution of stride 2 as one of stride 1 over 2x2 blocks of pixels: four times the channels, a quarter of the
    places, the same sums."""
    height, width = inputs.shape[1:3]
    if height is None or width is None:
        return type(layer).call(layer, inputs)
    kernel = tf.cast(layer.kernel.value, layer.compute_dtype)
    size, channels, filters = kernel.shape[0], kernel.shape[2], kernel.shape[3]
    if layer.padding == "same":
        out = [-(-side // 2) for side in (height, width)]
        front = [max((o - 1) * 2 + size - side, 0) // 2 for o, side in zip(out, (height, width), strict=True)]
    else:
        out, front = [(side - size) // 2 + 1 for side in (height, width)], [0, 0]
    odd = [f % 2 for f in front]
    blocks = [-(-(size + o) // 2) for o in odd]
    kernel = tf.pad(kernel, [*([o, 2 * b - size - o] for o, b in zip(odd, blocks, strict=True)), [0, 0], [0, 0]])
    kernel = tf.reshape(kernel, [blocks[0], 2, blocks[1], 2, channels, filters])
    kernel = tf.reshape(tf.transpose(kernel, [0, 2, 1, 3, 4, 5]), [*blocks, 4 * channels, filters])
    before = [f + o for f, o in zip(front, odd, strict=True)]
    need = [2 * (o - 1 + b) for o, b in zip(out, blocks, strict=True)]
    x = inputs[:, : need[0] - before[0], : need[1] - before[1]]
    after = [n - b - side for n, b, side in zip(need, before, x.shape[1:3], strict=True)]
    x = tf.pad(x, [[0, 0], *map(list, zip(before, after, strict=True)), [0, 0]])
    x = tf.nn.conv2d(tf.nn.space_to_depth(x, 2), kernel, 1, "VALID")
    if layer.use_bias:
        x = tf.nn.bias_add(x, tf.cast(layer.bias.value, layer.compute_dtype))
    return layer.activation(x) if layer.activation is not None else x
