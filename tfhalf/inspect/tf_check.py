"""A SavedModel held against what may be opened: `check_saved_model`, before TensorFlow sees it.

TensorFlow runs whatever operations a SavedModel's functions hold, among them ones that read and write any file. Here
the file is read as data: every operation of every graph and function must be one that only computes
(`tf_allowed`), and what is claimed must be bounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from tfhalf.errors import ArtifactError
from tfhalf.files import read_bytes
from tfhalf.inspect import bundle, tf_messages
from tfhalf.inspect.facts import MAX_NODES, MAX_RANK, MAX_RESULT, bytes_of, checked_shape, claimed, damaged, printable
from tfhalf.inspect.tf_allowed import COMPUTES, SAVER, SIZED
from tfhalf.inspect.tf_messages import dtype_name

NAME = "saved_model.pb"
MAX_BYTES = (1 << 31) - 1
MAX_CLAIMED = 256 << 20
"""Bytes that constants may claim beyond what the file holds of them: TensorFlow repeats the last value."""
_NO_CONSTANT = ("resource", "variant")  # decoded by code of its own, and a handle leads to what is not in the file


def check_saved_model(directory: Path) -> None:
    """Refuse a SavedModel folder that could do anything but compute when TensorFlow opens and runs it.

    Raises:
        ArtifactError: it is damaged, has an operation that is not in `tf_allowed`, or claims more than it holds.
    """
    path = directory / NAME
    try:
        model = tf_messages.parse("SavedModel", read_bytes(path, MAX_BYTES))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from None
    except DecodeError as error:
        raise damaged(path, f"cannot be read as a SavedModel: {error}") from None
    # TensorFlow opens any other as one of TensorFlow 1, whose graph runs while it is opened.
    if len(model.meta_graphs) != 1 or not model.meta_graphs[0].HasField("objects"):
        raise damaged(path, "it does not hold one graph with its objects, as TensorFlow 2 writes it")
    _Check(path, model.meta_graphs[0]).run()
    index = directory / "variables" / "variables.index"
    if index.exists():
        bundle.read(index)


class _Check:
    def __init__(self, path: Path, meta: Any) -> None:
        self.path, self.meta = path, meta
        self.functions = {function.signature.name: function for function in meta.graph.library.functions}
        self.called: dict[str, list[str]] = {}
        self.saves: dict[str, str] = {}  # function: an operation of it that reads or writes the variables' files
        self.claimed = 0

    def run(self) -> None:
        """Check all of it."""
        if self.meta.asset_files or any(node.HasField("asset") for node in self.meta.objects.nodes):
            raise self._refused("has asset files, which an export never has")
        if len(self.functions) != len(self.meta.graph.library.functions):
            raise damaged(self.path, "two functions of it have one name")
        list(self._calls("the main graph", self.meta.graph.nodes))
        for name, function in self.functions.items():
            self.called[name] = list(self._calls(name, function.nodes))
        roots = [name for name in self.meta.objects.concrete_functions if name in self.functions]
        self._check_size(self.called)
        for name in self._reached(roots):
            if name in self.saves:
                raise self._refused_operation(self.saves[name], name)

    def _calls(self, where: str, nodes: Iterable[Any]) -> Iterator[str]:
        """Check the nodes of one body; the functions that they call, once for each call."""
        named = {node.name: node for node in nodes}
        for node in nodes:
            index = SIZED.get(node.op, MAX_RANK)
            if len(node.inputs) > index and (size := _size(named, node.inputs[index])) > MAX_RESULT:
                raise damaged(self.path, f"its operation {node.name!r} makes {size:,} values")
            if node.op in self.functions:
                yield node.op
            elif node.op in SAVER:
                self.saves.setdefault(where, node.op)
            elif node.op not in COMPUTES:
                raise self._refused_operation(node.op, where)
            for value in node.attributes.values():
                yield from self._functions_of(value, where)

    def _functions_of(self, value: Any, where: str) -> Iterator[str]:
        """The functions that an attribute names; checks the tensors that it holds."""
        if value.HasField("tensor"):
            self._tensor(value.tensor, where)
        named = [value.function] if value.HasField("function") else []
        if value.HasField("list"):
            for tensor in value.list.tensors:
                self._tensor(tensor, where)
            named += value.list.functions
        for function in named:
            if function.name not in self.functions:
                raise damaged(self.path, f"{where} calls {function.name!r}, which it does not hold")
            yield function.name
            for inner in function.attributes.values():
                yield from self._functions_of(inner, where)

    def _tensor(self, tensor: Any, where: str) -> None:
        dtype = dtype_name(tensor.dtype)
        if dtype in _NO_CONSTANT or not dtype:
            raise self._refused(f"has a constant of type {dtype or tensor.dtype} in {where}")
        shape = checked_shape(self.path, where, [dim.size for dim in tensor.shape.dims])
        held = len(tensor.content)
        self.claimed += max(0, max(bytes_of(dtype, 1), 1) * math.prod(shape) - held)
        if self.claimed > MAX_CLAIMED:
            raise damaged(self.path, f"its constants claim more than {MAX_CLAIMED:,} bytes that it does not hold")

    def _check_size(self, called: dict[str, list[str]]) -> None:
        """Refuse functions that call themselves, or unfold into too much: TensorFlow unfolds calls."""
        sizes: dict[str, int] = {}
        for start in called:
            todo, open_ = [start], set[str]()
            while todo:
                name = todo[-1]
                if name in sizes:
                    todo.pop()
                    continue
                missing = [inner for inner in called[name] if inner not in sizes]
                if missing and name in open_:
                    raise damaged(self.path, f"its function {name!r} calls itself")
                if missing:
                    open_.add(name)
                    todo += set(missing)
                    continue
                sizes[name] = len(self.functions[name].nodes) + sum(sizes[inner] for inner in called[name])
                if sizes[name] > MAX_NODES:
                    raise damaged(self.path, f"it unfolds into more than {MAX_NODES:,} operations")
                todo.pop()

    def _reached(self, roots: Iterable[str]) -> set[str]:
        """``roots`` and what they call, directly or not."""
        todo = list(roots)
        seen = set(todo)
        while todo:
            fresh = set(self.called[todo.pop()]) - seen
            seen |= fresh
            todo += fresh
        return seen

    def _refused_operation(self, op: str, where: str) -> ArtifactError:
        return self._refused(
            f"has the operation {printable(op, 60)} in {printable(where, 80)}, which does more than compute"
        )

    def _refused(self, why: str) -> ArtifactError:
        return ArtifactError(f"{self.path}: {why}; it is not opened: take it out of the model and export that again")


def _size(nodes: dict[str, Any], name: str, depth: int = 0) -> int:
    """How many values a result has whose sizes are what ``name`` gives, as far as constants say it."""
    node = nodes.get(name.partition(":")[0])
    if node is None or depth > 8:
        return 1
    if node.op == "Const":
        return claimed(_integers(node.attributes["value"].tensor))
    if node.op in ("Pack", "ConcatV2", "Cast", "Identity", "Reshape"):
        return math.prod(_size(nodes, one, depth + 1) for one in node.inputs[:MAX_RANK])
    return 1


def _integers(tensor: Any) -> list[int]:
    """A small tensor's values; none of a large one, which says no sizes."""
    kind = {"int32": "<i4", "int64": "<i8"}.get(dtype_name(tensor.dtype))
    if kind is None or len(tensor.content) > 16 * MAX_RANK:
        return []
    stored = [*tensor.ints, *tensor.longs]
    held = len(tensor.content) // int(kind[-1])
    return [int(value) for value in np.frombuffer(tensor.content, kind, held)] or stored[: 2 * MAX_RANK]
