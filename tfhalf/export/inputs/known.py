"""What a model says of the values of its inputs: vocabularies, statistics, ranges, padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tfhalf.artifacts.ports import Port
from tfhalf.export.inputs import open_sizes
from tfhalf.export.inputs.edge_rows import Domain, between, normal, of_data
from tfhalf.export.inputs.first_layers import RANGES, Call, FirstLayers, first_layers, image_range
from tfhalf.precision.keras_graph import graph_of, shape_error

_VOCABULARY = 2  # of integers that nothing is known of: masks and flags


class Known:
    """What a model says of the values of its inputs."""

    def __init__(self, model: keras.Model, ports: tuple[Port, ...], call: Call) -> None:
        self.model, self.ports, self.call = model, ports, call
        self.readers = readers_of(model, ports)
        self.shapes = {port.name: open_sizes.shape_of(port, {}) for port in ports}

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

    def of_own(self, port: Port, x: np.ndarray) -> Domain | None:
        """Of a user's samples ``x``."""
        if port.dtype in ("bool", "string"):
            return None
        whole = self.whole(port)
        if whole is not None:
            known = _vocabulary(self.readers[port.name]) is not None
            ends = (0, int(whole.high)) if known else (int(x.min()), int(x.max()))
            return between(*ends, whole=True, padded_tail=whole.padded_tail)
        return of_data(x, padding=self.first.padding.get(port.name))

    @cached_property
    def first(self) -> FirstLayers:
        """What the layers say that read values as they are."""
        return first_layers(self.model, self.call, self.ports, self._example(1), self.floats)

    def fails_on(self, shapes: Mapping[str, tuple[int, ...]]) -> Exception | None:
        """What the model raises on samples of such shapes."""
        self.shapes = dict(shapes)
        count = self.ports[0].shape[0] or 1
        if error := shape_error(self.model, [(count, *shapes[port.name]) for port in self.ports]):
            return error
        tensors = [tf.constant(self._example(1)[port.name]) for port in self.ports]
        try:
            self.call(lambda x, **named: self.model(x, **named, training=False), tensors)
        except Exception as error:  # noqa: BLE001  # whatever a layer's code raises: it is the answer
            return error
        return None

    def _example(self, count: int) -> dict[str, np.ndarray]:
        """Samples that the model takes, whatever they say."""
        count = self.ports[0].shape[0] or count
        arrays = {}
        for port in self.ports:
            shape = (count, *self.shapes[port.name])
            text = port.dtype == "string"
            arrays[port.name] = (
                np.full(shape, words_of(self.readers[port.name])[0]) if text else np.zeros(shape, port.dtype)
            )
        return arrays


def _is_image(port: Port) -> bool:
    """Whether samples are [height, width, channels] of grey, coloured or transparent images."""
    shape = port.shape[1:]
    return len(shape) == 3 and shape[-1] in (1, 3, 4) and all(size is None or size >= 8 for size in shape[:2])


def _raw_range(layer: Any) -> tuple[float, float]:
    """What Rescaling maps to about [0, 1] or [-1, 1]: 0..255 for 1/255 and for 1/127.5."""
    scale = float(np.max(np.abs(layer.scale)))
    top = 1 / scale * (2 if np.min(layer.offset) < 0 else 1) if 0 < scale < 1 else 1.0
    return 0.0, round(top) if top > 1.5 else top


def readers_of(model: keras.Model, ports: tuple[Port, ...]) -> dict[str, list[Any]]:
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
                index = next(i for i, x in enumerate(node.input_tensors) if x is tensor)
                if index < len(inner.inputs):
                    yield from _readers_of(inner, inner.inputs[index])
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


def words_of(readers: list[Any]) -> list[str]:
    """The vocabulary of the first layer that looks text up; a word where none does."""
    for reader in readers:
        if isinstance(reader, layers.StringLookup | layers.TextVectorization):
            return [word for word in reader.get_vocabulary() if word] or ["word"]
    return ["word"]
