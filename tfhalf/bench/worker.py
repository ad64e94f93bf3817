"""The process that measures one row: ``python -m tfhalf.bench.worker REQUEST.json ANSWER.json``.

The request names the ``kind`` of measurement and its arguments; the answer holds the measured ``row``, or ``error`` and
``exit_code``.
"""

from __future__ import annotations

import ctypes
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tfhalf.errors import ShortfallError, TfhalfError
from tfhalf.progress import Progress

_PR_SET_PDEATHSIG = 1


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """``{"row"}`` that ``request`` asks for, or ``{"error", "exit_code"}`` with one line."""
    arguments = {key: value for key, value in request.items() if key != "kind"}
    progress = Progress()
    try:
        return {"row": asdict(_measure(request["kind"], {**arguments, "progress": progress}))}
    except TfhalfError as error:
        return {"error": str(error), "exit_code": error.exit_code}
    except Exception as error:  # noqa: BLE001  # a user's model, TensorFlow, XLA: the one that asks is told
        text = " ".join(str(error).split())[:300]
        return {"error": f"{type(error).__name__}: {text}", "exit_code": ShortfallError.exit_code}
    finally:
        progress.clear()


def _measure(kind: str, arguments: dict[str, Any]) -> Any:
    # Imported here: a runtime that needs no TensorFlow is measured in a process without it.
    if kind == "training":
        from tfhalf.bench import training

        return training.measure(**arguments)
    from tfhalf.bench import inference

    return inference.measure(**arguments)


def _end_with_parent() -> None:
    """Have the kernel end this process when the one that started it ends, however that does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    _end_with_parent()
    question, target = sys.argv[1:]
    found = answer(json.loads(Path(question).read_text(encoding="utf-8")))
    Path(target).write_text(json.dumps(found), encoding="utf-8")
