"""Whether a process ends when the one that started it is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path


def runs(pid: int) -> bool:
    """Whether there is such a process; one that has ended and that nobody waited for does not run."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def assert_gone(pid: int, seconds: float = 20.0) -> None:
    """``pid`` runs no more, soon."""
    end = time.monotonic() + seconds
    while runs(pid):
        assert time.monotonic() < end, f"process {pid} goes on"
        time.sleep(0.01)


def assert_no_orphan(code: str, *arguments: str, wait: float = 0.0) -> None:
    """``code`` prints the id of a process that it started, and sleeps; ``wait`` seconds later it gets SIGKILL."""
    command = [sys.executable, "-c", f"{code}\nimport time; time.sleep(100)", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        try:
            pid = int(parent.stdout.readline())
            time.sleep(wait)
            assert runs(pid)
        finally:
            parent.send_signal(signal.SIGKILL)
    assert_gone(pid)
