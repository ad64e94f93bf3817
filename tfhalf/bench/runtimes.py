"""The runtimes that an export's files are benchmarked in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tfhalf.errors import ArtifactError, UnsupportedError
from tfhalf.inspect.tf_check import check_saved_model
from tfhalf.runtimes.child import lacking
from tfhalf.runtimes.engines import open_engine
from tfhalf.runtimes.open import FORMATS, onnx_providers, open_predictor, weights_beside

# Key: what the table calls it, and the format that it opens.
RUNTIMES = {
    "savedmodel": ("SavedModel", "savedmodel"),
    "savedmodel-xla": ("SavedModel, XLA", "savedmodel"),
    "onnx-cpu": ("ONNX Runtime, CPU", "onnx"),
    "onnx-cuda": ("ONNX Runtime, CUDA", "onnx"),
    "openvino": ("OpenVINO", "onnx"),
    "litert": ("LiteRT", "litert"),
    "litert-int8": ("LiteRT, int8", "litert-int8"),
}
# Without TensorFlow, whose threads would be idle beside those that are timed.
ALONE = ("onnx-cpu", "openvino", "litert", "litert-int8")
Arrays = Mapping[str, np.ndarray]


class Timed(Protocol):
    """``runtime`` says what computes."""

    runtime: str

    def __call__(self, x: Arrays, /) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name, each [N, ...]."""
        ...


_ENGINES = {"openvino": "openvino", "litert": "litert", "litert-int8": "litert"}


def missing(directory: Path, runtime: str) -> str:
    """Why ``runtime`` cannot be had here for the version ``directory``; empty where it can."""
    file = FORMATS[RUNTIMES[runtime][1]]
    if not (directory / file).is_file():
        return f"the version holds no {file}"
    if runtime in _ENGINES:
        return lacking(_ENGINES[runtime])
    if runtime == "onnx-cuda":
        import onnxruntime

        there = onnxruntime.get_available_providers()
        if "CUDAExecutionProvider" not in there:
            return f"onnxruntime {onnxruntime.__version__} has {', '.join(there)}; onnxruntime-gpu brings CUDA"
    return ""


def open_runtime(directory: Path, runtime: str) -> Timed:
    """Open the files of a version ``directory``, whose hashes were checked, in one of ``RUNTIMES``.

    Raises:
        ArtifactError: they are refused before they are opened, or the runtime falls back to another device.
        UnsupportedError: they do not open in it.
    """
    if runtime == "savedmodel":
        return open_predictor(directory, "savedmodel", patience=None)
    try:
        if runtime == "savedmodel-xla":
            return _SavedModelXla(directory)
        if runtime in _ENGINES:
            return _Engine(directory / FORMATS[RUNTIMES[runtime][1]], _ENGINES[runtime])
        return _Onnx(directory, {"onnx-cpu": "CPU", "onnx-cuda": "CUDA"}[runtime])
    except ArtifactError:
        raise
    except Exception as error:  # four libraries, each with exceptions of its own
        text = " ".join(str(error).split())[:300]
        raise UnsupportedError(directory, f"does not open in {RUNTIMES[runtime][0]}: {text}") from error


class _SavedModelXla:
    """The serving signature compiled by XLA, once for each batch size."""

    def __init__(self, directory: Path) -> None:
        check_saved_model(directory)
        import tensorflow as tf

        self._tf = tf
        self._loaded = tf.saved_model.load(str(directory))  # kept: its variables go when it goes
        signature = self._loaded.signatures["serving_default"]
        self._function = tf.function(lambda x: signature(**x), jit_compile=True, autograph=False)
        device = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
        self.runtime = f"TensorFlow {tf.__version__}, {device}, XLA"

    def __call__(self, x: Arrays) -> dict[str, np.ndarray]:
        given = {name: self._tf.constant(value) for name, value in x.items()}
        return {name: value.numpy() for name, value in self._function(given).items()}


class _Onnx:
    """ONNX Runtime on one provider (which itself gives what it cannot compute to the CPU)."""

    def __init__(self, directory: Path, device: str) -> None:
        import onnxruntime

        path = directory / FORMATS["onnx"]
        weights_beside(path)
        (provider,) = onnx_providers(device)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=[provider])
        if self._session.get_providers()[0] != provider:
            raise ArtifactError(f"{directory}: onnxruntime {onnxruntime.__version__} could not start {provider}")
        self._outputs = [value.name for value in self._session.get_outputs()]
        self.runtime = f"onnxruntime {onnxruntime.__version__}, {device}"

    def __call__(self, x: Arrays) -> dict[str, np.ndarray]:
        return dict(zip(self._outputs, self._session.run(None, dict(x)), strict=True))


class _Engine:
    """LiteRT or OpenVINO, in this process."""

    def __init__(self, path: Path, kind: str) -> None:
        if kind == "openvino":
            weights_beside(path)
        self._engine = open_engine(kind, path)
        self.runtime, self.settings = self._engine.runtime, self._engine.settings

    def __call__(self, x: Arrays) -> dict[str, np.ndarray]:
        return self._engine(x)
