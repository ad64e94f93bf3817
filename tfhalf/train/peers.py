"""What processes that train together must decide alike and cannot see alone: `Peers`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf.system.group import Group
from tfhalf.train.record import checkpoint
from tfhalf.train.record.checkpoint import Checkpoint
from tfhalf.train.signals import Signals


class Peers:
    """One process of ``group``, which hears ``signals``."""

    def __init__(self, group: Group, signals: Signals) -> None:
        self.group, self.signals = group, signals

    def agree(self, due: bool) -> tuple[bool, bool]:
        """Whether it is time for a checkpoint, which the first process decides, and whether a signal came to any; its
        number is then in the ``signals`` of all."""
        if self.group.size > 1:
            every = self.group.gather(np.array([due, self.signals.number or 0]))
            due, number = bool(every[0, 0]), int(every[:, 1].max())
            self.signals.number = number or None
        return due, self.signals.number is not None


def last_checkpoint(
    run: Path, group: Group, say: Callable[[str], None] | None = None, *, set_aside: bool = False
) -> Checkpoint | None:
    """The last checkpoint that can be read, of the run of the first process of ``group``, in all of them; arguments as
    `checkpoint.load`."""
    return shared(checkpoint.load(run, say, set_aside=set_aside) if group.first else None, group)


def shared(saved: Checkpoint | None, group: Group) -> Checkpoint | None:
    """``saved`` of the first process of ``group``, in all of them; what the others give does not count."""
    if group.size == 1:
        return saved
    if not group.first:
        saved = None
    parts: dict[str, Any] = {}
    if saved is not None:
        named = {"within": saved.within, "callbacks": saved.callbacks}
        parts = {
            "path": str(saved.path),
            "record": saved.record,
            "arrays": [_form(array) for array in saved.arrays],
            **{part: {name: _form(array) for name, array in arrays.items()} for part, arrays in named.items()},
        }
    parts = json.loads(group.texts(json.dumps(parts))[0])
    if not parts:
        return None
    forms = [*parts["arrays"], *parts["within"].values(), *parts["callbacks"].values()]
    if saved is None:
        arrays = [np.empty(shape, dtype) for shape, dtype in forms]
    else:
        arrays = [np.asarray(array) for array in (*saved.arrays, *saved.within.values(), *saved.callbacks.values())]
    arrays = group.of_first(arrays)
    count = len(parts["arrays"])
    within = dict(zip(parts["within"], arrays[count:], strict=False))
    callbacks = dict(zip(parts["callbacks"], arrays[count + len(within) :], strict=True))
    return Checkpoint(Path(parts["path"]), parts["record"], arrays[:count], within, callbacks)


def _form(array: Any) -> tuple[list[int], str]:
    array = np.asarray(array)
    return list(array.shape), array.dtype.name
