"""The inputs and outputs of what is exported: their names, and the dtype and shape that callers see."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

# What stands for a dimension that is open, by the tensor's rank: of sequences [N, T, C], images and volumes.
_OPEN = {3: ("length",), 4: ("height", "width"), 5: ("depth", "height", "width")}
MAX_SIZE = 2**31 - 1
# The names that Keras makes up for an input that nobody named; they count the layers of a process.
_UNNAMED = re.compile(r"(input|input_layer|keras_tensor)(_\d+)?")
# What callers send and get: float16 within, float32 on the wire.
WIRE = {"float16": "float32", "bfloat16": "float32", "float64": "float32"}


def _sizes(dims: Any) -> Any:
    """The sizes of a manifest's dims, in which a name stands for one that is open."""
    return tuple(None if isinstance(size, str) else size for size in dims) if isinstance(dims, list) else dims


_Size = Annotated[int, Field(ge=1, le=MAX_SIZE)]
_Shape = Annotated[tuple[_Size | None, ...], Field(min_length=1, max_length=32), BeforeValidator(_sizes)]
_Dtype = Annotated[str, Field(pattern=r"^(bool|string|u?int(8|16|32|64)|float(16|32|64)|complex(64|128))$")]
_Name = Annotated[str, Field(min_length=1, max_length=1000)]


@dataclass(frozen=True)
class Port:
    """One input or output. ``shape`` has the batch first; None is a size that callers choose. ``aliases`` are other
    names that it answers to: the model's own where no format can hold it, and what exports called it before.
    ``classes``: whether the last axis of an output is classes. Types are checked where a manifest is read."""

    name: _Name
    dtype: _Dtype
    shape: _Shape
    aliases: tuple[str, ...] = ()
    classes: bool = False

    def dims(self) -> list[int | str]:
        """The shape with names for open sizes: ``batch``, ``height``, ``width``, ``length``, or NAME_AXIS."""
        names = ("batch", *_OPEN.get(len(self.shape), ()))
        dims: list[int | str] = []
        for axis, size in enumerate(self.shape):
            dims.append(size if size is not None else names[axis] if axis < len(names) else f"{self.name}_{axis}")
        return dims

    def to_dict(self) -> dict[str, Any]:
        """For a manifest; what an input does not have is left out."""
        aliases = {"aliases": list(self.aliases)} if self.aliases else {}
        classes = {"classes": True} if self.classes else {}
        return {"name": self.name, "dtype": self.dtype, "shape": self.dims(), **aliases, **classes}


def input_names(own: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """For each input its name and its aliases. The name is the model's ``own`` where that is an identifier and no other
    input's; what Keras numbered is also called ``input``, ``input_1`` and so on, as exports called it once."""
    names = unique(own, taken=())
    taken = {*names, *own}
    named = []
    for name, mine in zip(names, own, strict=True):
        aliases = aliases_of([name], [mine], names)[name]
        if _UNNAMED.fullmatch(mine) and mine != "input":
            once = next(n for k in range(len(taken) + 1) if (n := f"input_{k}" if k else "input") not in taken)
            taken.add(once)
            aliases = (*aliases, once)
        named.append((name, aliases))
    return named


def aliases_of(names: Sequence[str], own: Sequence[str], every: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """By name the model's ``own`` name for it where that is another, and no other's name or alias."""
    counts = Counter(own)
    return {n: (o,) if o != n and o not in every and counts[o] == 1 else () for n, o in zip(names, own, strict=True)}


def unique(names: Sequence[str], taken: Iterable[str]) -> list[str]:
    """``names`` as identifiers of letters, digits and ``_``, distinct from each other and from ``taken``. Those that
    are such identifiers stay as they are, the first of each."""
    used = set(taken)
    kept: dict[int, str] = {}
    for index, name in enumerate(names):
        if _identifier(name) == name and name not in used:
            used.add(name)
            kept[index] = name
    for index, name in enumerate(names):
        if index not in kept:
            base = _identifier(name)
            kept[index] = next(n for k in range(len(used) + 1) if (n := f"{base}_{k}" if k else base) not in used)
            used.add(kept[index])
    return [kept[index] for index in range(len(names))]


def _identifier(name: str) -> str:
    base = re.sub(r"\W", "_", name, flags=re.ASCII).lstrip("_")[:100] or "tensor"
    return f"t_{base}" if base[0].isdigit() else base
