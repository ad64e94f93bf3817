"""The process that runs one file in LiteRT or OpenVINO (see `tfhalf.runtimes.child`).

It says what it opened, then answers every message of arrays, until its channel ends.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfhalf.errors import ArtifactError
from tfhalf.runtimes import child
from tfhalf.runtimes.base import Runtime
from tfhalf.runtimes.engines import open_engine
from tfhalf.system import memory
from tfhalf.system.child import ERROR, Channel
from tfhalf.text import one_line


def _why(error: Exception) -> str:
    return memory.lacking(error) or one_line(error)


def _facts(engine: Runtime) -> dict[str, Any]:
    """What `tfhalf.runtimes.child.Isolated` says of the engine in its place."""
    return {key: getattr(engine, key) for key in ("inputs", "outputs", "about", "settings")}


def main(channel: Channel, kind: str, path: str) -> None:
    """Open ``path`` in the runtime ``kind``, and run it as often as arrays come."""
    memory.bound_process()
    try:
        engine: Runtime = open_engine(kind, Path(path))
    except ArtifactError as error:
        channel.send(ERROR, str(error).removeprefix(f"{path}: ").encode())
        return
    except Exception as error:  # noqa: BLE001  # whatever a library raises: the parent process reports it
        channel.send(ERROR, f"does not open: {_why(error)}".encode())
        return
    channel.send_json(_facts(engine))
    while True:
        try:
            _, content = channel.receive()
        except EOFError:
            return
        try:
            channel.send(child.ARRAYS, child.packed(engine(child.unpacked(content))))
        except Exception as error:  # noqa: BLE001  # as above
            channel.send(ERROR, f"opens and does not run: {_why(error)}".encode())
