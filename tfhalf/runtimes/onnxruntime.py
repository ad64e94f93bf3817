"""ONNX files in onnxruntime: on the CPU, on CUDA or TensorRT; one session, or one for each batch size."""

from __future__ import annotations

from typing import Any

from tfhalf.errors import UnavailableError
from tfhalf.runtimes import onnx_upcast
from tfhalf.runtimes.base import ONNXRUNTIME, Arrays, Engine, Runtime, RuntimeSpec, Tuning, computed_by
from tfhalf.runtimes.onnx_file import OnnxFile
from tfhalf.runtimes.onnx_providers import lacking, onnx_providers

COPIES_BYTES = 2**31  # that the weights of all sessions together may take on the GPU
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"  # of onnxruntime
# By device, what computes there; a provider leaves what it cannot compute to the next.
_CHAINS = {"TensorRT": ("Tensorrt", "CUDA", "CPU"), "CUDA": ("CUDA", "CPU"), "CPU": ("CPU",)}


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
        self._names = [value.name for value in self._session.get_outputs()]  # or onnxruntime lists them in each call
        self.outputs = tuple(self._names)
        self.engine = _engine_of(self._session)
        self.about = computed_by(self.engine, onnxruntime.__version__) + note
        if file.beside is not None:
            self.about += f", weights in {file.beside.name}"
        self._new_options: Any = onnxruntime.RunOptions if tuning.stoppable else None
        self._running: Any = onnxruntime.RunOptions()  # or onnxruntime makes them in each call: 5 us

    def __call__(self, arrays: Arrays) -> Arrays:
        if self._new_options is not None:
            self._running = self._new_options()
        return dict(zip(self.outputs, self._session.run(self._names, arrays, self._running), strict=True))

    def stop(self) -> None:
        """End the call that runs."""
        if self._new_options is not None:
            self._running.terminate = True

    def close(self) -> None:
        """Free the session."""
        self._session = None


class OnnxBySize:
    """A session for each batch size, on TensorRT or CUDA.

    A session plans each convolution anew whenever the batch size is another than in its last call: on an H200 that took
    a quarter of a second for a net of eight convolutions. So each size has a session of its own, opened when it is
    first called with. Sessions cannot share weights on a GPU (onnxruntime 1.31 refuses such initializers), so nets with
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
