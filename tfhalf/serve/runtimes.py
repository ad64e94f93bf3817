"""What computes a batch: onnxruntime or TensorFlow, opened from a version directory whose files were checked."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tfhalf.errors import ArtifactError, IntegrityError
from tfhalf.files import sha256
from tfhalf.runtime import FORMATS, weights_beside
from tfhalf.serve import upcast
from tfhalf.serve.settings import Settings
from tfhalf.serve.signature import Signature

Arrays = dict[str, np.ndarray]

_TRIAL_SECONDS = 0.5
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"  # of onnxruntime


class Runtime(Protocol):
    """A model that is ready to compute.

    ``about`` is a line for people, ``platform`` the Open Inference Protocol's word. ``fixed_sizes`` says that each new
    batch size costs a compilation, so batches are padded to the ladder.
    """

    about: str
    platform: str
    fixed_sizes: bool

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
            return Onnx(source, settings)
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


class Onnx:
    """onnxruntime on TensorRT or CUDA where it has them, else on the CPU with float16 brought to float32 at load."""

    platform = "onnxruntime_onnx"

    def __init__(self, source: Source, settings: Settings) -> None:
        import onnxruntime

        path = source.directory / FORMATS["onnx"]
        blob = path.read_bytes()  # once: what is hashed here is what is opened
        _check_unchanged(path, hashlib.sha256(blob).hexdigest(), source.manifest)
        model = upcast.read(blob)
        beside = weights_beside(path, model)
        wanted = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        on_cpu = providers[0] == "CPUExecutionProvider"
        # Weights beside the graph are too large for one message, and would be twice as large.
        widened = on_cpu and beside is None and upcast.holds_float16(model)
        if widened:
            upcast.upcast(model)
            blob = model.SerializeToString()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = settings.threads
        # Threads that spin while they wait would take the cores from the process that answers requests.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if beside is not None:
            _check_unchanged(beside, sha256(beside), source.manifest)
            options.add_session_config_entry(_WEIGHTS_FOLDER, str(source.directory.resolve()))
        self._session: Any = onnxruntime.InferenceSession(blob, options, providers=providers)
        device = self._session.get_providers()[0].removesuffix("ExecutionProvider")
        self.fixed_sizes = device != "CPU"
        self.about = f"onnxruntime {onnxruntime.__version__}, {device}"
        if widened:
            self.about += ", float16 weights brought to float32 at load"
        if beside is not None:
            self.about += f", weights in {beside.name}"
        self._outputs = [value.name for value in self._session.get_outputs()]
        check_names(path, source.signature, {v.name for v in self._session.get_inputs()}, set(self._outputs))
        self._binds = device != "CPU"

    def __call__(self, feeds: Arrays) -> Arrays:
        if not self._binds:
            return dict(zip(self._outputs, self._session.run(None, feeds), strict=True))
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for name in self._outputs:
            binding.bind_output(name)  # to memory of the host, which is where it is sent from
        self._session.run_with_iobinding(binding)
        return dict(zip(self._outputs, binding.copy_outputs_to_cpu(), strict=True))


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
