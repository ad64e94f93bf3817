"""The rewrites of a converted ONNX graph, in their order: `improve`.

Each repairs one fault of the converter, or puts ONNX's own operator where TensorFlow computes step by step. Constant
folding, fusing Pad into Conv and the like come from onnxscript's optimizer; what it has no rule for is here.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    IdentityEliminationPass,
    RemoveUnusedOpsetsPass,
    ShapeInferencePass,
)
from onnxscript import optimizer

from tfhalf.export.onnx import (
    activations,
    attention,
    attention_masks,
    casts,
    linear,
    norms,
    recurrent,
    selection,
    shapes,
    transposes,
)
from tfhalf.export.onnx.graph import Rewrite, sweep, tidy
from tfhalf.export.onnx.names import canonical

# A round gives the next one something to do where one operator's shape follows from another's.
_ROUNDS = 20

_CASTS: tuple[Rewrite, ...] = (
    casts.narrow_constants,
    casts.cast_constant,
    casts.cast_of_nothing,
    casts.cast_before_moving,
    casts.cast_before_concat,
)
_OPERATORS: tuple[Rewrite, ...] = (
    recurrent.loop_as_operator,
    recurrent.zero_state,
    recurrent.last_state,
    norms.layer_normalization,
    norms.rms_normalization,
    norms.group_normalization,
    activations.erf_of_positive,
    activations.gelu,
    activations.clip,
    activations.repeat_as_resize,
    activations.two_resizes,
    activations.nearest_pixel,
    selection.where,
    attention_masks.constant_choice,
    selection.mask_of_all,
    selection.negative_index,
)
_SHAPES: tuple[Rewrite, ...] = (
    shapes.fixed_target,
    shapes.kept_size,
    shapes.two_reshapes,
    shapes.reshape_as_squeeze,
    shapes.reduce_keeping,
    linear.unflattened,
)
_TRANSPOSES: tuple[Rewrite, ...] = (
    transposes.cancel,
    transposes.sink,
    transposes.transpose_before_unsqueeze,
    transposes.transpose_before_tile,
)
_LAST: tuple[Rewrite, ...] = (
    transposes.cancel,
    transposes.flatten_unmoved,
    linear.one_dimension,
    linear.fold_affine,
    casts.mean_in_float16,
    shapes.shortest_way,
)


def improve(model: ir.Model) -> ir.Model:
    """The graph as one would write it by hand; what it computes stays, up to float16's rounding.

    Args:
        model: of opset 13 or later, inputs and outputs named, their open sizes as well; it is used up.
    """
    _infer(model)
    tidy(model)
    _without_identities(model)
    sweep(model, _CASTS)
    model = _settled(model)
    if sweep(model, (attention.attention,)):  # behind the others, which bring its steps into one order
        model = _settled(model)
    sweep(model, (transposes.transpose_before_pad, transposes.cancel))
    optimizer.optimize_ir(model, input_size_limit=2**20, output_size_limit=2**24)
    tidy(model)
    sweep(model, (*_CASTS, *_LAST))
    _without_identities(model)
    for step in (CommonSubexpressionEliminationPass(), DeduplicateInitializersPass()):
        step(model)
    tidy(model)
    RemoveUnusedOpsetsPass()(model)
    canonical(model)
    _infer(model)
    return model


def _settled(model: ir.Model) -> ir.Model:
    """The graph once no rewrite finds anything to do."""
    for _ in range(_ROUNDS):
        _infer(model)  # shapes of what was changed, which the next rewrites ask for
        changes = sweep(model, (*_OPERATORS, *_SHAPES, *_CASTS))
        CommonSubexpressionEliminationPass()(model)
        _infer(model)
        model, moved = _fewer_transposes(model)
        changes += moved + sweep(model, (*_LAST, *_CASTS))
        if not changes:
            break
    return model


def as_proto(model: ir.Model) -> onnx.ModelProto:
    """The graph as a file holds it: without what is said twice, or was only counted."""
    proto = ir.to_proto(model)
    stored = {tensor.name for tensor in proto.graph.initializer}  # which say their dtype and shape themselves
    kept = [value for value in proto.graph.value_info if value.name not in stored]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)
    _unnumbered(proto.graph)
    return proto


def _unnumbered(graph: onnx.GraphProto) -> None:
    """Take out the names that ONNX makes up, by counting, for sizes that it cannot tell."""
    for value in (*graph.value_info, *graph.output, *graph.input):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param.startswith("unk__"):
                size.ClearField("dim_param")
    for node in graph.node:
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _unnumbered(body)


def _without_identities(model: ir.Model) -> None:
    """Take out every Identity, but those by which a branch gives a tensor from outside of it: onnx_ir's pass leaves
    such a branch without its output."""
    kept = [
        node
        for graph in model.graph.subgraphs()
        for node in graph
        if node.op_type == "Identity" and node.outputs[0].is_graph_output()
        if node.inputs[0] is not None and node.inputs[0].graph is not graph
    ]
    for node in kept:
        node.op_type = "Kept"
    IdentityEliminationPass()(model)
    for node in kept:
        node.op_type = "Identity"


def _fewer_transposes(model: ir.Model) -> tuple[ir.Model, int]:
    """The graph with Transposes moved, and how many rewrites that took; the graph of before where they became more."""
    before = model.clone()
    changes = sweep(model, (*_TRANSPOSES, *_CASTS, shapes.reduce_keeping))
    if changes and _transposes(model) > _transposes(before):
        return before, 0
    return model, changes


def _transposes(model: ir.Model) -> int:
    return sum(node.op_type == "Transpose" for node in model.graph)


def _infer(model: ir.Model) -> None:
    """Dtype and shape of every tensor that ONNX can tell; what was known before may have become untrue."""
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.type = value.shape = None
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)


def count(graph: onnx.GraphProto, op_type: str) -> int:
    """Number of nodes of one operator."""
    return sum(node.op_type == op_type for node in graph.node)
