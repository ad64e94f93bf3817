"""A process that reads large bodies and images for a server.

Python's lock is held while JSON is parsed or an image decoded, which for large ones stops whoever shares the process.
This one shares it with nobody; its memory is bounded; and a file that ends it ends no server.
"""

from __future__ import annotations

import re
import resource
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from tfhalf.errors import RequestError
from tfhalf.serve.reading import wire
from tfhalf.serve.reading.tasks import READ
from tfhalf.system.child import Channel


def main(channel: Channel) -> None:
    """Read what comes on the channel, until the server closes its end of it."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the server, which finishes what it has accepted
        signal.signal(number, signal.SIG_IGN)
    connection = channel.connection
    with suppress(EOFError, ConnectionError):
        most = wire.receive(connection)
        bound = _memory() + most
        resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
        while True:
            wire.send(connection, _answer(most, *wire.receive(connection)))


def _answer(most: int, task: str, arguments: list[Any], named: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"value": READ[task](*arguments, **named)}
    except RequestError as error:
        return {"status": error.status, "message": str(error)}
    except MemoryError:
        return {
            "status": 413,
            "message": f"to read it takes more than {most >> 20:,} MiB of memory; send less at a time",
        }
    except Exception as error:  # noqa: BLE001  # a fault of the server's own, which logs it
        return {"fault": repr(error)}


def _memory() -> int:
    """Bytes that count towards the limit."""
    match = re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())
    assert match
    return int(match[1]) << 10
