"""A question to a process of its own."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tfhalf.bench.watch import Watch
from tfhalf.errors import InputError, ShortfallError
from tfhalf.system.tensorflow import fresh_environment

# What TensorFlow's libraries say of themselves, warnings included, before they read any setting.
_CHATTER = re.compile(r"[IW]\d{4} |WARNING: All log messages before absl")
_TICK = 0.5  # seconds


def ask(request: dict[str, Any], name: str, watch: Watch) -> dict[str, Any]:
    """The row that `tfhalf.bench.worker` measures for ``request``, in a new Python process that ends with it.

    Ctrl-C ends the process too, and so does the end of this one.

    Args:
        request: what JSON can hold, with the ``kind`` of measurement.
        name: of the row that is measured; error messages begin with it.
        watch: is told what the process does, and that it is still at it.

    Raises:
        InputError, ShortfallError: the process says what is wrong, or dies.
    """
    with tempfile.TemporaryDirectory(prefix="tfhalf-bench-") as scratch:
        question, answer = Path(scratch) / "request.json", Path(scratch) / "answer.json"
        question.write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-m", "tfhalf.bench.worker", str(question), str(answer)]
        words = Path(scratch) / "stderr"  # a file: of a pipe somebody would have to take them meanwhile
        with (
            words.open("wb") as stderr,
            subprocess.Popen(command, env=fresh_environment(), stdout=subprocess.PIPE, stderr=stderr) as process,
        ):
            try:
                _follow(process, watch)
            except BaseException:  # Ctrl-C
                process.kill()
                raise
            finally:
                watch.progress.clear()
        if process.returncode or not answer.is_file():
            raise ShortfallError(f"{name}: {_last_words(process.returncode, words.read_text('utf-8', 'replace'))}")
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in found:
        kind = InputError if found["exit_code"] == InputError.exit_code else ShortfallError
        raise kind(f"{name}: {found['error']}")
    row: dict[str, Any] = found["row"]
    return row


def _follow(process: subprocess.Popen[bytes], watch: Watch) -> None:
    """Tell ``watch`` every line that ``process`` says on standard output, until it ends."""
    assert process.stdout is not None
    pipe, rest = process.stdout.fileno(), b""
    while True:
        ready = select.select([pipe], [], [], _TICK)[0]
        said = os.read(pipe, 2**16) if ready else b""
        *lines, rest = (rest + said).split(b"\n")
        for line in lines:
            watch.hear(line.decode(errors="replace"))
        # A process of its own making may hold the pipe open longer than it lives.
        if (ready and not said) or (not ready and process.poll() is not None):
            return
        watch.tick()


def _last_words(code: int, stderr: str) -> str:
    if code < 0:
        number = -code
        why = "; the memory may not have sufficed, take a smaller batch" if number == signal.SIGKILL else ""
        return f"the process that measures it was ended by signal {number} ({signal.strsignal(number)}){why}"
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and not _CHATTER.match(line)]
    said = lines[-1][:300] if lines else "it said nothing"
    return f"the process that measures it ended with code {code}: {said}"
