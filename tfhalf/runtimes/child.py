"""A runtime in a process of its own: `Isolated`.

LiteRT and OpenVINO are native code: a file that ends it ends that process, and is told in one line; and none of them
has to share a process with TensorFlow.
"""

from __future__ import annotations

import importlib.util
import io
import json
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from tfhalf.errors import UnavailableError, UnsupportedError
from tfhalf.runtimes.base import engine_of
from tfhalf.system.tensorflow import fresh_environment

ARRAYS, FACTS, ERROR = b"A", b"F", b"E"
_HEAD = struct.Struct("<cQ")
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
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115  # closed by _end
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tfhalf.runtimes.child_main", kind, str(path.absolute())],
            env=fresh_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
        )
        self._finish = weakref.finalize(self, _end, self._process, self._complaints)
        told = json.loads(self._answer("it was opened", FACTS))
        self.inputs, self.outputs = tuple[str, ...](told["inputs"]), tuple[str, ...](told["outputs"])
        self.about, self.settings = str(told["about"]), str(told["settings"])
        engine = engine_of(self.about)
        assert engine is not None
        self.engine = engine

    def __call__(self, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One array per output.

        Raises:
            UnsupportedError: it does not run, or ended its process.
        """
        assert self._process.stdin is not None
        with self._turn:
            with suppress(BrokenPipeError):  # it has ended, which reading tells
                write(self._process.stdin, ARRAYS, packed(given))
            return unpacked(self._answer("it was run", ARRAYS))

    def stop(self) -> None:
        """End the process: a call that runs in it fails."""
        self._process.kill()

    def close(self) -> None:
        """End the process."""
        self._finish()

    def _answer(self, when: str, wanted: bytes) -> bytes:
        assert self._process.stdout is not None
        try:
            tag, content = read(self._process.stdout)
        except EOFError:
            code = self._process.wait()
            if code < 0:
                how = f"by signal {-code} ({signal.strsignal(-code)})"
            else:
                self._complaints.seek(0)
                said = self._complaints.read().decode(errors="replace").split("\n")
                last = next((line for line in reversed(said) if line.strip()), "no word")
                how = f"with code {code} ({' '.join(last.split())[:200]})"
            self._finish()
            raise UnsupportedError(self._path, f"ended the process that runs it {how} when {when}") from None
        if tag != wanted:
            raise UnsupportedError(self._path, content.decode(errors="replace")[:400])
        return content


def _end(process: subprocess.Popen[bytes], complaints: IO[bytes]) -> None:
    # Closes the pipes, one of which may hold what nobody takes any more, and waits, so that no zombie is left.
    with complaints, suppress(BrokenPipeError), process:
        process.kill()


# --- what is said between the two -------------------------------------------------------------------------------------


def write(stream: BinaryIO | IO[bytes], tag: bytes, content: bytes) -> None:
    """One message."""
    stream.write(_HEAD.pack(tag, len(content)))
    stream.write(content)
    stream.flush()


def read(stream: BinaryIO | IO[bytes]) -> tuple[bytes, bytes]:
    """The next message's tag and content.

    Raises:
        EOFError: the other side has ended.
    """
    head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size:
        raise EOFError
    tag, length = _HEAD.unpack(head)
    content = stream.read(length)
    if len(content) < length:
        raise EOFError
    return tag, content


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as bytes."""
    held = io.BytesIO()
    np.savez(held, **arrays)  # type: ignore[arg-type]
    return held.getvalue()


def unpacked(content: bytes) -> dict[str, np.ndarray]:
    """What `packed` gave; nothing in it can run code."""
    with np.load(io.BytesIO(content), allow_pickle=False) as held:
        return {name: held[name] for name in held.files}
