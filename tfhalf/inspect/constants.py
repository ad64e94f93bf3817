"""Constants that float16 makes 0 or infinite, or that are so already: what is said of them, and those of a graph."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tfhalf.inspect.facts import Account, printable
from tfhalf.inspect.graph import Extremes, Looked

SHOWN = 8
"""Constants that are printed."""
_ORDERS = frozenset(("clip", "minimum", "maximum", "min", "max", "less", "lessequal", "greater", "greaterorequal"))
_ORDERS |= {"greaterequal", "lessorequal", "relu6", "clipbyvalue"}


@dataclass(frozen=True)
class Constant:
    """``value`` of ``key`` in the configuration of ``layer``, or of the call of an operation; or of the tensor ``key``
    that the operation ``layer`` reads. ``becomes`` in float16: ``0`` or ``infinite``; or what it is there already, then
    ``subnormal`` or ``NaN`` too, and ``now`` is True."""

    layer: str
    class_name: str
    key: str
    value: float
    becomes: str
    now: bool = False

    def __str__(self) -> str:
        where = f"{self.layer} ({self.class_name}): {self.key}"
        if not self.now:
            return f"{where} {self.value:.4g} is {self.becomes} in float16"
        if self.becomes == "0":
            return f"{where} is 0, where an epsilon keeps a divisor, root or logarithm from it"
        if self.becomes == "subnormal":
            return f"{where} {self.value:.4g} is subnormal: float16 keeps {_bits(self.value)} of 11 bits there"
        return f"{where} is {self.becomes} already"

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no number that is infinite."""
        return {**asdict(self), "value": self.value if math.isfinite(self.value) else str(self.value)}


def tell(account: Account, constants: Sequence[Constant]) -> None:
    """Put ``constants`` into an account: all into its details, the first into its notes."""
    account.details["constants"] = [constant.to_dict() for constant in constants]
    account.notes += [str(constant) for constant in constants[:SHOWN]]
    if len(constants) > SHOWN:
        account.notes.append(f"and {len(constants) - SHOWN:,} constants more that float16 lacks: --json has all")


def graph_constants(looked: Looked) -> list[Constant]:
    """Those of a graph, each once: what it stores in float16 and is 0, infinite, subnormal or NaN; what it casts to
    float16; and, where it computes nothing in float16, what would be lost if it did. What an island computes with in
    float32 is not a loss. A bound beyond float16's range binds nothing, as one that is infinite."""
    halves = bool(looked.computing["float16"])
    return list(dict.fromkeys(one for extremes in looked.extremes for one in _of(extremes, halves)))


def _of(extremes: Extremes, halves: bool) -> Iterator[Constant]:
    extreme, tensor = extremes.tensor.extreme, extremes.tensor
    if extreme is None:
        return
    now = tensor.dtype == "float16"
    if extreme.becomes == "0" and now and not extremes.guards:
        return
    readers = extremes.readers if now or not halves else extremes.narrowed
    if extreme.becomes == "infinite":
        readers = [node for node in readers if node.op.lower().replace("_", "") not in _ORDERS]
    for node in readers[:1]:
        name = printable(node.name or node.op, 60)
        key = f"constant {printable(tensor.name, 60)}"
        yield Constant(name, printable(node.op, 60), key, extreme.value, extreme.becomes, now)


def _bits(value: float) -> int:
    """How many bits a subnormal number of float16 has: the last stands for 2^-24."""
    return max(1, math.floor(math.log2(abs(value))) + 25)
