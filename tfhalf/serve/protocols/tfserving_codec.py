"""The predict requests of TensorFlow Serving's REST dialect, in row and in column form, as what is to be computed."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfhalf.errors import RequestError
from tfhalf.serve.batching.request import Arrays
from tfhalf.serve.protocols import oip, tensors
from tfhalf.serve.signature import Signature, Tensor

SIGNATURE = "serving_default"


@dataclass(frozen=True)
class Predict:
    """A predict request. ``by_row``: it came as ``instances``, and its answer goes as ``predictions``."""

    by_row: bool
    rows: int
    feeds: Arrays
    encoded: dict[str, list[bytes]]


def parse(message: Any, signature: Signature) -> Predict:
    """Read the body of a predict request.

    Raises:
        RequestError: 400, it is not what the dialect or the model asks for.
    """
    if not isinstance(message, dict):
        raise RequestError(400, "the request is not a JSON object")
    name = message.get("signature_name", SIGNATURE)
    if name not in (SIGNATURE, ""):
        raise RequestError(400, f"signature_name is {str(name)[:100]!r}; the model has {SIGNATURE}")
    if ("instances" in message) == ("inputs" in message):
        raise RequestError(400, "give instances (row form) or inputs (column form), one of them")
    if "instances" in message:
        columns, count = _columns(message["instances"], signature)
        return _predict(True, columns, signature, count)
    values = message["inputs"]
    named = isinstance(values, dict) and "b64" not in values
    if not named and len(signature.inputs) > 1:
        raise RequestError(400, f"inputs must name each of {', '.join(signature.inputs)}")
    return _predict(False, values if named else {next(iter(signature.inputs)): values}, signature, None)


def _columns(instances: Any, signature: Signature) -> tuple[dict[str, list[Any]], int]:
    if not isinstance(instances, list) or not instances:
        raise RequestError(400, "instances is not a list, or is empty")
    if isinstance(instances[0], dict) and "b64" not in instances[0]:
        names = set(instances[0])
        if not all(isinstance(row, dict) and set(row) == names for row in instances):
            raise RequestError(400, "instances differ in the inputs that they name")
        return {name: [row[name] for row in instances] for name in names}, len(instances)
    if len(signature.inputs) > 1:
        raise RequestError(400, f"each instance must name {', '.join(signature.inputs)}")
    return {next(iter(signature.inputs)): instances}, len(instances)


def _predict(by_row: bool, columns: Mapping[str, Any], signature: Signature, count: int | None) -> Predict:
    feeds: Arrays = {}
    encoded: dict[str, list[bytes]] = {}
    rows = count or 0
    for name, data in columns.items():
        tensor = oip.input_tensor(name, signature, feeds, encoded)
        sent = _texts(data, tensor) or _encoded(data, tensor)
        if sent is not None:
            encoded[tensor.name] = sent
            size = len(sent)
        else:
            feeds[tensor.name] = _values(data, tensor)
            size = len(feeds[tensor.name])
        if rows not in (0, size):
            raise RequestError(400, f"input {name!r} has a batch of {size}, another one {rows}; they must agree")
        rows = size
    missing = [name for name in signature.inputs if name not in feeds and name not in encoded]
    if missing:
        raise RequestError(400, f"input {missing[0]!r} is missing; the model takes {', '.join(signature.inputs)}")
    return Predict(by_row, rows, feeds, encoded)


def _texts(data: Any, tensor: Tensor) -> list[bytes] | None:
    """Texts as UTF-8, each alone or in a list of its own; None where ``data`` is something else."""
    values = data if isinstance(data, list) else [data]
    values = [row[0] if isinstance(row, list) and len(row) == 1 else row for row in values]
    if not values or not isinstance(values[0], str):
        return None
    if not tensor.words:
        raise RequestError(400, f"input {tensor.name!r}: data holds other things than numbers")
    tensor.check_encoded(len(values))
    return oip.texts_of(values, len(values), tensor)


def _encoded(data: Any, tensor: Tensor) -> list[bytes] | None:
    """What ``{"b64": ...}`` values encode: images, or texts; None where ``data`` is numbers."""
    values = data if isinstance(data, list) else [data]
    if not values or not isinstance(values[0], dict):
        return None
    tensor.check_encoded(len(values))
    if tensor.image is None and not tensor.words:
        raise RequestError(400, f"input {tensor.name!r} is not an image, so it takes no b64")
    images = []
    for value in values:
        text = value.get("b64") if isinstance(value, dict) and len(value) == 1 else None
        if not isinstance(text, str):
            raise RequestError(400, f'input {tensor.name!r}: encoded rows are {{"b64": "..."}}, each of them')
        try:
            images.append(base64.b64decode(text, validate=True))
        except ValueError:
            raise RequestError(400, f"input {tensor.name!r}: b64 is not base64") from None
    return images


def _values(data: Any, tensor: Tensor) -> np.ndarray:
    if not isinstance(data, list):
        raise RequestError(400, f"input {tensor.name!r} is not a list of values")
    values = tensors.array_of(data, tensor.name, tensor.dtype)
    tensor.check_shape(values.shape)
    return tensors.cast(values, tensor.dtype, tensor)
