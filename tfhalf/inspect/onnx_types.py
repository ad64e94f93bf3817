"""Dtypes of every value of an ONNX graph, from the operators' own signatures.

ONNX's shape inference gives them too, but works with sizes that the file claims; this needs no more than the names of
the type variables: where ``Y`` has the type ``T`` of ``X``, it has the dtype of ``X``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import onnx

from tfhalf.inspect.facts import words

_NAMES = {"float": "float32", "double": "float64"}
# Operators outside of the standard whose outputs have the dtype of their first input.
_LIKE_FIRST = frozenset(
    words(
        "FusedMatMul FusedConv FusedGemm Gelu FastGelu BiasGelu QuickGelu SkipLayerNormalization LayerNormalization "
        "SimplifiedLayerNormalization SkipSimplifiedLayerNormalization Attention MultiHeadAttention "
        "GroupQueryAttention RotaryEmbedding NhwcConv MatMulNBits GroupNorm BiasSplitGelu BiasAdd Inverse"
    )
)


def dtype_name(number: int) -> str:
    """``float16`` for 10; empty for what this onnx does not know."""
    if number not in onnx.TensorProto.DataType.values() or number == 0:
        return ""
    name = str(onnx.TensorProto.DataType.Name(number)).lower()
    return _NAMES.get(name, name)


@lru_cache(maxsize=4096)
def _signature(op: str, domain: str, version: int) -> tuple[list[str], list[str], dict[str, str]] | None:
    """Type variables of inputs and outputs, the last one repeating, and the dtypes that are fixed."""
    try:
        schema = onnx.defs.get_schema(op, version, domain)
    except onnx.defs.SchemaError:
        return None
    fixed = {}
    for constraint in schema.type_constraints:
        kinds = {_tensor(one) for one in constraint.allowed_type_strs}
        if len(kinds) == 1:
            fixed[constraint.type_param_str] = kinds.pop()
    lists = ([one.type_str for one in schema.inputs], [one.type_str for one in schema.outputs])
    for variable in (*lists[0], *lists[1]):
        if "(" in variable:
            fixed[variable] = _tensor(variable)
    return (*lists, fixed)


def _tensor(written: str) -> str:
    inside = written.removesuffix(")").rpartition("(")[2]
    return _NAMES.get(inside, inside)


def output_dtypes(node: Any, inputs: list[str], versions: dict[str, int]) -> list[str]:
    """Dtypes of a node's outputs, empty where unknown, from those of its ``inputs``."""
    count = len(node.output)
    said = _from_attributes(node, inputs)
    if said:
        return [said] * count
    domain = "" if node.domain == "ai.onnx" else node.domain
    signature = _signature(node.op_type, domain, max(1, min(versions.get(domain, 1), 1 << 16)))
    if signature is None:
        return [inputs[0] if inputs and node.op_type in _LIKE_FIRST else ""] * count
    takes, gives, bound = signature[0], signature[1], dict(signature[2])
    if node.op_type == "LayerNormalization":
        bound["U"] = "float32"  # its statistics, unless stash_type says another
    for index, dtype in enumerate(inputs):
        if dtype and takes:
            bound.setdefault(takes[min(index, len(takes) - 1)], dtype)
    return [bound.get(gives[min(index, len(gives) - 1)], "") if gives else "" for index in range(count)]


def _from_attributes(node: Any, inputs: list[str]) -> str:
    """The dtype that a node says itself."""
    attributes = {a.name: a for a in node.attribute}
    op = node.op_type
    if op == "Cast" and "to" in attributes:
        return dtype_name(attributes["to"].i)
    if op == "CastLike" and len(inputs) > 1:
        return inputs[1]
    if op == "Constant":
        if "value" in attributes:
            return dtype_name(attributes["value"].t.data_type)
        kinds = {"value_float": "float32", "value_int": "int64", "value_string": "string"}
        return next((d for key, d in kinds.items() if {key, f"{key}s"} & set(attributes)), "")
    if op == "ConstantOfShape":
        return dtype_name(attributes["value"].t.data_type) if "value" in attributes else "float32"
    if op == "QuantizeLinear":
        if attributes.get("output_dtype") and attributes["output_dtype"].i:
            return dtype_name(attributes["output_dtype"].i)
        return (inputs[2] if len(inputs) > 2 else "") or "uint8"
    for key in ("dtype", "output_dtype"):
        if key in attributes and attributes[key].i:
            return dtype_name(attributes[key].i)
    if op in ("RandomNormal", "RandomUniform", "HannWindow", "HammingWindow", "BlackmanWindow"):
        return "float32"
    return ""
