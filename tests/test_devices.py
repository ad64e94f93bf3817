"""`tfhalf train --devices` and launchers: started, stopped, killed, stuck, refused, taken up by another number."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fork_server
import pytest
from kill_helpers import DIGITS

from tfhalf.system.join import free_port

pytestmark = pytest.mark.slow

SHORT = ("--set", "train.epochs=3", "--set", "train.checkpoint_seconds=0", "--set", "export.formats=[onnx]")
LONG = ("--set", "train.epochs=4000", "--set", "train.checkpoint_seconds=0")
WITHIN = 60.0  # seconds after which a process that has lost another must have ended


class Command:
    """``tfhalf train`` under way."""

    def __init__(self, where: Path, *arguments: str, **environment: str) -> None:
        self.said, self.errors = (where / f"{time.monotonic_ns()}.{name}" for name in ("out", "err"))
        with self.said.open("w") as out, self.errors.open("w") as err:
            self.process = fork_server.start(
                where, "train", *arguments, stdout=out, stderr=err, environment={**os.environ, **environment}
            )

    def wait_for(self, text: str, seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while text not in self.said.read_text():
            assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() < end, self.said.read_text()
            time.sleep(0.05)

    def end(self, seconds: float = 240) -> tuple[int, str, str]:
        """Exit code, standard output and error."""
        code = self.process.wait(seconds)
        return code, self.said.read_text(), self.errors.read_text()

    @property
    def run(self) -> str:
        line = next(line for line in self.said.read_text().splitlines() if line.startswith("run  "))
        return line.split()[1]

    def others(self) -> list[int]:
        """Process ids of the processes that it has started to train with."""
        return fork_server.children(self.process, "tfhalf.cli.process")


@contextmanager
def train(where: Path, *arguments: str, **environment: str) -> Iterator[Command]:
    command = Command(where, *arguments, **environment)
    try:
        yield command
    finally:
        command.process.kill()
        command.process.wait()


def test_two_processes_train_and_publish_one_version(tmp_path: Path) -> None:
    with train(tmp_path, str(DIGITS), "--devices", "2", *SHORT, "--json") as command:
        code, out, errors = command.end()
    assert code == 0, errors
    assert "device     2 x " in errors
    outcome = json.loads(out)
    assert outcome["test_accuracy"] > 0.8
    assert Path(tmp_path, outcome["version"], "manifest.json").is_file()
    assert sorted(path.name for path in tmp_path.glob("runs/digits/*")) == [Path(outcome["run"]).name]


def test_a_signal_to_any_ends_all_and_another_number_goes_on(tmp_path: Path) -> None:
    with train(tmp_path, str(DIGITS), "--devices", "2", *LONG) as command:
        command.wait_for(" 3/4000 ")
        (other,) = command.others()
        os.kill(other, signal.SIGTERM)
        code, _, errors = command.end()
        assert code == 143
        assert errors.startswith("stopped by SIGTERM after step ")
        assert f"go on with: tfhalf train --resume {command.run}" in errors
        run = command.run
    with train(tmp_path, "--resume", run, *LONG[:2], "--devices", "1") as command:
        command.wait_for("resumed ")
        command.wait_for("/4000 ")
        command.process.send_signal(signal.SIGTERM)
        assert command.end()[0] == 143
    with train(tmp_path, "--resume", run, "--devices", "3") as command:  # 64 do not divide by 3
        code, _, errors = command.end()
    assert code == 2
    assert "a batch of 64 does not divide into 3 equal parts" in errors


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_is_gone_or_stuck_ends_the_others(tmp_path: Path, number: signal.Signals) -> None:
    with train(tmp_path, str(DIGITS), "--devices", "2", *LONG) as command:
        command.wait_for(" 2/4000 ")
        (other,) = command.others()
        os.kill(other, number)
        start = time.monotonic()
        code, _, errors = command.end()
        assert time.monotonic() - start < WITHIN
        assert code == 1
        line = errors.strip().splitlines()[-1]
        assert line.startswith("error: process 1 of 2 ")
        assert f"go on with: tfhalf train --resume {command.run}" in line
        assert "Traceback" not in errors
        assert not Path(f"/proc/{other}").exists()
        assert list(Path(tmp_path, command.run, "checkpoints").iterdir())


def test_the_others_end_with_the_first(tmp_path: Path) -> None:
    with train(tmp_path, str(DIGITS), "--devices", "2", *LONG) as command:
        command.wait_for(" 2/4000 ")
        (other,) = command.others()
        command.process.kill()
        end = time.monotonic() + 10
        while Path(f"/proc/{other}").exists() and time.monotonic() < end:
            time.sleep(0.05)
        assert not Path(f"/proc/{other}").exists()


def test_processes_of_a_launcher_meet_and_one_that_differs_is_refused_by_name(tmp_path: Path) -> None:
    def variables(rank: int) -> dict[str, str]:
        named = {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
        return {**named, "MASTER_PORT": port}

    port = str(free_port())
    with (
        train(tmp_path, str(DIGITS), *SHORT, **variables(0)) as first,
        train(tmp_path, str(DIGITS), *SHORT, "--set", "train.batch_size=32", **variables(1)) as second,
    ):
        for command in (first, second):
            code, _, errors = command.end()
            assert code == 2
            assert "process 1 of 2 (on " in errors
            assert "differs from process 0 of 2 (on " in errors
            assert "train.batch_size 32, not 64" in errors
            assert "Traceback" not in errors
    port = str(free_port())
    with (
        train(tmp_path, str(DIGITS), *SHORT, **variables(0)) as first,
        train(tmp_path, str(DIGITS), *SHORT, **variables(1)) as second,
    ):
        assert second.end()[0] == 0
        assert second.said.read_text() == ""
        code, out, errors = first.end()
        assert code == 0, errors
        assert "published" in out
    assert len(list(tmp_path.glob("runs/digits/*"))) == 1


def test_one_that_waits_for_a_process_that_failed_is_ended(tmp_path: Path) -> None:
    """As within a program on a GPU, which no error of a network ends."""
    script = (
        "import time; from tfhalf.system import processes\n"
        "processes._PATIENCE = 0.5\n"
        "with processes.Processes([None, None], 'tfhalf.cli.process', ['train', 'nothing.yaml'],\n"
        "                         remedy='start it again').running():\n"
        "    time.sleep(100)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: process 1 of 2 ended with code 2 (error: nothing.yaml: ")
    assert done.stderr.endswith("; start it again\n")


def test_the_module_that_others_run_is_the_command(tmp_path: Path) -> None:
    """What it is called with is what a person would type."""
    done = subprocess.run(
        [sys.executable, "-c", "from tfhalf.cli.process import main; main(None, 'train', '--help')"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0
    assert "--devices" in done.stdout
