"""Answers of the Open Inference Protocol, with the binary tensor data extension."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tfhalf.errors import RequestError
from tfhalf.serve.batching.request import Arrays
from tfhalf.serve.models.version import Loaded
from tfhalf.serve.protocols import tensors
from tfhalf.serve.protocols.json_codec import are_large, dumps
from tfhalf.serve.protocols.oip import Parsed, RequestedOutput
from tfhalf.serve.signature import BYTES, DATATYPES


class Sent(NamedTuple):
    """An output as it is sent: numbers in ``values``, or ``texts`` of each row."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: np.ndarray | None
    texts: tuple[bytes, ...] = ()

    def raw(self) -> bytes:
        """For the binary extension."""
        return tensors.join_bytes(list(self.texts)) if self.values is None else tensors.to_bytes(self.values)


def sent(output: RequestedOutput, outputs: Arrays, loaded: Loaded) -> Sent:
    """The output that was asked for, as it was asked for."""
    values, name = outputs[output.name], output.alias or output.name
    if output.classes:
        rows = tensors.classes(values, output.classes, loaded.labels)
        return Sent(name, BYTES, (len(rows), len(rows[0])), None, tuple(text for row in rows for text in row))
    if output.datatype is not None:
        with np.errstate(over="ignore"):
            values = values.astype(DATATYPES[output.datatype])
    return Sent(name, output.datatype or loaded.signature.outputs[output.name].datatype, values.shape, values)


def answer(parsed: Parsed, outputs: Arrays, loaded: Loaded, *, nan: bool) -> tuple[bytes, int | None]:
    """The body of the answer, and the length of its JSON where binary data follows.

    Raises:
        RequestError: 422, JSON was asked for and a value is not finite.
    """
    tensors_sent = [sent(output, outputs, loaded) for output in parsed.requested]
    key = None
    if parsed.heads is not None and all(output.binary for output in parsed.requested):  # then no value is in the JSON
        blobs = [tensor.raw() for tensor in tensors_sent]
        key = (loaded.version, *[tensor.shape for tensor in tensors_sent], *map(len, blobs))
        if (text := parsed.heads.get(key)) is not None:
            return b"".join((text, *blobs)), len(text)
    head: dict[str, Any] = {"model_name": loaded.model, "model_version": str(loaded.version)}
    if parsed.id is not None:
        head["id"] = parsed.id
    rows, blobs = [], []
    for output, tensor in zip(parsed.requested, tensors_sent, strict=True):
        row: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if output.binary:
            blobs.append(tensor.raw())
            row["parameters"] = {"binary_data_size": len(blobs[-1])}
        elif tensor.values is None:
            row["data"] = [text.decode() for text in tensor.texts]
        else:
            row["data"] = numbers(tensor.values, tensor.name, nan=nan)
        rows.append(row)
    head["outputs"] = rows
    large = are_large(outputs.values())
    if not blobs:
        return dumps(head, nan=nan, large=large), None
    text = dumps(head, large=large)
    if key is not None and parsed.heads is not None:
        parsed.heads.keep(key, text)
    return b"".join((text, *blobs)), len(text)


def numbers(values: np.ndarray, name: str, *, nan: bool) -> Any:
    """Flat values for JSON.

    Raises:
        RequestError: 422, one is not finite and ``nan`` does not allow it.
    """
    check_finite(values, name, nan=nan)
    flat = values.reshape(-1)
    # Every float16 number is a float32 number with a short decimal form.
    wide = flat.astype(np.float32) if flat.dtype == np.float16 else np.ascontiguousarray(flat)
    return wide.tolist() if nan else wide


def check_finite(values: np.ndarray, name: str, *, nan: bool) -> None:
    """JSON has no NaN and no infinity.

    Raises:
        RequestError: 422, ``values`` holds one and ``nan`` does not allow it.
    """
    if not nan and values.dtype.kind == "f" and not np.isfinite(values).all():
        raise RequestError(
            422, f"output {name!r} holds NaN or infinity, which JSON cannot say; ask for binary data, or allow NaN"
        )
