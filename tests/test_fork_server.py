"""`fork_server`: what it forks off is to tests what a process of `subprocess` is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fork_server
import pytest

pytestmark = pytest.mark.slow  # it starts processes

SCRIPT = """
import json, os, sys, threading, time
print(json.dumps({
    "arguments": sys.argv[1:],
    "where": os.getcwd(),
    "folder": sys.path[0],
    "environment": dict(os.environ),
    "leader": os.getpid() == os.getpgid(0),
    "threads": threading.active_count(),
    "descriptors": len(os.listdir("/proc/self/fd")),
    "of tfhalf": [name for name in sys.modules if name.startswith("tfhalf")],
    "tensorflow": "tensorflow" in sys.modules,
}), flush=True)
if sys.argv[1:] == ["wait"]:
    time.sleep(60)
sys.exit(int(sys.argv[2]))
"""


@pytest.mark.parametrize("arguments", [("--version",), ("train", "none.yaml"), ("export",), ("nonsense",)])
def test_a_command_says_the_same(arguments: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tfhalf", *arguments]
    usual = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    forked = fork_server.run(tmp_path, *arguments)
    assert (forked.returncode, forked.stdout, forked.stderr) == (usual.returncode, usual.stdout, usual.stderr)
    assert usual.returncode == (0 if arguments == ("--version",) else 2)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "code" / "script.py"
    path.parent.mkdir()
    path.write_text(SCRIPT)
    return path


def test_it_has_what_is_its_own(script: Path, tmp_path: Path) -> None:
    """And neither files nor modules of the server, nor of another process."""
    environment = {"PATH": os.environ["PATH"], "ONLY": "this"}
    files = [(tmp_path / name).open("w+") for name in ("one", "two", "errors")]
    for file, session in zip(files, (True, False), strict=False):
        process = fork_server.start(
            tmp_path, "a b", 7, script=script, stdout=file, stderr=files[2], environment=environment,
            new_session=session,
        )  # fmt: skip
        assert process.wait(60) == process.poll() == 7
        facts = json.loads(Path(file.name).read_text())
        assert facts.pop("descriptors") <= 5  # the three, that of the listing, and one that TensorFlow may keep
        assert facts == {
            "arguments": ["a b", "7"],
            "where": str(tmp_path),
            "folder": str(script.parent),
            "environment": environment,
            "leader": session,
            "threads": 1,
            "of tfhalf": [],
            "tensorflow": True,
        }
    for file in files:
        file.close()


def test_signals(script: Path, tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
        with (tmp_path / "said").open("w") as said:
            process = fork_server.start(
                tmp_path, "wait", script=script, stdout=said, stderr=said, new_session=number == signal.SIGTERM
            )
            while not Path(said.name).read_text():
                assert process.poll() is None
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.01)
            if number == signal.SIGTERM:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
            assert process.wait(60) == -number
            process.kill()  # it has ended: nothing happens
            end = time.monotonic() + 60
            while Path(f"/proc/{process.pid}").exists():  # no zombie is left, once the server has seen to it
                assert time.monotonic() < end
                time.sleep(0.01)
        assert ("KeyboardInterrupt" in Path(said.name).read_text()) == (number == signal.SIGINT)
