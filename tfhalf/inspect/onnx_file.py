"""An ONNX file: `inspect_onnx`. Weights in external files are measured, and read in blocks only for a look at them."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from tfhalf.files import read_bytes
from tfhalf.inspect import values as look_at
from tfhalf.inspect.facts import (
    BITS,
    Account,
    Extreme,
    Port,
    Tensor,
    Values,
    bytes_of,
    checked_shape,
    damaged,
    printable,
)
from tfhalf.inspect.onnx_graph import Unfolding, bodies, checked
from tfhalf.inspect.onnx_types import dtype_name

MAX_BYTES = (1 << 31) - 1  # protobuf's own limit
# Field of a TensorProto that holds values which are not in raw_data, and how many of its entries make one.
_FIELDS = {
    **dict.fromkeys(("float32", "complex64"), "float_data"),
    **dict.fromkeys(("float64", "complex128"), "double_data"),
    "int64": "int64_data",
    **dict.fromkeys(("uint32", "uint64"), "uint64_data"),
    "string": "string_data",
}
_PACKED = {"int4": 2, "uint4": 2, "float4e2m1": 2, "int2": 4, "uint2": 4}


def inspect_onnx(path: Path) -> Account:
    """The account of an ONNX file.

    Raises:
        ArtifactError: it is none, or what it claims and what it holds differ.
    """
    try:
        model = checked(onnx.ModelProto.FromString(read_bytes(path, MAX_BYTES)))
    except (DecodeError, ValueError) as error:
        raise damaged(path, f"cannot be read as ONNX: {error}") from None
    weights = _Weights(path)
    for prefix, graph in _graphs(model.graph, ""):
        for tensor in graph.initializer:
            weights.add(prefix + tensor.name, tensor)
        for sparse in graph.sparse_initializer:
            weights.add(prefix + sparse.values.name, sparse.values)
    stored = {tensor.name: tensor for tensor in weights.tensors}
    unfolded = Unfolding(model, path, stored)
    for name, tensor in unfolded.constants:
        unfolded.graph.stored[name] = weights.add(name, tensor)
    account = Account(
        path,
        "ONNX",
        path.stat().st_size + sum(file.stat().st_size for file in weights.files),
        tensors=weights.tensors,
        graph=unfolded.graph,
        values=weights.values,
        inputs=[_port(path, value) for value in model.graph.input if value.name not in stored],
        outputs=[_port(path, value) for value in model.graph.output],
    )
    _facts(account, model)
    weights.notes(account)
    return account


def _facts(account: Account, model: Any) -> None:
    opsets = {printable(o.domain or "ai.onnx"): o.version for o in model.opset_import}
    metadata = {printable(p.key): printable(p.value, 2000) for p in model.metadata_props}
    producer = f"{printable(model.producer_name, 60)} {printable(model.producer_version, 60)}".strip()
    account.facts = {
        "made by": producer or "not said",
        "opset": ", ".join(f"{domain} {version}" for domain, version in opsets.items())
        + f"; IR version {model.ir_version}",
        "metadata": ", ".join(
            f"{key}={value if len(value) < 40 else value[:36] + '...'}" for key, value in metadata.items()
        ),
    }
    account.details = {"opsets": opsets, "ir_version": model.ir_version, "producer": producer, "metadata": metadata}


def _graphs(graph: Any, prefix: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """A graph and those within its nodes, with the prefix that `Unfolding` gives their values."""
    yield prefix, graph
    for node in graph.node if depth < 50 else ():  # protobuf itself refuses what is nested deeper
        for inner, body in bodies(node, prefix):
            yield from _graphs(body, inner, depth + 1)


def _port(path: Path, value: Any) -> Port:
    if not value.type.HasField("tensor_type"):
        return Port(printable(value.name), str(value.type.WhichOneof("value") or "unknown"), None)
    tensor = value.type.tensor_type
    shape = None
    if tensor.HasField("shape"):
        dims = tensor.shape.dim
        shape = tuple(d.dim_value if d.HasField("dim_value") else printable(d.dim_param, 40) or None for d in dims[:64])
    return Port(printable(value.name), dtype_name(tensor.elem_type), shape)


_Blocks = Callable[[], Iterator[bytes]]


class _Weights:
    """The tensors of a file, held against what it really holds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors: list[Tensor] = []
        self.values = Values()
        self._hashed = 0
        self.files: set[Path] = set()
        self._missing: set[str] = set()
        self._outside: set[str] = set()
        self._same: dict[tuple[str, tuple[int, ...]], list[tuple[str, _Blocks]]] = defaultdict(list)

    def add(self, name: str, tensor: Any) -> Tensor:
        """Take a TensorProto in.

        Raises:
            ArtifactError: its values are not all there.
        """
        dtype = dtype_name(tensor.data_type) or f"type {tensor.data_type}"
        shape = checked_shape(self.path, name, list(tensor.dims))
        record = Tensor(printable(name), dtype, shape, bytes_of(dtype, math.prod(shape)))
        self._extreme: Extreme | None = None
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            self._external(record, tensor)
        elif tensor.HasField("raw_data"):
            if dtype in BITS and len(tensor.raw_data) != record.bytes:
                raise damaged(self.path, f"tensor {name!r} has {len(tensor.raw_data):,} bytes, not {record.bytes:,}")
            self._look(record, lambda: iter((tensor.raw_data,)))
        else:
            entries = getattr(tensor, _FIELDS.get(dtype, "int32_data"))
            per = _PACKED.get(dtype, 1)
            expected = -(-record.count // per) * (2 if dtype.startswith("complex") else 1)
            if len(entries) != expected:
                raise damaged(self.path, f"tensor {name!r} has {len(entries):,} values, not {record.count:,}")
            if dtype == "float16":
                halves = b"".join((entry & 0xFFFF).to_bytes(2, "little") for entry in entries)
                self._look(record, lambda: iter((halves,)))
            elif dtype in ("float32", "float64") and expected <= look_at.FEW:
                wide = np.array(entries, "<f4" if dtype == "float32" else "<f8").tobytes()
                self._extreme = look_at.extreme(dtype, wide)
        record = replace(record, extreme=self._extreme)
        self.tensors.append(record)
        return record

    def _external(self, record: Tensor, tensor: Any) -> None:
        said = {entry.key: entry.value for entry in tensor.external_data}
        location = said.get("location", "")
        try:
            offset, length = int(said.get("offset", 0)), int(said.get("length", record.bytes))
        except ValueError:
            raise damaged(self.path, f"tensor {record.name!r} has no readable place in {location!r}") from None
        folder = self.path.parent.resolve()
        try:
            file = (folder / location).resolve()
            inside = file.is_relative_to(folder)
            there = inside and file.is_file()
        except (OSError, ValueError):
            inside = there = False
        if not inside:
            self._outside.add(location)
        elif not there:
            self._missing.add(location)
        else:
            self.files.add(file)
            if offset < 0 or length != record.bytes or offset + length > file.stat().st_size:
                raise damaged(self.path, f"tensor {record.name!r} is not whole in {location!r}")
            self._look(record, lambda: look_at.read(file, offset, length))

    def _look(self, record: Tensor, blocks: _Blocks) -> None:
        if record.count <= look_at.FEW:
            self._extreme = look_at.extreme(record.dtype, b"".join(blocks()))
        if record.bytes >= 16:
            self._same[record.dtype, record.shape].append((record.name, blocks))
        if record.dtype == "float16":
            self.values.total += record.count
            if self.values.checked * 2 < look_at.LOOK_AT_MOST:
                look_at.count(self.values, blocks())

    def notes(self, account: Account) -> None:
        """Say what is missing and what is there twice."""
        for location in sorted(self._outside)[:3]:
            account.notes.append(f"external data at {printable(location, 60)!r} lies outside of its folder: not opened")
        for location in sorted(self._missing)[:3]:
            account.notes.append(f"external data file {printable(location, 60)!r} is missing: the file cannot be run")
        copies = {copy for group in self._same.values() if len(group) > 1 for copy in self._copies(group)}
        if copies:
            self.tensors[:] = account.tensors = [t if t.name not in copies else _as_copy(t) for t in self.tensors]
            size = sum(t.bytes for t in self.tensors if t.role == "copy")
            names = ", ".join(printable(name, 40) for name in sorted(copies)[:3])
            account.notes.append(
                f"{len(copies):,} initializers hold the values of another one ({size / 1e6:,.3f} MB): {names}"
            )
        account.details["duplicate_initializers"] = sorted(copies)

    def _copies(self, group: list[tuple[str, _Blocks]]) -> list[str]:
        """Of tensors of one dtype and shape those whose values an earlier one has; small constant ones are none."""
        seen: dict[bytes, str] = {}
        copies = []
        for name, blocks in group:
            if self._hashed > look_at.LOOK_AT_MOST:
                break
            digest = hashlib.sha256()
            constant = True
            for block in blocks():
                digest.update(block)
                self._hashed += len(block)
                constant = constant and len(block) < 4096 and look_at.is_constant(block, 2)
            if not constant and seen.setdefault(digest.digest(), name) != name:
                copies.append(name)
        return copies


def _as_copy(tensor: Tensor) -> Tensor:
    return replace(tensor, role="copy")
