"""What operators compute that a converter lacks, in operators that it has: rules of `decompose`.

Each takes an `Operator` and tensors. Where the operator takes float16, the rule computes in float32 and rounds once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfhalf.export.graph import array_rules as arrays
from tfhalf.export.graph import bit_rules as bits
from tfhalf.export.graph import image_rules as images
from tfhalf.export.graph import matrix_rules as matrices
from tfhalf.export.graph.complex_numbers import is_complex, rule_of
from tfhalf.export.graph.decompose import DOUBLE, FLOAT, HALF, SCATTERS, Operator, Rule, Rules, in_a_loop, wide

_SIGN = np.iinfo(np.int32).min


def in_float32(function: Callable[..., Any]) -> Rule:
    """A function of float32 tensors as a rule: float16 is widened before it and rounded after it."""

    def rule(operator: Operator, *inputs: Any) -> Any:
        answer = function(*map(wide, inputs))
        return tf.cast(answer, tf.float16) if operator.attribute("T").type == HALF else answer

    return rule


def widened(operator: Operator, *inputs: Any) -> list[Any] | None:
    """The operator itself in float32, where it takes float16."""
    if all(x.dtype != tf.float16 for x in inputs):
        return None
    narrow = operator.attribute("T").type == HALF
    answers = operator.again([wide(x) for x in inputs], instead={HALF: FLOAT})
    return [tf.cast(y, tf.float16) if narrow and y.dtype == tf.float32 else y for y in answers]


# --- functions of one number ------------------------------------------------------------------------------------------


def expm1(x: Any) -> Any:
    """``exp(x) - 1``, by the tangent where the difference would cancel."""
    half = tf.tanh(tf.clip_by_value(x, -1.0, 1.0) / 2)
    return tf.where(tf.abs(x) < 1, 2 * half / (1 - half), tf.exp(x) - 1)


def log1p(x: Any) -> Any:
    """``log(1 + x)`` after Kahan: the logarithm corrected by what rounding ``1 + x`` lost."""
    whole = 1 + x
    rest = whole - 1
    near = tf.logical_and(tf.abs(x) < 0.5, tf.not_equal(rest, 0))
    corrected = tf.math.log(whole) * (x / tf.where(near, rest, tf.ones_like(x)))
    return tf.where(near, corrected, tf.where(tf.equal(rest, 0), x, tf.math.log(whole)))


# Giles, "Approximating the erfinv function", GPU Computing Gems 2 (2011): for w < 5 and beyond, w = -log(1 - x * x).
_NEAR = (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503, -0.00417768164,
         0.246640727, 1.50140941)  # fmt: skip
_FAR = (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
        1.00167406, 2.83297682)  # fmt: skip


def erfinv(x: Any) -> Any:
    """The inverse of the error function, by Giles' two polynomials; 1 and -1 give infinity."""
    w = -tf.math.log((1 - x) * (1 + x))
    finite = tf.clip_by_value(w, 0.0, 100.0)
    near = _polynomial(_NEAR, finite - 2.5)
    far = _polynomial(_FAR, tf.sqrt(finite) - 3)
    inside = x * tf.where(finite < 5, near, far)
    end = tf.where(
        tf.abs(x) > 1,
        tf.fill(tf.shape(x), np.float32(np.nan)),
        tf.where(x > 0, np.float32(np.inf), np.float32(-np.inf)),
    )
    return tf.where(tf.abs(x) < 1, inside, end)


# Abramowitz and Stegun, "Handbook of Mathematical Functions" (1964), 9.8.1 and 9.8.2; errors below 2e-7.
_SMALL_I0 = (0.0045813, 0.0360768, 0.2659732, 1.2067492, 3.0899424, 3.5156229, 1.0)
_LARGE_I0 = (0.00392377, -0.01647633, 0.02635537, -0.02057706, 0.00916281, -0.00157565, 0.00225319, 0.01328592,
             0.39894228)  # fmt: skip


def bessel_i0(x: Any) -> Any:
    """The modified Bessel function of order 0."""
    size = tf.abs(x)
    small = _polynomial(_SMALL_I0, tf.square(tf.minimum(size, 3.75) / 3.75))
    large = tf.maximum(size, 3.75)
    return tf.where(size < 3.75, small, tf.exp(large) / tf.sqrt(large) * _polynomial(_LARGE_I0, 3.75 / large))


def _polynomial(coefficients: Sequence[float], x: Any) -> Any:
    """By Horner, the highest power first."""
    total = tf.fill(tf.shape(x), np.float32(coefficients[0]))
    for coefficient in coefficients[1:]:
        total = total * x + np.float32(coefficient)
    return total


# Abramowitz and Stegun, 7.1.26; errors below 1.5e-7.
_ERF = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592, 0.0)


def erf(x: Any) -> Any:
    """The error function."""
    t = 1 / (1 + 0.3275911 * tf.abs(x))
    return tf.sign(x) * (1 - _polynomial(_ERF, t) * tf.exp(-x * x))


def sinh(x: Any) -> Any:
    """By ``expm1``, which loses no digits about 0."""
    grown = expm1(tf.abs(x))
    near = (grown + grown / (grown + 1)) / 2
    return tf.sign(x) * tf.where(tf.abs(x) < 1, near, (tf.exp(tf.abs(x)) - tf.exp(-tf.abs(x))) / 2)


def asinh(x: Any) -> Any:
    """By ``log1p``, with the root written so that nothing cancels about 0."""
    size = tf.abs(x)
    small = tf.minimum(size, 1e4)
    near = log1p(small + small * small / (1 + tf.sqrt(small * small + 1)))
    return tf.sign(x) * tf.where(size < 1e4, near, tf.math.log(tf.maximum(size, 1.0)) + math.log(2))


def is_inf(x: Any) -> Any:
    """Whether a number is infinite."""
    return tf.equal(tf.abs(x), np.float32(np.inf))


def is_finite(x: Any) -> Any:
    """Whether a number is neither infinite nor NaN."""
    return tf.less(tf.abs(x), np.float32(np.inf))


def truncate_mod(x: Any, y: Any) -> Any:
    """The remainder with the sign of ``x``."""
    rest = tf.math.floormod(tf.abs(x), tf.abs(y))
    return tf.where(x < 0, -rest, rest)


def floor_divide(operator: Operator, x: Any, y: Any) -> Any:
    """Of floats as the quotient rounded down, infinite where ``y`` is 0: LiteRT ends there."""
    return tf.floor(x / y) if x.dtype.is_floating else None


# --- bits -------------------------------------------------------------------------------------------------------------


def sign_bit(operator: Operator, x: Any) -> Any:
    """A bit cast of float32 of which only the sign is read (`keras.ops.signbit`, `argmax`, `argmin`): numbers with that
    bit. Of -0.0 the reciprocal tells it; of NaN it is 0."""
    readers = operator.readers
    if x.dtype != tf.float32 or not readers or not all(_reads_sign(operator, node) for node in readers):
        return None
    negative = tf.logical_or(x < 0, tf.logical_and(tf.equal(x, 0), 1 / x < 0))
    return tf.where(negative, np.int32(_SIGN), np.int32(0))


def _reads_sign(operator: Operator, reader: Any) -> bool:
    masks = [operator.constant(source) for source in reader.input if not source.startswith("^")]
    return reader.op == "BitwiseAnd" and any(mask is not None and (mask == _SIGN).all() for mask in masks)


def only_sign(operator: Operator, x: Any, mask: Any) -> Any:
    """``x & mask`` of what `sign_bit` gave: nothing but the sign is in it."""
    cast = operator.nodes[operator.node.input[0].partition(":")[0]]
    return x if cast.op == "Bitcast" and x.op.type != "Bitcast" else None


def bitwise_and(operator: Operator, x: Any, y: Any) -> Any:
    """As `only_sign`, or written out."""
    sign = only_sign(operator, x, y)
    return bits.both(operator, x, y) if sign is None else sign


# --- tables -----------------------------------------------------------------------------------------------------------


BOTH: dict[str, Rule] = {
    "BesselI0": in_float32(bessel_i0),
    "Bitcast": sign_bit,
    "BitwiseAnd": only_sign,
    "CTCGreedyDecoder": arrays.ctc_greedy,
    "Cholesky": matrices.cholesky,
    "Cross": in_float32(arrays.cross_product),
    "Cumprod": arrays.cumprod,
    "Erfinv": in_float32(erfinv),
    "Expm1": in_float32(expm1),
    "HSVToRGB": in_float32(images.hsv_to_rgb),
    "ImageProjectiveTransformV3": images.projective,
    "InTopKV2": arrays.in_top_k,
    "Inv": in_float32(lambda x: 1 / x),
    "Log1p": in_float32(log1p),
    "LogMatrixDeterminant": matrices.log_determinant,
    "LookupTableFindV2": arrays.look_up,
    "LowerBound": arrays.lower_bound,
    "MatrixInverse": matrices.inverse,
    "MatrixSetDiagV3": arrays.set_diagonal,
    "MatrixSolve": matrices.solve,
    "MatrixTriangularSolve": matrices.solve_triangular,
    "Ndtri": in_float32(lambda x: math.sqrt(2) * erfinv(2 * x - 1)),
    "ResizeArea": images.as_products,
    "ResizeBicubic": images.as_products,
    "RGBToHSV": in_float32(images.rgb_to_hsv),
    "TruncateMod": in_float32(truncate_mod),
    "UpperBound": arrays.upper_bound,
    "Xdivy": in_float32(lambda x, y: tf.where(tf.equal(x, 0), tf.zeros_like(x / y), x / y)),
    "Xlog1py": in_float32(lambda x, y: tf.where(tf.equal(x, 0), tf.zeros_like(x * y), x * log1p(y))),
    "Xlogy": in_float32(lambda x, y: tf.where(tf.equal(x, 0), tf.zeros_like(x * y), x * tf.math.log(y))),
}
"""Rules for what neither converter has."""

# Of these tf2onnx makes what is not valid in float16, or what onnxruntime lacks in it.
_HALF = ("IsFinite", "IsInf", "IsNan", "PadV2", *SCATTERS)
ONNX: dict[str, Rule] = {
    **BOTH,
    **dict.fromkeys(_HALF, widened),
    "BroadcastArgs": arrays.broadcast_shape,
    "OneHot": arrays.one_hot,
}
"""Rules for what tf2onnx lacks, or has not for every dtype."""

_DOUBLES = "float64"
"""The entry of a table for all operators that take or give float64."""
LITERT: dict[str, Rule] = {
    **BOTH,
    _DOUBLES: arrays.in_float64,
    "Acos": in_float32(lambda x: tf.atan2(tf.sqrt((1 - x) * (1 + x)), x)),
    "Acosh": in_float32(lambda x: tf.math.log(x + tf.sqrt(x - 1) * tf.sqrt(x + 1))),
    "Asin": in_float32(lambda x: tf.atan2(x, tf.sqrt((1 - x) * (1 + x)))),
    "Asinh": in_float32(asinh),
    "Atan": in_float32(lambda x: tf.atan2(x, tf.ones_like(x))),
    "Atanh": in_float32(lambda x: (log1p(x) - log1p(-x)) / 2),
    "AvgPool3D": arrays.pool_3d(tf.nn.avg_pool2d),
    "BitwiseAnd": bitwise_and,
    "BitwiseOr": bits.either,
    "Cosh": in_float32(lambda x: (tf.exp(x) + tf.exp(-x)) / 2),
    "DenseBincount": arrays.bincount,
    "EnsureShape": arrays.ensured,
    "FloorDiv": floor_divide,
    "Invert": bits.opposite,
    "IsFinite": in_float32(is_finite),
    "IsInf": in_float32(is_inf),
    "IsNan": in_float32(lambda x: tf.not_equal(x, x)),
    "LeftShift": bits.shifted_left,
    "MatrixDeterminant": matrices.determinant,
    "MatrixDiagPartV3": arrays.diagonal_part,
    "MaxPool3D": arrays.pool_3d(tf.nn.max_pool2d),
    "Roll": arrays.roll,
    "Rsqrt": in_float32(lambda x: tf.sqrt(1 / x)),  # its own gives NaN for 0
    "Sinh": in_float32(sinh),
    "SparseSoftmaxCrossEntropyWithLogits": arrays.sparse_cross_entropy,
    "Tan": in_float32(lambda x: tf.sin(x) / tf.cos(x)),
}
"""Rules for what LiteRT lacks; its graph is in float32."""


ERROR_FUNCTIONS: dict[str, Rule] = {"Erf": in_float32(erf), "Erfc": in_float32(lambda x: 1 - erf(x))}
"""Which LiteRT has within a GELU alone: the converter knows that by its pattern."""

# Of complex numbers, what the converters know by themselves: ONNX by `onnx_handlers`, LiteRT as operators of its own.
_KNOWN = frozenset(("RFFT", "Real", "Imag", "ComplexAbs"))


def _needs(node: Any, rule: Rule) -> bool:
    """Whether a node that there is a rule for has to be written out."""
    kinds = {attribute.type for attribute in node.attr.values()}
    return rule is not only_sign and (node.op not in _HALF or HALF in kinds)


def _of_float64(node: Any) -> bool:
    return node.op != "Const" and any(attribute.type == DOUBLE for attribute in node.attr.values())


def rules_of(graph: Any, table: dict[str, Rule]) -> Rules | None:
    """The rules that a GraphDef needs; None where it has nothing to be written out."""
    in_pairs = any(is_complex(node) and node.op not in _KNOWN for node in graph.node)
    doubles = table.get(_DOUBLES)
    if (
        not in_pairs
        and not in_a_loop(graph)
        and not (doubles and any(map(_of_float64, graph.node)))
        and not any(_needs(node, table[node.op]) for node in graph.node if node.op in table)
    ):
        return None

    def rules(node: Any, of_pairs: bool) -> Rule | None:
        if in_pairs and (of_pairs or is_complex(node)):
            return rule_of(node)
        return doubles if doubles and _of_float64(node) else table.get(node.op)

    return rules
