"""A runtime in a process of its own: `Isolated`.

LiteRT and OpenVINO are native code: a file that ends it ends that process, and is reported in one line; and none of
them has to share a process with TensorFlow.
"""

from __future__ import annotations

import importlib.util
import io
import json
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from tfhalf.errors import UnavailableError, UnsupportedError
from tfhalf.runtimes.base import engine_of
from tfhalf.system.child import JSON, Child

ARRAYS = b"A"  # the tag of a message
# By kind: the module, what people call it, and the extra of tfhalf that brings it.
_PACKAGES = {
    "litert": ("ai_edge_litert", "LiteRT", "'tfhalf[litert]'"),
    "openvino": ("openvino", "OpenVINO", "'tfhalf[openvino]'"),
    "onnx": ("onnxruntime", "onnxruntime", "'tfhalf[cpu]', or 'tfhalf[gpu]' where there is an NVIDIA GPU"),
}


def lacking(kind: str) -> str:
    """What to do where the runtime ``kind``, ``onnx``, ``litert`` or ``openvino``, is not installed; empty where it
    is."""
    module, name, extra = _PACKAGES[kind]
    if importlib.util.find_spec(module) is not None:
        return ""
    return f"{name} is not installed: pip install {extra}"


def not_covered(formats: Iterable[str]) -> list[str]:
    """What of a version with these ``formats`` is not verified here for want of a runtime, a line each."""
    lack = lacking("openvino") if "onnx" in formats else ""
    return [f"onnx was not run in OpenVINO: {lack}"] if lack else []


class Isolated:
    """A file opened by `tfhalf.runtimes.child_main`, which ends with this object.

    A `tfhalf.runtimes.base.Runtime`, whose calls can always be stopped.

    Raises:
        UnavailableError: the runtime is not installed.
        UnsupportedError: the file does not open in it.
    """

    batch_sizes: tuple[int, ...] | None = None

    def __init__(self, kind: str, path: Path) -> None:
        if lack := lacking(kind):
            raise UnavailableError(f"{path}: {lack}")
        self._path, self._turn = path, threading.Lock()
        self._child = Child("tfhalf.runtimes.child_main", kind, str(path.absolute()))
        answer = json.loads(self._answer("it was opened", JSON))
        self.inputs, self.outputs = tuple[str, ...](answer["inputs"]), tuple[str, ...](answer["outputs"])
        self.about, self.settings = str(answer["about"]), str(answer["settings"])
        engine = engine_of(self.about)
        assert engine is not None
        self.engine = engine

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One array per output.

        Raises:
            UnsupportedError: it does not run, or ended its process.
        """
        with self._turn:
            with suppress(OSError):  # it has ended, which receiving tells
                self._child.send(ARRAYS, packed(inputs))
            return unpacked(self._answer("it was run", ARRAYS))

    def stop(self) -> None:
        """End the process: a call that runs in it fails."""
        self._child.kill()

    def close(self) -> None:
        """End the process."""
        self._child.end()

    def _answer(self, when: str, expected: bytes) -> bytes:
        try:
            tag, content = self._child.receive()
        except (EOFError, OSError):
            words = self._child.last_words()
            raise UnsupportedError(self._path, f"ended the process that runs it {words} when {when}") from None
        if tag != expected:
            raise UnsupportedError(self._path, content.decode(errors="replace")[:400])
        return content


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as bytes."""
    held = io.BytesIO()
    np.savez(held, **arrays)  # type: ignore[arg-type]
    return held.getvalue()


def unpacked(content: bytes) -> dict[str, np.ndarray]:
    """What `packed` gave; nothing in it can run code."""
    with np.load(io.BytesIO(content), allow_pickle=False) as held:
        return {name: held[name] for name in held.files}
