"""Weights that stay apart while a large model is converted, and lie in a file beside its ONNX graph.

A protobuf message ends at 2 GiB, and so do the graphs that TensorFlow and tf2onnx pass round. The largest weights are
inputs of the function that is converted, whose values the ONNX graph gets in the end: they are copied once, to disk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import onnx
import onnx_ir as ir
import tensorflow as tf

from tfhalf.export.program import Program

_PREFIX = "tfhalf_weight_"
SMALL = 1024
"""Bytes of a constant that stays within the graph: shapes and axes, which whoever reads the graph has to know."""


def held(weights: Sequence[Any]) -> int:
    """Bytes of variables."""
    return sum(map(_bytes, weights))


def largest_weights(weights: Sequence[Any], limit: int) -> list[Any]:
    """The largest of ``weights``, as many as bring the others to half of ``limit`` bytes; none where all are below.

    Vectors stay, since the converter knows a norm by them, and so do an LSTM's, which it takes as constants alone.
    """
    rest, chosen = held(weights), []
    if rest <= limit:
        return []
    for variable in sorted(weights, key=_bytes, reverse=True):
        if rest <= limit // 2:
            break
        if len(variable.shape) > 1 and "lstm_cell" not in variable.path:
            chosen.append(variable)
            rest -= _bytes(variable)
    return chosen


def as_inputs(program: Program, weights: Sequence[Any]) -> Any:
    """The program's function, traced anew, with ``weights`` as further inputs.

    Autograph is off: what Keras' layers compute needs none.
    """
    own = list(program.function.input_signature)
    specs = [tf.TensorSpec(v.shape, v.dtype, name=f"{_PREFIX}{index}") for index, v in enumerate(weights)]

    @tf.function(input_signature=[*own, *specs], autograph=False)
    def serve(*tensors: Any) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(weights, tensors[len(own) :], strict=True))):
            return program.function.python_function(*tensors[: len(own)])

    return serve


def is_weight(name: str) -> bool:
    """Whether an input is one of `as_inputs`."""
    return name.startswith(_PREFIX)


def put_back(model: ir.Model, weights: Sequence[Any]) -> None:
    """Have the inputs of `as_inputs` hold the values of ``weights``, under their variables' names."""
    for value in [value for value in model.graph.inputs if is_weight(value.name or "")]:
        variable = weights[int((value.name or "").removeprefix(_PREFIX))]
        model.graph.inputs.remove(value)
        value.name = f"{_PREFIX}{variable.path}"
        value.const_value = ir.tensor(keras.ops.convert_to_numpy(variable.value), name=value.name)
        model.graph.register_initializer(value)


def check(model: ir.Model) -> None:
    """`onnx.checker` and strict shape inference; large weights stand in as inputs, so that all of it fits a message.

    Raises:
        ValidationError, InferenceError: of onnx.
    """
    slim = model.clone()
    for name, value in list(slim.graph.initializers.items()):
        if value.const_value is not None and value.const_value.nbytes > SMALL:
            del slim.graph.initializers[name]
            value.const_value = None
            slim.graph.inputs.append(value)
    proto = ir.to_proto(slim)
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)


def move_out(model: ir.Model, path: Path) -> Path:
    """Write the weights of ``model`` to the file beside ``path`` that it then names; returns that file."""
    data = path.with_name(f"{path.name}.data")
    ir.external_data.unload_from_model(model, path.parent, data.name, size_threshold_bytes=SMALL)
    return data


def _bytes(variable: Any) -> int:
    count: int = math.prod(variable.shape)
    size: int = variable.value.dtype.size
    return count * size
