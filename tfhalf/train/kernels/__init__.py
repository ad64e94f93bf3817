"""Layers computed in fewer passes over memory where XLA compiles the training step.

A training step of a convolutional net on a GPU is bound by memory between its convolutions. Keras' layers, as XLA
compiles them, read and write more than they must: statistics of BatchNormalization take two passes, the gradient of
max pooling is a slow SelectAndScatter, and a strided convolution of three channels leaves Tensor Cores idle. Each
function here computes what its layer computes, on the layer's own variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
from keras import layers

from tfhalf.precision.policy import flat_layers
from tfhalf.system.group import ALONE, Group
from tfhalf.train.kernels.calls import computed_by
from tfhalf.train.kernels.norm import batch_normalization, is_plain
from tfhalf.train.kernels.pool import max_pooling
from tfhalf.train.kernels.relu import relu
from tfhalf.train.kernels.stem import is_stem, stem_convolution


@contextmanager
def fewer_passes(model: keras.Model, synchronized: Sequence[keras.Layer] = (), group: Group = ALONE) -> Iterator[None]:
    """Within the block the layers of ``model`` that have a faster equivalent compute by it; others are untouched.

    Only for tracing a program that XLA compiles: some of their operations exist nowhere else.

    Args:
        synchronized: the BatchNormalizations that take statistics over the rows of all processes of ``group``.
    """
    swapped = dict(_activations(model))
    for layer in flat_layers(model):
        function = _equivalent(layer)
        if function is not None and layer not in swapped:
            swapped[layer] = function
    for layer in synchronized:
        swapped[layer] = partial(swapped.get(layer, batch_normalization), group=group)
    with computed_by(swapped):
        yield


def _equivalent(layer: keras.Layer) -> Callable[..., Any] | None:
    kind = type(layer)
    if is_plain(layer):
        return batch_normalization
    if kind is layers.MaxPooling2D and layer.data_format == "channels_last":
        return max_pooling
    if kind is layers.Conv2D and is_stem(layer):
        return stem_convolution
    return None


def _activations(model: keras.Model) -> Iterator[tuple[Any, Callable[..., Any]]]:
    """ReLUs that follow a BatchNormalization, with it; and others before a convolution.

    ReLU alone: worked out twice, a GELU takes longer than the pass over memory that it saves.
    """
    for part in (model, *flat_layers(model)):
        after = _consumers(getattr(part, "_functional", None) or part)
        taken = set()
        for operation, next_ones in after.items():
            following = next_ones[0] if len(next_ones) == 1 and next_ones[0] in after else None
            if following is not None and _equivalent(operation) is batch_normalization and _is_relu(following):
                taken.add(following)
                yield operation, partial(batch_normalization, activation=_plain(following))
                yield following, _pass_on
        for operation in after:
            if operation not in taken and _is_relu(operation) and _before_convolution(after[operation]):
                yield operation, relu


def _before_convolution(operations: list[Any]) -> bool:
    return any(isinstance(operation, layers.Conv2D) for operation in operations)


def _consumers(model: Any) -> dict[Any, list[Any]]:
    """For each operation that stands once in the graph of a functional model: the operations that take its output;
    None stands for the model's own output."""
    nodes = [node for row in getattr(model, "_nodes_by_depth", {}).values() for node in row]
    places: dict[Any, int] = {}
    after: dict[Any, list[Any]] = {}
    for node in nodes:
        places[node.operation] = places.get(node.operation, 0) + 1
        for tensor in node.arguments.keras_tensors:
            after.setdefault(tensor._keras_history.operation, []).append(node.operation)
    for tensor in model.outputs if nodes else ():
        after.setdefault(tensor._keras_history.operation, []).append(None)
    return {operation: consumers for operation, consumers in after.items() if places.get(operation) == 1}


def _is_relu(operation: Any) -> bool:
    if type(operation) is layers.ReLU:
        return operation.max_value is None and not operation.negative_slope and not operation.threshold
    if type(operation) is layers.Activation:
        return operation.activation is keras.activations.relu
    return type(operation) is keras.src.ops.nn.Relu


def _plain(operation: Any) -> Callable[[Any], Any]:
    """What ``operation`` computes, whatever else its call is set to."""
    return partial(type(operation).call, operation)


def _pass_on(operation: Any, inputs: Any, *_: Any, **__: Any) -> Any:
    """The activation was computed with the layer before."""
    return inputs
