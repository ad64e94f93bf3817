"""Inputs for judging an exported model: the user's own, or drawn from what the model says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from tfhalf import npz
from tfhalf.convert.edge_rows import LARGE, Domain, between, edge_rows, normal, of_data
from tfhalf.convert.first_layers import RANGES, Call, FirstLayers, first_layers, image_range
from tfhalf.convert.interface import Interface
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
Arrays = Mapping[str, np.ndarray]
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
    for port in ports:
        there = next((alias for alias in port.aliases if alias in found), None)
        if port.name not in found and there is not None:
            found[port.name] = found[there]
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


# --- what a comparison rests on ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SampleInputs:
    """``arrays`` by name [N, ...], and of each row its kind: ``drawn`` or ``given``, or the name of an edge. Edge rows
    come last. ``facts`` are the manifest's: where they are from, and how they were drawn. ``floats``: the inputs whose
    values are sizes, and no places in a table."""

    arrays: dict[str, np.ndarray]
    kinds: tuple[str, ...]
    facts: dict[str, Any]
    floats: tuple[str, ...]


def sample_inputs(model: keras.Model, interface: Interface, arrays: Arrays | None, path: Path | None) -> SampleInputs:
    """The ``arrays`` of the user's file ``path``, or drawn ones; and edge rows of both.

    Raises:
        DataError: an array is missing, or its shape or values do not fit.
    """
    ports = interface.inputs
    known = _Known(model, ports, interface.call)
    if arrays is not None and path is not None:
        usual = given(arrays, ports, path)
        domains = {port.name: known.of_given(port, usual[port.name]) for port in ports}
        facts: dict[str, Any] = {"origin": "given", "file": path.name}
    else:
        usual, words, domains = _draw(known, SEED)
        facts = {"origin": "drawn", "seed": SEED, "how": words}
    edges, kinds = edge_rows(ports, {name: d for name, d in domains.items() if d is not None}, usual, SEED)
    fixed = ports[0].shape[0]
    if fixed and kinds:  # in whole batches
        whole = np.arange(-(-len(kinds) // fixed) * fixed) % len(kinds)
        edges, kinds = {name: x[whole] for name, x in edges.items()}, tuple(kinds[k] for k in whole)
    count = len(next(iter(usual.values())))
    facts |= {"count": count + len(kinds), "edges": dict(Counter(kinds))}
    return SampleInputs(
        {name: np.concatenate([x, edges[name]]) for name, x in usual.items()},
        (*[facts["origin"]] * count, *kinds),
        facts,
        tuple(known.floats),
    )


# --- drawn ------------------------------------------------------------------------------------------------------------


def draw(model: keras.Model, ports: tuple[Port, ...], seed: int = SEED) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Seeded inputs for ``ports``, and in words how each was drawn.

    Integers are drawn below the smallest vocabulary that reads them; other floats as the statistics of the layers that
    read them say, images in the range that the first preprocessing layer expects, and from a standard normal
    distribution where nothing says how.
    """
    arrays, words, _ = _draw(_Known(model, ports, _call_of(model)), seed)
    return arrays, words


def _call_of(model: keras.Model) -> Call:
    graph = graph_of(model)
    structure = 0 if graph is None else graph._inputs_struct
    return lambda function, tensors: function(keras.tree.pack_sequence_as(structure, list(tensors)))


def _draw(known: _Known, seed: int) -> tuple[dict[str, np.ndarray], dict[str, str], dict[str, Domain | None]]:
    rng, ports = np.random.default_rng(seed), known.ports
    each = sum(int(np.prod(known.shapes[port.name])) * 4 for port in ports)
    count = max(4, min(COUNT, MAX_BYTES // max(each, 1)))
    fixed = ports[0].shape[0]
    count = fixed * max(1, count // fixed) if fixed else count
    arrays, words, domains = {}, {}, {}
    for port in ports:
        shape = (count, *known.shapes[port.name])
        arrays[port.name], words[port.name], domains[port.name] = _drawn(rng, port, shape, known)
    return arrays, words, domains


def _shape(port: Port) -> tuple[int, ...]:
    rank = len(port.shape)
    side = {4: _SIDE, 5: _DEPTH}.get(rank, _LENGTH)
    return tuple(side if size is None else size for size in port.shape[1:])


def _drawn(rng: Any, port: Port, shape: tuple[int, ...], known: _Known) -> tuple[np.ndarray, str, Domain | None]:
    if port.dtype == "bool":
        return rng.random(shape) < 0.5, "true or false", None
    if port.dtype == "string":
        words = np.array(_words(known.readers[port.name]))
        return words[rng.integers(0, len(words), shape)], "words of the vocabulary", None
    if (domain := known.whole(port)) is not None:
        top = int(domain.high) + 1
        kind = "integers" if port.dtype.startswith(("int", "uint")) else "whole numbers"
        return rng.integers(0, top, shape).astype(port.dtype), f"{kind} below {top:,}", domain
    domain, words_of = known.sizes(port)
    if not domain.spread:
        low, high = float(domain.low), float(domain.high)
        drawn = rng.uniform(low, high, shape)
        return (np.round(drawn) if high - low > 1.5 else drawn).astype(port.dtype), words_of, domain
    deviation = (domain.high - domain.low) / (2 * LARGE)
    x = rng.normal(size=shape) * deviation + (domain.low + domain.high) / 2
    return x.astype(port.dtype), words_of, domain


class _Known:
    """What a model says of the values of its inputs."""

    def __init__(self, model: keras.Model, ports: tuple[Port, ...], call: Call) -> None:
        self.model, self.ports, self.call = model, ports, call
        self.readers = _readers(model, ports)
        self.shapes = {port.name: _shape(port) for port in ports}

    def whole(self, port: Port) -> Domain | None:
        """Of integers, and of floats that are looked up in a table."""
        readers = self.readers[port.name]
        size = _vocabulary(readers)
        if port.dtype.startswith(("int", "uint")):
            size = size or (256 if port.dtype == "uint8" else _VOCABULARY)
        padded = any(getattr(reader, "mask_zero", False) for reader in readers)
        return between(0, size - 1, whole=True, padded_tail=padded) if size is not None else None

    @property
    def floats(self) -> list[str]:
        """The inputs whose values are sizes."""
        return [p.name for p in self.ports if p.dtype.startswith("float") and self.whole(p) is None]

    def sizes(self, port: Port) -> tuple[Domain, str]:
        """Of one of `floats`, and in words what says so."""
        padding, statistics = self.first.padding.get(port.name), self.first.statistics.get(port.name)
        if statistics is not None:
            words = "that the model was adapted to" if statistics.adapted else f"of {statistics.layer!r}"
            domain = normal(statistics.mean, statistics.deviation, padding=padding)
            return domain, f"normal with the mean and variance {words}"
        for reader in self.readers[port.name]:
            if isinstance(reader, layers.Rescaling):
                low, high = _raw_range(reader)
                return between(low, high, padding=padding), f"uniform from {low:g} to {high:g}"
        if not _is_image(port):
            return normal(0, 1, padding=padding), "standard normal"
        key, layer = image_range(self.model, self.call, self.ports, self._example(4), port.name)
        if layer is None:
            both = "a few from 0 to 1 and from 0 to 255, since nothing in the model says which"
            return normal(0, 1, unknown_range=True), f"standard normal; {both}"
        said = f"as the statistics of {layer!r} say"
        if key is None:
            return normal(0, 1), f"standard normal, {said}"
        low, high = RANGES[key]
        return between(low, high), f"uniform from {low:g} to {high:g}, {said}"

    def of_given(self, port: Port, x: np.ndarray) -> Domain | None:
        """Of a user's samples ``x``."""
        if port.dtype in ("bool", "string"):
            return None
        whole = self.whole(port)
        if whole is not None:
            known = _vocabulary(self.readers[port.name]) is not None
            ends = (0, int(whole.high)) if known else (int(x.min()), int(x.max()))
            return between(*ends, whole=True, padded_tail=whole.padded_tail)
        self.shapes[port.name] = x.shape[1:]
        return of_data(x, padding=self.first.padding.get(port.name))

    @cached_property
    def first(self) -> FirstLayers:
        """What the layers say that read values as they are."""
        return first_layers(self.model, self.call, self.ports, self._example(1), self.floats)

    def _example(self, count: int) -> dict[str, np.ndarray]:
        """Samples that the model takes, whatever they say."""
        count = self.ports[0].shape[0] or count
        found = {}
        for port in self.ports:
            shape = (count, *self.shapes[port.name])
            text = port.dtype == "string"
            found[port.name] = (
                np.full(shape, _words(self.readers[port.name])[0]) if text else np.zeros(shape, port.dtype)
            )
        return found


def _is_image(port: Port) -> bool:
    """Whether samples are [height, width, channels] of grey, coloured or transparent images."""
    shape = port.shape[1:]
    return len(shape) == 3 and shape[-1] in (1, 3, 4) and all(size is None or size >= 8 for size in shape[:2])


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
