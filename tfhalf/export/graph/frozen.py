"""A TensorFlow function as a graph without variables: `freeze`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tfhalf.errors import ExportError

CHOICES = ("Case", "StatelessCase")


@dataclass(frozen=True)
class Frozen:
    """A function as a GraphDef without variables: ``inputs`` and ``outputs`` are names of its tensors, in the order of
    the function's inputs, and of ``names``."""

    graph: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    names: tuple[str, ...]


def freeze(function: Any) -> Frozen:
    """The graph of a `tf.function` with an input signature, whose answer is a dict of tensors.

    Tensors that were computed outside of the function become constants as well: converters take them for inputs.

    Raises:
        ExportError: the graph holds what cannot be frozen.
    """
    concrete = function.get_concrete_function()
    if any(node.op in CHOICES for node in concrete.graph.as_graph_def().node):
        # TensorFlow makes operators of it that no converter has.
        raise ExportError("it chooses among several branches (ops.switch); write that as ops.cond within ops.cond")
    try:
        result = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    except tf.errors.InvalidArgumentError as error:
        if "duplicate function" not in str(error):
            raise
        raise ExportError("TensorFlow cannot freeze a loop of its first version (ctc_loss has some)") from error
    graph, outside = result.graph.as_graph_def(), captured(concrete)
    tables = _write_tables(graph, concrete)
    known = {node.name: node for node in concrete.graph.as_graph_def(add_shapes=True).node}
    for node in graph.node:
        # A loop has an output for each input, and its variables are none any more.
        if node.name in known and known[node.name].op == node.op and "body" not in node.attr:
            node.attr["_output_shapes"].CopyFrom(known[node.name].attr["_output_shapes"])
        if node.op == "Placeholder" and node.name in outside:
            node.ClearField("attr")
            node.op, value = "Const", tf.make_tensor_proto(outside[node.name].numpy())
            node.attr["dtype"].type = value.dtype
            node.attr["value"].tensor.CopyFrom(value)
    return Frozen(
        graph,
        tuple(
            tensor.name for tensor in result.inputs if tensor.op.name not in outside and tensor.op.name not in tables
        ),
        tuple(tensor.name for tensor in result.outputs),
        tuple(sorted(concrete.structured_outputs)),  # the order in which TensorFlow flattens a dict
    )


def captured(concrete: Any) -> dict[str, Any]:
    """The tensors from outside of a concrete function that it uses, by the names of its placeholders for them."""
    return {name: outer for name, outer in _held(concrete) if outer.dtype not in (tf.resource, tf.variant)}


def _held(concrete: Any) -> list[tuple[str, Any]]:
    within = concrete.inputs[len(concrete.inputs) - len(concrete.captured_inputs) :]
    return [(inner.op.name, outer) for inner, outer in zip(within, concrete.captured_inputs, strict=True)]


KEYS, VALUES = "_keys", "_values"
"""The attributes that say what a table of a frozen graph holds."""


def _write_tables(graph: Any, concrete: Any) -> set[str]:
    """Give the nodes that look up integers their table's contents, instead of its handle; the handles' names."""
    handles = {name: outer for name, outer in _held(concrete) if outer.dtype == tf.resource}
    tables = set()
    for node in graph.node:
        handle = node.input[0].partition(":")[0] if node.op == "LookupTableFindV2" else ""
        if handle not in handles:
            continue
        tables.add(handle)
        kinds = {key: node.attr[name].type for key, name in (("Tkeys", "Tin"), ("Tvalues", "Tout"))}
        held = tf.raw_ops.LookupTableExportV2(table_handle=handles[handle], **kinds)
        for key, tensor in zip((KEYS, VALUES), held, strict=True):
            node.attr[key].tensor.CopyFrom(tf.make_tensor_proto(tensor.numpy()))
        del node.input[0]
    return tables
