"""Sets that keep the order in which they were filled, for tf2onnx.

tf2onnx holds nodes and the names of their readers in sets, and walks through them: which of several equal nodes stays,
and what it is called, then follows from Python's hashes of names and addresses, which differ from process to process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, MutableSet
from contextlib import contextmanager
from typing import Any


class OrderedSet(MutableSet[Any]):
    """A set in the order of its first additions.

    Args:
        items: what it holds at first.
    """

    def __init__(self, items: Iterable[Any] = ()) -> None:
        self._items = dict.fromkeys(items)

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def add(self, value: Any) -> None:
        """Add one item, unless it is there."""
        self._items[value] = None

    def discard(self, value: Any) -> None:
        """Take one item out, if it is there."""
        self._items.pop(value, None)

    def update(self, *others: Iterable[Any]) -> None:
        """Add the items of others."""
        for other in others:
            self._items.update(dict.fromkeys(other))

    def union(self, *others: Iterable[Any]) -> OrderedSet:
        """These items, then those of others."""
        joined = OrderedSet(self)
        joined.update(*others)
        return joined

    def intersection(self, other: Iterable[Any]) -> OrderedSet:
        """Those of these items that ``other`` holds."""
        held = dict.fromkeys(other)
        return OrderedSet(item for item in self if item in held)

    def difference(self, other: Iterable[Any]) -> OrderedSet:
        """Those of these items that ``other`` does not hold."""
        held = dict.fromkeys(other)
        return OrderedSet(item for item in self if item not in held)

    def issubset(self, other: Iterable[Any]) -> bool:
        """Whether ``other`` holds all of these items."""
        held = dict.fromkeys(other)
        return all(item in held for item in self)


@contextmanager
def ordered_sets(package: str) -> Iterator[None]:
    """Within the block the modules of ``package`` that are imported make an `OrderedSet` where they say ``set()``."""
    modules = [module for name, module in sys.modules.items() if name == package or name.startswith(f"{package}.")]
    modules = [module for module in modules if "set" not in vars(module)]
    for module in modules:
        vars(module)["set"] = OrderedSet
    try:
        yield
    finally:
        for module in modules:
            del vars(module)["set"]
