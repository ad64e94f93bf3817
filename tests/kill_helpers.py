"""What tests that kill commands share: a command under way, and what has to hold of the versions that lie there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fork_server
import onnx
from onnx import numpy_helper

from tfhalf.artifacts import manifest as manifests

CHECKOUT = Path(__file__).resolve().parent.parent
DIGITS = CHECKOUT / "pipelines" / "digits.yaml"
COMMAND = (sys.executable, "-m", "tfhalf")
SAVES_OFTEN = ("--set", "train.checkpoint_seconds=0")
PATIENCE = 500  # seconds for a job, of ten or twenty where nothing else runs


class Running:
    """A command under way, in a process group of its own; ``tfhalf`` by `fork_server`, unless ``command`` is given."""

    def __init__(self, where: Path, *arguments: object, command: tuple[str, ...] = ()) -> None:
        self.started = time.monotonic()
        self.said = (where / "said.txt").open("w+")
        self.complained = (where / "complained.txt").open("w+")
        self.process: fork_server.Process | subprocess.Popen[bytes]
        if command:
            words = [*command, *map(str, arguments)]
            self.process = subprocess.Popen(
                words, cwd=where, stdout=self.said, stderr=self.complained, start_new_session=True
            )
        else:
            self.process = fork_server.start(
                where, *arguments, stdout=self.said, stderr=self.complained, new_session=True
            )

    def wait_until(self, happened: Callable[[], bool]) -> bool:
        """Whether it happened while the process ran."""
        while self.process.poll() is None:
            if happened():
                return True
            time.sleep(0.001)
            assert time.monotonic() - self.started < PATIENCE
        return False

    def says(self, text: str) -> bool:
        return text in Path(self.said.name).read_text()

    def kill(self, number: signal.Signals, group: bool) -> None:
        """Send it to the process, or to its group; nothing happens where that has ended by itself, as Popen has it."""
        if group:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        code = self.process.wait(timeout=PATIENCE)
        return code, Path(self.said.name).read_text(), Path(self.complained.name).read_text()


@contextmanager
def running(where: Path, *arguments: object, command: tuple[str, ...] = ()) -> Iterator[Running]:
    """The command; what is left of its process group is killed at the end."""
    run = Running(where, *arguments, command=command)
    try:
        yield run
    finally:
        try:
            os.killpg(run.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            assert run.process.poll() is not None
        run.process.wait()
        run.said.close()
        run.complained.close()


def finish(where: Path, *arguments: object, command: tuple[str, ...] = ()) -> str:
    """The command, run to its end, which must be a good one."""
    with running(where, *arguments, command=command) as run:
        code, said, complained = run.end()
    assert (code, complained) == (0, ""), said + complained
    return said


def numbers(exports: Path) -> list[int]:
    return sorted(int(path.name) for path in exports.iterdir() if path.name.isdigit())


def assert_whole(exports: Path) -> None:
    """Every numbered folder is a complete version, and nothing else lies beside them than is meant to."""
    for number in numbers(exports):
        directory = exports / str(number)
        manifest = manifests.read(directory)
        manifests.check_files(directory, manifest)
        assert manifest.version == number
        assert manifest.comparisons
        assert all(row.passed for row in manifest.comparisons)
        files = {"savedmodel": "saved_model.pb", "onnx": "model.onnx"}
        assert {"reference.npz", *(files[artifact.format] for artifact in manifest.artifacts)} <= set(manifest.files)
        last = (directory / "report.md").read_text().splitlines()[-1]
        assert last.startswith(f"| {max(manifest.files)} |"), last
        assert not (directory / ".lock").exists()
    beside = {path.name for path in exports.iterdir() if not path.name.isdigit()}
    assert not [name for name in beside if not re.fullmatch(r"config\.pbtxt|\.lock|\.config\..*|\.staging-.*", name)]


def content(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def weights(directory: Path) -> dict[str, bytes]:
    graph = onnx.load(directory / "model.onnx").graph
    return {one.name: numpy_helper.to_array(one).tobytes() for one in graph.initializer}
