"""A SavedModel folder: `inspect_saved_model`, from ``saved_model.pb`` and ``variables/variables.index``."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from tfhalf.files import read_bytes
from tfhalf.inspect import bundle, tf_messages
from tfhalf.inspect import values as look_at
from tfhalf.inspect.facts import Account, Port, Tensor, Values, damaged, is_float, printable
from tfhalf.inspect.tf_graph import Unfolding
from tfhalf.inspect.tf_messages import dtype_name

NAME = "saved_model.pb"
MAX_BYTES = (1 << 31) - 1
_DEFAULT = "serving_default"
# Programs of another kind within one operation: the graph does not say what they compute in.
_OPAQUE = ("XlaCallModule", "TPUPartitionedCall", "PyFunc", "EagerPyFunc", "RemoteFusedGraphExecute")


def inspect_saved_model(directory: Path) -> Account:
    """The account of a SavedModel.

    Raises:
        ArtifactError: it is none, or not whole.
    """
    path = directory / NAME
    try:
        graphs = tf_messages.parse("SavedModel", read_bytes(path, MAX_BYTES)).meta_graphs
    except DecodeError as error:
        raise damaged(path, f"cannot be read as a SavedModel: {error}") from None
    if not graphs:
        raise damaged(path, "holds no graph")
    meta = next((graph for graph in graphs if "serve" in graph.info.tags), graphs[0])
    name, signature = _signature(meta)
    outputs = sorted(info.name for info in signature.outputs.values()) if signature is not None else []
    fed = sorted(info.name for info in signature.inputs.values()) if signature is not None else []
    unfolding = Unfolding(path, meta.graph, outputs, fed)
    index = directory / "variables" / "variables.index"
    entries = bundle.read(index) if index.is_file() else []
    files = [path, index, *{entry.file for entry in entries}]
    account = Account(directory, "SavedModel", sum(file.stat().st_size for file in files if file.is_file()))
    account.graph = unfolding.graph
    account.values = _values(entries)
    if signature is not None:
        account.inputs = [_port(key, signature.inputs[key]) for key in sorted(signature.inputs)]
        account.outputs = [_port(key, signature.outputs[key]) for key in sorted(signature.outputs)]
    account.tensors = _tensors(account, entries, unfolding, name)
    version = printable(meta.info.tensorflow_version, 40)
    names = sorted(printable(key, 60) for key in meta.signatures if not key.startswith("__"))
    account.facts = {
        "made by": f"TensorFlow {version}" if version else "not said",
        "signatures": (", ".join(names) or "none") + (f"; looked at: {name}" if len(names) > 1 else ""),
    }
    account.details = {"tensorflow_version": version, "signatures": names, "tags": sorted(meta.info.tags)}
    opaque = sorted({node.op for node in unfolding.graph.nodes if node.op in _OPAQUE})
    if opaque:
        account.notes.append(f"{', '.join(opaque)}: holds a program of its own, which is not looked into")
    if signature is None:
        account.notes.append("has no signature: every operation of its main graph is counted")
    return account


def _signature(meta: Any) -> tuple[str, Any]:
    """``serving_default``, or else the first that is not TensorFlow's own."""
    names = sorted(name for name in meta.signatures if not name.startswith("__"))
    if not names:
        return "", None
    name = _DEFAULT if _DEFAULT in names else names[0]
    return name, meta.signatures[name]


def _port(key: str, info: Any) -> Port:
    dims = None if info.shape.unknown_rank else tuple(d.size if d.size >= 0 else None for d in info.shape.dims[:64])
    return Port(printable(key), dtype_name(info.dtype), dims)


def _tensors(account: Account, entries: list[bundle.Entry], unfolding: Unfolding, name: str) -> list[Tensor]:
    """What the answer is computed with, under the names of the graph, and what else lies in the variables' files."""
    left = Counter((t.dtype, t.shape) for t in unfolding.variables)
    stored = [entry for entry in entries if entry.tensor.name != "save_counter"]
    alike: Counter[tuple[str, tuple[int, ...], int]] = Counter()
    others: list[tuple[int, bundle.Entry]] = []
    for entry in stored:  # which of equal ones is the copy does not matter: the first ones are taken for the graph's
        alike[_key(entry)] += 1
        others.append((alike[_key(entry)], entry))
    double, unused = [], []
    for _, entry in sorted(others, key=lambda pair: pair[0]):
        if left[entry.tensor.dtype, entry.tensor.shape] > 0:
            left[entry.tensor.dtype, entry.tensor.shape] -= 1
        elif alike[_key(entry)] > 1:
            double.append(replace(entry.tensor, role="copy"))
        else:
            unused.append(replace(entry.tensor, role="unused"))
    floats = [t for t in double if is_float(t.dtype)]
    if floats:
        size = sum(t.bytes for t in floats) / 1e6
        account.notes.append(
            f"{len(floats):,} of {len(stored):,} stored variables hold the weights once more ({size:,.3f} MB)"
        )
    if unused:
        size = sum(t.bytes for t in unused) / 1e6
        account.notes.append(f"{len(unused):,} stored variables ({size:,.3f} MB) are not read by {name or 'the graph'}")
    account.details["stored_variables"] = len(stored)
    return [*unfolding.variables, *unfolding.constants, *double, *unused]


def _key(entry: bundle.Entry) -> tuple[str, tuple[int, ...], int]:
    """Equal for tensors of equal values, as far as a checksum tells."""
    return entry.tensor.dtype, entry.tensor.shape, entry.crc


def _values(entries: list[bundle.Entry]) -> Values:
    values = Values()
    for entry in entries:
        if entry.tensor.dtype == "float16":
            values.total += entry.tensor.count
            if values.checked * 2 < look_at.LOOK_AT_MOST:
                look_at.count(values, look_at.read(entry.file, entry.offset, entry.tensor.bytes))
    return values
