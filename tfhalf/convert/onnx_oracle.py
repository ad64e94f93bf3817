"""A `Subject` that answers through ONNX in true float16: for islands that TensorFlow's own kernels do not need.

A converter may write an operator as several, each rounded to float16, where TensorFlow has one that rounds once. CPU
runtimes upcast and hide that as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np

from tfhalf.convert.subject import Arrays, Seen, Subject
from tfhalf.export import onnx_format
from tfhalf.export.grouped import for_onnx
from tfhalf.export.program import named_program
from tfhalf.true_float16 import TrueFloat16


class OnnxOracle:
    """Another subject, simulated by what ships of it."""

    def __init__(self, subject: Subject, opset: int) -> None:
        self.subject, self.opset = subject, opset
        self.names, self.interface = subject.names, subject.interface

    def reference(self, inputs: Arrays, seen: Seen | None = None) -> dict[str, np.ndarray]:
        """As `Subject`."""
        return self.subject.reference(inputs, seen)

    def simulate(self, kept: Iterable[str], inputs: Arrays, seen: Seen | None = None) -> dict[str, np.ndarray]:
        """As `Subject`; nothing within is seen."""
        shipped = self.subject.ship(kept)
        call = partial(self.interface.answer, shipped.call)
        with for_onnx():
            program = named_program(call, self.interface.inputs, shipped.weights, shipped.state, "")
            model = TrueFloat16(onnx_format.convert(program, self.opset))
        return model({name: np.asarray(x) for name, x in inputs.items()})
