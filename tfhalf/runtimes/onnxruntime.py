"""ONNX files in onnxruntime: on the CPU, on CUDA or TensorRT; one session, or one for each batch size."""

from __future__ import annotations

import ctypes.util
import hashlib
import importlib.util
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tfhalf.errors import IntegrityError, UnavailableError
from tfhalf.files import sha256
from tfhalf.inspect.onnx_check import parse_onnx, read_onnx_bytes, weights_beside
from tfhalf.runtimes import onnx_upcast
from tfhalf.runtimes.base import ONNXRUNTIME, Arrays, Device, Engine, Runtime, RuntimeSpec, Tuning, computed_by

COPIES_BYTES = 2**31  # that the weights of all sessions together may take on the GPU
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"  # of onnxruntime
# By device, what computes there; a provider leaves what it cannot compute to the next.
_CHAINS = {"TensorRT": ("Tensorrt", "CUDA", "CPU"), "CUDA": ("CUDA", "CPU"), "CPU": ("CPU",)}


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file that was checked: its ``path``, its bytes, what they hold (an `onnx.ModelProto`), and the file of
    weights ``beside`` it, where there is one."""

    path: Path
    blob: bytes
    model: Any
    beside: Path | None


def read_checked(path: Path, files: Mapping[str, Mapping[str, Any]] | None = None) -> OnnxFile:
    """Read the file once and hold it against what may be opened.

    Args:
        path: the ONNX file.
        files: a manifest's, where what is opened must be what it says.

    Raises:
        ArtifactError: it is refused.
        IntegrityError: it is not what ``files`` say.
    """
    blob = read_onnx_bytes(path)
    if files is not None:
        _check_unchanged(path, hashlib.sha256(blob).hexdigest(), files)
    model = parse_onnx(path, blob)
    beside = weights_beside(path, model)
    if beside is not None and files is not None:
        _check_unchanged(beside, sha256(beside), files)
    return OnnxFile(path, blob, model, beside)


def _check_unchanged(path: Path, digest: str, files: Mapping[str, Mapping[str, Any]]) -> None:
    if digest != files.get(path.name, {}).get("sha256"):
        raise IntegrityError(f"{path}: changed while it was opened; export again")


def open_onnx(file: OnnxFile, spec: RuntimeSpec, tuning: Tuning) -> Runtime:
    """Open ``file`` on the device of ``spec``; without one on CUDA where onnxruntime has it and it starts, else on the
    CPU. On a GPU with a session for each of the batch sizes that ``tuning`` names.

    Raises:
        UnavailableError: the device is not there, or does not start.
        Exception: of whatever kind onnxruntime has: it does not open.
    """
    chain = _CHAINS[spec.device or "CUDA"]
    if spec.device and (lack := lacking(spec.device)):
        raise UnavailableError(lack)
    providers = onnx_providers(*chain)
    by_size = tuning.batch_sizes if providers[0] != "CPUExecutionProvider" else None
    runtime = OnnxBySize(file, providers, tuning, by_size) if by_size else Onnx(file, providers, spec, tuning)
    if spec.device and runtime.engine.device != spec.device:
        import onnxruntime

        raise UnavailableError(f"onnxruntime {onnxruntime.__version__} could not start {providers[0]}")
    return runtime


def lacking(device: str) -> str:
    """Why onnxruntime has no ``device`` here; empty where it has it."""
    if device == "CPU" or device in gpu_devices():
        return ""
    import onnxruntime

    there = ", ".join(onnxruntime.get_available_providers())
    return f"onnxruntime {onnxruntime.__version__} has {there}; onnxruntime-gpu brings CUDA"


def gpu_devices() -> tuple[Device, ...]:
    """The devices beside the CPU that this onnxruntime was built for, the fastest first."""
    providers = onnx_providers("Tensorrt", "CUDA")
    names: tuple[tuple[Device, str], ...] = (("TensorRT", "Tensorrt"), ("CUDA", "CUDA"))
    return tuple(device for device, name in names if f"{name}ExecutionProvider" in providers)


def onnx_providers(*devices: str) -> list[str]:
    """The providers of ``devices`` (TensorRT's is called Tensorrt) that this onnxruntime was built with, in that order;
    TensorRT's only where its libraries are on the machine.

    Without CUDA's libraries onnxruntime takes the next provider in silence.
    """
    import onnxruntime

    there = onnxruntime.get_available_providers()
    built = [device for device in devices if f"{device}ExecutionProvider" in there]
    # Asked last: looking for a library in the system starts processes.
    usable = [f"{device}ExecutionProvider" for device in built if device != "Tensorrt" or _load_tensorrt()]
    if any(name != "CPUExecutionProvider" for name in usable):
        _load_cuda()
    return usable


@cache
def _load_tensorrt() -> bool:
    """Whether TensorRT is installed, by pip or in the system."""
    if importlib.util.find_spec("tensorrt_libs"):
        importlib.import_module("tensorrt_libs")  # loads them
        return True
    return ctypes.util.find_library("nvinfer") is not None


@cache
def _load_cuda() -> None:
    """Load CUDA's libraries from where pip puts them; onnxruntime alone looks in the system's folders."""
    import onnxruntime

    with redirect_stdout(sys.stderr):  # it prints what it does not find
        onnxruntime.preload_dlls()


def _options(file: OnnxFile, tuning: Tuning) -> Any:
    """`onnxruntime.SessionOptions` for ``file``."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong is raised; it would be written to standard error as well
    if tuning.threads is not None:
        options.intra_op_num_threads = tuning.threads
    if not tuning.spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if file.beside is not None:
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(file.path.parent.resolve()))
    return options


def _engine_of(session: Any) -> Engine:
    device = session.get_providers()[0].removesuffix("ExecutionProvider")
    return Engine(ONNXRUNTIME, "TensorRT" if device == "Tensorrt" else device)


class Onnx:
    """One session. Calls are from and to memory of the host."""

    settings = ""
    batch_sizes: tuple[int, ...] | None = None

    def __init__(self, file: OnnxFile, providers: list[str], spec: RuntimeSpec, tuning: Tuning) -> None:
        import onnxruntime

        blob, note = file.blob, ""
        # Weights beside the graph are too large for one message, and would be twice as large.
        if spec.precision == "float32" and file.beside is None and onnx_upcast.holds_float16(file.model):
            onnx_upcast.upcast(file.model)
            blob = file.model.SerializeToString()
            note = ", float16 weights brought to float32 at load"
        self._session: Any = onnxruntime.InferenceSession(blob, _options(file, tuning), providers=providers)
        self.inputs = tuple(value.name for value in self._session.get_inputs())
        self.outputs = tuple(value.name for value in self._session.get_outputs())
        self.engine = _engine_of(self._session)
        self.about = computed_by(self.engine, onnxruntime.__version__) + note
        if file.beside is not None:
            self.about += f", weights in {file.beside.name}"
        self._new_options: Any = onnxruntime.RunOptions if tuning.stoppable else None
        self._running: Any = None

    def __call__(self, arrays: Arrays) -> Arrays:
        if self._new_options is not None:
            self._running = self._new_options()
        return dict(zip(self.outputs, self._session.run(None, arrays, self._running), strict=True))

    def stop(self) -> None:
        """End the call that runs."""
        if self._running is not None:
            self._running.terminate = True

    def close(self) -> None:
        """Free the session."""
        self._session = None


class OnnxBySize:
    """A session for each batch size, on TensorRT or CUDA.

    A session plans each convolution anew whenever the batch size is another than in its last call: on an H200 that took
    a quarter of a second for a net of eight convolutions. So each size has a session of its own, opened when it is
    first asked for. Sessions cannot share weights on a GPU (onnxruntime 1.31 refuses such initializers), so nets with
    large ones get fewer sizes.
    """

    settings = ""

    def __init__(self, file: OnnxFile, providers: list[str], tuning: Tuning, batch_sizes: tuple[int, ...]) -> None:
        import onnxruntime

        self._file, self._providers, self._options = file, providers, _options(file, tuning)
        self._options.intra_op_num_threads = 1  # of each session; little is left to the CPU
        weights = (file.beside or file.path).stat().st_size
        sizes = affordable(batch_sizes, weights)
        self.batch_sizes: tuple[int, ...] | None = sizes
        first = self._open()
        self._sessions: dict[int, Any] = {sizes[-1]: first}
        self._sizes, self._largest = frozenset(sizes), sizes[-1]
        self._running: Any = None
        self._new_options: Any = onnxruntime.RunOptions if tuning.stoppable else None
        self.inputs = tuple(value.name for value in first.get_inputs())
        self.outputs = tuple(value.name for value in first.get_outputs())
        self.engine = _engine_of(first)
        self.about = f"{computed_by(self.engine, onnxruntime.__version__)}, {len(sizes)} batch sizes"
        if file.beside is not None:
            self.about += f", weights in {file.beside.name}"

    def __call__(self, arrays: Arrays) -> Arrays:
        rows = len(next(iter(arrays.values())))
        if rows not in self._sessions and rows in self._sizes:
            self._sessions[rows] = self._open()
        session = self._sessions.get(rows, self._sessions[self._largest])
        binding = session.io_binding()
        for name, array in arrays.items():
            binding.bind_cpu_input(name, array)
        for name in self.outputs:
            binding.bind_output(name)  # to memory of the host, which is where it is sent from
        if self._new_options is not None:
            self._running = self._new_options()
        session.run_with_iobinding(binding, self._running)
        return dict(zip(self.outputs, binding.copy_outputs_to_cpu(), strict=True))

    def stop(self) -> None:
        """End the call that runs."""
        if self._running is not None:
            self._running.terminate = True

    def close(self) -> None:
        """Free the sessions."""
        self._sessions = {}

    def _open(self) -> Any:
        import onnxruntime

        return onnxruntime.InferenceSession(self._file.blob, self._options, providers=self._providers)


def affordable(batch_sizes: tuple[int, ...], weights: int) -> tuple[int, ...]:
    """As many of ``batch_sizes`` as there may be copies of ``weights`` bytes, evenly spread; the smallest and the
    largest always."""
    count = max(2, min(len(batch_sizes), COPIES_BYTES // max(weights, 1)))
    last = len(batch_sizes) - 1
    return tuple(sorted({batch_sizes[round(i * last / (count - 1))] for i in range(count)}))
