"""The dtype policy that each layer of a float16 copy gets."""

from __future__ import annotations

from typing import Any, Literal

import keras

from tfhalf.precision.keras_graph import graph_of
from tfhalf.precision.policy import NORMS, RAW_RANGE, flat_layers

Target = Literal["float16", "mixed_float16", "float32", "bfloat16"]
HALF = ("float16", "bfloat16")
# They count categories in the dtype that variables would have, and TensorFlow does not in float16.
_CATEGORIES = (
    keras.layers.CategoryEncoding,
    keras.layers.Discretization,
    keras.layers.HashedCrossing,
    keras.layers.Hashing,
    keras.layers.IntegerLookup,
    keras.layers.StringLookup,
    keras.layers.TextVectorization,
)
_PROBABILITIES = (keras.activations.softmax, keras.activations.log_softmax, keras.activations.sigmoid)


def own_islands(model: keras.Model) -> set[int]:
    """Ids of the layers that a half-precision ``model`` itself computes in float32: somebody's considered choice."""
    layers = [layer for layer in flat_layers(model) if not isinstance(layer, keras.layers.InputLayer)]
    if not any(layer.compute_dtype in HALF for layer in layers):
        return set()
    return {id(layer) for layer in layers if layer.compute_dtype == "float32" and graph_of(layer) is None}


def policy_of(layer: keras.layers.Layer, kept: bool, target: Target) -> str:
    """The dtype policy of a layer's copy, where ``target`` is that of most."""
    if (
        kept
        or resizes(layer)
        or target == "float32"
        or (isinstance(layer, RAW_RANGE) and layer.compute_dtype == "float32")
    ):
        return "float32"
    if not isinstance(layer, (*NORMS, *_CATEGORIES)):
        return target
    return "mixed_bfloat16" if target == "bfloat16" else "mixed_float16"


def replace_policies(config: Any, name: str) -> None:
    """Set every dtype policy within a layer's configuration, inner layers' included."""
    if isinstance(config, dict):
        if "dtype" in config and (config["dtype"] is None or isinstance(config["dtype"], str | dict)):
            config["dtype"] = name
        for key, value in config.items():
            if key != "dtype":
                replace_policies(value, name)
    elif isinstance(config, list | tuple):
        for value in config:
            replace_policies(value, name)


def widen_norms(layer: keras.layers.Layer, name: str) -> None:
    """Norms within another layer keep float32 variables too, whether a configuration or an ``__init__`` made them."""
    for inner in layer._flatten_layers(include_self=False):
        if isinstance(inner, NORMS) and name in HALF and not inner.built:
            inner.dtype_policy = f"mixed_{name}"


def resizes(layer: Any) -> bool:
    """Whether a layer interpolates images, which TensorFlow does in float32 whatever it takes."""
    between = getattr(layer, "interpolation", "nearest") != "nearest"
    return between and isinstance(layer, keras.layers.Resizing | keras.layers.UpSampling2D)


def in_float32(layer: Any) -> None:
    """Have the last layer of a model give probabilities that were computed in float32, which callers get anyway.

    In float16 those below 6e-8 are zero, and those near 1 are 5e-4 apart.
    """
    if isinstance(layer, keras.layers.Softmax):
        layer.dtype_policy = "float32"
    elif getattr(layer, "activation", None) in _PROBABILITIES:
        layer.activation = _Widened(layer.activation)


class _Widened:
    """An activation function in float32."""

    def __init__(self, function: Any) -> None:
        self.function, self.__name__ = function, function.__name__

    def __call__(self, x: Any) -> Any:
        return self.function(keras.ops.cast(x, "float32"))
