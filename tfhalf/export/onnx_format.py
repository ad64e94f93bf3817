"""A `Program` as an ONNX file."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version as _version
from pathlib import Path
from typing import Any

import onnx
import onnx.version_converter

from tfhalf.errors import ExportError
from tfhalf.export import onnx_rewrites
from tfhalf.export.program import Program

# tf2onnx writes up to 18; onnx's own converter takes the graph further.
OPSETS = range(13, 26)
_CONVERTER_OPSET = 18
# A protobuf message ends at 2 GiB; larger weights lie in a file beside the graph.
_LARGEST = 2**31 - 2**24


def write(
    program: Program, path: Path, *, opset: int, metadata: Mapping[str, Any], largest: int = _LARGEST
) -> list[Path]:
    """`convert` the program and write it to ``path``; returns the files.

    Args:
        opset: ONNX operator set, of `OPSETS`.
        metadata: written to the file's ``metadata_props``, values as JSON unless they are text.
        largest: bytes of weights beyond which they go into a second file, ``path`` with ``.data``.

    Raises:
        ExportError: tf2onnx has no ONNX operator for a layer, or the graph does not pass `onnx.checker`.
    """
    model = convert(program, opset)
    for key, value in metadata.items():
        prop = model.metadata_props.add()
        prop.key, prop.value = key, value if isinstance(value, str) else json.dumps(value)
    if _weight_bytes(model) <= largest:
        onnx.save(model, str(path))
        return [path]
    data = path.with_name(f"{path.name}.data")
    onnx.save(model, str(path), save_as_external_data=True, location=data.name, size_threshold=1024)
    _check(str(path))
    return [path, data]


def convert(program: Program, opset: int) -> onnx.ModelProto:
    """The graph as one would write it by hand (see `onnx_rewrites`), inputs, outputs and open sizes named.

    Args:
        opset: ONNX operator set, of `OPSETS`.

    Raises:
        ExportError: ``opset`` cannot be had, the weights are more than 2 GiB, tf2onnx has no ONNX operator for a
            layer, or the graph does not pass `onnx.checker` with strict shape inference.
    """
    if opset not in OPSETS:
        raise ExportError(f"ONNX: received opset {opset}, accepted: {OPSETS[0]} to {OPSETS[-1]}")
    held = sum(math.prod(weight.shape) * weight.dtype.size for weight in program.weights)
    if held > _LARGEST:
        raise ExportError(
            f"ONNX: the weights are {held / 2**30:.1f} GiB; tf2onnx {_version('tf2onnx')} takes up to 2 GiB, since its "
            "way for more does not run with numpy 2; leave onnx out of export.formats"
        )
    model = _converted(program, min(opset, _CONVERTER_OPSET))
    _name(model, program)
    try:
        if opset > _CONVERTER_OPSET:
            model = onnx.version_converter.convert_version(model, opset)
        model = onnx_rewrites.improve(model)
        model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import)  # what the oldest runtimes load
        _check(model)
    except Exception as error:  # the converter's, the checker's and shape inference's have no common base
        raise ExportError(f"ONNX: the graph is not valid: {' '.join(str(error).split())[:300]}") from error
    return model


def _converted(program: Program, opset: int) -> onnx.ModelProto:
    """What tf2onnx makes of the program."""
    with _tf2onnx_log() as unsupported:
        import tf2onnx

        from tfhalf.export.onnx_handlers import HANDLERS

        try:
            model, _ = tf2onnx.convert.from_function(
                program.function,
                input_signature=program.function.input_signature,
                opset=opset,
                custom_op_handlers=HANDLERS,
            )
        except Exception as error:  # tf2onnx raises whatever its handlers meet
            raise ExportError(
                f"ONNX: tf2onnx cannot convert this model: {' '.join(str(error).split())[:300]}"
            ) from error
    if unsupported:
        raise ExportError(
            f"ONNX: {unsupported[0]}; write the layer with other operators, or leave onnx out of export.formats"
        )
    return model


def _check(model: onnx.ModelProto | str) -> None:
    onnx.checker.check_model(model, full_check=True)
    if not isinstance(model, str):
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def _weight_bytes(model: onnx.ModelProto) -> int:
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def _name(model: onnx.ModelProto, program: Program) -> None:
    """The program's inputs and outputs in their order, with names for open sizes."""
    graph = model.graph
    ports = {port.name: port for port in (*program.inputs, *program.outputs)}
    names = sorted(value.name for value in [*graph.input, *graph.output])
    if names != sorted(ports):
        raise ExportError(f"ONNX: inputs and outputs are {', '.join(names)}; expected {', '.join(ports)}")
    order = list(ports)
    for values in (graph.input, graph.output):
        ordered = sorted(values, key=lambda value: order.index(value.name))
        del values[:]
        values.extend(ordered)
    for value in [*graph.input, *graph.output]:
        dims = ports[value.name].dims()
        if len(value.type.tensor_type.shape.dim) != len(dims):
            del value.type.tensor_type.shape.dim[:]
            value.type.tensor_type.shape.dim.extend([onnx.TensorShapeProto.Dimension() for _ in dims])
        for dim, told in zip(value.type.tensor_type.shape.dim, dims, strict=True):
            if isinstance(told, str):
                dim.dim_param = told
            else:
                dim.dim_value = told
    graph.name, graph.doc_string = "tfhalf", ""
    model.producer_name = "tfhalf"
    model.doc_string = program.about


@contextmanager
def _tf2onnx_log() -> Iterator[list[str]]:
    """What tf2onnx only logs: for an operator without a translation it still gives a file, one that nothing opens.

    Its warnings, some of them to the root logger, are about its own choices and are held back.
    """
    problems: list[str] = []
    handler, nothing = logging.Handler(logging.ERROR), logging.NullHandler()
    handler.emit = lambda record: problems.append(" ".join(record.getMessage().split())[:300])  # type: ignore[method-assign]
    logger, root = logging.getLogger("tf2onnx"), logging.getLogger()
    before = logger.level, logger.propagate, root.handlers[:]
    logger.addHandler(handler)
    logger.propagate, root.handlers = False, [nothing]
    logger.setLevel(logging.ERROR)
    try:
        yield problems
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate, root.handlers = before[1], before[2]
