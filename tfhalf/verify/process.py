"""The process that verifies: a Python of its own, started while there is other work, so that it is ready when asked.

It imports what it needs and waits, touching no device. What it is told to verify comes on its standard input; the end
of that, which comes whenever the process that started it ends, ends it too.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

import numpy as np

from tfhalf.errors import ArtifactError, IntegrityError, ParityError
from tfhalf.progress import Progress
from tfhalf.system.device import grow_memory
from tfhalf.system.tensorflow import fresh_environment, import_tensorflow
from tfhalf.verify.compare import SampleComparison
from tfhalf.verify.samples import verify_samples
from tfhalf.verify.test_set import Comparison, verify_directory


class Verifier:
    """`verify_directory` in a new Python process, which `start` may start early; a context that leaves none behind.

    Args:
        hide_gpus: whether the process computes on the CPU alone, as it must where this one has taken their memory.
    """

    def __init__(self, progress: Progress, *, hide_gpus: bool = False) -> None:
        self._progress = progress
        self._hidden = {"CUDA_VISIBLE_DEVICES": "-1"} if hide_gpus else {}
        self._process: subprocess.Popen[bytes] | None = None
        self._complaints: IO[str] | None = None

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def start(self) -> None:
        """Start the process, if none is waiting."""
        if self._process is not None and self._process.poll() is None:
            return
        self._end()
        # A file, since a pipe that nobody reads would fill.
        self._complaints = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # closed by _end
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tfhalf.verify.process"],
            env={**fresh_environment(), **self._hidden},
            stdin=subprocess.PIPE,
            stdout=self._progress.stream if self._progress.live else subprocess.DEVNULL,
            stderr=self._complaints,
            bufsize=0,
        )

    def __call__(self, directory: Path, x: np.ndarray, y: np.ndarray) -> list[Comparison]:
        """Compare every artifact of ``directory`` over the test set.

        Raises:
            ParityError: the process failed; the message is its last line.
        """
        rows = self._rows(directory, {"x": x, "y": y})
        for row in rows:
            row |= {key: tuple(row[key]) for key in ("per_class_accuracy", "problems")}
            row["confusion"] = tuple(map(tuple, row["confusion"]))
        return [Comparison(**row) for row in rows]

    def samples(self, directory: Path) -> list[SampleComparison]:
        """Compare every artifact of an exported model over the samples beside it.

        Raises:
            ParityError: the process failed; the message is its last line.
        """
        return [SampleComparison.from_dict(row) for row in self._rows(directory, {})]

    def _rows(self, directory: Path, arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """What the process answers; without ``arrays`` it takes the samples of the directory."""
        with tempfile.TemporaryDirectory(prefix="tfhalf-verify-") as scratch:
            data, answer, begun = (Path(scratch) / name for name in ("test.npz", "answer.json", "begun"))
            if arrays:
                np.savez(data, **arrays)  # type: ignore[arg-type]
            request = {"cwd": os.getcwd(), "directory": str(directory), "data": str(data) if arrays else ""}
            request |= {"answer": str(answer), "begun": str(begun)}
            early = self._process is not None
            code, complaints = self._ask(request)
            if early and not begun.exists():  # it died while it waited, which says nothing about the artifacts
                code, complaints = self._ask(request)
            self._progress.clear()
            if code or not answer.is_file():
                lines = [line for line in complaints.splitlines() if line.strip()]
                said = lines[-1] if lines else f"it ended with code {code}"
                raise ParityError(f"the process that verifies the artifacts failed: {said}")
            rows: list[dict[str, Any]] = json.loads(answer.read_text())
        return rows

    def _ask(self, request: dict[str, str]) -> tuple[int, str]:
        self.start()
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has just died
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
        return self._end(wait=True)

    def _end(self, *, wait: bool = False) -> tuple[int, str]:
        """The process's exit code and complaints, once it has ended: by itself with ``wait``, else killed."""
        if self._process is None or self._complaints is None:
            return 0, ""
        process, complaints = self._process, self._complaints
        self._process = self._complaints = None
        with complaints, process:  # the latter closes the pipe and waits, so that no zombie is left
            try:
                if wait:
                    process.wait()
            finally:
                process.kill()  # where it has not ended
            process.wait()
            complaints.seek(0)
            said = complaints.read()
        return process.returncode, said


def _main() -> None:
    """What the process does."""
    requests: SimpleQueue[dict[str, str]] = SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    # Keras is no part of an artifact: without it TensorFlow is there sooner, and nothing can lean on it.
    import_tensorflow(without=("keras",))
    for name in ("onnxruntime", "onnx.reference"):
        with suppress(ImportError):  # told where one is needed
            importlib.import_module(name)
    request = requests.get()
    Path(request["begun"]).touch()
    os.chdir(request["cwd"])
    grow_memory()
    rows: list[Any]
    if request["data"]:
        with np.load(request["data"], allow_pickle=False) as arrays:
            x, y = arrays["x"], arrays["y"]
        rows = list(verify_directory(Path(request["directory"]), x, y, Progress()).comparisons)
    else:
        rows = list(verify_samples(Path(request["directory"]), Progress()).comparisons)
    Path(request["answer"]).write_text(json.dumps([asdict(row) for row in rows]))
    os._exit(0)  # nothing is left to put away, and taking TensorFlow down takes most of a second


def _listen(requests: SimpleQueue[dict[str, str]]) -> None:
    """Hand on each line of standard input; its end ends the process.

    Unbuffered: Python cannot close a buffer that a thread is waiting on.
    """
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        for line in stdin:
            requests.put(json.loads(line))
    os._exit(1)


if __name__ == "__main__":
    try:
        _main()
    except (ArtifactError, IntegrityError) as error:
        sys.exit(str(error))
