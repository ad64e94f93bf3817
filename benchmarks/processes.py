"""A command in a process of its own, with a limit of time, and the JSON that it prints last."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_GRACE = 15.0  # seconds from SIGTERM to SIGKILL


@dataclass(frozen=True)
class Ended:
    """How a command ended. ``code``: its exit code, None where the limit ended it; ``out``: its standard output;
    ``last_error``: the last line of its errors, empty where they went elsewhere."""

    code: int | None
    seconds: float
    out: str
    last_error: str = ""

    def result(self) -> dict[str, Any] | None:
        """The last JSON object that it printed, on one line or many; None without one."""
        return last_object(self.out)

    def trouble(self, limit: float) -> str:
        """Why it ended as it did: for one that had ``limit`` seconds and did not end by itself with code 0."""
        if self.code is None:
            return f"ended by its limit of {limit:.0f} s"
        return f"code {self.code}: {self.last_error or 'it said nothing'}"


def run(
    command: Sequence[str],
    limit: float,
    log: Path,
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    echo: bool = False,
) -> Ended:
    """Run ``command``; its standard output goes to ``log``.out, its errors to ``log``.err.

    When ``limit`` seconds are over, or this process ends, so does the command with everything that it started: its
    process group gets SIGTERM, and SIGKILL if that is not enough.

    Args:
        echo: errors go where this process writes its own, and to no file.
    """
    out, err = log.with_name(log.name + ".out"), log.with_name(log.name + ".err")
    start = time.monotonic()
    with out.open("wb") as stdout, (err if not echo else Path(os.devnull)).open("wb") as stderr:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=None if echo else stderr,
            cwd=folder,
            env=dict(environment) if environment is not None else None,
            start_new_session=True,
        )
        code: int | None = None
        try:
            code = process.wait(max(1.0, limit))
        except subprocess.TimeoutExpired:
            print(f"{limit:.0f} s are over: ending {' '.join(command)}", file=sys.stderr, flush=True)
        finally:
            _end(process)
    seconds = time.monotonic() - start
    return Ended(code, seconds, out.read_text(encoding="utf-8", errors="replace"), "" if echo else _last_line(err))


def end_on_sigterm() -> None:
    """Have SIGTERM leave this process by an exception, so that `run` ends what it has started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def last_object(text: str) -> dict[str, Any] | None:
    """The last JSON object in ``text`` that begins at the start of a line."""
    decoder = json.JSONDecoder()
    starts = [0, *(i + 1 for i, letter in enumerate(text) if letter == "\n")]
    for start in reversed(starts):
        if text.startswith("{", start):
            try:
                value, _ = decoder.raw_decode(text, start)
            except ValueError:
                continue
            return value
    return None


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:160] if lines else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process group that ``process`` leads, which no other process has joined."""
    for number, patience in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, _GRACE)):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
