"""Islands that a model's constants need: a layer whose epsilon is 0 in float16, with what its values go through."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tfhalf.export.islands.simulator import Arrays, Simulator
from tfhalf.precision import cast
from tfhalf.precision.constants import Lost, Trace, has_extremes, lost
from tfhalf.precision.islands import Island

_ROUNDS = 8  # of layers that join the islands before theirs, until the constants live in float32


def constant_islands(simulator: Simulator, inputs: Arrays, kept: Sequence[str]) -> list[Island]:
    """The layers and operations that hold a constant which float16 makes 0 or infinite, ``kept`` being float32 already.

    One operation in float32 is not enough where ``maximum(sum(square(x)), 1e-12)`` is taken the root of: the squares of
    a small ``x`` are gone before, and 1e-12 is gone after. So an island is joined by

    - what takes its value, while that is one that float16 does not hold;
    - of a small constant, the operations of `keras.ops` that made what it is added to or compared with.

    Raises:
        ExportError: the model cannot be traced.
    """
    wide = simulator.trace(None)
    if not has_extremes(wide):
        return []
    islands: dict[str, Island] = {}
    for _ in range(_ROUNDS):
        chosen = [*kept, *islands]
        affected = {
            n: v for n, v in lost(wide, simulator.trace(chosen)).items() if n in simulator.names and n not in chosen
        }
        if not affected:
            break
        for name, constants in affected.items():
            islands[name] = Island(name, (str(constants),))
            for other in _joining(simulator, wide, name, constants, inputs):
                if other not in kept:
                    islands.setdefault(other, Island(other, (f"goes with {name}: {constants}",)))
    return [islands[name] for name in simulator.names if name in islands]


def _joining(simulator: Simulator, trace: Trace, name: str, constants: Lost, inputs: Arrays) -> Iterable[str]:
    yield from (other for other in _after(simulator, trace, name, constants, inputs) if other in simulator.names)
    if constants.small and simulator.joins(name):
        yield from _before(simulator, trace, name)


def _after(simulator: Simulator, trace: Trace, name: str, constants: Lost, inputs: Arrays) -> Iterator[str]:
    """What takes the values of ``name``, and so on, while they are beyond what float16 holds.

    What they are is tried: a constant counts most where it stands beside zeros, or is a factor of ones.
    """

    def beyond(value: float, least: float = cast.SMALLEST_NORMAL) -> bool:
        return value >= cast.OVERFLOWS_FROM or (bool(constants.small) and 0 < value < least)

    few = simulator.interface.few(inputs, 1)
    for fill in (0.0, 1.0):
        largest = simulator.outputs_from(name, fill, few)
        if beyond(largest.get(name, 0.0)):
            break
    else:
        return
    todo, seen = [name], {name}
    while todo:
        one = todo.pop()
        for giver, taker in trace.edges:
            # A layer of weights in float32 costs more than the few bits that a subnormal number lacks.
            least = cast.SMALLEST_NORMAL if simulator.joins(taker) else cast.SMALLEST_SUBNORMAL
            if giver == one and taker not in seen and beyond(largest.get(one, 0.0), least):
                seen.add(taker)
                todo.append(taker)
                yield taker


def _before(simulator: Simulator, trace: Trace, name: str) -> Iterator[str]:
    """The operations without weights whose values ``name`` takes, up to the layers before them."""
    todo, seen = [name], {name}
    while todo:
        one = todo.pop()
        for giver, taker in trace.edges:
            if taker == one and giver not in seen and giver in simulator.names and simulator.joins(giver):
                seen.add(giver)
                todo.append(giver)
                yield giver
