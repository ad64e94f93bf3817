"""A FlatBuffer read with every offset checked (flatbuffers.dev, "Internals"): tables, vectors and strings, no more."""

from __future__ import annotations

import struct
from typing import Any

MAX_TABLES = 2_000_000
_FORMATS = {"u1": "<B", "i1": "<b", "u2": "<H", "i4": "<i", "u4": "<I", "u8": "<Q"}


class Table:
    """A table at ``position`` of ``data``. Fields are numbered from 0; one that is absent gives its default.

    Every method raises ValueError where an offset leads out of ``data``.
    """

    def __init__(self, data: Any, position: int) -> None:
        self.data, self.position = data, position
        self._fields = position - _number(data, "i4", position)
        self._size = _number(data, "u2", self._fields)
        if self._size < 4 or self._size % 2:
            raise ValueError("a table has no fields' table")

    @classmethod
    def root(cls, data: Any) -> Table:
        """The table that a buffer begins with."""
        return cls(data, _number(data, "u4", 0))

    def number(self, field: int, kind: str, default: int = 0) -> int:
        """A scalar; ``kind`` such as ``i4``: signed, four bytes."""
        position = self._at(field)
        return default if position is None else _number(self.data, kind, position)

    def table(self, field: int) -> Table | None:
        """A table within."""
        position = self._at(field)
        return None if position is None else Table(self.data, position + _number(self.data, "u4", position))

    def length(self, field: int, width: int) -> int:
        """How many entries of ``width`` bytes a vector has."""
        return self._vector(field, width)[1]

    def numbers(self, field: int, kind: str, at_most: int) -> list[int]:
        """A vector of scalars."""
        width = int(kind[1])
        start, count = self._vector(field, width)
        if count > at_most:
            raise ValueError(f"a list has {count:,} entries")
        return [_number(self.data, kind, start + width * i) for i in range(count)]

    def tables(self, field: int) -> list[Table]:
        """A vector of tables, of at most `MAX_TABLES`."""
        start, count = self._vector(field, 4)
        if count > MAX_TABLES:
            raise ValueError(f"a list has {count:,} tables")
        positions = (start + 4 * i for i in range(count))
        return [Table(self.data, position + _number(self.data, "u4", position)) for position in positions]

    def text(self, field: int) -> str:
        """A string, or as much of it as is shown."""
        start, count = self._vector(field, 1)
        return bytes(self.data[start : start + min(count, 2000)]).decode("utf-8", "replace")

    def block(self, field: int) -> bytes:
        """A vector of bytes."""
        start, count = self._vector(field, 1)
        return bytes(self.data[start : start + count])

    def _at(self, field: int) -> int | None:
        if 4 + 2 * field + 2 > self._size:
            return None
        offset = _number(self.data, "u2", self._fields + 4 + 2 * field)
        return self.position + offset if offset else None

    def _vector(self, field: int, width: int) -> tuple[int, int]:
        position = self._at(field)
        if position is None:
            return 0, 0
        start = position + _number(self.data, "u4", position)
        count = _number(self.data, "u4", start)
        if start + 4 + width * count > len(self.data):
            raise ValueError("a vector lies outside of it")
        return start + 4, count


def _number(data: Any, kind: str, position: int) -> int:
    if position < 0:
        raise ValueError("an offset lies outside of it")
    try:
        return int(struct.unpack_from(_FORMATS[kind], data, position)[0])
    except struct.error:
        raise ValueError("an offset lies outside of it") from None
