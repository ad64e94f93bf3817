"""The one door to every runtime: `open_runtime`; and `open_predictor`, which bounds what it opens.

`BY_NAME` holds every runtime that has a name of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tfhalf.artifacts.formats import FORMATS
from tfhalf.artifacts.lookups import SIGNATURE as TEXTS
from tfhalf.errors import ArtifactError, IntegrityError, UnavailableError, UnsupportedError
from tfhalf.runtimes.base import (
    LITERT,
    ONNXRUNTIME,
    OPENVINO,
    TENSORFLOW,
    TRUE_FLOAT16,
    Arrays,
    Runtime,
    RuntimeSpec,
    Tuning,
    by_name,
)
from tfhalf.runtimes.child import Isolated, lacking
from tfhalf.runtimes.onnx_file import OnnxFile, read_checked
from tfhalf.system import memory
from tfhalf.text import one_line

PATIENCE = 600.0
"""Seconds that one batch may take."""
BY_NAME = {
    "savedmodel": RuntimeSpec(TENSORFLOW, "savedmodel"),
    "savedmodel-text": RuntimeSpec(TENSORFLOW, "savedmodel", signature=TEXTS),
    "savedmodel-xla": RuntimeSpec(TENSORFLOW, "savedmodel", xla=True),
    "onnx": RuntimeSpec(ONNXRUNTIME, "onnx"),
    "onnx-cpu": RuntimeSpec(ONNXRUNTIME, "onnx", "CPU"),
    "onnx-cuda": RuntimeSpec(ONNXRUNTIME, "onnx", "CUDA"),
    "onnx-float16": RuntimeSpec(TRUE_FLOAT16, "onnx"),
    "onnx-openvino": RuntimeSpec(OPENVINO, "onnx", apart=True),
    "litert": RuntimeSpec(LITERT, "litert", apart=True),
    "litert-int8": RuntimeSpec(LITERT, "litert-int8", apart=True),
}
SECOND = {"onnx-float16": TRUE_FLOAT16, "onnx-openvino": OPENVINO}
"""Runtimes beside a format's own, by what they are called: what one of them cannot open or run, it does not cover."""


def open_runtime(
    directory: Path,
    spec: RuntimeSpec,
    tuning: Tuning = Tuning(),  # noqa: B008  # frozen
    digests: Mapping[str, str] | None = None,
) -> Runtime:
    """Open the version ``directory`` as ``spec`` says.

    Args:
        directory: the version; its files are held against what may be opened before a runtime sees them.
        spec: what computes.
        tuning: how.
        digests: the sha256 of each file by its name, where an ONNX file has to be that at the moment it is opened.

    Raises:
        ArtifactError: the file is missing, or is refused before the runtime opens it, or takes too much memory.
        IntegrityError: its sha256 is another.
        UnavailableError: the runtime or its device is not here.
        UnsupportedError: the runtime does not open it.
    """
    path = directory / FORMATS[spec.format].file
    if not path.is_file():
        there = [one.name for one in FORMATS.values() if (directory / one.file).is_file()]
        raise ArtifactError(f"{directory}: holds no {path.name}; it has {', '.join(there) or 'no artifact'}")
    try:
        return _opened(directory, path, spec, tuning, digests)
    except (ArtifactError, IntegrityError):
        raise
    except Exception as error:  # four libraries, each with exceptions of its own
        if lack := memory.lacking(error):
            raise ArtifactError(f"{path}: {lack}") from error
        raise UnsupportedError(path, f"does not open: {one_line(error)}") from error


def _opened(
    directory: Path, path: Path, spec: RuntimeSpec, tuning: Tuning, digests: Mapping[str, str] | None
) -> Runtime:
    # Imported here: a process loads the libraries of the runtimes that it opens, and no others.
    if spec.library == TENSORFLOW:
        from tfhalf.runtimes.tensorflow import SavedModel

        return SavedModel(directory, spec, tuning)
    if spec.library == ONNXRUNTIME:
        if lack := lacking("onnx"):
            raise UnavailableError(f"{path}: {lack}")
        from tfhalf.runtimes.onnxruntime import open_onnx

        return open_onnx(read_checked(path, digests), spec, tuning)
    if spec.library == TRUE_FLOAT16:
        return _true_float16(read_checked(path, digests))
    kind = "openvino" if spec.library == OPENVINO else "litert"
    if spec.apart:
        return Isolated(kind, path)
    from tfhalf.runtimes.engines import open_engine

    return open_engine(kind, path)


def _true_float16(file: OnnxFile) -> Runtime:
    import onnx

    from tfhalf.runtimes.onnx_reference import TrueFloat16

    if file.beside is not None:
        onnx.load_external_data_for_model(file.model, str(file.path.parent))
    return TrueFloat16(file.model)


def open_predictor(directory: Path, runtime: str, patience: float | None = PATIENCE) -> Predictor:
    """Open the version ``directory`` in one of `BY_NAME`, with bounds on what it may take.

    ``savedmodel``: TensorFlow; ``savedmodel-text``: its signature that takes texts. ``onnx``: onnxruntime, on a GPU
    where it has that provider. ``onnx-float16``: true float16 arithmetic, slow. ``onnx-openvino``, ``litert`` and
    ``litert-int8``: on the CPU, in a process of their own.
    A call that takes more than ``patience`` seconds is ended (true float16 excepted): a loop in a file may have no end.
    The memory that they take is bounded (`tfhalf.system.memory`).

    Raises:
        ArtifactError: the file is not there, or is refused before the runtime opens it.
        UnsupportedError: the runtime does not open it.
    """
    spec = BY_NAME[runtime]
    with memory.bounded():
        opened = open_runtime(directory, spec, Tuning(stoppable=True))
    return Predictor(opened, directory / FORMATS[spec.format].file, patience)


class Predictor:
    """A runtime whose calls are bounded in time and memory, and whose failures name its file.

    ``about`` says what computes.
    """

    def __init__(self, runtime: Runtime, path: Path, patience: float | None) -> None:
        self._runtime, self._path, self._patience = runtime, path, patience
        self.about, self.engine, self.inputs, self.outputs = (
            runtime.about,
            runtime.engine,
            runtime.inputs,
            runtime.outputs,
        )

    def __call__(self, x: np.ndarray | Mapping[str, np.ndarray]) -> Arrays:
        """One array per output, for arrays by name or the only input's.

        Raises:
            ArtifactError: they are not its inputs, or take too much memory.
            UnsupportedError: it does not run, or not within its time.
        """
        arrays = by_name(x, self.inputs)
        if set(arrays) != set(self.inputs):
            raise ArtifactError(f"the artifact takes {', '.join(self.inputs)}; received: {', '.join(arrays)}")
        with memory.bounded():
            try:
                with _Deadline(self._path, self._patience, self._runtime):
                    return self._runtime(arrays)
            except ArtifactError:
                raise
            except Exception as error:  # four libraries, each with exceptions of its own
                if lack := memory.lacking(error):
                    raise ArtifactError(f"{self._path}: {lack} ({self.about})") from error
                reason = f"opens and does not run ({self.about}): {one_line(error)}"
                raise UnsupportedError(self._path, reason, "export it again") from error

    def close(self) -> None:
        """Let go of the runtime; it is not called any more."""
        self._runtime.close()


class _Deadline:
    """Within the block a runtime is stopped after ``seconds``, where it can be.

    Raises:
        UnsupportedError: at the block's end, where that happened.
    """

    def __init__(self, path: Path, seconds: float | None, runtime: Runtime) -> None:
        self._path, self._seconds, self._runtime, self._passed = path, seconds, runtime, threading.Event()
        self._timer: threading.Timer | None = None

    def __enter__(self) -> None:
        if self._seconds is not None and self._runtime.engine.library != TRUE_FLOAT16:
            self._timer = threading.Timer(self._seconds, self._end)
            self._timer.daemon = True
            self._timer.start()

    def _end(self) -> None:
        self._passed.set()
        self._runtime.stop()

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._passed.is_set():
            raise UnsupportedError(self._path, f"took more than {self._seconds:,.0f} s for one batch, and was ended")
