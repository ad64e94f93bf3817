"""The runtime that a version is served by: `open_runtime`."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from tfhalf.artifacts.record import Manifest
from tfhalf.errors import ArtifactError, IntegrityError
from tfhalf.files import sha256
from tfhalf.runtimes.open import FORMATS, onnx_providers, weights_beside
from tfhalf.serve.runtimes import upcast
from tfhalf.serve.runtimes.base import Runtime, Source, check_names
from tfhalf.serve.runtimes.onnx_cpu import Graph, Onnx
from tfhalf.serve.runtimes.onnx_gpu import OnnxGpu
from tfhalf.serve.runtimes.savedmodel import SavedModel
from tfhalf.serve.settings import Settings

_TRIAL_SECONDS = 0.5


def open_runtime(source: Source, settings: Settings) -> Runtime:
    """Open ``source`` in the runtime that the settings ask for.

    Raises:
        ArtifactError: it holds no such format, or does not open.
        IntegrityError: a file changed after it was checked.
    """
    there = [kind for kind in ("onnx", "savedmodel") if (source.directory / FORMATS[kind]).is_file()]
    if settings.runtime == "auto" and len(there) > 1:
        return _faster(source, settings)
    wanted = there[:1] if settings.runtime in (None, "auto") else [settings.runtime]
    if not wanted or wanted[0] not in there:
        asked = wanted[0] if wanted else "onnx or savedmodel"
        raise ArtifactError(f"{source.directory}: holds no {asked}; it has {', '.join(there) or 'no artifact'}")
    return _open(source, wanted[0], settings)


def _open(source: Source, kind: str, settings: Settings) -> Runtime:
    try:
        if kind == "onnx":
            return _open_onnx(source, settings)
        return SavedModel(source, settings)
    except (ArtifactError, IntegrityError):
        raise
    except Exception as error:  # two libraries, each with exceptions of its own
        text = " ".join(str(error).split())[:300]
        raise ArtifactError(f"{source.directory / FORMATS[kind]}: does not open: {text}") from error


def _faster(source: Source, settings: Settings) -> Runtime:
    """Open both, let each answer full batches for half a second, and keep the faster."""
    rows = settings.batching.max_batch
    feeds = {name: tensor.zeros(rows) for name, tensor in source.signature.inputs.items()}
    rates: dict[str, float] = {}
    opened: dict[str, Runtime] = {}
    for kind in ("onnx", "savedmodel"):
        runtime = opened[kind] = _open(source, kind, settings)
        runtime(feeds)  # what is compiled or planned at first is not counted
        count, start = 0, time.perf_counter()
        while (passed := time.perf_counter() - start) < _TRIAL_SECONDS:
            runtime(feeds)
            count += rows
        rates[kind] = count / passed
    best = max(rates, key=lambda kind: rates[kind])
    measured = ", ".join(f"{kind} {rate:,.0f}" for kind, rate in rates.items())
    chosen = opened[best]
    chosen.about += f"; the faster at batch {rows} (rows/s: {measured})"
    return chosen


def _open_onnx(source: Source, settings: Settings) -> Runtime:
    """On TensorRT or CUDA where onnxruntime has them and they start, else on the CPU."""
    path = source.directory / FORMATS["onnx"]
    blob = path.read_bytes()  # once: what is hashed here is what is opened
    _check_unchanged(path, hashlib.sha256(blob).hexdigest(), source.manifest)
    model = upcast.read(blob)
    graph = Graph(path, blob, model, weights_beside(path, model))
    if graph.beside is not None:
        _check_unchanged(graph.beside, sha256(graph.beside), source.manifest)
    runtime: Onnx | OnnxGpu | None = None
    if onnx_providers("Tensorrt", "CUDA"):
        runtime = OnnxGpu(graph, settings)
    if runtime is None or runtime.device == "CPU":
        runtime = Onnx(graph, settings)
    check_names(path, source.signature, set(runtime.inputs), set(runtime.outputs))
    return runtime


def _check_unchanged(path: Path, digest: str, manifest: Manifest) -> None:
    recorded = manifest.files.get(path.name)
    if recorded is None or digest != recorded.sha256:
        raise IntegrityError(f"{path}: changed while it was opened; export again")
