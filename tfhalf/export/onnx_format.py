"""A `Program` as an ONNX file."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx

from tfhalf.errors import ExportError
from tfhalf.export import onnx_rewrites
from tfhalf.export.program import INPUT, OUTPUTS, Program


def write(program: Program, path: Path, *, opset: int, metadata: Mapping[str, Any]) -> list[Path]:
    """`convert` the program and write it to ``path``.

    Args:
        opset: ONNX operator set, 13 to 18.
        metadata: written to the file's ``metadata_props``, values as JSON unless they are text.

    Raises:
        ExportError: tf2onnx has no ONNX operator for a layer, or the graph does not pass `onnx.checker`.
    """
    model = convert(program, opset)
    for key, value in metadata.items():
        prop = model.metadata_props.add()
        prop.key, prop.value = key, value if isinstance(value, str) else json.dumps(value)
    onnx.save(model, str(path))
    return [path]


def convert(program: Program, opset: int) -> onnx.ModelProto:
    """The tidied graph: stable names, batch dimension ``batch``, no Cast pair round what only moves values.

    Raises:
        ExportError: tf2onnx has no ONNX operator for a layer, or the graph does not pass `onnx.checker`.
    """
    with _tf2onnx_log() as unsupported:
        import tf2onnx

        try:
            model, _ = tf2onnx.convert.from_function(
                program.function, input_signature=program.function.input_signature, opset=opset
            )
        except Exception as error:  # tf2onnx raises whatever its handlers meet
            raise ExportError(
                f"ONNX: tf2onnx cannot convert this model: {' '.join(str(error).split())[:300]}"
            ) from error
    if unsupported:
        raise ExportError(
            f"ONNX: {unsupported[0]}; write the layer with other operators, or leave onnx out of export.formats"
        )
    onnx_rewrites.drop_cast_pairs(model.graph)
    onnx_rewrites.drop_unused(model)
    onnx_rewrites.stable_names(model.graph)
    _name(model)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker's and shape inference's exceptions have no common base
        raise ExportError(f"ONNX: the graph is not valid: {' '.join(str(error).split())[:300]}") from error
    return model


def _name(model: onnx.ModelProto) -> None:
    graph = model.graph
    names = [value.name for value in graph.input], sorted(value.name for value in graph.output)
    if names != ([INPUT], sorted(OUTPUTS)):
        raise ExportError(f"ONNX: inputs and outputs are {names}, expected {INPUT} and {', '.join(OUTPUTS)}")
    outputs = sorted(graph.output, key=lambda value: OUTPUTS.index(value.name))
    del graph.output[:]
    graph.output.extend(outputs)
    for value in [*graph.input, *graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    graph.name, graph.doc_string = "tfhalf", ""
    model.producer_name = "tfhalf"
    model.doc_string = "image: raw values as float32; preprocessing is inside. logits and probabilities are float32."


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
