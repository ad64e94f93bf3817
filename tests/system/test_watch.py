"""Processes that wait for each other outside of what TensorFlow's errors end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fork_server
import pytest
import watch_job

from tfhalf.system.join import free_port

pytestmark = pytest.mark.slow  # in two processes


@contextmanager
def two(folder: Path, what: str) -> Iterator[list[fork_server.Process]]:
    port, processes = free_port(), []
    try:
        for rank in (0, 1):
            with (folder / f"{rank}.txt").open("w") as said:
                started = fork_server.start(
                    folder, port, rank, what, script=Path(watch_job.__file__), stdout=said, stderr=said
                )
            processes.append(started)
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize("what", ["SIGSTOP", "SIGKILL"])
def test_one_that_stands_still_or_is_gone_ends_the_other(tmp_path: Path, what: str) -> None:
    with two(tmp_path, what) as processes:
        while "here" not in (tmp_path / "0.txt").read_text():
            assert processes[0].poll() is None
            time.sleep(0.05)
        start = time.monotonic()
        assert processes[0].wait(60) == 1
        assert time.monotonic() - start < 40
    last = (tmp_path / "0.txt").read_text().splitlines()[-1]
    assert last == "error: process 1 of 2 has ended or does not answer; start it again"


def test_one_that_is_done_waits_for_those_that_are_not(tmp_path: Path) -> None:
    """It would be taken for gone."""
    with two(tmp_path, "leaves") as processes:
        assert [process.wait(100) for process in processes] == [0, 0]
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == ["here\ndone\n"] * 2
