"""What ``train.remat`` comes to for a net: `Remat`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import keras

from tfhalf import config
from tfhalf.errors import BudgetError
from tfhalf.system import memory
from tfhalf.system.device import MEMORY_SHARE, Device
from tfhalf.train.remat.figure import size
from tfhalf.train.remat.recompute import Compiler
from tfhalf.train.remat.units import Unit, again, by_patterns, candidates

_TRIALS = 4  # between none and all: each is a compilation


@dataclass
class Remat:
    """The units of ``models``, nets of the same layers for images of several sizes, that are worked out again.

    ``message`` says in a line what was chosen, empty without any; ``facts`` are what a run records.
    """

    units: dict[int, list[Unit]] = field(default_factory=dict)
    message: str = ""
    facts: dict[str, Any] | None = None

    @classmethod
    def of(cls, patterns: Sequence[str], models: Sequence[keras.Model]) -> Remat:
        """By ``patterns``, of which each matches a layer.

        Raises:
            ConfigError: one does not.
        """
        if not patterns:
            return cls()
        remat = cls({id(model): by_patterns(model, patterns) for model in models})
        remat._describe(models[0], "", {})
        return remat

    def applied(self, model: keras.Model, compiler: Compiler) -> AbstractContextManager[None]:
        """Within the block, in which a step is traced, the units of ``model`` are worked out again."""
        return again(self.units.get(id(model), []), compiler)

    def _describe(self, model: keras.Model, words: str, facts: Mapping[str, Any]) -> None:
        units = self.units[id(model)]
        layers = [path for unit in units for path in unit.layers]
        self.facts = {"parts": len(units), "layers": layers, **facts}
        named = ", ".join(layers[:3]) + (", ..." if len(layers) > 3 else "")
        parts = f"{len(units)} part{'s' if len(units) != 1 else ''} of the net ({named})"
        done = f"{parts}, computed twice and not kept for the backward pass" if units else "none"
        self.message = done + words


def to_budget(
    settings: config.Train, models: Sequence[keras.Model], device: Device, measure: Callable[[Remat], int]
) -> Remat:
    """As few units as keep the step's program within ``settings.remat_gib``, else within what ``device`` has.

    Args:
        measure: bytes of the program in which a `Remat` is applied; each call compiles it.

    Raises:
        BudgetError: it takes more with all of them.
    """
    each = {id(model): candidates(model) for model in models}
    count = len(each[id(models[0])])
    budget, whose = _budget(settings, device)
    figures: dict[int, int] = {}

    def first(number: int) -> Remat:
        return Remat({key: units[:number] for key, units in each.items()})

    def bytes_with(number: int) -> int:
        if number not in figures:
            figures[number] = measure(first(number))
        return figures[number]

    number = least(count, bytes_with, budget)
    if number is None:
        raise BudgetError(
            f"train.remat: a step takes {size(figures[0])} with everything kept, and "
            + (f"{size(bytes_with(count))} with all {count} parts" if count else "no part of this net can be")
            + f" computed twice; accepted: at most {size(budget)}, {whose}; "
            + _remedy(settings, figures[count] / budget, device)
            + (", or raise train.remat_gib" if settings.remat_gib else "")
        )
    remat, model = first(number), models[0]
    facts = {"bytes": figures[number], "bytes_kept": figures[0], "budget": budget}
    kept = f", {size(figures[0])} with everything kept" if number else ""
    remat._describe(model, f": a step takes {size(figures[number])} of {size(budget)}{kept} (XLA's figures)", facts)
    return remat


def least(count: int, measure: Callable[[int], int], budget: int) -> int | None:
    """The least number, from 0 to ``count``, for which ``measure``, which falls, gives at most ``budget``; a somewhat
    larger one where that takes more than a few calls, None where ``count`` does not do."""
    low, high, above, below = 0, count, measure(0), measure(count) if measure(0) > budget else 0
    if above <= budget:
        return 0
    if below > budget:
        return None
    for _ in range(_TRIALS):
        if high - low <= 1:
            break
        share = (above - budget) / max(1, above - below)
        guess = min(high - 1, max(low + 1, low + math.ceil(share * (high - low))))
        figure = measure(guess)
        if figure <= budget:
            high, below = guess, figure
        else:
            low, above = guess, figure
    return high


def _budget(settings: config.Train, device: Device) -> tuple[int, str]:
    """Bytes, and whose they are."""
    if settings.remat_gib is not None:
        return int(settings.remat_gib * 2**30), "train.remat_gib"
    if device.kind == "GPU" and device.memory_bytes:
        total, words = int(MEMORY_SHARE * device.memory_bytes), "of the GPU's memory"
    else:
        total, words = int(MEMORY_SHARE * memory.free()), "of the memory that is free"
    return -int(device.group.largest(-total)), f"{MEMORY_SHARE:.0%} {words}"


def _remedy(settings: config.Train, over: float, device: Device) -> str:
    """What to do about a step that takes ``over`` times its budget."""
    group = device.group.size
    batch = int(settings.batch_size / over * MEMORY_SHARE) // group * group
    if batch < 1 or settings.stages or settings.schedule.max_batch_size is not None:
        return "take smaller batches, smaller items or a smaller net"
    return f"take a smaller batch (about {batch} may do: --set train.batch_size={batch})"
