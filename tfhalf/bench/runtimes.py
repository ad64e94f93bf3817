"""The runtimes that an export's files are benchmarked in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tfhalf.artifacts.formats import FORMATS
from tfhalf.runtimes import onnx_providers
from tfhalf.runtimes.base import ONNXRUNTIME, Runtime, RuntimeSpec
from tfhalf.runtimes.child import lacking
from tfhalf.runtimes.open import BY_NAME, open_runtime


def _spec(name: str) -> RuntimeSpec:
    """One of `BY_NAME` in this process, which measures it alone: no answer has to cross a pipe."""
    return replace(BY_NAME[name], apart=False)


# Key: what the table calls it, and what computes.
RUNTIMES = {
    "savedmodel": ("SavedModel", _spec("savedmodel")),
    "savedmodel-xla": ("SavedModel, XLA", _spec("savedmodel-xla")),
    "onnx-cpu": ("ONNX Runtime, CPU", _spec("onnx-cpu")),
    "onnx-cuda": ("ONNX Runtime, CUDA", _spec("onnx-cuda")),
    "openvino": ("OpenVINO", _spec("onnx-openvino")),
    "litert": ("LiteRT", _spec("litert")),
    "litert-int8": ("LiteRT, int8", _spec("litert-int8")),
}
# Without TensorFlow, whose threads would be idle beside those that are timed.
ALONE = ("onnx-cpu", "openvino", "litert", "litert-int8")
_INSTALLED = {"openvino": "openvino", "litert": "litert", "litert-int8": "litert"}


def missing(directory: Path, runtime: str) -> str:
    """Why ``runtime`` cannot be had here for the version ``directory``; empty where it can, as far as is known before
    it is opened."""
    spec = RUNTIMES[runtime][1]
    file = FORMATS[spec.format].file
    if not (directory / file).is_file():
        return f"the version holds no {file}"
    if spec.library == ONNXRUNTIME:
        return lacking("onnx") or onnx_providers.lacking(spec.device or "CPU")
    return lacking(_INSTALLED[runtime]) if runtime in _INSTALLED else ""


def open_to_measure(directory: Path, runtime: str) -> Runtime:
    """Open the files of a version ``directory``, whose hashes were checked, in one of ``RUNTIMES``.

    Raises:
        ArtifactError: they are refused before they are opened, or do not open.
        UnavailableError: the runtime's device is not here, or does not start.
    """
    return open_runtime(directory, RUNTIMES[runtime][1])
