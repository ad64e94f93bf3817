"""A float32 LiteRT file with its weights stored in float16: `store_float16`.

TensorFlow's converter can do it too, and rounds whatever is a constant: what an island or a norm holds in float32 as
well, and numbers beyond float16's range. Here a weight that float16 holds is stored in it, which changes no number, and
the rest stays float32. Runtimes cast a stored weight once, when they open the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

FUSED = 256
"""The converter multiplies a weight by a constant that follows it, after which float16 does not hold it exactly. Such a
product is rounded once more where it has so many values; smaller ones stay float32, and so do all in a file that has so
large a weight in float32 on purpose: an island says that the net does not bear it."""
_WIDEST = float(np.finfo(np.float16).max)
_CAST_VERSION = 3  # of DEQUANTIZE, from which on it takes float16
_ALIGNED = 16  # bytes, as the format's schema asks of stored values


@dataclass(frozen=True)
class Stored:
    """How many values of a file's weights are stored as what."""

    float16: int = 0
    float32: int = 0
    int8: int = 0


def store_float16(content: bytes, wide: Iterable[int], about: str, metadata: Mapping[str, Any]) -> bytes:
    """A LiteRT file with every weight in float16 that it holds.

    Args:
        content: a file whose weights are float32.
        wide: how many numbers each weight has that is float32 on purpose.
        about, metadata: the file's description, and what its metadata says as JSON under the name ``tfhalf``.
    """
    model = _read(content)
    exactly = any(size >= FUSED for size in wide)
    casts = _operator(model)
    for graph in model.subgraphs:
        ends = {*graph.inputs, *graph.outputs}
        added = []
        for index, tensor in enumerate(list(graph.tensors)):
            values = _floats(model, tensor)
            if values is None or values.size < 2 or index in ends or tensor.isVariable:
                continue
            narrow = _narrow(values)
            if narrow is None or (not _same(values, narrow) and (exactly or values.size < FUSED)):
                continue
            added.append(_cast(model, graph, tensor, index, narrow, casts))
        graph.operators = [*added, *graph.operators]
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    used |= {entry.buffer for entry in model.metadata or []}
    for number in set(range(len(model.buffers))) - used:
        model.buffers[number].data = None
    return _written(model, about, metadata)


def described(content: bytes, about: str, metadata: Mapping[str, Any]) -> bytes:
    """A LiteRT file as it is, with a description and metadata."""
    return _written(_read(content), about, metadata)


def stored(content: bytes) -> Stored:
    """What a file's weights are stored as."""
    model = _read(content)
    names = {
        schema.TensorType.FLOAT16: "float16",
        schema.TensorType.FLOAT32: "float32",
        schema.TensorType.INT8: "int8",
    }
    counts, seen = dict.fromkeys(names.values(), 0), set()
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            if data is not None and len(data) and tensor.type in names and tensor.buffer not in seen:
                counts[names[tensor.type]] += int(np.prod(tensor.shape)) if tensor.shape is not None else 1
                seen.add(tensor.buffer)
    return Stored(**counts)


# --- a weight ---------------------------------------------------------------------------------------------------------


def _floats(model: Any, tensor: Any) -> np.ndarray | None:
    """A tensor's stored values, if they are float32."""
    data = model.buffers[tensor.buffer].data
    if tensor.type != schema.TensorType.FLOAT32 or data is None or not len(data):
        return None
    return np.frombuffer(np.asarray(data, np.uint8).tobytes(), np.float32)


def _narrow(values: np.ndarray) -> np.ndarray | None:
    """``values`` in float16; None where one is beyond its range, or comes out much smaller than it is."""
    if not (np.abs(values) <= _WIDEST).all():  # also where one is not a number
        return None
    narrow = values.astype(np.float16)
    lost = np.abs(narrow.astype(np.float32) - values)
    return narrow if lost.max() <= 2.0**-11 * np.abs(values).max() else None


def _same(values: np.ndarray, narrow: np.ndarray) -> bool:
    return bool((narrow.astype(np.float32) == values).all())


def _cast(model: Any, graph: Any, tensor: Any, index: int, narrow: np.ndarray, operator: int) -> Any:
    """Give ``tensor``'s values to a new float16 tensor, and return the operation that casts it to the old one."""
    half = schema.TensorT()
    half.name, half.shape, half.type = tensor.name + b"/float16", tensor.shape, schema.TensorType.FLOAT16
    half.buffer, half.quantization = len(model.buffers), schema.QuantizationParametersT()
    half.hasRank = tensor.hasRank
    buffer = _Buffer()
    buffer.data = np.frombuffer(narrow.tobytes(), np.uint8)
    model.buffers.append(buffer)
    graph.tensors.append(half)
    tensor.buffer = 0  # which holds nothing
    cast = schema.OperatorT()
    cast.opcodeIndex, cast.inputs, cast.outputs = operator, [len(graph.tensors) - 1], [index]
    cast.builtinOptionsType, cast.builtinOptions = schema.BuiltinOptions.DequantizeOptions, schema.DequantizeOptionsT()
    return cast


def _operator(model: Any) -> int:
    """The number of the file's operator that casts float16; it is added where there is none."""
    for number, code in enumerate(model.operatorCodes):
        if code.builtinCode == schema.BuiltinOperator.DEQUANTIZE:
            code.version = max(code.version, _CAST_VERSION)
            return number
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.DEQUANTIZE
    code.version = _CAST_VERSION
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


# --- the file ---------------------------------------------------------------------------------------------------------


class _Buffer(schema.BufferT):
    """A buffer whose values begin at a multiple of 16 bytes, as C++ writes them and kernels may rely on."""

    def Pack(self, builder: Any) -> Any:  # noqa: N802  # FlatBuffers' name
        if self.data is None or not len(self.data):
            return super().Pack(builder)
        data = np.asarray(self.data, np.uint8).tobytes()
        builder.StartVector(1, len(data), _ALIGNED)
        builder.head -= len(data)
        builder.Bytes[builder.head : builder.head + len(data)] = data
        values = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, values)
        return schema.BufferEnd(builder)


def _read(content: bytes) -> Any:
    return schema.ModelT.InitFromPackedBuf(bytearray(content), 0)


def _name_ports(model: Any) -> None:
    """Give the tensors of inputs and outputs the signature's names; the converter makes up others."""
    taken: set[int] = set()
    for signature in model.signatureDefs or []:
        for port in [*signature.inputs, *signature.outputs]:
            if signature.subgraphIndex == 0 and port.tensorIndex not in taken:
                model.subgraphs[0].tensors[port.tensorIndex].name = port.name
                taken.add(port.tensorIndex)


def _written(model: Any, about: str, metadata: Mapping[str, Any]) -> bytes:
    model.description = about
    _name_ports(model)
    entry = schema.MetadataT()
    entry.name, entry.buffer = "tfhalf", len(model.buffers)
    text = _Buffer()
    text.data = np.frombuffer(json.dumps(dict(metadata), ensure_ascii=False).encode(), np.uint8)
    model.buffers.append(text)
    model.metadata = [*(model.metadata or []), entry]
    for index, buffer in enumerate(model.buffers):
        if not isinstance(buffer, _Buffer):
            aligned = _Buffer()
            aligned.data = buffer.data
            model.buffers[index] = aligned
    held = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    builder = flatbuffers.Builder(held + held // 8 + 2**16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
