"""Tensors that a file stores: `Tensor`, and the error for a file that is not what it says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfhalf.errors import ArtifactError
from tfhalf.text import printable

MAX_RANK = 64


@dataclass(frozen=True)
class Extreme:
    """The ``value`` that betrays float16 in a tensor of few values, and what it ``becomes`` there: ``0``, ``infinite``,
    and of a float16 tensor itself ``subnormal`` or ``NaN`` too."""

    value: float
    becomes: str


@dataclass(frozen=True)
class Tensor:
    """Stored values. ``role`` is ``weight``, ``optimizer`` (not part of the answer) or ``copy`` (stored before);
    ``extreme`` of few values, where they were looked at."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    role: str = "weight"
    extreme: Extreme | None = None

    @property
    def count(self) -> int:
        """How many values."""
        return math.prod(self.shape)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        shape = list(self.shape)
        return {"name": self.name, "dtype": self.dtype, "shape": shape, "bytes": self.bytes, "role": self.role}


def checked_shape(path: Path, name: str, dims: list[int]) -> tuple[int, ...]:
    """A stored tensor's shape.

    Raises:
        ArtifactError: it cannot be that of stored values.
    """
    if len(dims) > MAX_RANK or any(d < 0 for d in dims) or math.prod(dims) >= 1 << 60:
        shown = "x".join(map(str, dims[:6])) + ("x..." if len(dims) > 6 else "")
        raise damaged(path, f"tensor {printable(name, 60)!r} claims the shape {shown}")
    return tuple(dims)


def damaged(path: Path, why: str) -> ArtifactError:
    """The error for a file that is not what it says."""
    return ArtifactError(f"{path}: {printable(' '.join(why.split()))}; it is damaged or cut short, make it again")
