"""A question to a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tfhalf.errors import InputError, ShortfallError
from tfhalf.progress import Progress

# What TensorFlow's libraries say of themselves, warnings included, before they read any setting.
_CHATTER = re.compile(r"[IW]\d{4} |WARNING: All log messages before absl")


def ask(request: dict[str, Any], name: str, progress: Progress) -> dict[str, Any]:
    """The row that `tfhalf.bench.worker` measures for ``request``, in a new Python process that ends with it.

    Ctrl-C ends the process too, and so does the end of this one.

    Args:
        request: what JSON can hold, with the ``kind`` of measurement.
        name: of the row that is measured; error messages begin with it.

    Raises:
        InputError, ShortfallError: the process says what is wrong, or dies.
    """
    with tempfile.TemporaryDirectory(prefix="tfhalf-bench-") as scratch:
        question, answer = Path(scratch) / "request.json", Path(scratch) / "answer.json"
        question.write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-m", "tfhalf.bench.worker", str(question), str(answer)]
        stdout = progress.stream if progress.live else subprocess.DEVNULL
        done = subprocess.run(
            command, env=_environment(), stdout=stdout, stderr=subprocess.PIPE, text=True, errors="replace", check=False
        )
        progress.clear()
        if done.returncode or not answer.is_file():
            raise ShortfallError(f"{name}: {_last_words(done)}")
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in found:
        kind = InputError if found["exit_code"] == InputError.exit_code else ShortfallError
        raise kind(f"{name}: {found['error']}")
    row: dict[str, Any] = found["row"]
    return row


def _environment() -> dict[str, str]:
    # The process may stand in another folder's package: the one that is running is put first.
    root = str(Path(__file__).resolve().parent.parent.parent)
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        number = -done.returncode
        why = "; the memory may not have sufficed, take a smaller batch" if number == signal.SIGKILL else ""
        return f"the process that measures it was ended by signal {number} ({signal.strsignal(number)}){why}"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip() and not _CHATTER.match(line)]
    said = lines[-1][:300] if lines else "it said nothing"
    return f"the process that measures it ended with code {done.returncode}: {said}"
