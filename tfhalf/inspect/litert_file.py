"""A LiteRT (TensorFlow Lite) file: `inspect_litert`. Nothing of it is run; its FlatBuffer is read with every offset
checked."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tfhalf.errors import ArtifactError
from tfhalf.files import open_regular
from tfhalf.inspect import values as look_at
from tfhalf.inspect.facts import (
    MAX_RANK,
    Account,
    Graph,
    Node,
    Port,
    Tensor,
    Values,
    bytes_of,
    checked_shape,
    damaged,
    is_float,
    printable,
    words,
)
from tfhalf.inspect.flatbuffer import Table
from tfhalf.inspect.litert_ops import BUILTIN

MAX_PARTS = 2_000_000
_DTYPES = words(
    "float32 float16 int32 uint8 int64 string bool int16 complex64 int8 float64 complex128 uint64 resource variant "
    "uint32 uint16 int4 bfloat16 int2 uint4"
)
_OTHER_CODE = frozenset(("DELEGATE", "STABLEHLO_CUSTOM_CALL"))
_PLACEHOLDER, _CUSTOM = 127, 32  # the byte that says to look at the wider number; and an operator by name


def inspect_litert(path: Path) -> Account:
    """The account of a LiteRT file.

    Raises:
        ArtifactError: it is none, or not whole.
    """
    try:
        with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reading(path, data).account()
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"cannot be read as LiteRT: {error}") from None


def check_litert(path: Path) -> None:
    """Refuse a LiteRT file that is damaged, or has operators beyond LiteRT's own: those run code of other libraries.

    Raises:
        ArtifactError: it is one.
    """
    account = inspect_litert(path)
    others = [*account.details["custom_operators"], *_OTHER_CODE.intersection(account.details["operators"])]
    if others:
        raise ArtifactError(
            f"{path}: has the operator {printable(others[0], 60)}, which is not one of LiteRT's that only compute; it "
            "is not opened: export it again with this tfhalf"
        )


class _Reading:
    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.model = Table.root(data)
        self.buffers = self.model.tables(4)
        self.size = len(data)
        self.values = Values()
        self._left = MAX_PARTS
        self.custom: list[str] = []

    def _spend(self, count: int) -> None:
        """A FlatBuffer may use one list in many places, and so be far larger than its file: there is an end to it."""
        self._left -= count
        if self._left < 0:
            raise ValueError(f"it has more than {MAX_PARTS:,} parts")

    def account(self) -> Account:
        graphs = self.model.tables(2)
        if not graphs:
            raise ValueError("it has no graph")
        codes = [self._operator(code) for code in self.model.tables(1)]
        account = Account(self.path, "LiteRT", self.path.stat().st_size, graph=Graph(), values=self.values)
        version = self.model.number(0, "u4")
        account.facts = {"made by": printable(self.model.text(3), 80) or "not said", "schema": f"version {version}"}
        account.details = {"schema_version": version, "graphs": len(graphs)}
        account.details |= {"operators": sorted(set(codes)), "custom_operators": self.custom}
        seen: set[int] = set()
        for number, table in enumerate(graphs):
            self._graph(account, table, codes, number, seen)
        return account

    def _operator(self, code: Table) -> str:
        number = code.number(0, "i1")
        number = code.number(3, "i4") if number in (_PLACEHOLDER, 0) else number
        if number == _CUSTOM:
            self.custom.append(printable(code.text(1), 60) or "CUSTOM")
            return self.custom[-1]
        return BUILTIN[number] if 0 <= number < len(BUILTIN) else f"operator {number}"

    def _graph(self, account: Account, table: Table, codes: list[str], number: int, seen: set[int]) -> None:
        assert account.graph is not None
        self._spend(table.length(0, 4) + table.length(3, 4))
        tensors = table.tables(0)
        names = [f"{number}/{index}" for index in range(len(tensors))]
        dtypes = [self._dtype(tensor) for tensor in tensors]
        for index, tensor in enumerate(tensors):
            buffer = tensor.number(2, "u4")
            record = self._tensor(tensor, dtypes[index], look=buffer not in seen)
            if record is not None:
                account.graph.stored[names[index]] = record
                if buffer not in seen:
                    account.tensors.append(record)
                seen.add(buffer)
        for operator in table.tables(3):
            taken, results = (self._indices(operator, field, len(tensors)) for field in (1, 2))
            code = operator.number(0, "u4")
            if code >= len(codes):
                raise ValueError("an operation has no operator")
            to = dtypes[results[0]] if results else ""
            dtype = next((dtypes[i] for i in taken if is_float(dtypes[i])), dtypes[taken[0]] if taken else to)
            name = printable(tensors[results[0]].text(3), 80) if results else codes[code]
            inputs, outputs = tuple(names[i] for i in taken), tuple(names[i] for i in results)
            account.graph.nodes.append(Node(name, codes[code], inputs, outputs, dtype, to))
        if number == 0:
            for field, ports, values in (
                (1, account.inputs, account.graph.inputs),
                (2, account.outputs, account.graph.outputs),
            ):
                for index in self._indices(table, field, len(tensors)):
                    ports.append(self._port(tensors[index], dtypes[index]))
                    values.add(names[index])

    def _indices(self, table: Table, field: int, count: int) -> list[int]:
        """Tensors by number; -1 stands for one that is left out."""
        self._spend(table.length(field, 4))
        indices = [index for index in table.numbers(field, "i4", MAX_PARTS) if index != -1]
        if any(not 0 <= index < count for index in indices):
            raise ValueError("an operation has no such tensor")
        return indices

    @staticmethod
    def _dtype(tensor: Table) -> str:
        number = tensor.number(1, "i1")
        return _DTYPES[number] if 0 <= number < len(_DTYPES) else ""

    @staticmethod
    def _port(tensor: Table, dtype: str) -> Port:
        dims = tensor.numbers(7, "i4", MAX_RANK) or tensor.numbers(0, "i4", MAX_RANK)
        return Port(printable(tensor.text(3), 80), dtype, tuple(dim if dim >= 0 else None for dim in dims))

    def _tensor(self, tensor: Table, dtype: str, look: bool) -> Tensor | None:
        """The tensor's stored values, if it has any."""
        number = tensor.number(2, "u4")
        if not number or number >= len(self.buffers):
            return None
        buffer = self.buffers[number]
        offset, size = buffer.number(1, "u8"), buffer.number(2, "u8")  # of values that lie behind the FlatBuffer
        held = size if offset > 1 else buffer.length(0, 1)
        if not held:
            return None
        name = printable(tensor.text(3), 80)
        shape = checked_shape(self.path, name, tensor.numbers(0, "i4", MAX_RANK))
        record = Tensor(name, dtype, shape, held)
        expected = bytes_of(dtype, record.count)
        sparse = tensor.table(6) is not None
        if (expected and expected != held and not sparse) or offset + size > self.size:
            raise ValueError(f"tensor {name!r} has {held:,} bytes, not {expected:,}")
        if dtype == "float16" and look and not sparse:
            self._look(record, buffer, offset)
        if is_float(dtype) and not sparse and record.count <= look_at.FEW:
            record = replace(record, extreme=look_at.extreme(dtype, b"".join(self._blocks(record, buffer, offset))))
        return record

    def _blocks(self, record: Tensor, buffer: Table, offset: int) -> Iterable[bytes]:
        return look_at.read(self.path, offset, record.bytes) if offset > 1 else (buffer.block(0),)

    def _look(self, record: Tensor, buffer: Table, offset: int) -> None:
        self.values.total += record.count
        if self.values.checked * 2 < look_at.LOOK_AT_MOST:
            look_at.count(self.values, self._blocks(record, buffer, offset))
