"""LiteRT and OpenVINO, opened in this process: for a process that has neither TensorFlow nor anything to lose.

Both are C++ that trusts its files; `tfhalf.runtimes.child` has them run in a process of their own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf.inspect.litert_file import check_litert
from tfhalf.runtimes.base import LITERT, OPENVINO, SIGNATURE, Engine, Runtime, computed_by
from tfhalf.runtimes.onnx_file import read_checked
from tfhalf.system.device import cores, physical_memory


def open_engine(kind: str, path: Path) -> Runtime:
    """Open a file in ``litert`` or ``openvino``, on the CPU, with a thread for each core that this process may use.

    Raises:
        Exception: of whatever kind the library has.
    """
    threads = cores()
    return LiteRt(path, threads) if kind == "litert" else OpenVino(path, threads)


class _InThisProcess:
    """A `Runtime` on the CPU whose calls nothing ends but the end of its process."""

    batch_sizes: tuple[int, ...] | None = None

    def stop(self) -> None:
        """Not possible."""

    def close(self) -> None:
        """It goes with its last reference."""


class LiteRt(_InThisProcess):
    """A LiteRT file's serving signature. Where the file fixes its batch at 1, samples go through it one by one."""

    def __init__(self, path: Path, threads: int) -> None:
        check_litert(path)
        import ai_edge_litert
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(str(path), num_threads=threads)
        signatures = self._interpreter.get_signature_list()
        if SIGNATURE not in signatures:
            raise ValueError(f"it has no signature {SIGNATURE}")
        runner = self._interpreter.get_signature_runner(SIGNATURE)
        self._input_details, self._output_details = runner.get_input_details(), runner.get_output_details()
        needed = sum(_bytes(tensor) for tensor in self._interpreter.get_tensor_details())
        if needed > physical_memory():
            raise ValueError(f"its tensors take {needed:,} bytes, more memory than there is")
        self.inputs, self.outputs = tuple(self._input_details), tuple(self._output_details)
        self._shapes: list[tuple[int, ...]] = []
        self._one = all(tuple(tensor["shape_signature"][:1]) == (1,) for tensor in self._input_details.values())
        self.engine = Engine(LITERT, "CPU")
        self.about = computed_by(self.engine, ai_edge_litert.__version__)
        self.settings = f"XNNPACK, {threads} thread{'s' * (threads != 1)}"

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        count = len(next(iter(arrays.values())))
        if not self._one or count == 1:
            return self._run(arrays)
        parts = [self._run({name: x[i : i + 1] for name, x in arrays.items()}) for i in range(count)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        shapes = [arrays[name].shape for name in self.inputs]
        if shapes != self._shapes:  # else what was prepared for them stays
            for name, shape in zip(self.inputs, shapes, strict=True):
                self._interpreter.resize_tensor_input(self._input_details[name]["index"], shape, strict=True)
            self._interpreter.allocate_tensors()
            self._shapes = shapes
        for name in self.inputs:
            self._interpreter.set_tensor(self._input_details[name]["index"], np.ascontiguousarray(arrays[name]))
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(tensor["index"]) for name, tensor in self._output_details.items()}


def _bytes(tensor: Mapping[str, Any]) -> int:
    """Of a tensor with open sizes as 1; text has no size of its own."""
    dtype = np.dtype(tensor["dtype"])
    return math.prod(int(side) for side in tensor["shape"]) * max(1, int(dtype.itemsize))


def _openvino_reason(text: str) -> str:
    """What OpenVINO says last, with the operator that it speaks of; before it stand the places in its own source, and
    the operator's arguments."""
    lines = [line for part in re.sub(r"Exception from \S+:\d+:", "\n", text).splitlines() if (line := part.strip())]
    kinds = re.findall(r"\bopset\d+::(\w+)", text)
    said = lines[-1] if lines else "no word"
    return f"{said} ({kinds[0]})" if kinds and kinds[0] not in said else said


class OpenVino(_InThisProcess):
    """An ONNX file in OpenVINO, set to compute in float32: by itself it takes bfloat16 where the CPU has that."""

    def __init__(self, path: Path, threads: int) -> None:
        graph = read_checked(path).model.graph
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        try:
            self._model: Any = openvino.Core().compile_model(str(path), "CPU", settings)
        except RuntimeError as error:
            raise ValueError(_openvino_reason(str(error))) from error
        # A tensor has several names there; the file's own are those that callers know.
        self.inputs = tuple(port.name for port in graph.input)
        self.outputs = tuple(port.name for port in graph.output)
        self.engine = Engine(OPENVINO, "CPU")
        self.about = computed_by(self.engine, openvino.__version__.split("-")[0])
        self.settings = f"float32, {threads} thread{'s' * (threads != 1)}"

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        answers = self._model([arrays[name] for name in self.inputs])
        return {name: np.array(answers[index]) for index, name in enumerate(self.outputs)}
