"""A `Program` as an ONNX file."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnx.version_converter
import onnx_ir as ir
import tensorflow as tf

from tfhalf._version import __version__
from tfhalf.errors import ExportError
from tfhalf.export.graph.decompose import import_graph
from tfhalf.export.graph.decompositions import ONNX, rules_of
from tfhalf.export.graph.frozen import CHOICES, captured, freeze
from tfhalf.export.onnx import external_weights, rewrites
from tfhalf.export.onnx.ordered import ordered_sets
from tfhalf.export.program import Program
from tfhalf.text import one_line

# tf2onnx writes up to 18; onnx's own converter takes the graph further.
OPSETS = range(13, 26)
_CONVERTER_OPSET = 18
# What tf2onnx counts names from, in place of where it stands: it sorts by names, and a 9 comes behind a 10.
_FIRST_NAME = 10**6
LARGEST = 2**31 - 2**24
"""Bytes of weights beyond which they lie in a file beside the graph: a protobuf message ends at 2 GiB."""


def write(program: Program, path: Path, *, opset: int, metadata: Mapping[str, Any]) -> list[Path]:
    """Write the graph of `convert` to ``path``; returns the files.

    Weights of more than `LARGEST` bytes lie in a second one, ``path`` with ``.data``.

    Args:
        opset: ONNX operator set, of `OPSETS`.
        metadata: written to the file's ``metadata_props``, values as JSON unless they are text.

    Raises:
        ExportError: as `convert`.
    """
    files = [path]
    if external_weights.held(program.weights) <= LARGEST:
        model = convert(program, opset)
    else:
        graph = _graph(program, opset)
        files.append(external_weights.move_out(graph, path))
        model = rewrites.as_proto(graph)
    for key, value in metadata.items():
        prop = model.metadata_props.add()
        prop.key, prop.value = key, value if isinstance(value, str) else json.dumps(value)
    onnx.save(model, str(path))
    return files


def convert(program: Program, opset: int) -> onnx.ModelProto:
    """The graph as one would write it by hand (see `onnx_rewrites`), inputs, outputs and open sizes named.

    Beyond 2 GiB it can be evaluated, and not be serialized.

    Args:
        opset: ONNX operator set, of `OPSETS`.

    Raises:
        ExportError: ``opset`` cannot be had, tf2onnx has no ONNX operator for a layer, or the graph does not pass
            `onnx.checker` with strict shape inference.
    """
    return rewrites.as_proto(_graph(program, opset))


def _graph(program: Program, opset: int) -> ir.Model:
    if opset not in OPSETS:
        raise ExportError(f"ONNX: received opset {opset}, accepted: {OPSETS[0]} to {OPSETS[-1]}")
    apart = external_weights.largest_weights(program.weights, LARGEST)
    function = external_weights.as_inputs(program, apart) if apart else program.function
    proto = _converted(_decomposed(function), min(opset, _CONVERTER_OPSET))
    _name(proto, program)
    try:
        if opset > _CONVERTER_OPSET:
            proto = onnx.version_converter.convert_version(proto, opset)
        model = ir.from_proto(proto)
        external_weights.put_back(model, apart)
        model = rewrites.improve(model)
        opsets = [onnx.helper.make_opsetid(*pair) for pair in model.opset_imports.items()]
        model.ir_version = onnx.helper.find_min_ir_version_for(opsets)  # what the oldest runtimes load
        external_weights.check(model)
    except Exception as error:  # the converter's, the checker's and shape inference's have no common base
        raise ExportError(f"ONNX: the graph is not valid: {one_line(error)}") from error
    return model


def _decomposed(function: Any) -> Any:
    """``function`` with the operators written out that tf2onnx lacks, and with what it uses from outside as constants;
    itself where it has none of these."""
    concrete = function.get_concrete_function()
    graph_def = concrete.graph.as_graph_def()
    choices = any(node.op in CHOICES for node in graph_def.node)
    if not captured(concrete) and not choices and rules_of(graph_def, ONNX) is None:
        return function
    try:
        graph = freeze(function)
    except Exception as error:  # whatever TensorFlow meets in the graph
        raise ExportError(f"ONNX: the graph cannot be frozen: {one_line(error, 200)}; leave onnx out") from error
    rules = rules_of(graph.graph, ONNX)

    @tf.function(input_signature=function.input_signature, autograph=False)
    def serve(*tensors: Any) -> dict[str, Any]:
        inputs = dict(zip(graph.inputs, tensors, strict=True))
        answers = import_graph(graph.graph, inputs, graph.outputs, rules or (lambda node, is_complex: None))
        return {name: tf.identity(y, name) for name, y in zip(graph.names, answers, strict=True)}

    return serve


def _converted(function: Any, opset: int) -> onnx.ModelProto:
    """What tf2onnx makes of a function."""
    with _tf2onnx_log() as unsupported:
        from tf2onnx import convert as converter
        from tf2onnx import utils

        from tfhalf.export.onnx.handlers import HANDLERS

        try:
            utils.INTERNAL_NAME = _FIRST_NAME
            with ordered_sets("tf2onnx"):
                model, _ = converter.from_function(
                    function,
                    input_signature=function.input_signature,
                    opset=opset,
                    custom_op_handlers=HANDLERS,
                )
        except ExportError as error:  # of what is written out
            raise ExportError(
                f"ONNX: {error}; write the layer with other operators, or leave onnx out of export.formats"
            ) from error
        except Exception as error:  # tf2onnx raises whatever its handlers meet
            raise ExportError(f"ONNX: tf2onnx cannot convert this model: {one_line(error)}") from error
    if unsupported:
        missing = [m[2] for text in unsupported if (m := re.match(r"Tensorflow op \[(.+): (\w+)\] is not", text))]
        lack = f"it has no operator for {', '.join(dict.fromkeys(missing))}" if missing else unsupported[0]
        raise ExportError(f"ONNX: {lack}; write the layer with other operators, or leave onnx out of export.formats")
    return model


def _name(model: onnx.ModelProto, program: Program) -> None:
    """The program's inputs and outputs in their order, with names for open sizes; then weights that are inputs."""
    graph = model.graph
    ports = {port.name: port for port in (*program.inputs, *program.outputs)}
    weights = [value for value in graph.input if external_weights.is_weight(value.name)]
    for value in weights:
        graph.input.remove(value)
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
        for dim, size in zip(value.type.tensor_type.shape.dim, dims, strict=True):
            if isinstance(size, str):
                dim.dim_param = size
            else:
                dim.dim_value = size
    graph.input.extend(weights)
    graph.name, graph.doc_string = "tfhalf", ""
    model.producer_name, model.producer_version = "tfhalf", __version__
    model.doc_string = program.about


@contextmanager
def _tf2onnx_log() -> Iterator[list[str]]:
    """What tf2onnx only logs: for an operator without a translation it still gives a file, one that nothing opens.

    Its warnings, some of them to the root logger, are about its own choices and are held back.
    """
    problems: list[str] = []
    handler, nothing = logging.Handler(logging.ERROR), logging.NullHandler()
    handler.emit = lambda record: problems.append(_one_line(record))  # type: ignore[method-assign]
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


def _one_line(record: logging.LogRecord) -> str:
    """A message of tf2onnx in one line; of one about an exception, whose it is and what it says."""
    text = " ".join(record.getMessage().split())
    if record.exc_info and record.exc_info[1]:
        text = f"{text.partition(' (fct=')[0]}: {' '.join(str(record.exc_info[1]).split())}"
    return text[:300]
