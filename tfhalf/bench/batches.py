"""The batch sizes that a pipeline is measured with: those that are listed, or the way up to the largest that fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tfhalf.errors import ConfigError
from tfhalf.system.device import MEMORY_SHARE

AUTO = "auto"
_LARGEST = 65536
_TRIALS = 10
_CLOSE = 0.05  # of the largest batch known to fit, by which the next would have to be larger
_FURTHEST = 8  # times the largest known to fit, beyond which nothing is guessed
_ROUND = 8  # to multiples of which larger batches are rounded down: matrix products are fast at such


class Taken(NamedTuple):
    """``batch``: items in it, which may be fewer than were asked for; ``memory``: bytes at the peak; ``limit``: those
    that there are; ``most``: items that there are."""

    batch: int
    memory: int
    limit: int
    most: int


def sizes_of(text: str | None, default: tuple[int, ...] = (), *, or_auto: bool = False) -> tuple[int, ...] | None:
    """What ``--batch-sizes`` says, ascending; None is ``auto``.

    Raises:
        ConfigError: it is malformed.
    """
    if text is None:
        return default
    if or_auto and text.strip() == AUTO:
        return None
    sizes = []
    for part in text.split(","):
        if not part.strip().isdecimal() or not 1 <= int(part) <= _LARGEST:
            raise ConfigError(
                f"--batch-sizes: {part.strip()!r} is not a batch size; accepted: whole numbers from 1 to {_LARGEST}, "
                f"with commas: 1,8,32{', or auto' if or_auto else ''}"
            )
        sizes.append(int(part))
    return tuple(sorted(set(sizes)))


def largest(measure: Callable[[int], Taken | None], first: int, multiple: int = 1) -> int | None:
    """About the largest batch that fits: within a twentieth, or eight items, or as near as ten trials come. None where
    not one item does.

    Memory grows by as many bytes with each item, so two batches say where it ends; what is said so is tried.

    Args:
        measure: what a batch takes, None where the memory did not suffice; called once for each size.
        first: the batch to begin with.
        multiple: of which every batch is one.
    """
    fitting: dict[int, Taken] = {}
    failing = [_LARGEST + 1]
    size: int | None = first
    for _ in range(_TRIALS):
        if size is None:
            break
        taken = measure(size)
        if taken is None:
            failing.append(size)
        else:
            fitting[taken.batch] = taken
        size = _next(fitting, min(failing), size, multiple)
    return max(fitting, default=None)


def _next(fitting: dict[int, Taken], failing: int, last: int, multiple: int) -> int | None:
    if not fitting:
        return last // 4 // multiple * multiple or (multiple if last > multiple else None)
    best = max(fitting)
    _, memory, limit, most = fitting[best]
    left, guess = MEMORY_SHARE * limit - memory, float(_FURTHEST * best)
    smaller = max((size for size in fitting if size < best), default=None)
    if smaller is not None:
        each = (memory - fitting[smaller].memory) / (best - smaller)
        guess = min(guess, best + left / each) if each > 0 else guess
    else:  # as if all of it were the batch's: with each item no more is taken than that
        guess = min(2.0 * best, best * MEMORY_SHARE * limit / memory) if memory else 2.0 * best
    if guess >= failing:
        guess = (best + failing) / 2
    step = multiple * (_ROUND if 8 * _ROUND * multiple <= guess < most else 1)
    size = min(int(guess), most) // step * step
    return size if size - best >= max(step, _CLOSE * best) else None
