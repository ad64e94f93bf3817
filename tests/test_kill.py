"""Runs that are killed: at any instant, what was published stays whole, and the next run is as if nothing had been."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tfhalf.export import manifest as manifests
from tfhalf.export import version

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parent.parent
DIGITS = CHECKOUT / "pipelines" / "digits.yaml"
COMMAND = (sys.executable, "-m", "tfhalf")
# The same command, saving after every epoch instead of every ten seconds.
SAVES_OFTEN = (
    sys.executable,
    "-c",
    "import tfhalf.train.epochs as epochs; epochs.CHECKPOINT_SECONDS = 0; from tfhalf.cli import main; main()",
)
# What has happened when the signal is sent: a share of a normal run's time, something said, or a file that is there.
# The process alone is killed, or with it the one that verifies.
KILLS = (
    ("time", "random", "alone"),
    ("time", "random", "all"),
    ("time", "random", "alone"),
    ("said", " 2/30 ", "all"),
    ("said", "30/30 ", "alone"),
    ("file", ".staging-*", "all"),
    ("file", ".staging-*/saved_model.pb", "alone"),
    ("said", "verify ", "all"),
    ("file", ".staging-*/manifest.json", "alone"),
    ("file", ".staging-*/report.md", "all"),
)


class Running:
    """A command under way, in a process group of its own."""

    def __init__(self, where: Path, *arguments: object, command: tuple[str, ...] = COMMAND) -> None:
        self.started = time.monotonic()
        self.said = (where / "said.txt").open("w+")
        self.complained = (where / "complained.txt").open("w+")
        self.process = subprocess.Popen(
            [*command, *map(str, arguments)],
            cwd=where,
            stdout=self.said,
            stderr=self.complained,
            start_new_session=True,
        )

    def wait_until(self, happened: Callable[[], bool]) -> bool:
        """Whether it happened while the process ran."""
        while self.process.poll() is None:
            if happened():
                return True
            time.sleep(0.001)
            assert time.monotonic() - self.started < 200
        return False

    def says(self, text: str) -> bool:
        return text in Path(self.said.name).read_text()

    def kill(self, number: signal.Signals, group: bool) -> None:
        (os.killpg if group else os.kill)(self.process.pid, number)

    def end(self) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        code = self.process.wait(timeout=200)
        return code, Path(self.said.name).read_text(), Path(self.complained.name).read_text()


@contextmanager
def running(where: Path, *arguments: object, command: tuple[str, ...] = COMMAND) -> Iterator[Running]:
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


def finish(where: Path, *arguments: object) -> str:
    """The command, run to its end, which must be a good one."""
    with running(where, *arguments) as run:
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
        assert manifest["version"] == number
        assert manifest["verification"]
        assert all(row["passed"] for row in manifest["verification"])
        assert {"saved_model.pb", "model.onnx", "reference.npz"} <= set(manifest["files"])
        assert (directory / "report.md").read_text().rstrip().endswith("float32.")
        assert not (directory / ".lock").exists()
    beside = {path.name for path in exports.iterdir() if not path.name.isdigit()}
    assert not [name for name in beside if not re.fullmatch(r"config\.pbtxt|\.lock|\.config\..*|\.staging-.*", name)]


def content(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def weights(directory: Path) -> dict[str, bytes]:
    graph = onnx.load(directory / "model.onnx").graph
    return {one.name: numpy_helper.to_array(one).tobytes() for one in graph.initializer}


@pytest.fixture(scope="module")
def normal(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A folder with one published version, and the seconds that it took."""
    where = tmp_path_factory.mktemp("kill")
    start = time.monotonic()
    finish(where, "train", DIGITS)
    return where, time.monotonic() - start


@pytest.mark.parametrize("index", range(len(KILLS)))
def test_a_killed_run(normal: tuple[Path, float], index: int) -> None:
    where, usual = normal
    kind, what, whom = KILLS[index]
    exports = where / "exports/digits"
    first, before = content(exports / "1"), numbers(exports)
    after = (index + random.Random(index).random()) / 3 * 0.9 * usual  # the first three: one in each third
    with running(where, "train", DIGITS) as run:
        happened = {
            "time": lambda: time.monotonic() - run.started >= after,
            "said": lambda: run.says(what),
            "file": lambda: any(exports.glob(what)),
        }[kind]
        run.wait_until(happened)
        run.kill(signal.SIGKILL, group=whom == "all")
        code, said, _ = run.end()
        at = time.monotonic() - run.started
        left = sorted(path.name for path in exports.glob(".staging-*"))
        last = said.rstrip().splitlines()[-1][:60].strip() if said.strip() else "nothing said yet"
        print(f"kill {index}: {kind} {what!r}, {whom}, after {at:.2f} s of {usual:.1f} ({last}); left {left}")
        assert code == -signal.SIGKILL or (kind == "time" and code == 0), "the run ended before it could be killed"
        assert_whole(exports)
        assert content(exports / "1") == first
        assert set(before) <= set(numbers(exports)) <= {*before, max(before) + 1}
        assert len(left) <= 1
        if kind == "file":
            assert left or numbers(exports) != before
        # What is left of it may still run beside the next.
        wanted = max(numbers(exports)) + 1
        assert finish(where, "train", DIGITS, "-q") == f"published  exports/digits/{wanted}\n"
    assert numbers(exports) == [*range(1, wanted + 1)]
    assert_whole(exports)
    assert {path.name for path in exports.iterdir()} <= {"config.pbtxt", ".lock", *map(str, numbers(exports))}
    assert content(exports / "1") == first


def test_a_run_killed_in_training_is_taken_up_again(normal: tuple[Path, float], tmp_path: Path) -> None:
    """It gives the very weights that it would have given undisturbed."""
    with running(tmp_path, "train", DIGITS, command=SAVES_OFTEN) as run:
        assert run.wait_until(lambda: run.says(" 9/30 "))
        run.kill(signal.SIGKILL, group=True)
        assert run.end()[0] == -signal.SIGKILL
    assert not (tmp_path / "exports").exists()
    (folder,) = (tmp_path / "runs/digits").iterdir()
    with running(tmp_path, "export", folder) as run:  # not to be had from half a training
        code, said, complained = run.end()
    assert (code, said) == (1, "")
    assert re.fullmatch(r"error: \S+: ended after epoch \d+ of 30; finish it first: .*\n", complained)
    said = finish(tmp_path, "train", "--resume", folder)
    resumed = re.search(r"^resumed after epoch (\d+) of 30$", said, re.MULTILINE)
    assert resumed
    assert 9 <= int(resumed[1]) <= 29
    assert weights(tmp_path / "exports/digits/1") == weights(normal[0] / "exports/digits/1")
    history = np.genfromtxt(folder / "history.csv", delimiter=",", names=True)
    assert history["epoch"].tolist() == list(range(1, 31))


def test_a_run_killed_before_its_first_checkpoint(tmp_path: Path) -> None:
    with running(tmp_path, "train", DIGITS, "--set", "train.epochs=3000") as run:
        assert run.wait_until(lambda: run.says(" 1/3000 "))
        run.kill(signal.SIGKILL, group=False)
        assert run.end()[0] == -signal.SIGKILL
    (folder,) = (tmp_path / "runs/digits").iterdir()
    with running(tmp_path, "train", "--resume", folder) as run:
        code, _, complained = run.end()
    assert code == 1
    assert re.fullmatch(r"error: \S+: has no checkpoint\.npz; .*, start it anew\n", complained)
    assert not (tmp_path / "exports/digits").exists()


@pytest.mark.parametrize("moment", [" 2/3000 ", "verify "])
def test_an_interrupt(moment: str, tmp_path: Path) -> None:
    """As from a terminal: the whole process group is told."""
    epochs = 3000 if "3000" in moment else 3
    with running(tmp_path, "train", DIGITS, "--set", f"train.epochs={epochs}") as run:
        assert run.wait_until(lambda: run.says(moment))
        if moment == "verify ":
            time.sleep(1)  # so that the process that verifies is there
        run.kill(signal.SIGINT, group=True)
        code, said, complained = run.end()
    assert code == 130, complained
    assert complained == "interrupted; no version is half-written\n"
    assert "published  " not in said
    if (tmp_path / "exports/digits").exists():
        assert set(os.listdir(tmp_path / "exports/digits")) <= {".lock"}


def test_a_folder_without_a_lock_is_cleared_away(tmp_path: Path) -> None:
    """What a kill leaves between the lock's removal and the rename, or before the lock was made."""
    (tmp_path / ".staging-dead").mkdir()
    (tmp_path / ".staging-dead/model.onnx").write_text("half")
    with version.staging(tmp_path) as folder:
        assert list(tmp_path.glob(".staging-*")) == [folder]
    assert not list(tmp_path.glob(".staging-*"))


def test_a_run_that_starts_leaves_a_folder_that_is_being_published(tmp_path: Path) -> None:
    def start() -> None:
        with version.staging(tmp_path):
            pass

    other = threading.Thread(target=start)
    with version.staging(tmp_path) as folder:
        (folder / "model.onnx").write_text("whole")
        with version.numbered(tmp_path) as number:
            (folder / ".lock").unlink()  # publish does so before it syncs and renames
            other.start()
            other.join(0.3)
            assert other.is_alive()
            published = version.publish(folder, tmp_path, number)
        other.join(20)
    assert not other.is_alive()
    assert (published / "model.onnx").read_text() == "whole"
