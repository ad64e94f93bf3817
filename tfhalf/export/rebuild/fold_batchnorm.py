"""BatchNormalization folded into the linear layer before it.

In inference BatchNormalization is an affine map per channel, ``y = x * a + b`` with ``a = gamma / sqrt(variance +
epsilon)`` and ``b = beta - mean * a`` (Ioffe and Szegedy, arXiv:1502.03167, section 3.1). Behind a convolution or dense
layer it is absorbed by kernel and bias. Max pooling may stand between, as long as every ``a`` is positive. Elsewhere it
becomes that map itself, in float16, instead of a division in float32 between two casts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfhalf.precision import cast

_LINEAR = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Dense,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
)
_MAXIMUM = (keras.layers.MaxPooling1D, keras.layers.MaxPooling2D, keras.layers.MaxPooling3D)


@dataclass(frozen=True)
class Fold:
    """``norm`` goes into ``linear``, whose weights become ``kernel`` and ``bias`` (float64)."""

    linear: keras.layers.Layer
    norm: keras.layers.BatchNormalization
    kernel: np.ndarray
    bias: np.ndarray


class ScaleShift(keras.layers.Layer):
    """``x * scale + shift`` per channel of ``axis``: what is left of a BatchNormalization in inference."""

    def __init__(self, axis: int, **rest: Any) -> None:
        super().__init__(**rest)
        self.axis = axis

    def build(self, shape: Any) -> None:
        size = (shape[self.axis],)
        self.scale = self.add_weight(shape=size, name="scale")
        self.shift = self.add_weight(shape=size, name="shift")

    def call(self, x: Any) -> Any:
        if self.axis in (-1, len(x.shape) - 1):
            return x * self.scale + self.shift
        dims = [1] * len(x.shape)
        dims[self.axis] = -1
        return x * keras.ops.reshape(self.scale, dims) + keras.ops.reshape(self.shift, dims)


def scale_and_shift(norm: Any) -> list[np.ndarray] | None:
    """The weights of a `ScaleShift` (float64) instead of ``norm``; None where it is another kind of layer, or float16
    does not hold them."""
    if type(norm) is not keras.layers.BatchNormalization or not norm.built or not isinstance(norm.axis, int):
        return None
    if not all(np.isfinite(np.asarray(v, np.float64)).all() for v in norm.weights):
        return None
    scale, shift = _affine(norm)
    return [scale, shift] if _fits(scale) and _fits(shift) else None


def find_folds(model: keras.Model) -> list[Fold]:
    """The norms of a functional ``model`` that can go, nested functional models included.

    A norm stays where its input has a second reader, the layer before is not linear or is shared, a maximum stands
    between and some scale is not positive, or the folded weights would not fit float16.
    """
    folds = []
    for graph in _graphs(model):
        readers = _readers(graph)
        for norm in graph.layers:
            if type(norm) is keras.layers.BatchNormalization and len(norm._inbound_nodes) == 1:
                fold = _fold(norm, readers)
                if fold is not None:
                    folds.append(fold)
    return folds


def _graphs(model: keras.Model) -> Iterator[keras.Model]:
    if isinstance(model, keras.Sequential):
        model = model._functional
    if isinstance(model, keras.Model) and hasattr(model, "operations"):
        yield model
        for layer in model.layers:
            if isinstance(layer, keras.Model):
                yield from _graphs(layer)


def _readers(graph: keras.Model) -> Counter[int]:
    readers: Counter[int] = Counter(id(tensor) for tensor in graph.outputs)
    for operation in graph.operations:
        for node in operation._inbound_nodes:
            readers.update(id(tensor) for tensor in node.input_tensors)
    return readers


def _fold(norm: keras.layers.BatchNormalization, readers: Counter[int]) -> Fold | None:
    if not all(np.isfinite(np.asarray(v, np.float64)).all() for v in norm.weights):
        return None  # an infinite variance would fold into zeros and hide what was lost
    scale, shift = _affine(norm)
    tensor = norm._inbound_nodes[0].input_tensors[0]
    if norm.axis not in (-1, len(tensor.shape) - 1):
        return None
    while True:
        operation = tensor._keras_history.operation
        if readers[id(tensor)] != 1 or len(operation._inbound_nodes) != 1:
            return None
        if isinstance(operation, _LINEAR):
            return _absorb(operation, norm, scale, shift)
        if not (isinstance(operation, _MAXIMUM) and operation.data_format == "channels_last" and (scale > 0).all()):
            return None
        tensor = operation._inbound_nodes[0].input_tensors[0]


def _affine(norm: keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    variance, mean = (np.asarray(v, np.float64) for v in (norm.moving_variance, norm.moving_mean))
    scale = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale = scale * np.asarray(norm.gamma, np.float64)
    shift = -mean * scale
    if norm.center:
        shift = shift + np.asarray(norm.beta, np.float64)
    return scale, shift


def _absorb(linear: Any, norm: Any, scale: np.ndarray, shift: np.ndarray) -> Fold | None:
    if linear.activation is not keras.activations.linear or getattr(linear, "lora_enabled", False):
        return None
    kernel = np.asarray(linear.kernel, np.float64)
    if isinstance(linear, keras.layers.DepthwiseConv1D | keras.layers.DepthwiseConv2D):
        kernel = kernel * scale.reshape(kernel.shape[-2:])
    elif type(linear).__name__.endswith("Transpose"):
        kernel = kernel * scale[:, None]
    else:
        kernel = kernel * scale
    bias = shift + (np.asarray(linear.bias, np.float64) * scale if linear.use_bias else 0)
    if not (_fits(kernel) and _fits(bias)):
        return None
    return Fold(linear, norm, kernel, bias)


def _fits(values: np.ndarray) -> bool:
    """Within float16's range, with no more than one value in a hundred lost below it."""
    if not np.isfinite(values).all():
        return False
    _, counts = cast.cast(values)
    return counts.clamped == 0 and counts.flushed * 100 <= counts.total
