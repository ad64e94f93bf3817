"""Translations of TensorFlow operators that tf2onnx lacks: the answers of TensorFlow, or a refusal that says why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
import zoo
from keras import layers, ops
from zoo_helpers import export

from tfhalf.artifacts.ports import Port
from tfhalf.errors import ExportError
from tfhalf.export.onnx import to_onnx
from tfhalf.export.program import named_program
from tfhalf.runtimes.onnx_reference import TrueFloat16

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tf2onnx")

SOUND = np.random.default_rng(0).normal(size=(2, 600)).astype(np.float32)
EDGES = [-0.5, 0.0, 1.0]
AT_EDGES = np.array([[-1.0, -0.5, -0.25, 0.0, 0.5, 1.0, 7.0, np.inf, -np.inf, np.nan]], np.float32)


def converted(function: Callable[[Any], Any], x: np.ndarray, opset: int, *, open_length: bool = False) -> Any:
    shape = (None,) * x.ndim if open_length else (None, *x.shape[1:])
    ports = (Port("x", x.dtype.name, shape),)
    program = named_program(lambda given: {"y": function(given[0])}, ports, (), (), "a test")
    return to_onnx.convert(program, opset)


def answers(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    """Of onnxruntime, and of the evaluator of true float16."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [session.run(None, {"x": x})[0], TrueFloat16(model)(x)["y"]]


def others(opset: int) -> Any:
    """Opsets other than the usual one: each takes a conversion."""
    return pytest.param(opset, marks=pytest.mark.slow)


@pytest.mark.parametrize("opset", [*map(others, (13, 25)), 18])
@pytest.mark.parametrize("mode", ["int", "one_hot", "multi_hot"])
def test_buckets(mode: str, opset: int) -> None:
    layer = layers.Discretization(EDGES, output_mode=mode)
    model = converted(layer, AT_EDGES, opset)
    expected = np.asarray(layer(AT_EDGES))
    for got in answers(model, AT_EDGES):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


def test_buckets_of_whole_numbers() -> None:
    x = np.arange(-3, 4, dtype=np.int32)[None]

    def digitized(values: Any) -> Any:
        return ops.digitize(values, [-1.0, 0.0, 2.0])

    for got in answers(converted(digitized, x, 18, open_length=True), x):
        np.testing.assert_array_equal(got, np.digitize(x, [-1, 0, 2]))


TRANSFORMS: dict[str, Callable[[Any], Any]] = {
    "mel": layers.MelSpectrogram(fft_length=128, sequence_stride=64, num_mel_bins=16),
    "shorter windows": layers.MelSpectrogram(fft_length=128, sequence_length=100, sequence_stride=50, num_mel_bins=16),
    "cut off": lambda x: ops.stack(ops.rfft(x, 512), -1),
    "filled up": lambda x: ops.stack(ops.rfft(x, 1024), -1),
    "magnitude": lambda x: tf.abs(tf.signal.rfft(x, [512])),
    "imaginary part": lambda x: tf.math.imag(tf.signal.rfft(x, [512])),
}


@pytest.mark.parametrize("opset", [*map(others, (17, 20)), 18])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_fourier_transforms(name: str, opset: int) -> None:
    function = TRANSFORMS[name]
    model = converted(function, SOUND, opset, open_length=name == "mel")
    assert Counter(node.op_type for node in model.graph.node)["DFT"] == 1
    expected = np.asarray(function(tf.constant(SOUND)))
    for got in answers(model, SOUND):
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("function", "opset", "why"),
    [
        (lambda x: tf.abs(tf.signal.rfft(x)), 16, "opset 16 has no Fourier transform; 17 and later have"),
        (lambda x: tf.bitcast(tf.bitcast(x, tf.int32) + 1, tf.float32), 18, "Bitcast"),
    ],
)
def test_what_onnx_has_not(function: Callable[[Any], Any], opset: int, why: str) -> None:
    with pytest.raises(ExportError, match=why) as caught:
        converted(function, SOUND, opset)
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["preprocessing", "audio"])
def test_exported_and_verified(name: str, tmp_path: Path) -> None:
    (entry,) = [entry for entry in zoo.ENTRIES if entry.name == name]
    made = export(entry, tmp_path)
    assert made.manifest.refused == {}
    assert made.manifest.islands == ()
    runtimes = {c.runtime.split(",")[0].split()[0] for c in made.comparisons if c.passed}
    assert {"TensorFlow", "onnxruntime", "true"} <= runtimes
    keras.backend.clear_session()
