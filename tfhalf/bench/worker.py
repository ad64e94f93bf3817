"""The process that measures one row.

The request names the ``kind`` of measurement and its arguments; the answer holds the measured ``row``, or ``error`` and
``exit_code``. What a model or a library prints goes nowhere.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from tfhalf.bench.watch import STAGE, Stages
from tfhalf.config.refs import raised
from tfhalf.errors import BudgetError, InputError, ShortfallError, TfhalfError
from tfhalf.system import memory
from tfhalf.system.child import Channel
from tfhalf.text import one_line


def answer(request: dict[str, Any], stages: Stages) -> dict[str, Any]:
    """``{"row"}`` that ``request`` asks for, or ``{"error", "exit_code"}`` with one line, and ``memory`` where that was
    lacking."""
    arguments = {key: value for key, value in request.items() if key != "kind"}
    try:
        return {"row": asdict(_measure(request["kind"], {**arguments, "stages": stages}))}
    except TfhalfError as error:
        return {"error": str(error), "exit_code": error.exit_code, "memory": isinstance(error, BudgetError)}
    except Exception as error:  # noqa: BLE001  # a user's model, TensorFlow, XLA: the one that asks is told
        words = f"{type(error).__name__}: {one_line(error)}"
        return {"error": words, "exit_code": ShortfallError.exit_code, "memory": bool(memory.lacking(error))}
    except SystemExit as error:  # a model that ends the process would leave no answer
        return {"error": f"the code that was given fails: {raised(error)}", "exit_code": InputError.exit_code}


def _measure(kind: str, arguments: dict[str, Any]) -> Any:
    # Imported here: a runtime that needs no TensorFlow is measured in a process without it.
    if kind == "training":
        from tfhalf.bench.devices import sharing

        stages, devices = arguments.pop("stages"), arguments.pop("devices")
        stages.stage("importing TensorFlow")
        with sharing(devices, arguments, stages) as group:
            from tfhalf.bench import training

            return training.measure(**arguments, stages=stages, group=group)
    from tfhalf.bench import inference

    return inference.measure(**arguments)


def main(channel: Channel) -> None:
    """Answer one request; messages of `STAGE` say meanwhile what is being done."""
    request = json.loads(channel.receive()[1])
    channel.send_json(answer(request, Stages(lambda line: channel.send(STAGE, line.encode()))))
