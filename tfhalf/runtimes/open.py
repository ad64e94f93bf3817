"""An artifact opened as a Predictor: arrays in, arrays out, no Keras objects needed."""

from __future__ import annotations

import ctypes.util
import importlib.util
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tfhalf.artifacts import formats
from tfhalf.errors import ArtifactError, UnsupportedError
from tfhalf.inspect.onnx_check import read_onnx
from tfhalf.inspect.onnx_check import weights_beside as weights_beside
from tfhalf.inspect.tf_check import check_saved_model
from tfhalf.runtimes.child import Isolated
from tfhalf.system import memory
from tfhalf.text import one_line

FORMATS = {name: one.file for name, one in formats.FORMATS.items()}
TRUE_FLOAT16 = "true float16, CPU"
PATIENCE = 600.0
"""Seconds that one batch may take."""
# By runtime, the format that it opens.
RUNTIMES = {**{kind: kind for kind in FORMATS}, "onnx-float16": "onnx", "onnx-openvino": "onnx"}
SECOND = {"onnx-float16": TRUE_FLOAT16, "onnx-openvino": "OpenVINO"}
"""Runtimes beside a format's own, by what they are called: what one of them cannot open or run, it does not cover."""


Inputs = np.ndarray | Mapping[str, np.ndarray]


class Predictor(Protocol):
    """``runtime`` says what computes. Calling it with float32 [N, *input_shape] gives float32 outputs by name."""

    runtime: str

    def __call__(self, x: np.ndarray, /) -> dict[str, np.ndarray]:
        """One array per output; of a pipeline's export ``logits`` and ``probabilities``, float32 [N, num_classes]."""
        ...


class NamedPredictor(Protocol):
    """A `Predictor` that takes several inputs by name as well."""

    runtime: str

    def __call__(self, x: Inputs, /) -> dict[str, np.ndarray]:
        """One array per output."""
        ...


def open_predictor(directory: Path, runtime: str, patience: float | None = PATIENCE) -> NamedPredictor:
    """Open the version ``directory`` for one of ``RUNTIMES``.

    ``savedmodel``: TensorFlow. ``onnx``: onnxruntime, on a GPU where it has that provider. ``onnx-float16``: true
    float16 arithmetic, slow. ``onnx-openvino``, ``litert`` and ``litert-int8``: on the CPU, in a process of their own.
    A call that takes more than ``patience`` seconds is ended (true float16 excepted): a loop in a file may have no end.
    The memory that they take is bounded (`tfhalf.system.memory`).

    Raises:
        ArtifactError: the file is not there, or is refused before the runtime opens it.
        UnsupportedError: the runtime does not open it.
    """
    name = FORMATS[RUNTIMES[runtime]]
    if not (directory / name).is_file():
        there = [kind for kind, file in FORMATS.items() if (directory / file).is_file()]
        raise ArtifactError(f"{directory}: holds no {name}; it has {', '.join(there) or 'no artifact'}")
    opener: Any = {"savedmodel": _SavedModel, "onnx": _Onnx, "onnx-float16": _OnnxTrueFloat16}.get(runtime)
    if opener is None:
        return _Told(
            _Apart(directory / name, "litert" if formats.FORMATS[RUNTIMES[runtime]].is_litert else "openvino"),
            directory / name,
            patience,
        )
    with memory.bounded():
        try:
            return _Told(opener(directory), directory / name, patience)
        except ArtifactError:
            raise
        except Exception as error:  # three libraries, each with exceptions of its own
            if lack := memory.lacking(error):
                raise ArtifactError(f"{directory / name}: {lack}") from error
            raise UnsupportedError(directory / name, f"does not open: {one_line(error)}") from error


class _Told:
    """A predictor whose failures are told as those of its file."""

    def __init__(self, predictor: Any, path: Path, patience: float | None) -> None:
        self._predictor, self._path, self._patience = predictor, path, patience
        self.runtime: str = predictor.runtime

    def __call__(self, x: Inputs) -> dict[str, np.ndarray]:
        with memory.bounded():
            return self._told(x)

    def _told(self, x: Inputs) -> dict[str, np.ndarray]:
        try:
            with _Deadline(self._path, self._patience, self._predictor):
                return self._predictor(x)  # type: ignore[no-any-return]
        except ArtifactError:
            raise
        except Exception as error:  # three libraries, each with exceptions of its own
            if lack := memory.lacking(error):
                raise ArtifactError(f"{self._path}: {lack} ({self.runtime})") from error
            reason = f"opens and does not run ({self.runtime}): {one_line(error)}"
            raise UnsupportedError(self._path, reason, "export it again") from error


def named(x: Inputs, names: list[str]) -> dict[str, np.ndarray]:
    """The inputs by name, where ``names`` are an artifact's own.

    Raises:
        ArtifactError: they are not its inputs.
    """
    given = dict(x) if isinstance(x, Mapping) else dict.fromkeys(names[:1], x)
    if set(given) != set(names):
        raise ArtifactError(f"the artifact takes {', '.join(names)}; given were {', '.join(given)}")
    return given


class _Deadline:
    """Within the block a predictor that can ``stop`` is stopped after ``seconds``.

    Raises:
        UnsupportedError: at the block's end, where that happened.
    """

    def __init__(self, path: Path, seconds: float | None, predictor: Any) -> None:
        self._path, self._seconds, self._passed = path, seconds, threading.Event()
        self._stop: Callable[[], None] | None = getattr(predictor, "stop", None)
        self._timer: threading.Timer | None = None

    def __enter__(self) -> None:
        if self._seconds is not None and self._stop is not None:
            self._timer = threading.Timer(self._seconds, self._end)
            self._timer.daemon = True
            self._timer.start()

    def _end(self) -> None:
        self._passed.set()
        assert self._stop is not None
        self._stop()

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._passed.is_set():
            raise UnsupportedError(self._path, f"took more than {self._seconds:,.0f} s for one batch, and was ended")


class _SavedModel:
    def __init__(self, directory: Path) -> None:
        check_saved_model(directory)
        import tensorflow as tf
        from tensorflow.python.eager.cancellation import CancellationManager

        self._tf = tf
        self._loaded = tf.saved_model.load(str(directory))  # kept: its variables go when it goes
        self._function = self._loaded.signatures["serving_default"]
        self._manager = CancellationManager
        self._running = CancellationManager()
        self._inputs = list(self._function.structured_input_signature[1])
        device = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
        self.runtime = f"TensorFlow {tf.__version__}, {device}"

    def __call__(self, x: Inputs) -> dict[str, np.ndarray]:
        given = {name: self._tf.constant(value) for name, value in named(x, self._inputs).items()}
        self._running = self._manager()
        run = self._running.get_cancelable_function(self._function)
        return {name: value.numpy() for name, value in run(**given).items()}

    def stop(self) -> None:
        """End the call that runs."""
        self._running.start_cancel()


def onnx_providers(*devices: str) -> list[str]:
    """The providers of ``devices`` (TensorRT's is called Tensorrt) that this onnxruntime was built with, in that order;
    TensorRT's only where its libraries are found.

    Without CUDA's libraries onnxruntime takes the next provider in silence.
    """
    import onnxruntime

    there = onnxruntime.get_available_providers()
    built = [device for device in devices if f"{device}ExecutionProvider" in there]
    # Asked last: looking for a library in the system starts processes.
    found = [f"{device}ExecutionProvider" for device in built if device != "Tensorrt" or _load_tensorrt()]
    if any(name != "CPUExecutionProvider" for name in found):
        _load_cuda()
    return found


@cache
def _load_tensorrt() -> bool:
    """Whether TensorRT is installed, by pip or in the system."""
    if importlib.util.find_spec("tensorrt_libs"):
        importlib.import_module("tensorrt_libs")  # loads them
        return True
    return ctypes.util.find_library("nvinfer") is not None


@cache
def _load_cuda() -> None:
    """Load CUDA's libraries from where pip puts them; onnxruntime alone looks in the system's places."""
    import onnxruntime

    with redirect_stdout(sys.stderr):  # it prints what it does not find
        onnxruntime.preload_dlls()


class _Onnx:
    def __init__(self, directory: Path) -> None:
        import onnxruntime

        path = directory / FORMATS["onnx"]
        weights_beside(path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what is wrong is raised; it would be written to standard error as well
        providers = onnx_providers("CUDA", "CPU")
        self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=providers)
        self._options: Any = onnxruntime.RunOptions
        self._running = onnxruntime.RunOptions()
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]
        device = self._session.get_providers()[0].removesuffix("ExecutionProvider")
        self.runtime = f"onnxruntime {onnxruntime.__version__}, {device}"

    def __call__(self, x: Inputs) -> dict[str, np.ndarray]:
        self._running = self._options()
        return dict(zip(self._outputs, self._session.run(None, named(x, self._inputs), self._running), strict=True))

    def stop(self) -> None:
        """End the call that runs."""
        self._running.terminate = True


class _OnnxTrueFloat16:
    def __init__(self, directory: Path) -> None:
        import onnx

        from tfhalf.runtimes.onnx_reference import TrueFloat16

        path = directory / FORMATS["onnx"]
        model = read_onnx(path)
        if weights_beside(path, model) is not None:
            onnx.load_external_data_for_model(model, str(directory))
        self._model = TrueFloat16(model)
        self.runtime = TRUE_FLOAT16

    def __call__(self, x: Inputs) -> dict[str, np.ndarray]:
        return self._model(named(x, self._model.inputs))


class _Apart:
    """LiteRT or OpenVINO, in a process of its own."""

    def __init__(self, path: Path, kind: str) -> None:
        if kind == "openvino":
            weights_beside(path)
        self._engine = Isolated(kind, path)
        self.runtime = self._engine.runtime

    def __call__(self, x: Inputs) -> dict[str, np.ndarray]:
        return self._engine(named(x, self._engine.inputs))

    def stop(self) -> None:
        """End the process, and with it the call that runs."""
        self._engine.stop()
