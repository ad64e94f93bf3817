"""The graph of a functional model, opened: its operations by name in their order, and a run that sees each of them."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from tfhalf.errors import ExportError
from tfhalf.precision.policy import flat_layers, layer_path
from tfhalf.text import printable

Call = Callable[..., Any]


class LayerError(ExportError):
    """A layer or operation, ``name``, cannot be computed in the numbers ``dtype``: why."""

    _keras_call_info_injected = True  # Keras hands it on as it is, through the calls of the layers around

    def __init__(self, name: str, why: str, dtype: str = "float16") -> None:
        super().__init__(f"{name!r} does not compute in {dtype}: {why}")
        self.name, self.why = name, why


@contextmanager
def failures_named(name: str, dtype: str = "float16") -> Iterator[None]:
    """Within the block whatever fails is a `LayerError` of ``name``, or of what it holds, in the numbers ``dtype``."""
    try:
        yield
    except LayerError:
        raise
    except (tf.errors.NotFoundError, tf.errors.UnimplementedError) as error:
        raise LayerError(name, f"TensorFlow has no {dtype} kernel for it on this device", dtype) from error
    except Exception as error:  # whatever a layer's code raises
        raise LayerError(name, reason(error), dtype) from error


def reason(error: Exception) -> str:
    """What a layer's code raised, in one line: without the arguments that Keras adds to it, and the names that
    TensorFlow gives its kernels."""
    text = str(error)
    layer = re.search(r"Exception encountered when calling (.+?)\.", text)
    text = text.partition("\x1b[1m")[2].partition("\x1b[0m")[0] or text
    text = re.sub(r"\{\{function_node .*?\}\} ?| ?\[Op:\w+\]( name:)?", "", text)
    where = f"in {layer[1]}, " if layer else ""
    first = re.split(r"(?<=\w[a-z)\"'])\. ", " ".join(text.split()))[0].rstrip(".")
    return f"{where}{type(error).__name__}: {printable(first, 160)}"


def graph_of(model: Any) -> Any:
    """The functional graph that a model is, or None: a `Sequential` has one once it is built."""
    if isinstance(model, keras.Sequential):
        return model._functional if model.built else None
    return model if isinstance(model, keras.Model) and hasattr(model, "operations") else None


def shape_error(model: keras.Model, shapes: Sequence[tuple[int, ...]]) -> ValueError | None:
    """What the shape rules of a graph's layers have against inputs of ``shapes``, batch included; None where nothing,
    or where the rules fail on inputs sixteen times as long, too, and so say nothing.

    Where a convolution's output would be empty, TensorFlow 2.21 with oneDNN gives numbers on some CPUs, and raises on
    others: whoever asks whether a model takes a size asks its rules first.
    """
    graph = graph_of(model)
    if graph is None:
        return None
    inputs = keras.tree.flatten(graph._inputs_struct)
    error = _rules_on(graph, shapes)
    if error is None:
        return None
    longer = [
        (
            *shape[:1],
            *(size if known is not None else 16 * size for size, known in zip(shape[1:], x.shape[1:], strict=True)),
        )
        for shape, x in zip(shapes, inputs, strict=True)
    ]
    return error if _rules_on(graph, longer) is None else None


def _rules_on(graph: Any, shapes: Sequence[tuple[int, ...]]) -> ValueError | None:
    inputs = keras.tree.flatten(graph._inputs_struct)
    specs = [keras.KerasTensor(shape, x.dtype) for shape, x in zip(shapes, inputs, strict=True)]
    try:
        graph.compute_output_spec(keras.tree.pack_sequence_as(graph._inputs_struct, specs))
    except ValueError as error:
        return error
    except Exception as error:  # noqa: BLE001  # a layer without rules, or with code that needs values
        return ValueError(str(error))
    return None


def operations(model: keras.Model, *, inner: bool = False) -> dict[str, Any]:
    """What computes in a graph, by its path and in its order: layers and operations of `keras.ops`, each once.

    Models within the model are opened. Two of one path differ by a ``'``.

    Args:
        inner: each layer is followed by those within it.
    """
    named: dict[str, Any] = {}
    for operation in dict.fromkeys(_within(model, inner)):
        name = layer_path(operation)
        while name in named:
            name += "'"
        named[name] = operation
    return named


def _within(model: Any, inner: bool) -> Iterator[Any]:
    for operation in graph_of(model).operations:
        if isinstance(operation, keras.layers.InputLayer):
            continue
        if graph_of(operation) is not None:
            yield from _within(operation, inner)
            continue
        yield operation
        if inner and isinstance(operation, keras.layers.Layer):
            yield from (layer for layer in flat_layers(operation) if graph_of(layer) is None)


def heads(model: keras.Model) -> set[int]:
    """Ids of the operations that give the outputs of a graph, those of a model within included."""
    ids: set[int] = set()
    graph = graph_of(model)
    for tensor in graph.outputs if graph is not None else ():
        operation = tensor._keras_history.operation
        ids |= heads(operation) if graph_of(operation) is not None else {id(operation)}
    return ids


def run(model: keras.Model, inputs: Any, call: Call) -> Any:
    """The answers of a functional ``model`` to ``inputs``, in its own structure, each operation called by
    ``call(operation, *args, **kwargs)``, in inference. Models within are opened; masks go along as in Keras."""
    graph = graph_of(model)
    flat_inputs = keras.tree.flatten(inputs)
    taken = graph._standardize_inputs(inputs)
    for before, after in zip(flat_inputs, taken, strict=True):
        mask = keras.src.backend.get_keras_mask(before) if before is not after else None
        if mask is not None:  # lost where the tensor was cast
            keras.src.backend.set_keras_mask(after, mask)

    def opened(operation: Any) -> Call:
        if graph_of(operation) is None:
            mode = {"training": False} if "training" in getattr(operation, "_call_context_args", ()) else {}
            return lambda *args, **kwargs: call(operation, *args, **{**kwargs, **mode})
        return lambda x, **kwargs: _unpacked(run(operation, x, call))

    answers = graph._run_through_graph(taken, operation_fn=opened)
    return _unpacked(answers)


def _unpacked(answers: Any) -> Any:
    """As Keras gives them: one answer without its list."""
    return answers[0] if isinstance(answers, list | tuple) and len(answers) == 1 else answers


def copied(operation: Any) -> Any:
    """An operation of `keras.ops` that may stand in another graph: it has no state, but knows where it was called."""
    twin = copy.copy(operation)
    twin._inbound_nodes, twin._outbound_nodes = [], []
    return twin
