"""`tfhalf train --ray`: processes that share batches on a Ray cluster of two nodes, both on this machine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from kill_helpers import COMMAND, DIGITS
from ray_nodes import WITH_RAY, two_nodes

from tfhalf.cli import main, ray
from tfhalf.cli.devices import without
from tfhalf.system.ray_processes import Member

SHORT = ("--set", "train.epochs=2", "--set", "export.formats=[onnx]")


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    yield from two_nodes(monkeypatch, str(Path(__file__).resolve().parent.parent))


def train(where: Path, address: str, *arguments: str) -> subprocess.Popen[str]:
    command = [*COMMAND, "train", *arguments, "--ray", address]
    return subprocess.Popen(command, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@WITH_RAY
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_two_nodes_train_as_one_and_stop_in_order(tmp_path: Path, address: str) -> None:
    done = train(tmp_path, address, str(DIGITS), *SHORT)
    out, errors = done.communicate(timeout=300)
    assert done.returncode == 0, errors
    assert "device     2 x " in out
    (manifest,) = (tmp_path / "exports").glob("*/1/manifest.json")
    assert json.loads(manifest.read_text())["training"]["epochs"] == 2

    refused = train(tmp_path, address, str(DIGITS), "--set", "train.batch_size=63")
    out, errors = refused.communicate(timeout=300)
    assert refused.returncode == 2, errors
    assert "a batch of 63 does not divide into 2 equal parts" in errors
    assert errors.count("\n") == 1
    assert len(list((tmp_path / "exports").glob("*/*/manifest.json"))) == 1

    stopped = train(tmp_path, address, str(DIGITS), "--set", "train.epochs=4000")
    for line in stopped.stdout or ():
        if line.startswith("run  "):
            break
    time.sleep(3)
    stopped.send_signal(signal.SIGTERM)
    out, errors = stopped.communicate(timeout=300)
    assert stopped.returncode == 143, errors
    assert "--resume" in errors


def test_what_does_not_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for option in ("--devices", "--process-id"):
        result = CliRunner().invoke(main, ["train", str(DIGITS), "--ray", "auto", option, "1"])
        assert result.exit_code == 2
        assert (
            f"--ray starts processes on a cluster, and says itself which is which; leave {option} out" in result.stderr
        )
    monkeypatch.setitem(sys.modules, "ray", None)
    result = CliRunner().invoke(main, ["train", str(DIGITS), "--ray", "auto"])
    assert (result.exit_code, result.stderr) == (2, "error: --ray: Ray is not installed; pip install 'tfhalf[ray]'\n")


def test_the_command_line_of_a_process() -> None:
    line = ["train", "x.yaml", "--ray", "a:1", "--set", "seed=1", "--num-processes=4", "-q"]
    assert without(line, "--ray", "--num-processes") == ["train", "x.yaml", "--set", "seed=1", "-q"]


@pytest.fixture
def stood(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that a member may go away from, and this process comes back from."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_member_runs_the_command_where_it_is_sent(stood: Path) -> None:
    (stood / "there").mkdir()
    member = Member()
    assert member.start(str(stood / "there"), "tfhalf.cli.process", ["train", "nothing.yaml"], {}) == ""
    assert member.wait(False) == (2, "")
    out, errors = member.written(0, 0)
    assert out == b""
    assert errors.startswith(b"error: nothing.yaml: ")
    assert member.written(0, 7)[1] == errors[7:]
    code, words = member.wait(True)
    assert code == 2
    assert words.startswith("ended with code 2 (error: nothing.yaml: ")
    put_away(member)


def test_a_member_says_that_it_does_not_see_a_folder(stood: Path) -> None:
    said = Member().start(str(stood / "nowhere"), "tfhalf.cli.process", [], {})
    assert said.startswith(f"{stood / 'nowhere'}: is not seen by ")


def test_a_member_is_signalled(stood: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    member = Member()
    assert member.start(str(stood), "fake_cell", [], {}) == ""  # it waits for a request
    member.signal(signal.SIGKILL)
    assert member.wait(False) == (-signal.SIGKILL, "")
    member.signal(signal.SIGTERM)  # it has ended
    put_away(member)


def put_away(member: Member) -> None:
    """As the end of an actor's process does."""
    assert member._child is not None
    assert member._out is not None
    member._child.end()
    member._out.close()


@pytest.mark.parametrize(
    ("ended", "stopped", "code", "lines"),
    [
        ({0: (0, ""), 1: (0, "")}, False, 0, []),
        ({0: (1, ""), 1: (3, "ended with code 3 (so it ends), on a")}, False, 1,
         ["error: process 1 of 2 ended with code 3 (so it ends), on a"]),
        ({0: (2, ""), 1: (2, "ended with code 2 (error: no), on a")}, False, 2, []),
        ({0: (143, ""), 1: (143, "ended with code 143 (no word), on a")}, True, 143, []),
        ({0: (-9, ""), 1: (0, "")}, False, 1, ["error: process 0 of 2 ended by signal 9"]),
        ({0: (1, "was lost by Ray: its node died")}, True, 1, ["error: process 0 of 2 was lost by Ray: its node died"]),
        ({1: (1, "ended with code 1 (x), on a")}, False, 1,
         ["error: process 0 of 2 did not end within 60 s of another",
          "error: process 1 of 2 ended with code 1 (x), on a"]),
        ({0: (0, ""), 1: (1, "ended with code 1 (x), on a")}, False, 1,
         ["error: process 1 of 2 ended with code 1 (x), on a"]),
    ],
)  # fmt: skip
def test_how_it_ends(
    ended: dict[int, tuple[int, str]], stopped: bool, code: int, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ray._exit_code(ended, 2, stopped) == code
    assert capsys.readouterr().err.splitlines() == lines
