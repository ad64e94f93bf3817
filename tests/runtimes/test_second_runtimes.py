"""Runtimes beside a format's own: what one cannot open or run it does not cover, which is told and is no failure."""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from orphans import assert_no_orphan

from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts.comparison import Comparison, Limits
from tfhalf.artifacts.manifest import open_version
from tfhalf.artifacts.record import Manifest
from tfhalf.artifacts.reference import Reference, Samples
from tfhalf.errors import ArtifactError, UnsupportedError
from tfhalf.progress import Progress
from tfhalf.runtimes.base import ONNXRUNTIME, Engine
from tfhalf.runtimes.engines import _openvino_reason
from tfhalf.runtimes.open import open_predictor
from tfhalf.verify import version as version_module
from tfhalf.verify.report import table, uncovered
from tfhalf.verify.version import compare_version

X = np.random.default_rng(0).normal(size=(6, 5, 3)).astype(np.float32)


def _model(activation: str) -> onnx.ModelProto:
    """x [batch, 5, 3] through an LSTM with that activation of its gates; y [5, 1, batch, 4]."""
    random = np.random.default_rng(1)
    weights = [
        numpy_helper.from_array(random.normal(size=(1, 16, width)).astype(np.float32) / 2, name)
        for name, width in (("w", 3), ("r", 4))
    ]
    of_gates: dict[str, Any] = {"activations": [activation, "Tanh", "Tanh"]}
    if activation == "HardSigmoid":
        of_gates |= {"activation_alpha": [0.2, 0.0, 0.0], "activation_beta": [0.5, 0.0, 0.0]}
    nodes = [
        helper.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["steps", "w", "r"], ["all"], hidden_size=4, **of_gates),
        helper.make_node("Transpose", ["all"], ["y"], perm=[2, 0, 1, 3]),
    ]
    ports = (("x", ["batch", 5, 3]), ("y", ["batch", 5, 1, 4]))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ports)
    graph = helper.make_graph(nodes, "net", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _version(folder: Path, activation: str = "Sigmoid", true_float16: int = 0) -> Path:
    onnx.save(_model(activation), folder / "model.onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    Reference(Samples({"x": X}, {"y": session.run(None, {"x": X})[0]})).save(folder)
    facts = {
        "name": "net",
        "artifacts": [{"format": "onnx"}],
        "limits": asdict(Limits(true_float16_samples=true_float16)),
        "reference": {},
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 5, 3]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 5, 1, 4]}],
    }
    manifest = Manifest.read(facts).model_copy(update={"files": manifests.file_hashes(folder)})
    manifests.write(folder, manifest)
    return folder


def _verified(folder: Path) -> dict[str, Comparison]:
    return {
        c.artifact: c for c in compare_version(open_version(folder), Progress(io.StringIO(), quiet=True)).comparisons
    }


def test_an_operator_that_openvino_lacks(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    told = _verified(_version(tmp_path, "HardSigmoid"))
    own, other = told["onnx"], told["onnx, OpenVINO"]
    assert own.passed
    assert (own.not_covered, own.samples) == ("", 6)
    assert other.not_covered == "does not open: Unsupported activation function (LSTMCell)"
    assert (other.samples, other.outputs, other.passed) == (0, (), True)
    names, rows = table([own, other])
    assert rows[1][names.index("")] == "not covered"
    assert rows[1][names.index("max diff")] == ""
    assert uncovered([own, other]) == [f"onnx, OpenVINO was not compared in OpenVINO: {other.not_covered}"]


def test_no_runtime_outlives_the_process_that_opened_it_when_that_is_killed(tmp_path: Path) -> None:
    onnx.save(_model("Sigmoid"), tmp_path / "model.onnx")
    code = (
        "import sys; from pathlib import Path; from tfhalf.runtimes.child import Isolated\n"
        "opened = Isolated('openvino', Path(sys.argv[1])); print(opened._child.process.pid, flush=True)"
    )
    assert_no_orphan(code, str(tmp_path / "model.onnx"))


def _spoiled(monkeypatch: pytest.MonkeyPatch, spoiled: str, answer: Any) -> None:
    """The runtime ``spoiled`` answers, or raises, what ``answer`` does."""

    class Spoiled:
        about, engine = "spoiled", Engine(ONNXRUNTIME, "CPU")

        def __call__(self, inputs: Any) -> dict[str, np.ndarray]:
            return answer(inputs)  # type: ignore[no-any-return]

    def opened(directory: Path, runtime: str) -> Any:
        return Spoiled() if runtime == spoiled else open_predictor(directory, runtime)

    monkeypatch.setattr(version_module, "open_predictor", opened)


def _refuses(_: Any) -> Any:
    raise UnsupportedError("model.onnx", "opens and does not run: no such kernel")


def test_arithmetic_that_true_float16_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version_module, "lacking", lambda kind: "left out")
    _spoiled(monkeypatch, "onnx-float16", _refuses)
    version = open_version(_version(tmp_path, true_float16=2))
    found = compare_version(version, Progress(io.StringIO(), quiet=True)).comparisons
    assert [(c.runtime.split()[0], c.not_covered) for c in found] == [
        ("onnxruntime", ""),
        ("true", "opens and does not run: no such kernel"),
    ]


def test_wrong_numbers_of_a_second_runtime_still_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = _version(tmp_path)
    monkeypatch.setattr(version_module, "lacking", lambda kind: "")
    _spoiled(monkeypatch, "onnx-openvino", lambda inputs: {"y": np.zeros((len(inputs["x"]), 5, 1, 4), np.float32)})
    told = _verified(version)["onnx, OpenVINO"]
    assert not told.passed
    assert not told.not_covered
    _spoiled(monkeypatch, "onnx-openvino", lambda inputs: {"y": np.zeros((len(inputs["x"]), 4), np.float32)})
    with pytest.raises(ArtifactError, match="y: it gives shape"):
        _verified(version)


def test_the_runtime_of_a_format_has_to_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version_module, "lacking", lambda kind: "left out")
    _spoiled(monkeypatch, "onnx", _refuses)
    with pytest.raises(UnsupportedError, match="no such kernel"):
        _verified(_version(tmp_path))


def test_what_openvino_says_without_its_source() -> None:
    said = "Exception from src/a/core.cpp:1:\nException from src/b.cpp:29:\n[Pass] node: opset4::LSTMCell X_3 THROWN"
    assert _openvino_reason(f"{said}: Exception from src/c.cpp:294:\nUnsupported activation function\n\n") == (
        "Unsupported activation function (LSTMCell)"
    )
    assert _openvino_reason("Exception from src/c.cpp:2:\nno opset1::Foo here") == "no opset1::Foo here"
    assert _openvino_reason("") == "no word"
