"""The process that runs one file in LiteRT or OpenVINO: ``python -m tfhalf.runtimes.child_main KIND FILE``.

It says what it opened on standard output, then answers every message of arrays that comes on standard input (see
`tfhalf.runtimes.child`), until that ends.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from tfhalf.errors import ArtifactError
from tfhalf.runtimes import child
from tfhalf.runtimes.base import Runtime
from tfhalf.runtimes.engines import open_engine
from tfhalf.system import memory
from tfhalf.text import one_line


def _why(error: Exception) -> str:
    return memory.lacking(error) or one_line(error)


def _facts(engine: Runtime) -> dict[str, Any]:
    """What `tfhalf.runtimes.child.Isolated` says of the engine in its place."""
    return {key: getattr(engine, key) for key in ("inputs", "outputs", "about", "settings")}


def _main(kind: str, path: Path) -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries print
    source = sys.stdin.buffer
    memory.bound_process()
    try:
        engine: Runtime = open_engine(kind, path)
    except ArtifactError as error:
        child.write(out, child.ERROR, str(error).removeprefix(f"{path}: ").encode())
        return
    except Exception as error:  # noqa: BLE001  # whatever a library raises: the one that asks is told
        child.write(out, child.ERROR, f"does not open: {_why(error)}".encode())
        return
    child.write(out, child.FACTS, json.dumps(_facts(engine)).encode())
    while True:
        try:
            _, content = child.read(source)
        except EOFError:
            return
        try:
            child.write(out, child.ARRAYS, child.packed(engine(child.unpacked(content))))
        except Exception as error:  # noqa: BLE001  # as above
            child.write(out, child.ERROR, f"opens and does not run: {_why(error)}".encode())


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
