"""The process that runs one file in LiteRT or OpenVINO: ``python -m tfhalf.isolated_worker KIND FILE``.

It says what it opened on standard output, then answers every message of arrays that comes on standard input (see
`tfhalf.isolated`), until that ends.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tfhalf import isolated
from tfhalf.engines import Engine, open_engine
from tfhalf.errors import ArtifactError
from tfhalf.system import memory
from tfhalf.text import one_line


def _why(error: Exception) -> str:
    return memory.lacking(error) or one_line(error)


def _main(kind: str, path: Path) -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries print
    source = sys.stdin.buffer
    memory.bound_process()
    try:
        engine: Engine = open_engine(kind, path)
    except ArtifactError as error:
        isolated.write(out, isolated.ERROR, str(error).removeprefix(f"{path}: ").encode())
        return
    except Exception as error:  # noqa: BLE001  # whatever a library raises: the one that asks is told
        isolated.write(out, isolated.ERROR, f"does not open: {_why(error)}".encode())
        return
    isolated.write(out, isolated.FACTS, json.dumps({"inputs": engine.inputs, "runtime": engine.runtime}).encode())
    while True:
        try:
            _, content = isolated.read(source)
        except EOFError:
            return
        try:
            isolated.write(out, isolated.ARRAYS, isolated.packed(engine(isolated.unpacked(content))))
        except Exception as error:  # noqa: BLE001  # as above
            isolated.write(out, isolated.ERROR, f"opens and does not run: {_why(error)}".encode())


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
