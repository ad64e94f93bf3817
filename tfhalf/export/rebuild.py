"""A trained model rebuilt in float16.

Every layer is made anew from its own configuration with its dtype policy replaced, and the trained weights are cast
into it. Norms keep ``mixed_float16`` (float32 variables and statistics), layers kept in float32 and raw-range
preprocessing are float32, everything else is float16.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfhalf.errors import ConfigError, ExportError
from tfhalf.export.batchnorm import Fold, find_folds
from tfhalf.precision import float16
from tfhalf.precision.float16 import CastCounts
from tfhalf.precision.policy import NORMS, RAW_RANGE, flat_layers, layer_path, matching, policy


@dataclass(frozen=True)
class Rebuilt:
    """A float16 ``model`` and how it differs from the one it was made of."""

    model: keras.Model
    counts: CastCounts
    kept_float32: tuple[str, ...]
    folded: tuple[str, ...] = field(default=())


def rebuild(model: keras.Model, *, keep_float32: Iterable[str] = (), fold_batchnorm: bool = True) -> Rebuilt:
    """Float16 copy of ``model`` for inference. The copy shares no variable with the original.

    Args:
        model: built, of any policy; functional, sequential, or a subclass that implements ``get_config``.
        keep_float32: regular expressions searched in layer paths.
        fold_batchnorm: fold BatchNormalization into the layer before it where that is exact enough.

    Raises:
        ConfigError: a pattern of ``keep_float32`` matches no layer, or one within a layer that is not kept.
        ExportError: a layer cannot be made again from its configuration, or a weight is not finite.
    """
    kept = matching(model, keep_float32)
    kept_ids = {id(inner) for layer in kept for inner in [layer, *layer._flatten_layers(include_self=False)]}
    if not isinstance(model, keras.Sequential) and not hasattr(model, "operations"):
        copy, pairs, folds = *_from_config(model, kept_ids), []
    else:
        folds = find_folds(model) if fold_batchnorm else []
        folds = [fold for fold in folds if id(fold.linear) not in kept_ids and id(fold.norm) not in kept_ids]
        copy, pairs = _clone(model, kept_ids, folds)
        _check_kept(kept, pairs)
    counts = _carry_weights(pairs, {id(fold.linear): fold for fold in folds})
    return Rebuilt(
        copy,
        counts,
        tuple(layer_path(layer) for layer in kept),
        tuple(layer_path(fold.norm) for fold in folds),
    )


_Pairs = list[tuple[keras.layers.Layer, keras.layers.Layer]]


def _clone(model: keras.Model, kept: set[int], folds: list[Fold]) -> tuple[keras.Model, _Pairs]:
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name) if model.built else model
    linears, norms = {id(fold.linear) for fold in folds}, {id(fold.norm) for fold in folds}
    pairs: _Pairs = []
    gone: set[int] = set()

    def remake(layer: Any) -> Any:
        if not isinstance(layer, keras.layers.Layer):
            return layer  # a keras.ops function has no state and no dtype of its own
        if id(layer) in norms:
            copy = keras.layers.Identity(name=layer.name)  # what a Sequential within calls by itself
            gone.add(id(copy))
            return copy
        copy = _remake(layer, kept, use_bias=id(layer) in linears)
        pairs.append((layer, copy))
        return copy

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        return args[0] if id(layer) in gone else layer(*args, **kwargs)

    with policy("float16"):
        copy = keras.models.clone_model(model, clone_function=remake, call_function=call, recursive=True)
    return copy, pairs


def _remake(layer: keras.layers.Layer, kept: set[int], use_bias: bool) -> keras.layers.Layer:
    scope = {type(inner).__name__: type(inner) for inner in [layer, *layer._flatten_layers(include_self=False)]}
    name = _policy_of(layer, id(layer) in kept)
    try:
        config = layer.get_config()
        _replace_policies(config, name)
        if use_bias:
            config["use_bias"] = True
        with policy(name), keras.saving.custom_object_scope(scope):  # layers made by its __init__ follow the policy
            copy = type(layer).from_config(config)
            _widen_norms(copy, name)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ExportError(
            f"layer {layer_path(layer)!r} ({type(layer).__name__}) cannot be made again from its configuration: "
            f"{' '.join(str(error).split())[:200]}; give it get_config() with every argument of __init__"
        ) from error
    if isinstance(layer, keras.layers.Normalization):
        copy.build(layer._build_input_shape)
        copy.set_weights(layer.get_weights())
        copy.finalize_state()  # without it an adapted layer answers with mean 0 and variance 1
        # tf2onnx makes required inputs of tensors that were computed outside the function.
        copy.mean, copy.variance = np.asarray(copy.mean), np.asarray(copy.variance)
    return copy


def _check_kept(kept: list[keras.layers.Layer], pairs: _Pairs) -> None:
    """Refuse to keep a layer that another layer makes: it is rebuilt with that one, under its policy."""
    remade = {id(source): source for source, _ in pairs}
    for layer in kept:
        if id(layer) in remade or isinstance(layer, keras.layers.InputLayer) or hasattr(layer, "operations"):
            continue
        for outer in remade.values():
            if any(inner is layer for inner in outer._flatten_layers(include_self=False)) and outer not in kept:
                raise ConfigError(
                    f"precision.keep_float32: {layer_path(layer)!r} lies within {layer_path(outer)!r} "
                    f"({type(outer).__name__}); match that layer instead"
                )


def _policy_of(layer: keras.layers.Layer, kept: bool) -> str:
    if kept or (isinstance(layer, RAW_RANGE) and layer.compute_dtype == "float32"):
        return "float32"
    return "mixed_float16" if isinstance(layer, NORMS) else "float16"


def _replace_policies(config: Any, name: str) -> None:
    """Set every dtype policy within a layer's configuration, inner layers' included."""
    if isinstance(config, dict):
        if "dtype" in config and (config["dtype"] is None or isinstance(config["dtype"], str | dict)):
            config["dtype"] = name
        for key, value in config.items():
            if key != "dtype":
                _replace_policies(value, name)
    elif isinstance(config, list | tuple):
        for value in config:
            _replace_policies(value, name)


def _widen_norms(layer: keras.layers.Layer, name: str) -> None:
    """Norms within another layer keep float32 variables too, whether a configuration or an ``__init__`` made them."""
    for inner in layer._flatten_layers(include_self=False):
        if isinstance(inner, NORMS) and name == "float16" and not inner.built:
            inner.dtype_policy = "mixed_float16"


def _from_config(model: keras.Model, kept: set[int]) -> tuple[keras.Model, _Pairs]:
    """A subclassed model, from its own configuration; inner layers follow the global policy."""
    if kept:
        raise ExportError("keep_float32 needs a functional or sequential model; this one is a subclass of keras.Model")
    scope = {type(layer).__name__: type(layer) for layer in [model, *flat_layers(model)]}
    try:
        config = model.get_config()
        _replace_policies(config, "float16")
        with policy("float16"), keras.saving.custom_object_scope(scope):
            copy = type(model).from_config(config)
            _widen_norms(copy, "float16")
            if not copy.built:
                copy.build_from_config(model.get_build_config())
    except (TypeError, ValueError, NotImplementedError, AttributeError) as error:
        raise ExportError(
            f"model {model.name!r} ({type(model).__name__}) cannot be made again from its configuration: "
            f"{' '.join(str(error).split())[:200]}; build it with keras.Model(inputs, outputs), or give it get_config()"
        ) from error
    return copy, [(model, copy)]


def _carry_weights(pairs: _Pairs, folds: dict[int, Fold]) -> CastCounts:
    counts = CastCounts()
    for source, target in pairs:
        fold = folds.get(id(source))
        values = [fold.kernel, fold.bias] if fold else [keras.ops.convert_to_numpy(v) for v in source.weights]
        if len(values) != len(target.weights):
            raise ExportError(
                f"layer {layer_path(source)!r} has {len(values)} weights and its float16 copy {len(target.weights)}; "
                "its configuration does not describe it fully"
            )
        for variable, value in zip(target.weights, values, strict=True):
            counts += _assign(variable, value)
    return counts


def _assign(variable: Any, value: np.ndarray) -> CastCounts:
    if not np.issubdtype(value.dtype, np.floating) and value.dtype.name != "bfloat16":
        variable.assign(value)
        return CastCounts()
    if not np.isfinite(value.astype(np.float64)).all():
        raise ExportError(f"weight {variable.path!r} is not finite; the training run lost its numbers")
    if keras.backend.standardize_dtype(variable.dtype) != "float16":
        variable.assign(value)
        return CastCounts()
    narrow, counts = float16.cast(value)
    variable.assign(narrow)
    return counts
