"""Operators written out in others: the answers of TensorFlow's own, in ONNX and in true float16 as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from keras import ops

from tfhalf.artifacts.ports import Port
from tfhalf.errors import ExportError
from tfhalf.export.graph import complex_numbers, image_rules
from tfhalf.export.graph import decompositions as rules
from tfhalf.export.onnx import to_onnx
from tfhalf.export.program import named_program
from tfhalf.runtimes.onnx_reference import TrueFloat16

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tf2onnx")

WIDE = np.concatenate([[0.0, -0.0, 1e-7, -1e-7, 1e-3, 0.49, 0.5, -0.5, 0.999, 1, 20], np.linspace(-0.99, 60, 400)])
WHOLE = np.linspace(-1, 1, 401)
COLOURS = np.random.default_rng(0).uniform(size=(40, 3)).astype(np.float32)
COLOURS[:4] = [[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5], [1, 0, 0]]


@pytest.mark.parametrize(
    ("written", "own", "x"),
    [
        (rules.expm1, tf.math.expm1, np.linspace(-20, 20, 4001)),
        (rules.log1p, tf.math.log1p, WIDE),
        (rules.log1p, tf.math.log1p, np.array([-1, np.inf, -0.9999999])),
        (rules.erfinv, tf.math.erfinv, WHOLE),
        (rules.erfinv, tf.math.erfinv, np.array([1.5, -2, 0.9999999, -0.9999999])),
        (rules.erf, tf.math.erf, np.linspace(-5, 5, 1001)),
        (rules.sinh, tf.math.sinh, np.linspace(-20, 20, 4001)),
        (rules.asinh, tf.math.asinh, np.concatenate([np.linspace(-9, 9, 1001), [1e6, -1e6]])),
        (rules.bessel_i0, tf.math.bessel_i0, np.linspace(-40, 40, 801)),
        (image_rules.rgb_to_hsv, tf.image.rgb_to_hsv, COLOURS),
        (image_rules.hsv_to_rgb, tf.image.hsv_to_rgb, COLOURS),
    ],
)
def test_a_function(written: Callable[..., Any], own: Callable[..., Any], x: np.ndarray) -> None:
    given = tf.constant(x, tf.float32)
    np.testing.assert_allclose(written(given), own(given), rtol=2e-6, atol=1e-6)


def converted(function: Callable[[Any], Any], x: np.ndarray, opset: int = 18) -> Any:
    ports = (Port("x", x.dtype.name, (None, *x.shape[1:])),)
    program = named_program(lambda given: {"y": function(given[0])}, ports, (), (), "a test")
    return to_onnx.convert(program, opset)


ROWS = np.array([[0.0, -0.0, 3, -3, 0.5], [1, 1, 1, 1, 1], [-0.0, 0.0, -0.0, 0, -2], [5, 4, 3, 6, 6]], np.float32)
OUTSIDE = tf.reshape(tf.range(200, dtype=tf.float16), (5, 40))
EDGES = tf.constant([-1, 0, 3], tf.float16)
HALVES: dict[str, Callable[[Any], Any]] = {
    "argmax": lambda x: ops.argmax(x, axis=-1),
    "argmin": lambda x: ops.argmin(x, axis=-1),
    "signbit": ops.signbit,
    "log": lambda x: ops.log(ops.abs(x) + 0.5),
    "expm1": lambda x: ops.cast(ops.expm1(x), "float32"),
    "isinf": lambda x: ops.isinf(1 / x),
    "nan_to_num": ops.nan_to_num,
    "cumprod": lambda x: ops.cumprod(x, axis=1),
    "cumprod of what follows": lambda x: tf.math.cumprod(x, 1, exclusive=True, reverse=True),
    "searchsorted": lambda x: ops.reshape(tf.searchsorted(EDGES, tf.reshape(x, (-1,)), "right"), (-1, 5)),
    "one_hot": lambda x: ops.one_hot(ops.cast(x, "int32"), 4, dtype="float16"),
    "pad": lambda x: tf.pad(x, [[0, 0], [1, 2]], constant_values=tf.constant(-1.5, tf.float16)),
    "trace": lambda x: ops.trace(x[:, :, None] * x[:, None], axis1=1, axis2=2),
    "diagonal": lambda x: ops.diagonal(x[:, :, None] * x[:, None], axis1=1, axis2=2),
    "from outside": lambda x: ops.matmul(x, OUTSIDE),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HALVES)
def test_in_onnx(name: str) -> None:
    def function(x: Any) -> Any:
        return HALVES[name](tf.cast(x, tf.float16))

    model = converted(function, ROWS)
    expected = np.asarray(function(tf.constant(ROWS)))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for got in (session.run(None, {"x": ROWS})[0], TrueFloat16(model)(ROWS)["y"]):
        assert got.dtype == (np.float32 if expected.dtype == np.float16 else expected.dtype)
        np.testing.assert_allclose(got, expected.astype(got.dtype), rtol=2e-3)


SIGNALS = np.random.default_rng(0).normal(size=(3, 4, 6)).astype(np.float32)


def _complex(x: Any) -> Any:
    return tf.complex(x[..., :3], x[..., 3:])


TRANSFORMS: dict[str, Callable[[Any], Any]] = {
    "fft": lambda x: tf.abs(tf.signal.fft(_complex(x))),
    "ifft2d": lambda x: tf.math.imag(tf.signal.ifft2d(_complex(x))),
    "there and back": lambda x: tf.signal.irfft(tf.signal.rfft(x) * tf.complex(0.0, 2.0), [6]),
    "odd length": lambda x: tf.signal.irfft(tf.signal.rfft(x, [5]), [5]),
    "angle": lambda x: tf.math.angle(tf.transpose(_complex(x), [0, 2, 1]) / (1 + 2j)),
    "conjugate": lambda x: tf.math.real(tf.math.conj(_complex(x)) * tf.exp(_complex(x))),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMS)
def test_complex_numbers(name: str) -> None:
    expected = np.asarray(TRANSFORMS[name](tf.constant(SIGNALS)))
    model = converted(TRANSFORMS[name], SIGNALS)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": SIGNALS})[0], expected, rtol=1e-4, atol=1e-5)


IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 16, 12, 3)).astype(np.float32)
RESIZES: dict[str, Callable[[Any], Any]] = {
    "bicubic": lambda x: tf.image.resize(x, (10, 30), "bicubic"),
    "of a size that a layer says": lambda x: tf.image.resize(
        tf.ensure_shape(tf.reshape(x, tf.concat([tf.shape(x)[:1], [16, 12, 3]], 0)), (None, 16, 12, 3)),
        (8, 8),
        "bicubic",
    ),
    "area": lambda x: tf.image.resize(x, (5, 5), "area"),
    "nearest": lambda x: tf.image.resize(x, (10, 30), "nearest"),
}


@pytest.mark.parametrize("name", RESIZES)
def test_images_of_another_size(name: str) -> None:
    expected = np.asarray(RESIZES[name](tf.constant(IMAGES)))
    model = converted(RESIZES[name], IMAGES)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for got in (session.run(None, {"x": IMAGES})[0], TrueFloat16(model)(IMAGES)["y"]):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-3)


def test_a_branch_that_passes_on_what_was_there() -> None:
    def function(x: Any) -> Any:
        y = x * 3
        return tf.cond(tf.shape(x)[0] > 2, lambda: y + 1, lambda: y)

    model = converted(function, IMAGES)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for x in (IMAGES, np.concatenate([IMAGES, IMAGES])):
        np.testing.assert_allclose(session.run(None, {"x": x})[0], function(tf.constant(x)))


@pytest.mark.parametrize("loop", [False, True])
def test_what_is_scattered_in_float16(loop: bool) -> None:
    def scattered(y: Any) -> Any:
        return tf.tensor_scatter_nd_add(y, [[0], [1], [0]], tf.ones((3, 5), tf.float16))

    def function(x: Any) -> Any:
        y = tf.cast(x, tf.float16)
        return (
            tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, scattered(y)), (0, y))[1] if loop else scattered(y)
        )

    model = converted(function, ROWS)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for got in (session.run(None, {"x": ROWS})[0], TrueFloat16(model)(ROWS)["y"]):
        np.testing.assert_allclose(got, function(tf.constant(ROWS)), rtol=2e-3)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: ops.cumprod(tf.tile(x, [1, 1, 400]), axis=-1), "Cumprod over 2,400 of numbers; 1,024 and fewer"),
        (lambda x: tf.math.real(tf.signal.fft(tf.complex(x, x)[:, :, : tf.shape(x)[0]])), "over an open number"),
        (lambda x: tf.abs(tf.sqrt(tf.complex(x, x))), "Sqrt takes complex numbers"),
        (lambda x: tf.bitcast(x, tf.int32) & 7, "no operator for Bitcast"),
        (lambda x: tf.switch_case(tf.shape(x)[0], [lambda: x, lambda: -x, lambda: x + 1]), "ops.cond within ops.cond"),
    ],
)
def test_what_is_refused(function: Callable[[Any], Any], why: str) -> None:
    with pytest.raises(ExportError, match=why) as caught:
        converted(function, SIGNALS)
    assert "\n" not in str(caught.value)


def test_a_transform_that_is_too_long() -> None:
    with pytest.raises(ExportError, match="2,048 and fewer"):
        complex_numbers._waves(2049, 2049, 2049)
