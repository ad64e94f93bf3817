"""A strided convolution of an image, as one of more channels and stride 1."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

_FEW_CHANNELS = 4


def is_stem(layer: Any) -> bool:
    """Whether the Conv2D ``layer`` reads few channels with a stride of 2, so that `stem_convolution` is faster."""
    few = layer.built and layer.kernel.shape[2] <= _FEW_CHANNELS
    plain = layer.data_format == "channels_last" and layer.groups == 1 and tuple(layer.dilation_rate) == (1, 1)
    square = layer.kernel_size[0] == layer.kernel_size[1] > 2
    return few and plain and square and tuple(layer.strides) == (2, 2) and layer.padding in ("same", "valid")


def stem_convolution(layer: Any, inputs: Any) -> Any:
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
