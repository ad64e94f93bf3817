"""The process that makes LiteRT files in a folder.

TensorFlow's converter is C++ that ends the process where it meets what it did not expect, and says much. In the folder
lie ``graph.pb``, a frozen GraphDef, and ``request.json``; the files come there. The answer says what each is.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfhalf.artifacts.formats import FLOAT16, FORMATS, INT8
from tfhalf.errors import ExportError
from tfhalf.system.child import ERROR, Channel
from tfhalf.system.tensorflow import import_tensorflow

if TYPE_CHECKING:
    from tfhalf.export.litert.store import Stored

_LONGEST = 200
_ONE = 1  # the batch that is tried where an open one cannot be


def make(folder: Path) -> dict[str, Any]:
    """Write what ``request.json`` names; returns for each kind its batch and its weights, or why there is none.

    Raises:
        ExportError: LiteRT cannot hold the graph, or the file lacks a part of it.
    """
    import tensorflow as tf

    from tfhalf.export.litert import graph as graphs
    from tfhalf.export.litert.store import described, store_float16, stored

    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    graph = tf.compat.v1.GraphDef()
    graph.ParseFromString((folder / "graph.pb").read_bytes())
    wide = [graphs.count(tensor) for tensor in graphs.float32_constants(graph)]
    graphs.widen(graph)
    graphs.expand_slices(graph)
    weights = _weights(graph)
    saved, batch = _plain(graph, request, folder)
    answers: dict[str, Any] = {}
    for kind, file in request["kinds"].items():
        numbers = FORMATS[kind].numbers
        metadata = {**request["metadata"], "precision": numbers.name}
        try:
            if numbers is FLOAT16:
                plain = (folder / "plain.tflite").read_bytes()
                content = store_float16(plain, wide, request["about"], metadata)
            else:
                content = described(_quantized(saved), request["about"], metadata)
            held = stored(content)
            _check(kind, held, weights)
        except ExportError as error:
            answers[kind] = {"error": str(error)}
            continue
        (folder / file).write_bytes(content)
        answers[kind] = {"batch": batch, "weights": asdict(held)}
    return answers


def _weights(graph: Any) -> int:
    """How many numbers the graph's float constants hold, those that a loop has again in its body once."""
    from tfhalf.export.litert import graph as graphs

    held = graphs.float32_constants(graph)
    counts = {hashlib.sha256(tensor.SerializeToString()).digest(): graphs.count(tensor) for tensor in held}
    return sum(counts.values())


def _check(kind: str, held: Stored, weights: int) -> None:
    """Refuse a file that lost weights, which the converter has been seen to write without a word."""
    count = held.float16 + held.float32 + held.int8
    if 2 * count < weights:
        raise ExportError(f"LiteRT: the converter kept {count:,} of {weights:,} weights; leave {kind} out")
    if FORMATS[kind].numbers is INT8 and not held.int8:
        raise ExportError(
            "LiteRT: no weight is stored in int8: the converter takes those of products with 1,024 or more values, and "
            f"this model has none; leave {kind} out"
        )


def _plain(graph: Any, request: dict[str, Any], folder: Path) -> tuple[str, int | None]:
    """Write ``plain.tflite``, float32, with an open batch, or with one of 1 where a recurrent layer needs it fixed;
    returns the SavedModel that it comes from, and the batch if it is fixed."""
    from tfhalf.export.graph.decompositions import ERROR_FUNCTIONS, LITERT
    from tfhalf.export.litert.graph import fix_batch

    batch: int | None = None
    written_out: dict[str, Any] = LITERT
    while True:
        saved = str(folder / f"saved-{batch}-{len(written_out)}")
        try:
            _save(graph, request, batch, saved, written_out)
            (folder / "plain.tflite").write_bytes(_convert(saved))
        except Exception as error:  # the converter's, and TensorFlow's own
            if written_out is LITERT and re.search(r"tf\.Erfc?\b", str(error)):
                written_out = {**LITERT, **ERROR_FUNCTIONS}
                continue
            if (
                batch
                or "TensorList" not in str(error)
                or any(port["shape"][:1] != [None] for port in request["inputs"])
            ):
                raise ExportError(f"LiteRT: {reason(str(error))}") from error
            fix_batch(graph)
            batch = _ONE
            continue
        return saved, batch


def _save(graph: Any, request: dict[str, Any], batch: int | None, folder: str, written_out: dict[str, Any]) -> None:
    """The graph as a SavedModel, which is what the converter takes names of inputs and outputs from."""
    import tensorflow as tf

    from tfhalf.export.graph.decompose import import_graph
    from tfhalf.export.graph.decompositions import rules_of

    ports, outputs = request["inputs"], request["outputs"]
    rules = rules_of(graph, written_out)
    specs = [
        tf.TensorSpec(
            [batch if axis == 0 and batch else side for axis, side in enumerate(port["shape"])],
            port["dtype"],
            port["name"],
        )
        for port in ports
    ]

    @tf.function(input_signature=specs, autograph=False)
    def serve(*tensors: Any) -> dict[str, Any]:
        inputs = dict(zip(request["tensors"]["inputs"], tensors, strict=True))
        names = request["tensors"]["outputs"]
        if rules is None:
            answers = tf.graph_util.import_graph_def(graph, input_map=inputs, return_elements=names, name="")
        else:
            answers = import_graph(graph, inputs, names, rules)
        return {name: tf.identity(x, name) for name, x in zip(outputs, answers, strict=True)}

    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(tf.Module(), folder, signatures={"serving_default": serve}, options=options)


def _quantized(saved: str) -> bytes:
    """The int8 variant.

    Raises:
        ExportError: the converter does not take the graph.
    """
    try:
        return _convert(saved, quantize=True)
    except Exception as error:  # the converter's, and TensorFlow's own
        raise ExportError(f"LiteRT: int8: {reason(str(error))}") from error


def _convert(saved: str, *, quantize: bool = False) -> bytes:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(saved, signature_keys=["serving_default"])
    converter.canonicalizing_inf_as_min_max_float = False  # infinity stays what it is
    if quantize:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    content: bytes = converter.convert()
    return content


def reason(said: str) -> str:
    """One line of what the converter says over many."""
    missing = re.findall(r"^(?:TF Select|Custom) ops: (.+)$", said, re.MULTILINE)
    if "TensorList" in said:
        return (
            "the model has a loop over steps whose number or shape is open, which LiteRT cannot hold; build its "
            "recurrent layers with unroll=True, or leave litert out"
        )
    if missing:
        names = ", ".join(dict.fromkeys(name.strip() for line in missing for name in line.split(",")))
        return f"it has no operator for {names[:_LONGEST]}; write the layer with other operators, or leave litert out"
    lines = [line.strip() for line in said.splitlines() if "error:" in line] or said.split("\n")[:1]
    message = re.sub(r"loc\(.*?\): ", "", lines[0])
    return f"its converter does not take the model: {' '.join(message.split())[:_LONGEST]}; leave litert out"


def main(channel: Channel, folder: str) -> None:
    """Make what lies in ``folder``, and answer what each file is."""
    import_tensorflow(without=("keras",))
    try:
        channel.send_json(make(Path(folder)))
    except ExportError as error:
        channel.send(ERROR, str(error).encode())
