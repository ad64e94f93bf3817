"""The inputs and outputs of what is exported: their names, and the dtype and shape that callers see."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# What stands for a dimension that is open, by the tensor's rank: of sequences [N, T, C], images and volumes.
_OPEN = {3: ("length",), 4: ("height", "width"), 5: ("depth", "height", "width")}
# The names that Keras makes up for an input that nobody named; they count the layers of a process.
_UNNAMED = re.compile(r"(input|input_layer|keras_tensor)(_\d+)?")
# What callers send and get: float16 within, float32 on the wire.
WIRE = {"float16": "float32", "bfloat16": "float32", "float64": "float32"}


@dataclass(frozen=True)
class Port:
    """One input or output. ``shape`` has the batch first; None is a size that callers choose."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def dims(self) -> list[int | str]:
        """The shape with names for open sizes: ``batch``, ``height``, ``width``, ``length``, or NAME_AXIS."""
        names = ("batch", *_OPEN.get(len(self.shape), ()))
        told: list[int | str] = []
        for axis, size in enumerate(self.shape):
            told.append(size if size is not None else names[axis] if axis < len(names) else f"{self.name}_{axis}")
        return told

    def to_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return {"name": self.name, "dtype": self.dtype, "shape": self.dims()}

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> Port:
        """What `to_dict` gave."""
        return cls(told["name"], told["dtype"], tuple(d if isinstance(d, int) else None for d in told["shape"]))


def input_names(given: Iterable[str]) -> list[str]:
    """A name for each input: its own as an identifier, or ``input``, ``input_1`` and so on where Keras made one up."""
    own = list(given)
    return unique(["input" if _UNNAMED.fullmatch(name) else name for name in own], taken=())


def unique(names: Iterable[str], taken: Iterable[str]) -> list[str]:
    """``names`` as identifiers of letters, digits and ``_``, told apart from each other and from ``taken``."""
    used, found = set(taken), []
    for name in names:
        base = re.sub(r"\W", "_", name, flags=re.ASCII).strip("_")[:100] or "tensor"
        base = f"t_{base}" if base[0].isdigit() else base
        free = next(n for k in range(len(used) + 1) if (n := f"{base}_{k}" if k else base) not in used)
        used.add(free)
        found.append(free)
    return found
