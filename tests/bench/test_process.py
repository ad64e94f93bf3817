"""``tfhalf bench``: the process of a row, how it ends, and what is heard of it meanwhile."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench_helpers import Clock, tfhalf, unheard, unseen
from orphans import assert_gone, runs

from tfhalf.bench import fresh, watch, worker
from tfhalf.errors import ShortfallError
from tfhalf.progress import Progress
from tfhalf.system.child import Child

NET = """
import os, signal, sys, time
import keras

def build(*, input_shape, num_classes, does=None):
    if does == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if does == "wait":
        with open("pid.new", "w") as file:
            file.write(str(os.getpid()))
        os.rename("pid.new", "pid")
        time.sleep(100)
    print("a model says something")
    if does == "exit in float16" and keras.config.dtype_policy().name == "mixed_float16":
        print("so it ends", file=sys.stderr)
        os._exit(3)
    if does == "exit in a second process" and "--process-id" in sys.argv:
        print("so it ends", file=sys.stderr)
        os._exit(3)
    return keras.Sequential([keras.Input(input_shape), keras.layers.Flatten(), keras.layers.Dense(num_classes)])
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline whose model does what ``model.args.does`` says, in the folder that is stood in."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    data = "{source: 'synthetic:4x4x1', args: {train: 64, test: 8}, validation: 0}"
    Path("p.yaml").write_text(
        f"name: mine\nmodel: {{build: 'net.py:build'}}\ndata: {data}\ntrain: {{batch_size: 16}}\n"
    )
    return Path("p.yaml")


def request(mine: Path, *overrides: str) -> dict[str, Any]:
    asked = {"kind": "training", "pipeline": str(mine), "overrides": list(overrides), "data_dir": None}
    return {**asked, "policy": "mixed_float16", "devices": [None], "repeats": 1, "seconds": 0.05}


@pytest.mark.slow
def test_a_process_that_is_killed(mine: Path) -> None:
    with pytest.raises(ShortfallError, match=r"^mixed_float16: .* ended by signal 9 \(Killed\); the memory may not"):
        fresh.measure_row(request(mine, "model.args={does: die}"), "mixed_float16", unseen("mixed_float16"))


def test_an_input_at_fault_is_an_answer(mine: Path) -> None:
    found = worker.answer(request(mine, "model.args={dose: exit}"), unheard())
    assert found["error"].startswith("model.args: net.py:build takes no 'dose'")
    assert found["exit_code"] == 2


@pytest.mark.slow
def test_several_processes_measure_as_one(mine: Path) -> None:
    """And one of them that fails ends the measurement with its last words."""
    options = ("--repeats", 1, "--seconds", 0.05, "--policies", "float32", "--devices", 2, "--json")
    done = tfhalf(mine, "--set", "model.args={does: nothing}", *options)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["policies"]
    assert (row["devices"], row["batch_size"]) == (2, 16)
    assert row["device"].startswith("2 x ")
    assert row["mfu"] == pytest.approx(row["flops_step"] * row["steps_per_s"] / row["matrix_flops"] / 2)
    done = tfhalf(mine, "--set", "model.args={does: exit in a second process}", *options)
    assert done.returncode == 1
    said = "error: float32: process 1 of 2 ended with code 3 (so it ends); start the measurement again"
    assert done.stderr.splitlines()[-1] == said


@pytest.mark.slow
def test_a_policy_that_fails_for_real(mine: Path) -> None:
    options = ("--repeats", 1, "--seconds", 0.05, "--policies", "mixed_float16,float32")
    done = tfhalf(mine, "--set", "model.args={does: exit in float16}", *options)
    assert done.returncode == 1
    assert done.stderr == "error: mixed_float16: the process that measures it ended with code 3 (so it ends)\n"
    assert "a model says something" not in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines()[-1:]] == ["float32"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_process_that_measures_ends_with_the_one_that_asks(mine: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "tfhalf", "bench", str(mine), "--set", "model.args={does: wait}", "--quiet"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _until(lambda: Path("pid").exists() or running.poll() is not None)
    worker = int(Path("pid").read_text())
    assert runs(worker)
    running.send_signal(number)
    stdout, stderr = running.communicate(timeout=20)
    if number == signal.SIGINT:
        assert (running.returncode, stdout) == (130, "")
        assert stderr == "interrupted; no version is half-written\n"
    assert_gone(worker)


def _until(happened: Callable[[], bool]) -> None:
    start = time.monotonic()
    while not happened():
        time.sleep(0.01)
        assert time.monotonic() - start < 60


# --- what is heard meanwhile ------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(watch, "time", made)
    return made


def go_through_two_rows(stream: io.StringIO, clock: Clock) -> watch.Watch:
    seen = watch.Watch(Progress(stream), ["float32", "mixed_float16"])
    seen.begin("float32")
    clock.now += 10
    seen.hear("compiling the step")
    clock.now += 60
    seen.tick()
    seen.hear("measuring, 3 ms a step")
    seen.hear("\trepeat 2 of 5")
    clock.now += 10
    seen.end("9 images/s")
    seen.begin("mixed_float16")
    seen.hear("compiling the step")
    clock.now += 30
    seen.tick()
    return seen


def test_a_stage_is_a_line_where_there_is_no_terminal(clock: Clock) -> None:
    stream = io.StringIO()
    go_through_two_rows(stream, clock).end("8 images/s")
    assert stream.getvalue().splitlines() == [
        "     10.0 s  1/2 float32        compiling the step",
        "     70.0 s  1/2 float32        measuring, 3 ms a step",
        "     80.0 s  1/2 float32        9 images/s; took 80.0 s; about 80.0 s left",
        "     80.0 s  2/2 mixed_float16  compiling the step",
        " 1 min 50 s  2/2 mixed_float16  8 images/s; took 30.0 s",
    ]


def test_a_terminal_counts_the_seconds_of_a_stage(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfhalf.progress.time", clock)
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    seen = go_through_two_rows(stream, clock)
    lines = [line.strip() for line in stream.getvalue().replace("\x1b[2K", "").replace("\r", "\n").splitlines()]
    assert "1/2 float32: compiling the step; 60.0 s" in lines
    assert lines[-1] == "2/2 mixed_float16: compiling the step; 30.0 s; about 50.0 s left"
    monkeypatch.setenv("COLUMNS", "40")
    clock.now += 1
    seen.tick()
    assert stream.getvalue().rpartition("\x1b[2K")[2] == "2/2 mixed_float16: compiling the step; "


def test_a_row_that_takes_longer_than_those_before_it(clock: Clock) -> None:
    stream = io.StringIO()
    seen = go_through_two_rows(stream, clock)
    clock.now += 1000
    assert seen._left() == ""


def test_stages_come_as_messages_and_what_a_model_prints_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that outlives the one that measures does not hold it up."""
    (tmp_path / "measures.py").write_text(
        "import os, subprocess; from tfhalf.bench.watch import STAGE, Stages\n"
        "def main(channel):\n"
        "    stages = Stages(lambda line: channel.send(STAGE, line.encode()))\n"
        "    print('a model says something', flush=True); os.system('echo so does a library')\n"
        "    stages.stage('one'); stages.status('half of\\nit'); stages.stage('two')\n"
        "    if os.fork():\n"
        "        os._exit(0)\n"
        "    import time; time.sleep(30)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    heard: list[str] = []
    seen = unseen("row")
    seen.hear = heard.append  # type: ignore[method-assign]
    start = time.monotonic()
    with pytest.raises(EOFError):
        fresh._follow(Child("measures"), seen)
    assert heard == ["one", "\thalf of it", "two"]
    assert time.monotonic() - start < 20
