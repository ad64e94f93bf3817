"""The process that verifies: a Python of its own, started while there is other work, so that it is ready when asked.

It imports what it needs and waits, touching no device, for what it is to verify.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from tfhalf.artifacts.comparison import Comparison
from tfhalf.artifacts.manifest import open_version
from tfhalf.errors import ArtifactError, IntegrityError, ParityError
from tfhalf.progress import Progress
from tfhalf.system.child import ERROR, JSON, Channel, Child
from tfhalf.system.device import grow_memory
from tfhalf.system.tensorflow import import_tensorflow
from tfhalf.verify.version import TestSet, compare_version

_ANSWER = TypeAdapter(tuple[Comparison, ...])
_FAILED = "the process that verifies the artifacts failed"


class Verifier:
    """`compare_version` in a new Python process, which `start` may start early; a context that leaves none behind.

    Args:
        hide_gpus: whether the process computes on the CPU alone, as it must where this one has taken their memory.
    """

    def __init__(self, progress: Progress, *, hide_gpus: bool = False) -> None:
        self._progress = progress
        self._hidden = {"CUDA_VISIBLE_DEVICES": "-1"} if hide_gpus else {}
        self._child: Child | None = None

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *error: object) -> None:
        if self._child is not None:
            self._child.end()

    def start(self) -> None:
        """Start the process, if none is waiting."""
        if self._child is not None and self._child.alive:
            return
        self._put_away()
        stdout = self._progress.stream if self._progress.live else subprocess.DEVNULL
        self._child = Child(__name__, environment=self._hidden, stdout=stdout)

    def __call__(self, directory: Path, test_set: TestSet | None = None) -> list[Comparison]:
        """Compare every artifact of ``directory`` over the samples beside it, or over the test set.

        Raises:
            ParityError: the process failed; the message is its last line.
        """
        with tempfile.TemporaryDirectory(prefix="tfhalf-verify-") as scratch:
            data = Path(scratch) / "test.npz"
            if test_set is not None:
                np.savez(data, **_packed("x", test_set.x), **_packed("y", test_set.y))  # type: ignore[arg-type]
            request = {"cwd": os.getcwd(), "directory": str(directory), "data": str(data) if test_set else ""}
            waited = self._child is not None
            try:
                self._begin(request)
            except (EOFError, OSError):
                if not waited:
                    raise self._failed() from None
                self._put_away()  # its sockets close a moment before it counts as ended
                try:  # it died while it waited, which says nothing about the artifacts
                    self._begin(request)
                except (EOFError, OSError):
                    raise self._failed() from None
            return self._answer()

    def _put_away(self) -> None:
        if self._child is not None:
            self._child.end()
        self._child = None

    def _begin(self, request: dict[str, str]) -> None:
        """Have a process take the request.

        Raises:
            EOFError, OSError: it has died.
        """
        self.start()
        assert self._child is not None
        self._child.send_json(request)
        self._child.receive()

    def _answer(self) -> list[Comparison]:
        assert self._child is not None
        try:
            tag, content = self._child.receive()
        except EOFError:
            raise self._failed() from None
        finally:
            self._progress.clear()
        self._child.end()
        self._child = None
        if tag == ERROR:
            raise ParityError(f"{_FAILED}: {content.decode(errors='replace')}")
        return list(_ANSWER.validate_json(content))

    def _failed(self) -> ParityError:
        assert self._child is not None
        self._progress.clear()
        words = self._child.last_words()
        self._child = None
        return ParityError(f"{_FAILED}: it ended {words}")


def _packed(key: str, arrays: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{key}/{name}": x for name, x in arrays.items()} if isinstance(arrays, Mapping) else {key: arrays}


def _unpacked(key: str, packed: Mapping[str, np.ndarray]) -> np.ndarray | dict[str, np.ndarray]:
    if key in packed:
        return packed[key]
    return {name.partition("/")[2]: packed[name] for name in packed if name.startswith(f"{key}/")}


def main(channel: Channel) -> None:
    """What the process does: import what it needs, wait for a request, answer it."""
    # Keras is not part of an artifact: without it TensorFlow is there sooner, and nothing can lean on it.
    import_tensorflow(without=("keras",))
    for name in ("onnxruntime", "onnx.reference"):
        with suppress(ImportError):  # reported where one is needed
            importlib.import_module(name)
    try:
        request = json.loads(channel.receive()[1])
    except EOFError:
        return
    channel.send_json("begun")
    os.chdir(request["cwd"])
    grow_memory()
    try:
        test_set = None
        if request["data"]:
            with np.load(request["data"], allow_pickle=False) as arrays:
                test_set = TestSet(_unpacked("x", arrays), _unpacked("y", arrays))
        verified = compare_version(open_version(Path(request["directory"])), Progress(), test_set)
    except (ArtifactError, IntegrityError) as error:
        channel.send(ERROR, str(error).encode())
    else:
        channel.send(JSON, _ANSWER.dump_json(tuple(verified.comparisons)))
    os._exit(0)  # nothing is left to put away, and taking TensorFlow down takes most of a second
