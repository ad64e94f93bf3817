"""Max pooling whose gradient is a few comparisons."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def max_pooling(layer: Any, inputs: Any) -> Any:
    """What the MaxPooling2D ``layer`` gives for ``inputs`` [N, H, W, C], by `max_pool` where that can do it."""
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
        best, position = None, None
        for i, j, number in code:
            value = padded[:, i : i + (out[0] - 1) * stride + 1 : stride, j : j + (out[1] - 1) * stride + 1 : stride]
            if best is None:
                best, position = value, tf.zeros_like(value, tf.int8)
                continue
            better = value > best
            best, position = tf.where(better, value, best), tf.where(better, tf.constant(number, tf.int8), position)

        def gradient(dy: Any) -> Any:
            return _spread(dy, position)

        return best, gradient

    def _spread(dy: Any, position: Any) -> Any:
        """Each window's gradient to the position that its largest value came from."""
        step = tf.reshape(tf.range(stride, dtype=tf.int32), [1, 1, stride, 1, 1, 1])
        own = step * (reach * stride) + tf.reshape(tf.range(stride, dtype=tf.int32), [1, 1, 1, 1, stride, 1])
        total = None
        for m in range(reach):
            for n in range(reach):
                moved = [[0, 0], [m, reach - 1 - m], [n, reach - 1 - n], [0, 0]]
                from_position, from_dy = tf.pad(position, moved, constant_values=-1), tf.pad(dy, moved)
                expected = tf.cast(own + stride * (m * reach * stride + n), tf.int8)
                term = tf.where(
                    from_position[:, :, None, :, None] == expected, from_dy[:, :, None, :, None], tf.zeros([], dy.dtype)
                )
                total = term if total is None else total + term
        full = tf.reshape(total, [-1, rows, columns, channels])
        full = full[:, before[0] : before[0] + height, before[1] : before[1] + width]
        missing = [max(height - full.shape[1], 0), max(width - full.shape[2], 0)]
        return tf.pad(full, [[0, 0], [0, missing[0]], [0, missing[1]], [0, 0]]) if any(missing) else full

    return pool(x_NHWC)
