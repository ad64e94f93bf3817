"""Dtype policies: the global one set for the length of a block, and float32 islands within a mixed model."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from tfhalf.errors import ConfigError

# Layers that divide by a variance: their statistics and scales stay float32 in a float16 model, as they do in training.
NORMS = (
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
    keras.layers.RMSNormalization,
    keras.layers.UnitNormalization,
    keras.layers.SpectralNormalization,
)
# Preprocessing works on raw ranges such as 0..255 or a variance of 1e5.
RAW_RANGE = (keras.layers.Normalization, keras.layers.Rescaling)


@contextmanager
def policy(name: str) -> Iterator[None]:
    """Set Keras' global dtype policy to ``name`` within the block, and put back what was there before."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def widen_statistics(model: keras.Model) -> None:
    """Keep what BatchNormalization averages over steps in float32, in a built ``model`` of the policy ``float16``.

    Under that policy Keras makes them float16, and they cannot work: with a momentum of 0.99 an average takes a
    hundredth of each difference, which is lost as soon as the difference is below 2 to 5 % of the average (half of its
    last digit); with 0.999, below 24 to 49 %. A variance beyond 65504, of activations of a few hundred, is infinite.
    They are not weights, no gradient moves them, and float32 ones are no copy of anything.

    ``gamma`` and ``beta`` stay float16. The layer's policy becomes ``mixed_float16``, so that plain Keras loads the
    statistics of a saved model as they are.
    """
    for layer in flat_layers(model):
        if not isinstance(layer, keras.layers.BatchNormalization) or layer.dtype_policy.name != "float16":
            continue
        for variable in layer._non_trainable_variables:
            if variable.dtype == "float16":  # in its object, which the layer and others hold
                value = keras.ops.convert_to_numpy(variable).astype("float32")
                variable._dtype = "float32"
                variable._initialize(value)
        layer.dtype_policy = "mixed_float16"


def takes_integers(model: keras.Model) -> bool:
    """Whether ``model`` takes whole numbers: it receives int32, which no policy rounds, and nothing normalises them."""
    return bool(keras.backend.is_int_dtype(model.inputs[0].dtype))


def flat_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Every layer below ``model``, nested ones included, in the order Keras tracks them."""
    layers: list[keras.layers.Layer] = list(model._flatten_layers(include_self=False, recursive=True))
    return layers


def matching(
    model: keras.Model, patterns: Iterable[str], key: str = "precision.keep_float32"
) -> list[keras.layers.Layer]:
    """The layers whose path (``block1/conv``; a top-level layer's path is its name) a pattern of ``key`` matches.

    Raises:
        ConfigError: a pattern matches no layer; it names some that exist.
    """
    layers = flat_layers(model)
    matches: dict[int, keras.layers.Layer] = {}
    for pattern in patterns:
        hits = [layer for layer in layers if re.search(pattern, layer_path(layer))]
        if not hits:
            names = near_names(pattern, [layer_path(layer) for layer in layers])
            raise ConfigError(f"{key}: {pattern!r} matches no layer; the model has {names}")
        matches.update((id(layer), layer) for layer in hits)
    return list(matches.values())


def near_names(pattern: str, names: Sequence[str]) -> str:
    """The names that a pattern without a match may have meant, or the first few."""
    meant = pattern.strip("^$").lower()

    def likeness(name: str) -> float:
        parts = (name.lower(), name.lower().rpartition("/")[2])
        return max(difflib.SequenceMatcher(None, meant, part).ratio() for part in parts)

    near = sorted((name for name in names if likeness(name) >= 0.6), key=likeness, reverse=True)
    shown = (near or list(names))[:8]
    return ", ".join(shown) + (", ..." if len(names) > len(shown) else "")


def layer_path(layer: Any) -> str:
    """``layer.path`` once built, its name before."""
    return str(getattr(layer, "path", None) or layer.name)


def keep_float32(model: keras.Model, patterns: Iterable[str]) -> list[str]:
    """Make the matching layers of a mixed-precision ``model`` compute in float32; returns their paths.

    In a mixed model variables are float32 already, so only the compute dtype changes. Under ``float16`` they stay
    float16: the layer computes in float32 with them.

    Raises:
        ConfigError: a pattern matches no layer.
    """
    chosen = matching(model, patterns)
    for layer in chosen:
        for inner in layer._flatten_layers():  # the layer itself, and what it holds
            inner.dtype_policy = "float32"
    return [layer_path(layer) for layer in chosen]
