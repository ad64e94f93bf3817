"""The inputs and outputs of what is exported: their names, and the dtype and shape that callers see."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
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
    """One input or output. ``shape`` has the batch first; None is a size that callers choose. ``aliases`` are other
    names that it answers to: the model's own where no format can hold it, and what exports called it before."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    aliases: tuple[str, ...] = ()

    def dims(self) -> list[int | str]:
        """The shape with names for open sizes: ``batch``, ``height``, ``width``, ``length``, or NAME_AXIS."""
        names = ("batch", *_OPEN.get(len(self.shape), ()))
        told: list[int | str] = []
        for axis, size in enumerate(self.shape):
            told.append(size if size is not None else names[axis] if axis < len(names) else f"{self.name}_{axis}")
        return told

    def to_dict(self) -> dict[str, Any]:
        """For a manifest."""
        aliases = {"aliases": list(self.aliases)} if self.aliases else {}
        return {"name": self.name, "dtype": self.dtype, "shape": self.dims(), **aliases}

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> Port:
        """What `to_dict` gave."""
        shape = tuple(d if isinstance(d, int) else None for d in told["shape"])
        return cls(told["name"], told["dtype"], shape, tuple(told.get("aliases", ())))


def input_names(own: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """For each input its name and its aliases. The name is the model's ``own`` where that is an identifier and no other
    input's; what Keras numbered is also called ``input``, ``input_1`` and so on, as exports called it once."""
    names = unique(own, taken=())
    taken = {*names, *own}
    found = []
    for name, mine in zip(names, own, strict=True):
        aliases = aliases_of([name], [mine], names)[name]
        if _UNNAMED.fullmatch(mine) and mine != "input":
            once = next(n for k in range(len(taken) + 1) if (n := f"input_{k}" if k else "input") not in taken)
            taken.add(once)
            aliases = (*aliases, once)
        found.append((name, aliases))
    return found


def aliases_of(names: Sequence[str], own: Sequence[str], every: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """By name the model's ``own`` name for it where that is another, and no other's name or alias."""
    counts = Counter(own)
    return {n: (o,) if o != n and o not in every and counts[o] == 1 else () for n, o in zip(names, own, strict=True)}


def unique(names: Sequence[str], taken: Iterable[str]) -> list[str]:
    """``names`` as identifiers of letters, digits and ``_``, told apart from each other and from ``taken``. Those that
    are such identifiers stay as they are, the first of each."""
    used = set(taken)
    kept: dict[int, str] = {}
    for place, name in enumerate(names):
        if _identifier(name) == name and name not in used:
            used.add(name)
            kept[place] = name
    for place, name in enumerate(names):
        if place not in kept:
            base = _identifier(name)
            kept[place] = next(n for k in range(len(used) + 1) if (n := f"{base}_{k}" if k else base) not in used)
            used.add(kept[place])
    return [kept[place] for place in range(len(names))]


def _identifier(name: str) -> str:
    base = re.sub(r"\W", "_", name, flags=re.ASCII).lstrip("_")[:100] or "tensor"
    return f"t_{base}" if base[0].isdigit() else base
