"""A `Program` as LiteRT files: weights in float16, or in int8 for comparison."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfhalf._version import __version__
from tfhalf.artifacts.formats import FORMATS
from tfhalf.errors import ExportError
from tfhalf.export.litert.graph import frozen
from tfhalf.export.program import Program
from tfhalf.system.child import ERROR, Child

_WORKER = "tfhalf.export.litert.worker"
_SECONDS = 4 * 3600.0  # for converting a model


@dataclass(frozen=True)
class LiteRtFile:
    """One file. ``batch``: None where callers choose it, else the one that it is fixed at. ``float16``, ``float32`` and
    ``int8`` count the weights that are stored so."""

    path: Path
    batch: int | None
    float16: int
    float32: int
    int8: int

    def details(self) -> dict[str, Any]:
        """For a manifest."""
        weights = {"float16": self.float16, "float32": self.float32, "int8": self.int8}
        return {"batch": self.batch or "open", "weights": {dtype: n for dtype, n in weights.items() if n}}


def write(
    program: Program, directory: Path, kinds: Iterable[str], *, metadata: Mapping[str, Any]
) -> dict[str, LiteRtFile | ExportError]:
    """Write those of ``kinds`` that are LiteRT's into ``directory``; for each, the file or why there is none.

    The converter works on the float32 twin of ``program`` (`litert_graph`), in a process of its own. ``litert`` stores
    every weight in float16 that is float16 in ``program``; ``litert-int8`` is the converter's dynamic range: weights of
    large products in int8, with a scale for each channel, and what they are multiplied with rounded as it comes.
    """
    names = {kind: FORMATS[kind].file for kind in kinds if FORMATS[kind].is_litert}
    if not names:
        return {}
    with tempfile.TemporaryDirectory(prefix="tfhalf-litert-") as scratch:
        folder = Path(scratch)
        try:
            _request(program, names, metadata, folder)
            answers = _convert(folder)
        except ExportError as error:
            return dict.fromkeys(names, error)
        results: dict[str, LiteRtFile | ExportError] = {}
        for kind, answer in answers.items():
            if "error" in answer:
                results[kind] = ExportError(answer["error"])
                continue
            path = directory / names[kind]
            shutil.move(folder / names[kind], path)
            results[kind] = LiteRtFile(path, answer["batch"], **answer["weights"])
    return results


def _request(program: Program, names: Mapping[str, str], metadata: Mapping[str, Any], folder: Path) -> None:
    graph = frozen(program)
    (folder / "graph.pb").write_bytes(graph.graph.SerializeToString())
    request = {
        "kinds": names,
        "inputs": [{"name": p.name, "dtype": p.dtype, "shape": list(p.shape)} for p in program.inputs],
        "outputs": list(graph.names),
        "tensors": {"inputs": list(graph.inputs), "outputs": list(graph.outputs)},
        "about": f"tfhalf {__version__}",
        "metadata": {"about": program.about, **metadata},
    }
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")


def _convert(folder: Path) -> dict[str, Any]:
    """What the converting process answers, by kind.

    Raises:
        ExportError: LiteRT cannot hold the program, or the process died.
    """
    child = Child(_WORKER, str(folder), environment={"CUDA_VISIBLE_DEVICES": "-1"})
    try:
        tag, content = child.receive(_SECONDS)
    except EOFError:
        raise ExportError(f"LiteRT: the process that converts ended {child.last_words()}; leave litert out") from None
    except TimeoutError:
        raise ExportError(
            f"LiteRT: the process that converts has not answered for {_SECONDS / 3600:.0f} hours; leave litert out"
        ) from None
    finally:
        child.end()
    if tag == ERROR:
        raise ExportError(content.decode(errors="replace"))
    answer: dict[str, Any] = json.loads(content)
    return answer
