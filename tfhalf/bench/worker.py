"""The process that measures one row: ``python -m tfhalf.bench.worker REQUEST.json ANSWER.json``.

The request names the ``kind`` of measurement and its arguments; the answer holds the measured ``row``, or ``error`` and
``exit_code``. Standard output says what is being done (`Stages`); whatever else would go there goes nowhere.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tfhalf.bench.watch import Stages
from tfhalf.config.refs import raised
from tfhalf.errors import InputError, ShortfallError, TfhalfError
from tfhalf.system.tensorflow import import_tensorflow

_PR_SET_PDEATHSIG = 1


def answer(request: dict[str, Any], stages: Stages) -> dict[str, Any]:
    """``{"row"}`` that ``request`` asks for, or ``{"error", "exit_code"}`` with one line."""
    arguments = {key: value for key, value in request.items() if key != "kind"}
    try:
        return {"row": asdict(_measure(request["kind"], {**arguments, "stages": stages}))}
    except TfhalfError as error:
        return {"error": str(error), "exit_code": error.exit_code}
    except Exception as error:  # noqa: BLE001  # a user's model, TensorFlow, XLA: the one that asks is told
        text = " ".join(str(error).split())[:300]
        return {"error": f"{type(error).__name__}: {text}", "exit_code": ShortfallError.exit_code}
    except SystemExit as error:  # a model that ends the process would leave no answer
        return {"error": f"the code that was given fails: {raised(error)}", "exit_code": InputError.exit_code}


def _measure(kind: str, arguments: dict[str, Any]) -> Any:
    # Imported here: a runtime that needs no TensorFlow is measured in a process without it.
    if kind == "training":
        arguments["stages"].stage("importing TensorFlow")
        import_tensorflow()
        from tfhalf.bench import training

        return training.measure(**arguments)
    from tfhalf.bench import inference

    return inference.measure(**arguments)


def _speak() -> Stages:
    """Standard output for stages alone: a model, or a library, may print."""
    stages = Stages(os.fdopen(os.dup(1), "w"))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return stages


def _end_with_parent() -> None:
    """Have the kernel end this process when the one that started it ends, however that does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    _end_with_parent()
    question, target = sys.argv[1:]
    found = answer(json.loads(Path(question).read_text(encoding="utf-8")), _speak())
    Path(target).write_text(json.dumps(found), encoding="utf-8")
