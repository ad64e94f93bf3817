"""An ONNX file held against what may be opened, before any runtime sees it: `weights_beside`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError, Message

from tfhalf.errors import ArtifactError
from tfhalf.files import read_bytes
from tfhalf.inspect.facts import bytes_of, checked_shape, damaged, printable

if TYPE_CHECKING:  # imported where an ONNX file is read: other formats do without
    import onnx

MAX_BYTES = (1 << 31) - 1  # protobuf's own limit
# Every operator of these only computes. Others load libraries and files of their own, as com.microsoft's EPContext.
_DOMAINS = ("", "ai.onnx")


def read_onnx(path: Path) -> onnx.ModelProto:
    """The model that a file holds, without its external weights.

    Raises:
        ArtifactError: it cannot be read, or is not an ONNX file.
    """
    import onnx

    try:
        return onnx.ModelProto.FromString(read_bytes(path, MAX_BYTES))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from None
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
    external = []
    for message in _messages(model):
        if message.DESCRIPTOR.full_name == "onnx.NodeProto":
            if message.domain not in _DOMAINS:
                name = f"{printable(message.domain, 40)}.{printable(message.op_type, 40)}"
                raise _refused(path, f"has the operator {name}, which is not in the ONNX standard")
        elif message.DESCRIPTOR.full_name == "onnx.TensorProto" and message.data_location == message.EXTERNAL:
            external.append(message)
    if model.functions:
        raise _refused(path, f"has functions of its own ({printable(model.functions[0].name, 40)})")
    return _beside(path, external) if external else None


def _beside(path: Path, tensors: list[Any]) -> Path:
    from tfhalf.inspect.onnx_types import dtype_name

    beside = path.with_name(f"{path.name}.data")
    places = [{entry.key: entry.value for entry in tensor.external_data} for tensor in tensors]
    other = sorted({place.get("location", "") for place in places} - {beside.name})
    if other:
        raise ArtifactError(
            f"{path}: keeps weights in {printable(other[0], 80)!r}; only {beside.name} beside it is opened"
        )
    if not beside.is_file():
        raise ArtifactError(f"{beside}: is missing; it holds the weights of {path.name}")
    size = beside.stat().st_size
    for tensor, place in zip(tensors, places, strict=True):
        needed = bytes_of(dtype_name(tensor.data_type), math.prod(checked_shape(path, tensor.name, list(tensor.dims))))
        try:
            offset, length = int(place.get("offset", 0)), int(place.get("length", needed))
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
