"""One way to run an artifact: a `RuntimeSpec` names what computes, a `Runtime` is it, opened.

    spec     engine, format, device, precision: the one thing in which verify, bench and serve differ
    open     `tfhalf.runtimes.open.open_runtime`: the file is read once and held against what may be opened (operations
             that only compute, no file but its own, no more than it holds); what was checked is what is opened
    call     arrays by name in, arrays by name out; nothing else happens in a call, so that a server can afford it
    bound    `tfhalf.runtimes.open.Predictor` puts a limit of time and memory round calls, for files of others

An engine is a library on a device (TensorFlow on a GPU, compiled by XLA or not; onnxruntime on CUDA). Two engines may
answer differently, so what was compared with the float32 model is an engine's answers: `computed_by` is how a manifest
records the engine, and `engine_of` reads that again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

Arrays = dict[str, np.ndarray]

TENSORFLOW, ONNXRUNTIME, OPENVINO, LITERT = "TensorFlow", "onnxruntime", "OpenVINO", "LiteRT"
TRUE_FLOAT16 = "true float16, CPU"
SIGNATURE = "serving_default"
"""The signature of a SavedModel, and of a LiteRT file, that is run."""

Device = Literal["CPU", "GPU", "CUDA", "TensorRT"]
_RECORD = re.compile(rf"({TENSORFLOW}|{ONNXRUNTIME}|{OPENVINO}|{LITERT}) [^\s,]+, (\w+)(, XLA)?(?![\w])")


@dataclass(frozen=True)
class Engine:
    """A library on a device: what a comparison with the float32 model is a comparison of."""

    library: str
    device: str
    xla: bool = False

    def __str__(self) -> str:
        return f"{self.library} on {self.device}{' with XLA' if self.xla else ''}"


@dataclass(frozen=True)
class RuntimeSpec:
    """What computes.

    Attributes:
        library: `TENSORFLOW`, `ONNXRUNTIME`, `OPENVINO`, `LITERT` or `TRUE_FLOAT16`.
        format: the one that it opens, a key of `tfhalf.artifacts.formats.FILES`.
        device: ``GPU`` is TensorFlow's word; onnxruntime's are ``CUDA`` and ``TensorRT``. None: the library's best
            that starts here (TensorRT excepted, which builds for minutes).
        precision: ``declared``: as the file says. ``float32``: float16 weights brought to float32 when it is opened
            (onnxruntime). Other libraries than onnxruntime know ``declared`` alone.
        xla: compile the signature for each batch size (TensorFlow). None: on a GPU.
        signature: the one of a SavedModel that is run.
        apart: in a process of its own: native code that trusts its files (OpenVINO, LiteRT).
    """

    library: str
    format: str
    device: Device | None = None
    precision: Literal["declared", "float32"] = "declared"
    xla: bool | None = False
    apart: bool = False
    signature: str = SIGNATURE


@dataclass(frozen=True)
class Tuning:
    """How a runtime is run, which changes no answer.

    Attributes:
        threads: of the CPU; None leaves it to the library.
        spin: whether threads that wait keep their cores busy, which is faster where there is no other work.
        batch_sizes: those of the calls to come. An engine that plans or compiles for a size gets ready for these.
        stoppable: whether `Runtime.stop` may end a call; costs a little in each.
    """

    threads: int | None = None
    spin: bool = True
    batch_sizes: tuple[int, ...] | None = None
    stoppable: bool = False


class Runtime(Protocol):
    """An artifact, opened. Called by one thread at a time.

    ``engine`` is what computes, ``about`` a line on it for people that begins with `computed_by`, ``settings`` the
    options that it runs with, ``inputs`` and ``outputs`` the artifact's names. ``batch_sizes``: those to call it with,
    where each costs a compilation; None where any is as good.
    """

    engine: Engine
    about: str
    settings: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batch_sizes: tuple[int, ...] | None

    def __call__(self, arrays: Arrays, /) -> Arrays:
        """Outputs by name for inputs by name, each [N, ...]."""
        ...

    def stop(self) -> None:
        """End the call that runs, from another thread; it then fails. Only with `Tuning.stoppable`."""
        ...

    def close(self) -> None:
        """Let go of what it holds; it is not called any more."""
        ...


def computed_by(engine: Engine, version: str) -> str:
    """An engine as manifests record it: ``onnxruntime 1.32.0, CPU``."""
    return f"{engine.library} {version}, {engine.device}{', XLA' if engine.xla else ''}"


def engine_of(record: str) -> Engine | None:
    """The engine that a `computed_by` text names, whatever follows; None where it is none of these libraries."""
    match = _RECORD.match(record)
    # Once written as onnxruntime spells its provider.
    return Engine(match[1], match[2].replace("Tensorrt", "TensorRT"), bool(match[3])) if match else None


def by_name(arrays: np.ndarray | Mapping[str, np.ndarray], names: tuple[str, ...]) -> Arrays:
    """``arrays`` by name, where they are one array that of the first of ``names``."""
    return dict(arrays) if isinstance(arrays, Mapping) else dict.fromkeys(names[:1], arrays)
