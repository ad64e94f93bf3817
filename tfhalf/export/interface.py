"""What a model takes and gives: names, dtypes and shapes, whatever structure its own arguments have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from tfhalf.artifacts.ports import WIRE, Port, aliases_of, input_names, unique
from tfhalf.errors import ArtifactError, ExportError
from tfhalf.export.load.model import Source
from tfhalf.precision.keras_graph import graph_of

_SOFTMAX = ("softmax", "log_softmax")


@dataclass(frozen=True)
class Interface:
    """``inputs`` in the order of the leaves of ``structure``; ``keywords``: that structure is of keyword arguments.

    ``outputs`` are names in the order of the answer's leaves, empty where only a call tells them; ``classes`` are those
    whose last axis is classes; ``aliases`` are the model's own names of outputs that are called otherwise.
    """

    inputs: tuple[Port, ...]
    structure: Any
    keywords: bool = False
    outputs: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def call(self, function: Any, tensors: Sequence[Any]) -> Any:
        """``function`` called with ``tensors``, one for each input, in the model's own structure."""
        arguments = keras.tree.pack_sequence_as(self.structure, list(tensors))
        return function(**arguments) if self.keywords else function(arguments)

    def named(self, answer: Any) -> dict[str, Any]:
        """The leaves of an answer by the outputs' names."""
        leaves = [leaf for leaf in keras.tree.flatten(answer) if leaf is not None]
        return dict(zip(self.outputs, leaves, strict=True))

    def answer(self, function: Any, tensors: Sequence[Any]) -> dict[str, Any]:
        """`call`, and its answer `named`."""
        return self.named(self.call(function, tensors))

    def renamed(self) -> list[str]:
        """In words, which inputs and outputs the artifacts call otherwise than the model does."""
        own = [("input", alias, port.name) for port in self.inputs for alias in port.aliases]
        own = [row for row in own if unique([row[1]], ()) != [row[1]]]  # others are what it was called before
        own += [("output", alias, name) for name, aliases in self.aliases.items() for alias in aliases]
        return [f"{kind} {alias!r} is called {name}" for kind, alias, name in own]

    def few(self, arrays: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
        """The first ``count`` samples, or as many as a call takes, where that number is fixed."""
        count = self.inputs[0].shape[0] or count
        return {name: x[:count] for name, x in arrays.items()}

    def of_answer(self, answer: Any) -> Interface:
        """With the outputs named that ``answer`` has, where they are not known yet."""
        if self.outputs:
            return self
        leaves = [(path, leaf) for path, leaf in keras.tree.flatten_with_path(answer) if leaf is not None]
        if not leaves:
            raise ExportError("the model gives no tensor")
        names = ["_".join(["output"] * isinstance(path[0], int) + [str(p) for p in path]) if path else "output"
                 for path, _ in leaves]  # fmt: skip
        taken = [port.name for port in self.inputs]
        outputs = tuple(unique(names, taken))
        aliases = aliases_of(outputs, names, outputs)
        classes = tuple(n for n, (_, x) in zip(outputs, leaves, strict=True) if len(x.shape) == 2 and x.shape[-1] > 1)
        return replace(self, outputs=outputs, classes=classes, aliases=aliases)


def interface_of(source: Source, arrays: Mapping[str, np.ndarray] | None) -> Interface:
    """The interface of a model; ``arrays`` tell what a subclass of keras.Model takes, if they are there.

    Raises:
        ArtifactError: its inputs are not known, or are sparse.
    """
    graph = graph_of(source.model)
    if graph is not None:
        return _of_graph(graph)
    return _of_subclass(source.model, arrays)


def _of_graph(graph: Any) -> Interface:
    ports = []
    leaves = keras.tree.flatten(graph._inputs_struct)
    paths = [path for path, _ in keras.tree.flatten_with_path(graph._inputs_struct)]
    # A key of a dict is what callers write; elsewhere it is the input layer's name.
    own = [str(p[-1]) if p and isinstance(p[-1], str) else _layer_of(x) for p, x in zip(paths, leaves, strict=True)]
    for (name, aliases), tensor in zip(input_names(own), leaves, strict=True):
        if getattr(tensor, "sparse", False) or getattr(tensor, "ragged", False):
            raise ArtifactError(f"input {name!r} is sparse or ragged; dense tensors are accepted")
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        ports.append(Port(name, WIRE.get(dtype, dtype), tuple(tensor.shape), aliases))
    struct = graph._outputs_struct
    answers = keras.tree.flatten_with_path(struct)
    operations = [tensor._keras_history.operation for _, tensor in answers]
    names = [
        str(path[-1]) if path and isinstance(path[-1], str) else operation.name
        for (path, _), operation in zip(answers, operations, strict=True)
    ]
    outputs = tuple(unique(names, [port.name for port in ports]))
    classes = tuple(
        name for name, (_, tensor), op in zip(outputs, answers, operations, strict=True) if _is_classes(tensor, op)
    )
    return Interface(tuple(ports), graph._inputs_struct, False, outputs, classes, aliases_of(outputs, names, outputs))


def _layer_of(tensor: Any) -> str:
    """The name of the layer that an input is, which its tensor has not where nobody named it."""
    return str(tensor._keras_history.operation.name)


def _is_classes(tensor: Any, operation: Any) -> bool:
    if len(tensor.shape) < 2 or not isinstance(tensor.shape[-1], int) or tensor.shape[-1] < 2:
        return False
    activation = getattr(getattr(operation, "activation", None), "__name__", "")
    softmax = isinstance(operation, keras.layers.Softmax) or activation in _SOFTMAX
    return softmax or (isinstance(operation, keras.layers.Dense) and activation == "linear")


def _of_subclass(model: keras.Model, arrays: Mapping[str, np.ndarray] | None) -> Interface:
    shapes = _built_shapes(model)
    if shapes is None:
        if not arrays:
            raise ArtifactError(
                f"model {model.name!r} ({type(model).__name__}) does not say what it takes: it was never called before "
                "it was saved; give --verify-with DATA.npz with an array for each argument of its call()"
            )
        ports = [Port(name, _wire(x), (None, *x.shape[1:])) for name, x in arrays.items()]
        single = len(ports) == 1
        return Interface(tuple(ports), 0 if single else {port.name: port.name for port in ports}, not single)
    structure, keywords = shapes
    leaves = keras.tree.flatten_with_path(structure)
    names = unique(["_".join(map(str, path)) if path else "input" for path, _ in leaves], ())
    names = [f"input_{name[2:]}" if name.startswith("t_") else name for name in names]
    ports = []
    for name, (_, shape) in zip(names, leaves, strict=True):
        array = (arrays or {}).get(name)
        ports.append(Port(name, _wire(array) if array is not None else "float32", (None, *shape.dims[1:])))
    return Interface(tuple(ports), structure, keywords)


def _wire(array: np.ndarray) -> str:
    dtype = str(array.dtype)
    return WIRE.get(dtype, dtype)


class _Shape:
    """A leaf that stands for a shape: tuples of numbers would be taken for structure."""

    def __init__(self, dims: Sequence[int | None]) -> None:
        self.dims = tuple(dims)


def _built_shapes(model: keras.Model) -> tuple[Any, bool] | None:
    """The structure of shapes that a model was built with, and whether it is one of keyword arguments."""
    config = model.get_build_config() or {}
    shapes = config.get("shapes_dict") or ({"input_shape": config["input_shape"]} if "input_shape" in config else None)
    if not shapes:
        return None
    marked = {name.removesuffix("_shape"): _marked(shape) for name, shape in shapes.items()}
    if any(value is None for value in marked.values()):
        return None
    if len(marked) == 1:
        return next(iter(marked.values())), False
    return marked, True


def _marked(shape: Any) -> Any:
    if isinstance(shape, dict):
        return {key: _marked(value) for key, value in shape.items()}
    if isinstance(shape, list | tuple):
        if shape and all(size is None or isinstance(size, int) for size in shape):
            return _Shape(shape)
        return [_marked(value) for value in shape]
    return None
