"""The words that every format is described in: tensors, ports, nodes, and the account of one artifact."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfhalf.artifacts.tensors import MAX_RANK as MAX_RANK
from tfhalf.artifacts.tensors import Extreme as Extreme
from tfhalf.artifacts.tensors import Tensor as Tensor
from tfhalf.artifacts.tensors import checked_shape as checked_shape
from tfhalf.artifacts.tensors import damaged as damaged
from tfhalf.text import printable as printable

# Bits of a value. What is missing here (strings, resources) has no fixed size.
BITS = {
    **dict.fromkeys(("float64", "int64", "uint64", "complex64"), 64),
    **dict.fromkeys(("float32", "int32", "uint32", "qint32"), 32),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16", "qint16", "quint16"), 16),
    **dict.fromkeys(("int8", "uint8", "bool", "qint8", "quint8"), 8),
    **dict.fromkeys(("float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz", "float8e8m0"), 8),
    **dict.fromkeys(("float6e2m3", "float6e3m2"), 6),
    **dict.fromkeys(("int4", "uint4", "float4e2m1"), 4),
    **dict.fromkeys(("int2", "uint2"), 2),
    "complex128": 128,
}
MAX_RESULT = 1 << 30  # values of one operation's result, as far as constants of the file say it
# Of a graph with what it calls unfolded: a few lines of functions that call each other can say any number.
MAX_NODES = 200_000
MAX_DEPTH = 60
MAX_CHARACTERS = 1 << 28  # of the names, each of which begins with those of the calls that it lies in
Shape = tuple[int | str | None, ...]


def words(listed: str) -> tuple[str, ...]:
    """The words of a text: how a long list of names stays readable."""
    return tuple(listed.split())


def is_float(dtype: str) -> bool:
    """Whether ``dtype`` is a floating-point type, of whatever width."""
    return dtype.startswith(("float", "bfloat"))


def bytes_of(dtype: str, count: int) -> int:
    """Bytes of ``count`` values, packed; 0 for a type without a fixed size."""
    return (count * BITS.get(dtype, 0) + 7) // 8


@dataclass(frozen=True)
class Port:
    """An input or output. ``shape`` has a name or None for what is open, and is None where even the rank is."""

    name: str
    dtype: str
    shape: Shape | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"name": self.name, "dtype": self.dtype, "shape": None if self.shape is None else list(self.shape)}


@dataclass(frozen=True)
class Node:
    """One operation. ``dtype`` is what it computes in, ``to`` the type of its first output; empty where unknown."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dtype: str
    to: str


@dataclass
class Graph:
    """What is computed, calls and branches unfolded. ``stored`` says which values are tensors of the file."""

    nodes: list[Node] = field(default_factory=list)
    stored: dict[str, Tensor] = field(default_factory=dict)
    inputs: set[str] = field(default_factory=set)
    outputs: set[str] = field(default_factory=set)


@dataclass
class Values:
    """What the float16 values of a file are: ``checked`` of ``total``."""

    total: int = 0
    checked: int = 0
    subnormal: int = 0
    infinite: int = 0
    nan: int = 0


@dataclass
class Account:
    """One artifact, described. ``facts`` are its own lines, by label; ``details`` go into the JSON alone."""

    path: Path
    kind: str
    bytes: int
    facts: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    graph: Graph | None = None
    values: Values | None = None
    notes: list[str] = field(default_factory=list)
    policies: dict[str, int] = field(default_factory=dict)

    def weights(self) -> list[Tensor]:
        """The tensors that the answer is computed with, each once."""
        return [tensor for tensor in self.tensors if tensor.role == "weight"]


def reason(error: BaseException, length: int = 300) -> str:
    """An error of another library in one line: its kind and its text."""
    text = str(error)
    text = text.rpartition("Exception encountered: ")[2] or text  # Keras puts whole configurations before it
    return f"{type(error).__name__}: {printable(' '.join(text.split()), length)}"


@dataclass
class Budget:
    """What unfolding the graph of ``path`` may still take."""

    path: Path
    nodes: int = 0
    characters: int = 0

    def node(self, name: str, values: int) -> None:
        """One more node, of so many values.

        Raises:
            ArtifactError: they are too many, or their names too long.
        """
        self.nodes += 1
        self.characters += len(name) * (1 + values)
        if self.nodes > MAX_NODES:
            raise damaged(self.path, f"it unfolds into more than {MAX_NODES:,} operations")
        if self.characters > MAX_CHARACTERS:
            raise damaged(self.path, f"it unfolds into more than {MAX_CHARACTERS:,} characters of names")

    def enter(self, depth: int) -> None:
        """A body that lies so deep.

        Raises:
            ArtifactError: it lies too deep.
        """
        if depth > MAX_DEPTH:
            raise damaged(self.path, f"its functions and branches lie more than {MAX_DEPTH} deep")


def claimed(values: Iterable[int]) -> int:
    """How many values a result of these sizes has, 0 and -1 counting as 1."""
    return math.prod(max(1, abs(value)) for value in values)
