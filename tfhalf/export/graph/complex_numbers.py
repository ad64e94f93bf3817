"""Complex numbers as pairs of real ones: rules of `decompose` for Fourier transforms and what stands between them.

A transform of n numbers is a product with two matrices of n * n, of the cosines and of the sines: operators that every
runtime has, in O(n * n) as against O(n log n).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2

from tfhalf.errors import ExportError
from tfhalf.export.graph.decompose import COMPLEX, FLOAT, Operator, Pair, Rule

LONGEST = 2048
"""Of a Fourier transform: its two matrices are 32 MiB then."""
# Operators that only move values: real and imaginary parts go the same way.
_MOVING = frozenset((
    "BroadcastTo", "ConcatV2", "ExpandDims", "Gather", "GatherV2", "Identity", "Pack", "Pad", "PadV2", "Reshape",
    "ReverseV2", "Roll", "Slice", "Split", "SplitV", "Squeeze", "StopGradient", "StridedSlice", "Tile", "Transpose",
    "Unpack", "Neg", "AddV2", "Add", "Sub", "Sum", "Mean", "ZerosLike",
))  # fmt: skip


def _both(operator: Operator, *inputs: Any) -> list[Any]:
    """The operator on the real parts and on the imaginary parts."""
    pairs = [x if isinstance(x, Pair) else Pair(x, x) for x in inputs]  # what is not a pair says axes and shapes
    parts = [[pair.real for pair in pairs], [pair.imag for pair in pairs]]
    sides = [operator.again(part, instead={COMPLEX: FLOAT}) for part in parts]
    return [Pair(real, imag) for real, imag in zip(*sides, strict=True)]


def _constant(operator: Operator) -> Pair:
    value = tf.make_ndarray(operator.attribute("value").tensor)
    return Pair(tf.constant(value.real.astype(np.float32)), tf.constant(value.imag.astype(np.float32)))


def _complex(operator: Operator, real: Any, imag: Any) -> Pair:
    return Pair(real, imag)


def _real(operator: Operator, x: Any) -> Any:
    return x.real if isinstance(x, Pair) else x


def _imag(operator: Operator, x: Any) -> Any:
    return x.imag if isinstance(x, Pair) else tf.zeros_like(x)


def _magnitude(operator: Operator, x: Pair) -> Any:
    """Scaled by the larger part, so that no square overflows or vanishes."""
    large = tf.maximum(tf.abs(x.real), tf.abs(x.imag))
    small = tf.minimum(tf.abs(x.real), tf.abs(x.imag))
    ratio = small / tf.where(large > 0, large, tf.ones_like(large))
    return large * tf.sqrt(1 + ratio * ratio)


def _angle(operator: Operator, x: Pair) -> Any:
    return tf.atan2(x.imag, x.real)


def _conjugate(operator: Operator, x: Pair) -> Pair:
    return Pair(x.real, -x.imag)


def _product(operator: Operator, x: Pair, y: Pair) -> Pair:
    return Pair(x.real * y.real - x.imag * y.imag, x.real * y.imag + x.imag * y.real)


def _quotient(operator: Operator, x: Pair, y: Pair) -> Pair:
    scale = y.real * y.real + y.imag * y.imag
    over = _product(operator, x, _conjugate(operator, y))
    return Pair(over.real / scale, over.imag / scale)


def _exponential(operator: Operator, x: Pair) -> Pair:
    size = tf.exp(x.real)
    return Pair(size * tf.cos(x.imag), size * tf.sin(x.imag))


def _cast(operator: Operator, x: Any) -> Any:
    """To complex numbers, or from them, which leaves the real part."""
    target = operator.attribute("DstT").type
    if target != COMPLEX:
        return tf.cast(x.real, target)
    if isinstance(x, Pair):
        return x
    wide = tf.cast(x, tf.float32)
    return Pair(wide, tf.zeros_like(wide))


# --- Fourier transforms -----------------------------------------------------------------------------------------------


def _waves(rows: int, columns: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of ``2 pi j k / size``, float32 [rows, columns]."""
    if size > LONGEST:
        raise ExportError(f"a Fourier transform of {size:,} numbers; {LONGEST:,} and fewer can be written as products")
    turns = np.outer(np.arange(rows), np.arange(columns)) % size * (2 * np.pi / size)
    return np.cos(turns).astype(np.float32), np.sin(turns).astype(np.float32)


def _turned(x: Pair, axis: int, *, inverse: bool) -> Pair:
    """The transform over one axis."""
    size = x.real.shape[axis]
    if size is None:
        raise ExportError("a Fourier transform over an open number of values; give its length")
    cosines, sines = _waves(size, size, size)
    if inverse:
        cosines, sines = cosines / np.float32(size), -sines / np.float32(size)
    order = list(range(len(x.real.shape)))
    order[axis], order[-1] = order[-1], order[axis]
    plain = order == sorted(order)
    real, imag = (part if plain else tf.transpose(part, order) for part in (x.real, x.imag))
    answers = (_dot(real, cosines) + _dot(imag, sines), _dot(imag, cosines) - _dot(real, sines))
    return Pair(*(y if plain else tf.transpose(y, order) for y in answers))


def _dot(x: Any, matrix: np.ndarray) -> Any:
    """The last axis multiplied with a matrix: one product of two matrices, which every converter knows."""
    rows = tf.reshape(x, [-1, matrix.shape[0]])
    answer = tf.reshape(tf.matmul(rows, matrix), tf.concat([tf.shape(x)[:-1], [matrix.shape[1]]], 0))
    answer.set_shape([*x.shape[:-1], matrix.shape[1]])
    return answer


def _transform(axes: int, *, inverse: bool) -> Rule:
    def rule(operator: Operator, x: Pair) -> Pair:
        for axis in range(len(x.real.shape) - axes, len(x.real.shape)):
            x = _turned(x, axis, inverse=inverse)
        return x

    return rule


def _of_real(operator: Operator, x: Any, length: Any) -> Pair:
    """Of real numbers: the half of the answer that says all of it."""
    size = _length(length)
    cosines, sines = _waves(size, size // 2 + 1, size)
    fitted = _fitted(tf.cast(x, tf.float32), size)
    return Pair(_dot(fitted, cosines), -_dot(fitted, sines))


def _to_real(operator: Operator, x: Pair, length: Any) -> Any:
    """The inverse of `_of_real`: what lies in the other half counts twice."""
    size = _length(length)
    half = size // 2 + 1
    cosines, sines = _waves(half, size, size)
    twice = np.full((half, 1), 2 / size, np.float32)
    twice[0] = 1 / size
    if size % 2 == 0:
        twice[-1] = 1 / size
    return _dot(_fitted(x.real, half), cosines * twice) - _dot(_fitted(x.imag, half), sines * twice)


def _length(length: Any) -> int:
    value = tf.get_static_value(length)
    if value is None:
        raise ExportError("a Fourier transform whose length is computed; give it as a number")
    return int(np.reshape(value, -1)[0])


def _fitted(x: Any, size: int) -> Any:
    """Cut off, or filled up with zeros, in the last axis."""
    there = x.shape[-1]
    if there is None:
        raise ExportError("a Fourier transform over an open number of values; give its length")
    if there >= size:
        return x[..., :size]
    return tf.pad(x, [[0, 0]] * (len(x.shape) - 1) + [[0, size - there]])


_RULES: dict[str, Callable[..., Any]] = {
    "Angle": _angle,
    "Cast": _cast,
    "Complex": _complex,
    "ComplexAbs": _magnitude,
    "Conj": _conjugate,
    "Const": _constant,
    "Div": _quotient,
    "Exp": _exponential,
    "FFT": _transform(1, inverse=False),
    "FFT2D": _transform(2, inverse=False),
    "FFT3D": _transform(3, inverse=False),
    "IFFT": _transform(1, inverse=True),
    "IFFT2D": _transform(2, inverse=True),
    "IFFT3D": _transform(3, inverse=True),
    "IRFFT": _to_real,
    "Imag": _imag,
    "Mul": _product,
    "RFFT": _of_real,
    "Real": _real,
    "RealDiv": _quotient,
    **dict.fromkeys(_MOVING, _both),
}


def is_complex(node: Any) -> bool:
    """Whether a node takes or gives complex numbers."""
    if node.op in ("RFFT", "IRFFT"):  # whose attributes may leave the type to its default
        return True
    kinds = [attribute.type for attribute in node.attr.values() if attribute.WhichOneof("value") == "type"]
    return COMPLEX in kinds or types_pb2.DT_COMPLEX128 in kinds


def rule_of(node: Any) -> Rule:
    """What writes out a node of complex numbers.

    Raises:
        ExportError: it is not known for complex numbers.
    """
    if node.op not in _RULES:
        raise ExportError(f"{node.op} takes complex numbers, and is not known in real ones")
    return _RULES[node.op]
