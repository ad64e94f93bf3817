"""An ONNX file held against what may be opened, before any runtime sees it: `weights_beside`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf.message import DecodeError, Message

from tfhalf.errors import ArtifactError
from tfhalf.files import read_bytes
from tfhalf.inspect.facts import MAX_RANK, MAX_RESULT, bytes_of, checked_shape, claimed, damaged, printable

if TYPE_CHECKING:  # imported where an ONNX file is read: other formats do without
    import onnx

MAX_BYTES = (1 << 31) - 1  # protobuf's own limit
MAX_OPSET = 1000
# Every operator of these only computes. Others load libraries and files of their own, as com.microsoft's EPContext.
_DOMAINS = ("", "ai.onnx")
# Which input of an operator says how large a result is to be, and which attribute.
_SIZED = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "OneHot": 1, "Range": 1, "Pad": 1, "Resize": 3, "DFT": 1}
_SIZES = ("shape", "output_shape")


def read_onnx(path: Path) -> onnx.ModelProto:
    """The model that a file holds, without its external weights.

    Raises:
        ArtifactError: it cannot be read, or is not an ONNX file.
    """
    return parse_onnx(path, read_onnx_bytes(path))


def read_onnx_bytes(path: Path) -> bytes:
    """What an ONNX file holds, of 2 GiB at most.

    Raises:
        ArtifactError: it cannot be read.
    """
    try:
        return read_bytes(path, MAX_BYTES)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from None


def parse_onnx(path: Path, blob: bytes) -> onnx.ModelProto:
    """The model in ``blob``, the bytes of the file at ``path``.

    Raises:
        ArtifactError: it is not an ONNX file.
    """
    import onnx

    try:
        return onnx.ModelProto.FromString(blob)
    except DecodeError:
        raise ArtifactError(f"{path}: is not an ONNX file; restore it, or export again") from None


def weights_beside(path: Path, model: onnx.ModelProto | None = None) -> Path | None:
    """The file that holds the weights of the ONNX model at ``path``; None where the model holds them itself.

    Runtimes open whatever file a model names. Here it may be one only: that of the model's name with ``.data``.

    Args:
        path: the ONNX file.
        model: what it holds, where it is read already.

    Raises:
        ArtifactError: it is not an ONNX model, has operators beyond the standard's, names another file, or that file
            is not there or too short.
    """
    model = read_onnx(path) if model is None else model
    # onnx's reference evaluator looks through all versions below for an operator.
    if any(not 0 < opset.version <= MAX_OPSET for opset in model.opset_import):
        raise damaged(path, f"it has an opset above {MAX_OPSET} or below 1")
    external = []
    sizes = _Sizes()
    for message in _messages(model):
        if message.DESCRIPTOR.full_name == "onnx.NodeProto":
            if message.domain not in _DOMAINS:
                name = f"{printable(message.domain, 40)}.{printable(message.op_type, 40)}"
                raise _refused(path, f"has the operator {name}, which is not in the ONNX standard")
            sizes.node(message)
        elif message.DESCRIPTOR.full_name == "onnx.TensorProto":
            sizes.tensor(message.name, message)
            if message.data_location == message.EXTERNAL:
                external.append(message)
        elif message.DESCRIPTOR.full_name == "onnx.SparseTensorProto":
            raise _refused(path, "has a sparse tensor")
    if model.functions:
        raise _refused(path, f"has functions of its own ({printable(model.functions[0].name, 40)})")
    for name, count in sizes.results():
        if count > MAX_RESULT:
            raise damaged(path, f"its node {printable(name, 60)!r} makes {count:,} values")
    return _beside(path, external) if external else None


class _Sizes:
    """What the constants of a model say of the sizes of its nodes' results. Names of bodies within it are taken for
    those of one: of two tensors of one name the larger counts."""

    def __init__(self) -> None:
        self._claimed: dict[str, int] = {}
        self._nodes: list[Any] = []

    def tensor(self, name: str, tensor: Any) -> None:
        """A stored tensor; small ones of integers may be sizes."""
        if tensor.data_type == tensor.INT64 and len(tensor.raw_data) <= 16 * MAX_RANK:
            held = len(tensor.raw_data) // 8
            values = [int(value) for value in np.frombuffer(tensor.raw_data, "<i8", held)]
            count = claimed([*values, *tensor.int64_data[: 2 * MAX_RANK]])
            self._claimed[name] = max(count, self._claimed.get(name, 1))

    def node(self, node: Any) -> None:
        """A node; the order is not that of the graph."""
        self._nodes.append(node)
        for attribute in node.attribute:
            if attribute.name == "value" and node.op_type == "Constant" and node.output:
                self.tensor(node.output[0], attribute.t)
            elif attribute.name == "value_ints" and node.output:
                self._claimed[node.output[0]] = claimed(attribute.ints[: 2 * MAX_RANK])

    def results(self) -> Iterator[tuple[str, int]]:
        """Each node that says a size, and how many values it makes then."""
        joined = {node.output[0]: node for node in self._nodes if node.op_type == "Concat" and node.output}
        for node in self._nodes:
            index = _SIZED.get(node.op_type, MAX_RANK)
            if len(node.input) > index:
                parts = (
                    joined[node.input[index]].input if node.input[index] in joined else node.input[index : index + 1]
                )
                yield node.name, math.prod(self._claimed.get(part, 1) for part in parts[:MAX_RANK])
            for attribute in node.attribute:
                if attribute.name in _SIZES:
                    yield node.name, claimed(attribute.ints[: 2 * MAX_RANK])


def _beside(path: Path, tensors: list[Any]) -> Path:
    from tfhalf.inspect.onnx_types import dtype_name

    beside = path.with_name(f"{path.name}.data")
    external = [{entry.key: entry.value for entry in tensor.external_data} for tensor in tensors]
    other = sorted({entries.get("location", "") for entries in external} - {beside.name})
    if other:
        raise ArtifactError(
            f"{path}: keeps weights in {printable(other[0], 80)!r}; only {beside.name} beside it is opened"
        )
    if not beside.is_file():
        raise ArtifactError(f"{beside}: is missing; it holds the weights of {path.name}")
    size = beside.stat().st_size
    for tensor, entries in zip(tensors, external, strict=True):
        needed = bytes_of(dtype_name(tensor.data_type), math.prod(checked_shape(path, tensor.name, list(tensor.dims))))
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", needed))
        except ValueError:
            offset = length = -1
        if offset < 0 or length != needed or offset + length > size:
            raise damaged(path, f"tensor {printable(tensor.name, 60)!r} is not whole in {beside.name}")
    return beside


def _messages(model: Message) -> Iterator[Any]:
    """Every protobuf message within ``model``, wherever it lies."""
    todo = [model]
    while todo:
        message = todo.pop()
        yield message
        if message.DESCRIPTOR.full_name != "onnx.TensorProto":
            for field, value in message.ListFields():
                if field.type == field.TYPE_MESSAGE:
                    todo += [value] if isinstance(value, Message) else value


def _refused(path: Path, why: str) -> ArtifactError:
    return ArtifactError(f"{path}: {why}; it is not opened: export it again with this tfhalf")
