"""Inputs for judging an exported model: the user's own, or drawn from what the model says of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from tfhalf import npz
from tfhalf.errors import DataError
from tfhalf.export.graph import graph_of
from tfhalf.export.ports import Port
from tfhalf.text import one_line

SEED = 0
COUNT = 32
MAX_BYTES = 8 << 20
MAX_GIVEN = 512
# What stands for an open size: of lengths, and of heights, widths and depths.
_LENGTH, _SIDE, _DEPTH = 32, 64, 16
_VOCABULARY = 2  # of integers that nothing is known of: masks and flags


# --- the user's -------------------------------------------------------------------------------------------------------


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file, or the one of an npy file.

    Raises:
        DataError: it cannot be read, or holds Python objects.
    """
    try:
        found = npz.read_arrays(path)
    except FileNotFoundError:
        raise DataError(
            f"--verify-with {path}: does not exist; give an .npz file with an array for each input"
        ) from None
    except (OSError, ValueError) as error:
        why = one_line(error, 120)
        raise DataError(f"--verify-with {path}: cannot be read ({why}); give an .npz file of plain arrays") from None
    return found


def given(arrays: Mapping[str, np.ndarray], ports: tuple[Port, ...], path: Path) -> dict[str, np.ndarray]:
    """The arrays that the inputs take, as their dtypes, at most `MAX_GIVEN` samples.

    A model of one input also takes the array ``x`` or ``x_test``, or the only one there is.

    Raises:
        DataError: one is missing, or its shape or values do not fit.
    """
    found = dict(arrays)
    if len(ports) == 1 and ports[0].name not in found:
        usual = [name for name in ("x", "x_test") if name in found]
        only: list[str] = [*usual, *(found if len(found) == 1 else ())]
        if only:
            found[ports[0].name] = found[only[0]]
    missing = [port.name for port in ports if port.name not in found]
    if missing:
        there = ", ".join(list(arrays)[:8]) or "none"
        raise DataError(f"--verify-with {path}: lacks an array for {', '.join(missing)}; it has {there}")
    counts = {port.name: len(found[port.name]) if found[port.name].ndim else 0 for port in ports}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise DataError(f"--verify-with {path}: the arrays have {counts} samples; the same number for each is needed")
    return {port.name: _fitted(found[port.name][:MAX_GIVEN], port, path) for port in ports}


def _fitted(array: np.ndarray, port: Port, path: Path) -> np.ndarray:
    fits = array.ndim == len(port.shape) and all(
        size is None or size == got for size, got in zip(port.shape[1:], array.shape[1:], strict=True)
    )
    if not fits:
        raise DataError(f"--verify-with {path}: {port.name} has shape {array.shape}; {port.dims()} is taken")
    if port.dtype != "string" and array.dtype.kind not in "fiub":
        raise DataError(f"--verify-with {path}: {port.name} is {array.dtype}; {port.dtype} is taken")
    if port.dtype == "string":
        return array.astype(str)
    if port.dtype.startswith(("int", "uint")) and array.dtype.kind == "f" and not np.array_equal(array, array.round()):
        raise DataError(f"--verify-with {path}: {port.name} holds fractions; {port.dtype} is taken")
    if not np.isfinite(array).all():
        raise DataError(f"--verify-with {path}: {port.name} holds values that are not finite")
    return array.astype(port.dtype)


# --- drawn ------------------------------------------------------------------------------------------------------------


def draw(model: keras.Model, ports: tuple[Port, ...], seed: int = SEED) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Seeded inputs for ``ports``, and in words how each was drawn.

    Integers are drawn below the smallest vocabulary that reads them, images in the range that the first preprocessing
    layer expects, other floats from a standard normal distribution.
    """
    rng = np.random.default_rng(seed)
    readers = _readers(model, ports)
    shapes = {port.name: _shape(port) for port in ports}
    each = sum(int(np.prod(shape)) * 4 for shape in shapes.values())
    count = max(4, min(COUNT, MAX_BYTES // max(each, 1)))
    fixed = ports[0].shape[0]
    count = fixed * max(1, count // fixed) if fixed else count
    arrays, words = {}, {}
    for port in ports:
        arrays[port.name], words[port.name] = _drawn(rng, port, (count, *shapes[port.name]), readers[port.name])
    return arrays, words


def _shape(port: Port) -> tuple[int, ...]:
    rank = len(port.shape)
    side = {4: _SIDE, 5: _DEPTH}.get(rank, _LENGTH)
    return tuple(side if size is None else size for size in port.shape[1:])


def _drawn(rng: Any, port: Port, shape: tuple[int, ...], readers: list[Any]) -> tuple[np.ndarray, str]:
    if port.dtype == "bool":
        return rng.random(shape) < 0.5, "true or false"
    if port.dtype == "string":
        words = np.array(_words(readers))
        return words[rng.integers(0, len(words), shape)], "words of the vocabulary"
    if port.dtype.startswith(("int", "uint")):
        top = _vocabulary(readers) or (256 if port.dtype == "uint8" else _VOCABULARY)
        return rng.integers(0, top, shape).astype(port.dtype), f"integers below {top:,}"
    if (size := _vocabulary(readers)) is not None:
        return rng.integers(0, size, shape).astype(port.dtype), f"whole numbers below {size:,}"
    for reader in readers:
        if isinstance(reader, layers.Rescaling):
            low, high = _raw_range(reader)
            return np.round(rng.uniform(low, high, shape)).astype(port.dtype), f"uniform from {low:g} to {high:g}"
        if isinstance(reader, layers.Normalization) and reader.built and reader.axis is not None:
            mean, std = (np.asarray(v, np.float64) for v in (reader.mean, keras.ops.sqrt(reader.variance)))
            if mean.size in (1, shape[-1]):
                x = rng.normal(size=shape) * std.reshape(-1) + mean.reshape(-1)
                return x.astype(port.dtype), "normal with the mean and variance that the model was adapted to"
    return rng.normal(size=shape).astype(port.dtype), "standard normal"


def _raw_range(layer: Any) -> tuple[float, float]:
    """What Rescaling maps to about [0, 1] or [-1, 1]: 0..255 for 1/255 and for 1/127.5."""
    scale = float(np.max(np.abs(layer.scale)))
    top = 1 / scale * (2 if np.min(layer.offset) < 0 else 1) if 0 < scale < 1 else 1.0
    return 0.0, round(top) if top > 1.5 else top


def _readers(model: keras.Model, ports: tuple[Port, ...]) -> dict[str, list[Any]]:
    """For each input, the layers that read it first, in the order of the graph; all layers of a subclass."""
    graph = graph_of(model)
    if graph is None:
        return {port.name: list(model._flatten_layers(include_self=False)) for port in ports}
    tensors = keras.tree.flatten(graph._inputs_struct)
    return {port.name: list(_readers_of(graph, tensor)) for port, tensor in zip(ports, tensors, strict=True)}


def _readers_of(graph: Any, tensor: Any, seen: set[int] | None = None) -> Iterator[Any]:
    seen = set() if seen is None else seen
    for operation in graph.operations:
        for node in operation._inbound_nodes:
            if id(node) in seen or not any(x is tensor for x in node.input_tensors):
                continue
            seen.add(id(node))
            inner = graph_of(operation)
            if inner is not None:
                place = next(i for i, x in enumerate(node.input_tensors) if x is tensor)
                if place < len(inner.inputs):
                    yield from _readers_of(inner, inner.inputs[place])
            elif isinstance(operation, layers.Layer):
                yield operation
                yield from operation._flatten_layers(include_self=False)
            if not isinstance(operation, layers.Layer) or not operation.weights:  # it only moves or maps values
                for output in node.outputs:
                    yield from _readers_of(graph, output, seen)


def _vocabulary(readers: list[Any]) -> int | None:
    """The smallest number of rows or tokens among what reads an input."""
    sizes = [r.input_dim for r in readers if isinstance(r, layers.Embedding)]
    sizes += [r.num_tokens for r in readers if isinstance(r, layers.CategoryEncoding)]
    sizes += [r.vocabulary_size() for r in readers if isinstance(r, layers.IntegerLookup)]
    return min(sizes, default=None)


def _words(readers: list[Any]) -> list[str]:
    for reader in readers:
        if isinstance(reader, layers.StringLookup | layers.TextVectorization):
            return [word for word in reader.get_vocabulary() if word] or ["word"]
    return ["word"]
