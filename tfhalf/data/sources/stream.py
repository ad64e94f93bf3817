"""A ``tf.data.Dataset`` or a generator, read whole into memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tfhalf.data import memory
from tfhalf.data.columns import Columns
from tfhalf.data.inputs import as_array
from tfhalf.data.lazy import Array
from tfhalf.errors import DataError

Values = Array | Columns

_ITEM = "(x, y) or (x, y, weight)"
_EVERY = 2.0  # seconds between progress lines
_MOST = 100_000_000
_GUARDED = 64 * 2**20  # bytes between two looks at the memory
_JOINED = 1024  # items that are stacked together
_SMALLER = "yield fewer or smaller items, or give the data as images or an npz file"


def is_stream(value: Any) -> bool:
    """Whether ``value`` gives items one after another: a ``tf.data.Dataset``, a generator or another iterator."""
    return hasattr(value, "as_numpy_iterator") or isinstance(value, Generator | Iterator)


def read(value: Any, part: str, source: str, say: Callable[[str], None]) -> tuple[Values, ...]:
    """(x, y) or (x, y, w) of all items: arrays, or `Columns` where items are dicts or tuples. A batched dataset's
    batches are taken apart.

    Args:
        value: see `is_stream`.
        part: for messages.
        source: for messages.
        say: called with progress messages, every two seconds.

    Raises:
        DataError: it has no end or no items, an item has another form than the first, or all take too much memory.
    """
    batched = False
    if hasattr(value, "as_numpy_iterator"):
        batched = _is_batched(value)
        _check_ends(value, source)
        value = value.as_numpy_iterator()
    where = f"{part} item" if not batched else f"{part} batch"
    joined = _Joined(source, where, batched)
    last = time.monotonic()
    for item in value:
        joined.add(item)
        if time.monotonic() - last > _EVERY:
            last = time.monotonic()
            say(f"{source}: {joined.items:,} {part} items read, {joined.bytes / 2**20:,.0f} MiB")
    return joined.values()


class _Joined:
    """Items one after another, stacked a thousand at a time."""

    def __init__(self, source: str, where: str, batched: bool) -> None:
        self.source, self.where, self.batched = source, where, batched
        self.items, self.bytes, self._guarded = 0, 0, 0
        self._forms: list[tuple[str, ...]] = []  # names of the arrays of x, y and w; () for one array
        self._open: list[list[list[Array]]] = []
        self._blocks: list[list[list[Array]]] = []

    def add(self, item: Any) -> None:
        if not isinstance(item, list | tuple) or not 2 <= len(item) <= 3:
            raise DataError(
                f"{self.source}: {self.where} {self.items} is a {type(item).__name__}; accepted: {_ITEM}; give its "
                "target with each item"
            )
        parts = [_parts(value, noun) for value, noun in zip(item, ("input", "output", "weight"), strict=False)]
        forms = [tuple(part) for part in parts]
        if not self._forms:
            self._forms = forms
            self._open = [[[] for _ in form] for form in forms]
            self._blocks = [[[] for _ in form] for form in forms]
        if forms != self._forms:
            raise DataError(
                f"{self.source}: {self.where} {self.items} has another form than the first ({_shown(forms)}, not "
                f"{_shown(self._forms)}); all must be alike; correct it"
            )
        count = 1
        for slot, part in zip(self._open, parts, strict=True):
            for arrays, (name, value) in zip(slot, part.items(), strict=True):
                array = as_array(value, f"{self.where} {self.items}{'/' + name if name else ''}", self.source)
                self._alike(arrays, array, name)
                arrays.append(array)
                self.bytes += array.nbytes
                count = len(array) if self.batched else 1
        self.items += count
        if len(self._open[0][0]) >= _JOINED:
            self._stack()
        if self.items > _MOST or self.bytes - self._guarded > _GUARDED:
            self._guard()

    def values(self) -> tuple[Values, ...]:
        if not self.items:
            raise DataError(f"{self.source}: gives no {self.where.split()[0]} items; at least one is needed; add some")
        self._stack()
        joined = []
        for form, slot in zip(self._forms, self._blocks, strict=True):
            arrays = {}
            for name, blocks in zip(form, slot, strict=True):
                arrays[name] = np.concatenate(blocks)
                blocks.clear()
            joined.append(arrays[""] if form == ("",) else Columns(arrays))
        return tuple(joined)

    def _alike(self, arrays: list[Array], array: Array, name: str) -> None:
        if not arrays:
            return
        first, shape = arrays[0].shape, array.shape
        if (first[1:], bool(first)) != (shape[1:], bool(shape)) if self.batched else first != shape:
            inner = f" of {name!r}" if name else ""
            raise DataError(
                f"{self.source}: {self.where} {self.items} has shape {shape}{inner}, one before it {first}; all must "
                "be alike; pad or crop them"
            )

    def _stack(self) -> None:
        """Bring what is open into one block."""
        for slot, blocks in zip(self._open, self._blocks, strict=True):
            for arrays, block in zip(slot, blocks, strict=True):
                if arrays:
                    block.append(np.concatenate(arrays) if self.batched else np.stack(arrays))
                    arrays.clear()

    def _guard(self) -> None:
        if self.items > _MOST:
            raise DataError(f"{self.source}: gives more than {_MOST:,} items; accepted: fewer; let it end")
        self._guarded = self.bytes
        # As much again is needed when blocks are joined; what is read already is no longer available.
        memory.guard(self.bytes, f"{self.source}: {self.items:,} items read", f"{_SMALLER}, or let it end")


def _parts(value: Any, noun: str) -> dict[str, Any]:
    """The arrays of an item's x, y or weight by name, of a tuple ``noun`` and their number; one has the name ''."""
    if isinstance(value, Mapping):
        return {str(name): part for name, part in value.items()}
    if isinstance(value, tuple):
        return {f"{noun}_{index}": part for index, part in enumerate(value)}
    return {"": value}


def _shown(forms: Iterable[tuple[str, ...]]) -> str:
    return ", ".join("/".join(form) or "one array" for form in forms)


def _is_batched(dataset: Any) -> bool:
    """Whether each element of a dataset holds several items: its first axis is open throughout, or a batch stands
    among what it was made from."""
    shapes: list[Any] = [getattr(spec, "shape", None) for spec in _flat(getattr(dataset, "element_spec", ()))]
    if not shapes or not all(shape is not None and shape.rank for shape in shapes):
        return False
    if all(shape[0] is None for shape in shapes):
        return True
    while dataset is not None:
        name = type(dataset).__name__
        if "Unbatch" in name:
            return False
        if "BatchDataset" in name:
            return True
        dataset = getattr(dataset, "_input_dataset", None)
    return False


def _flat(spec: Any) -> list[Any]:
    if isinstance(spec, Mapping):
        return [leaf for part in spec.values() for leaf in _flat(part)]
    if isinstance(spec, list | tuple):
        return [leaf for part in spec for leaf in _flat(part)]
    return [spec]


def _check_ends(dataset: Any, source: str) -> None:
    infinite = hasattr(dataset, "cardinality") and int(dataset.cardinality()) == -1
    if infinite:
        raise DataError(f"{source}: the dataset has no end; accepted: one that ends; take .repeat() out of it")
