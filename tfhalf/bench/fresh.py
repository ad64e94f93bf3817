"""A question to a process of its own."""

from __future__ import annotations

import json
from typing import Any

from tfhalf.bench.watch import STAGE, Watch
from tfhalf.errors import InputError, MemoryShortfall, ShortfallError
from tfhalf.system.child import Child

_TICK = 0.5  # seconds


def measure_row(request: dict[str, Any], name: str, watch: Watch) -> dict[str, Any]:
    """The row that `tfhalf.bench.worker` measures for ``request``, in a new Python process that ends with it.

    Ctrl-C ends the process too, and so does the end of this one.

    Args:
        request: what JSON can hold, with the ``kind`` of measurement.
        name: of the row that is measured; error messages begin with it.
        watch: receives what the process does, and that it is still at it.

    Raises:
        InputError, ShortfallError: the process says what is wrong, or dies; a `MemoryShortfall` where for want of
            memory.
    """
    child = Child("tfhalf.bench.worker")
    try:
        child.send_json(request)
        answer = _follow(child, watch)
    except (EOFError, OSError):
        words = child.last_words()
        ended = f"{name}: the process that measures it ended {words}"
        if words.startswith("by signal 9 "):
            raise MemoryShortfall(f"{ended}; the memory may not have sufficed, take a smaller batch") from None
        raise ShortfallError(ended) from None
    finally:  # Ctrl-C too
        child.end()
        watch.progress.clear()
    if "error" in answer:
        kind = InputError if answer["exit_code"] == InputError.exit_code else ShortfallError
        kind = MemoryShortfall if answer.get("memory") else kind
        raise kind(f"{name}: {answer['error']}")
    row: dict[str, Any] = answer["row"]
    return row


def _follow(child: Child, watch: Watch) -> dict[str, Any]:
    """Tell ``watch`` every stage of ``child``, until it answers.

    Raises:
        EOFError: it ended without an answer.
    """
    while True:
        message = child.wait(_TICK)
        if message is None:
            watch.tick()
            continue
        tag, content = message
        if tag != STAGE:
            answer: dict[str, Any] = json.loads(content)
            return answer
        watch.hear(content.decode(errors="replace"))
