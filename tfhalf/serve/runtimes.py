"""What computes a batch: onnxruntime or TensorFlow, opened from a version directory whose files were checked."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tfhalf.errors import ArtifactError, IntegrityError
from tfhalf.files import sha256
from tfhalf.runtimes.open import FORMATS, onnx_providers, weights_beside
from tfhalf.serve import upcast
from tfhalf.serve.settings import Settings
from tfhalf.serve.signature import Signature

if TYPE_CHECKING:
    from tfhalf.serve.onnx_gpu import OnnxGpu

Arrays = dict[str, np.ndarray]

_TRIAL_SECONDS = 0.5
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"  # of onnxruntime


class Runtime(Protocol):
    """A model that is ready to compute.

    ``about`` is a line for people, ``platform`` the Open Inference Protocol's word.
    """

    about: str
    platform: str

    @property
    def ladder(self) -> tuple[int, ...] | None:
        """The batch sizes that it is to be called with, where each costs a compilation; None where any is as good."""

    def __call__(self, feeds: Arrays) -> Arrays:
        """Outputs by name for inputs by name, each [N, ...]. Called by one thread at a time."""
        ...


@dataclass(frozen=True)
class Source:
    """A version to open: its ``directory``, whose files match ``manifest``, and its ``signature``."""

    directory: Path
    manifest: Mapping[str, Any]
    signature: Signature


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
        from tfhalf.serve.savedmodel import SavedModel

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


@dataclass(frozen=True)
class Graph:
    """An ONNX file that was checked: its ``path``, its bytes, what they hold (an `onnx.ModelProto`), and the file of
    weights ``beside`` it, where there is one."""

    path: Path
    blob: bytes
    model: Any
    beside: Path | None


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
        from tfhalf.serve.onnx_gpu import OnnxGpu

        runtime = OnnxGpu(graph, settings)
    if runtime is None or runtime.device == "CPU":
        runtime = Onnx(graph, settings)
    check_names(path, source.signature, set(runtime.inputs), set(runtime.outputs))
    return runtime


def onnx_options(graph: Graph, settings: Settings) -> Any:
    """`onnxruntime.SessionOptions` for ``graph``."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = settings.threads
    # Threads that spin while they wait would take the cores from the process that answers requests.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if graph.beside is not None:
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(graph.path.parent.resolve()))
    return options


class Onnx:
    """onnxruntime on the CPU, with float16 brought to float32 at load."""

    platform = "onnxruntime_onnx"
    device = "CPU"
    ladder = None

    def __init__(self, graph: Graph, settings: Settings) -> None:
        import onnxruntime

        blob, self.about = graph.blob, f"onnxruntime {onnxruntime.__version__}, CPU"
        # Weights beside the graph are too large for one message, and would be twice as large.
        if graph.beside is None and upcast.holds_float16(graph.model):
            upcast.upcast(graph.model)
            blob = graph.model.SerializeToString()
            self.about += ", float16 weights brought to float32 at load"
        if graph.beside is not None:
            self.about += f", weights in {graph.beside.name}"
        options, providers = onnx_options(graph, settings), onnx_providers("CPU")
        self._session: Any = onnxruntime.InferenceSession(blob, options, providers=providers)
        self.inputs = [value.name for value in self._session.get_inputs()]
        self.outputs = [value.name for value in self._session.get_outputs()]

    def __call__(self, feeds: Arrays) -> Arrays:
        return dict(zip(self.outputs, self._session.run(None, feeds), strict=True))


def _check_unchanged(path: Path, digest: str, manifest: Mapping[str, Any]) -> None:
    if digest != manifest["files"].get(path.name, {}).get("sha256"):
        raise IntegrityError(f"{path}: changed while it was opened; export again")


def check_names(path: Path, signature: Signature, inputs: set[str], outputs: set[str]) -> None:
    """Hold what an artifact takes and gives against its manifest.

    Raises:
        ArtifactError: they differ.
    """
    if inputs != set(signature.inputs) or outputs != set(signature.outputs):
        raise ArtifactError(
            f"{path}: takes {', '.join(sorted(inputs))} and gives {', '.join(sorted(outputs))}; its manifest says "
            f"{', '.join(signature.inputs)} and {', '.join(signature.outputs)}"
        )
