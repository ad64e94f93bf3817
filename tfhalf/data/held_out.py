"""Which training items are the test part because the pipeline names them: ``data.test: {items: [24-29]}``."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tfhalf.data.draw import Indices
from tfhalf.errors import DataError
from tfhalf.text import printable

_RANGE = re.compile(r"([0-9]+)-([0-9]+)", re.ASCII)
_DIGITS = re.compile(r"[0-9]+", re.ASCII)
_LISTED = 6

_Key = int | str


def held_out(
    named: Sequence[int | str], items: Sequence[str], y: npt.NDArray[np.int32], source: str
) -> tuple[Indices, Indices]:
    """Indices (kept, drawn), both ascending, disjoint, together all of ``y``; those drawn are the items ``named``.

    Args:
        named: names, numbers, or ranges of numbers such as ``24-29``, both ends among it.
        items: the items' names; without any they are their numbers, 0 to N - 1. Names of digits are numbers, too: ``7``
            names 007. Several items of one name are named together.
        y: labels [N], int32; all 0 for items without classes.
        source: for messages.

    Raises:
        DataError: no item has such a name, or is such an end of a range; or a class, or the training part, would keep
            no item.
    """
    keys = [_key(name) for name in items] if items else list(range(len(y)))
    known = set(keys)
    numbers = np.array([key if isinstance(key, int) else -1 for key in keys])
    drawn = np.zeros(len(y), bool)
    for entry in named:
        key = entry if isinstance(entry, int) else _key(entry)
        ends = _RANGE.fullmatch(entry) if isinstance(entry, str) and key not in known else None
        if ends is None:
            _check_known(key, entry, known, source)
            drawn |= numbers == key if isinstance(key, int) else np.array([other == key for other in keys])
            continue
        first, last = map(int, ends.groups())
        if first > last:
            raise DataError(f"{source}: data.test.items: {entry!r} ends before it begins; write {last}-{first}")
        for end in (first, last):
            _check_known(end, entry, known, source)
        drawn |= (numbers >= first) & (numbers <= last)
    for label in np.unique(y):
        if drawn[y == label].all():
            which = f"every item of class {label}" if y.any() else "every item"
            raise DataError(
                f"{source}: data.test.items holds out {which}; accepted: at least one is left to train on; name fewer"
            )
    return np.flatnonzero(~drawn), np.flatnonzero(drawn)


def _key(name: str) -> _Key:
    return int(name) if _DIGITS.fullmatch(name) else name


def _check_known(key: _Key, entry: int | str, known: set[_Key], source: str) -> None:
    if key in known:
        return
    numbers = sorted(one for one in known if isinstance(one, int))
    names = sorted(one for one in known if isinstance(one, str))
    listed = [f"numbers from {numbers[0]} to {numbers[-1]}"] if numbers else []
    near = difflib.get_close_matches(str(key), names, n=1)
    listed += [printable(name, 40) for name in names[:_LISTED]] + ["..."] * (len(names) > _LISTED)
    hint = f"did you mean {near[0]!r}?" if near else "correct it"
    raise DataError(
        f"{source}: data.test.items: {entry!r} names no item of the training part; accepted: {', '.join(listed)}; "
        f"{hint}"
    )
