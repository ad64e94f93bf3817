"""Tensors of a model as the protocols name them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfhalf.artifacts.ports import Port
from tfhalf.artifacts.record import Manifest
from tfhalf.errors import ArtifactError, RequestError
from tfhalf.text import printable

# The Open Inference Protocol's names, numpy's, and Triton's in its model configuration.
DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("bool"),
    "UINT8": np.dtype("uint8"),
    "UINT16": np.dtype("uint16"),
    "UINT32": np.dtype("uint32"),
    "UINT64": np.dtype("uint64"),
    "INT8": np.dtype("int8"),
    "INT16": np.dtype("int16"),
    "INT32": np.dtype("int32"),
    "INT64": np.dtype("int64"),
    "FP16": np.dtype("float16"),
    "FP32": np.dtype("float32"),
    "FP64": np.dtype("float64"),
}
NAMES = {dtype: name for name, dtype in DATATYPES.items()}
BYTES = "BYTES"

_MOST_RECENT = 32
_MOST_ENCODED = 1 << 16  # images or texts in a request; rows of numbers may be more


@dataclass(frozen=True)
class Tensor:
    """An input or output. ``shape`` begins with the batch; None is a free dimension, behind the batch of at most
    ``max_size``. ``aliases`` are other names that requests may call it by. ``words``: whether rows may be sent as
    texts, whose words the server looks up; numbers are those of words. ``center``: how much is kept of an image of
    another size (`tfhalf.data.decode.fit.Fit`)."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    max_size: int | None = None
    aliases: tuple[str, ...] = ()
    words: bool = False
    center: float | None = None

    @property
    def datatype(self) -> str:
        """The Open Inference Protocol's name of the dtype."""
        return NAMES[self.dtype]

    @property
    def described(self) -> tuple[str, list[int]]:
        """The datatype and the shape that clients are told of: of words a text a row."""
        return (BYTES, [-1, 1]) if self.words else (self.datatype, self.open_shape)

    @property
    def open_shape(self) -> list[int]:
        """The shape with -1 for free dimensions."""
        return [-1 if size is None else size for size in self.shape]

    @property
    def image(self) -> tuple[int, int, int] | None:
        """(height, width, channels) where rows are images of one or three channels; None elsewhere."""
        if len(self.shape) == 4 and self.shape[3] in (1, 3) and self.shape[1] and self.shape[2]:
            return self.shape[1], self.shape[2], self.shape[3]
        return None

    def zeros(self, rows: int) -> np.ndarray:
        """A batch of zeros; free dimensions have size 32, which convolutions can take."""
        return np.zeros((rows, *(size or 32 for size in self.shape[1:])), self.dtype)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Hold a request's shape against this.

        Raises:
            RequestError: 400, says what is accepted.
        """
        fits = len(shape) == len(self.shape) and all(
            size <= (self.max_size or size) if expected is None else size == expected
            for size, expected in zip(shape[1:], self.shape[1:], strict=True)
        )
        if not fits or min(shape, default=0) < 1:
            most = f", behind the first {self.max_size:,} at most" if self.max_size and None in self.shape[1:] else ""
            raise RequestError(
                400,
                f"input {self.name!r} has shape {list(shape)}; accepted: {self.open_shape}, -1 being 1 or more{most}"
                + (f"; texts are {BYTES} of shape [-1]" if self.words else ""),
            )

    def check_encoded(self, count: int) -> None:
        """Hold the number of encoded images, or of texts, of a request against a limit.

        Raises:
            RequestError: 413, there are more.
        """
        if count > _MOST_ENCODED:
            what = "texts" if self.words else "images"
            raise RequestError(
                413, f"input {self.name!r} has {count:,} {what}; accepted: {_MOST_ENCODED:,} in a request"
            )


class Recent(dict[Any, Any]):
    """What was worked out of recent requests, of which many are alike; at most so many. Another process gets none."""

    def keep(self, key: Any, value: Any) -> None:
        """Have ``value`` there, and nothing else where there was enough."""
        if len(self) >= _MOST_RECENT:
            self.clear()
        self[key] = value


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives, by name and in order. ``heads`` are for the protocol that reads requests."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    heads: Recent = field(default_factory=Recent, init=False, compare=False, repr=False)

    @property
    def fixed(self) -> bool:
        """Whether every row has one size, whatever it holds."""
        return not any(None in tensor.shape[1:] for tensor in self.inputs.values())

    @property
    def may_not_compute(self) -> bool:
        """Whether inputs that fit it may still be such as the model cannot compute: open sizes that do not go together,
        integers that are not indices of a table."""
        return any(None in t.shape[1:] or (t.dtype.kind in "iu" and t.image is None) for t in self.inputs.values())


def from_manifest(manifest: Manifest, max_size: int | None = None, words: Collection[str] = ()) -> Signature:
    """The signature that a version's manifest states, with at most ``max_size`` in its open dimensions; the inputs
    ``words`` may be sent as texts.

    Raises:
        ArtifactError: a dtype in it cannot be served.
    """
    inputs = {
        port.name: _tensor(port, max_size, words=port.name in words, center=manifest.center_crop)
        for port in manifest.inputs
    }
    return Signature(inputs, {port.name: _tensor(port, max_size) for port in manifest.outputs})


def _tensor(port: Port, max_size: int | None, *, words: bool = False, center: float | None = None) -> Tensor:
    dtype = None if port.dtype == "string" else np.dtype(port.dtype)
    if dtype is None or dtype not in NAMES:
        name = printable(port.name, 60)
        raise ArtifactError(f"the manifest says {port.dtype} of {name!r}; served are {', '.join(map(str, NAMES))}")
    return Tensor(port.name, dtype, port.shape, max_size, port.aliases, words, center)


def called(tensors: Mapping[str, Tensor], name: Any) -> Tensor | None:
    """Of inputs or outputs the one that is called ``name``, or has it as an alias."""
    if not isinstance(name, str):
        return None
    return tensors.get(name) or next((tensor for tensor in tensors.values() if name in tensor.aliases), None)
