"""A `Simulator` that answers through what is written of it: for islands that TensorFlow's own kernels do not need.

A converter may write an operator as several, each rounded to float16, where TensorFlow has one that rounds once, and a
runtime may multiply by 0 what TensorFlow leaves out. So where an artifact falls short in a runtime, the layers to keep
in float32 are searched by that runtime's answers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from tfhalf.artifacts.formats import FORMATS
from tfhalf.errors import ExportError
from tfhalf.export import savedmodel
from tfhalf.export.islands.simulator import Arrays, Seen, Simulator
from tfhalf.export.litert import to_litert
from tfhalf.export.onnx import to_onnx
from tfhalf.export.program import named_program
from tfhalf.export.rebuild.grouped_conv import for_onnx
from tfhalf.runtimes.open import BY_NAME, open_predictor
from tfhalf.verify.version import BATCH, run


class RuntimeSimulator:
    """Another simulator's model, whose float16 answers are those of an artifact in ``runtime``, one of
    `runtimes.open.BY_NAME`."""

    def __init__(self, simulator: Simulator, runtime: str, opset: int) -> None:
        self.simulator, self.runtime, self.opset = simulator, runtime, opset
        self.names, self.interface = simulator.names, simulator.interface

    def reference(self, inputs: Arrays, seen: Seen | None = None) -> dict[str, np.ndarray]:
        """As `Simulator`."""
        return self.simulator.reference(inputs, seen)

    def simulate(self, kept: Iterable[str], inputs: Arrays, seen: Seen | None = None) -> dict[str, np.ndarray]:
        """As `Simulator`; nothing within is seen.

        Raises:
            ExportError, ArtifactError: the artifact cannot be written, opened or run.
        """
        with tempfile.TemporaryDirectory(prefix="tfhalf-search-") as folder:
            self._write(kept, Path(folder))
            predictor = open_predictor(Path(folder), self.runtime)
            exact = self.runtime == "onnx-float16"
            arrays = {name: np.asarray(x) for name, x in inputs.items()}
            return run(predictor, arrays, self.interface.inputs[0].shape[0] or (1 if exact else BATCH))

    def _write(self, kept: Iterable[str], folder: Path) -> None:
        shipped = self.simulator.ship(kept)
        call = partial(self.interface.answer, shipped.call)
        kind = FORMATS[BY_NAME[self.runtime].format]
        if kind.container == "onnx":
            with for_onnx():
                program = named_program(call, self.interface.inputs, shipped.weights, shipped.state, "")
                to_onnx.write(program, folder / kind.file, opset=self.opset, metadata={})
            return
        program = named_program(call, self.interface.inputs, shipped.weights, shipped.state, "")
        if kind.container == "savedmodel":
            savedmodel.write(program, folder)
            return
        written = to_litert.write(program, folder, (kind.name,), metadata={})[kind.name]
        if isinstance(written, ExportError):
            raise written
