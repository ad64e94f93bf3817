"""A trained model rebuilt in float16.

Every layer is made anew from its own configuration with its dtype policy replaced, and the trained weights are cast
into it. Norms keep ``mixed_float16`` (float32 variables and statistics), layers kept in float32 and raw-range
preprocessing are float32, everything else is float16. In bfloat16 a model is rebuilt by the same rules.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfhalf.errors import ConfigError, ExportError
from tfhalf.export.rebuild import grouped_conv
from tfhalf.export.rebuild.fold_batchnorm import Fold, ScaleShift, find_folds, scale_and_shift
from tfhalf.export.rebuild.policies import (
    HALF,
    Target,
    in_float32,
    own_islands,
    policy_of,
    replace_policies,
    widen_norms,
)
from tfhalf.precision import cast as float16
from tfhalf.precision.cast import CastCounts
from tfhalf.precision.cudnn import leave_cudnn
from tfhalf.precision.keras_graph import copied, failures_named, graph_of, heads, operations
from tfhalf.precision.policy import flat_layers, layer_path, matching, policy
from tfhalf.text import one_line

_FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Rebuilt:
    """A float16 ``model`` and how it differs from its original.

    ``copies`` has the copy of each operation of the original's graph, by the original's id; empty for subclasses.
    """

    model: keras.Model
    counts: CastCounts
    kept_float32: tuple[str, ...]
    folded: tuple[str, ...] = field(default=())
    copies: dict[int, Any] = field(default_factory=dict, repr=False)


def rebuild(
    model: keras.Model,
    *,
    keep_float32: Iterable[str] = (),
    keep: Iterable[Any] = (),
    fold_batchnorm: bool = True,
    target: Target = "float16",
) -> Rebuilt:
    """Float16 copy of ``model`` for inference. The copy shares no variable with the original.

    Args:
        model: built, of any policy; functional, sequential, or a subclass that implements ``get_config``.
        keep_float32: regular expressions searched in layer paths.
        keep: layers and operations of the model's graph, themselves; also kept in float32.
        fold_batchnorm: fold BatchNormalization into the layer before it where that is exact enough.
        target: the policy instead of float16; ``mixed_float16`` keeps weights in float32 and computes in float16,
            ``float32`` and ``bfloat16`` are other numbers of the same model.

    Raises:
        ConfigError: a pattern of ``keep_float32`` matches no layer, or one within a layer that is not kept.
        ExportError: a layer cannot be made again from its configuration, or a weight is not finite.
    """
    kept = list({id(layer): layer for layer in [*matching(model, keep_float32), *keep]}.values())
    kept_ids = {id(inner) for layer in kept for inner in [layer, *_inner(layer)]}
    if not isinstance(model, keras.Sequential) and not hasattr(model, "operations"):
        folds: list[Fold] = []
        copies: dict[int, Any] = {}
        copy, pairs = _from_config(model, kept_ids, target)
    else:
        folds = find_folds(model) if fold_batchnorm else []
        folds = [fold for fold in folds if id(fold.linear) not in kept_ids and id(fold.norm) not in kept_ids]
        copy, pairs, copies = _clone(model, kept_ids, folds, target, plain_norms=not fold_batchnorm)
        _check_kept(kept, pairs)
    leave_cudnn(copy)
    counts = _carry_weights(pairs, {id(fold.linear): fold for fold in folds})
    return Rebuilt(
        copy,
        counts,
        tuple(layer_path(layer) for layer in kept),
        tuple(layer_path(fold.norm) for fold in folds),
        copies,
    )


def _inner(operation: Any) -> list[Any]:
    """The layers that a layer holds; none for an operation of `keras.ops`."""
    layers = operation._flatten_layers(include_self=False) if isinstance(operation, keras.layers.Layer) else ()
    return list(layers)


_Pairs = list[tuple[keras.layers.Layer, keras.layers.Layer]]


def _clone(
    model: keras.Model, kept: set[int], folds: list[Fold], target: Target, *, plain_norms: bool
) -> tuple[keras.Model, _Pairs, dict[int, Any]]:
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name) if model.built else model
    linears, norms = {id(fold.linear) for fold in folds}, {id(fold.norm) for fold in folds}
    pairs: _Pairs = []
    copies: dict[int, Any] = {}
    gone: set[int] = set()
    wide: set[int] = set()
    own, last = own_islands(model), heads(model)
    paths = {id(op): path for path, op in operations(model).items()} if graph_of(model) is not None else {}
    names: dict[int, str] = {}  # of the copies, for what is said of one that fails

    def remake(layer: Any) -> Any:
        if not isinstance(layer, keras.layers.Layer):
            copy = copied(layer)
        elif id(layer) in norms:
            copy = keras.layers.Identity(name=layer.name)  # what a Sequential within calls by itself
            gone.add(id(copy))
        elif not plain_norms and target != "float32" and id(layer) not in kept | own and scale_and_shift(layer):
            copy = ScaleShift(layer.axis, name=layer.name, dtype=target)
            pairs.append((layer, copy))
        else:
            island = id(layer) in kept or id(layer) in own
            copy = _remake(layer, policy_of(layer, island, target), use_bias=id(layer) in linears)
            if id(layer) in last:
                in_float32(copy)
            pairs.append((layer, copy))
        if id(layer) in kept or type(layer).__name__ == "Resize":
            wide.add(id(copy))
        copies[id(layer)] = copy
        names[id(copy)] = paths.get(id(layer), copy.name)
        return copy

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if id(layer) in gone:
            return args[0]
        if isinstance(layer, ScaleShift):
            return layer(args[0])  # a norm's call may say more: whether it trains, a mask
        if target == "float32":
            return layer(*args, **kwargs)
        if not isinstance(layer, keras.layers.Layer):
            args, kwargs = keras.tree.map_structure(_caster((args, kwargs), id(layer) in wide), (args, kwargs))
        with failures_named(names.get(id(layer), layer.name), target.removeprefix("mixed_")):
            return layer(*args, **kwargs)

    with policy(target), np.errstate(over="ignore"):  # numpy warns of a constant that becomes infinite
        copy = keras.models.clone_model(model, clone_function=remake, call_function=call, recursive=True)
    return copy, pairs, copies


def _caster(arguments: Any, island: bool) -> Any:
    """What brings the arguments of an operation of `keras.ops` to one dtype: float32 in an island; else half precision
    for constants beside tensors of it, which would draw everything after them into float32."""
    tensors = [x for x in keras.tree.flatten(arguments) if isinstance(x, keras.KerasTensor) and x.dtype in _FLOATS]
    dtypes = {x.dtype for x in tensors}
    half = dtypes.pop() if len(dtypes) == 1 else ""
    narrow = half in HALF

    def cast(x: Any) -> Any:
        if island and any(x is tensor for tensor in tensors):
            return keras.ops.cast(x, "float32")
        constant = not isinstance(x, keras.KerasTensor) and (isinstance(x, np.ndarray) or keras.ops.is_tensor(x))
        if narrow and not island and constant and keras.backend.standardize_dtype(x.dtype) in _FLOATS:
            plain = isinstance(x, np.ndarray) and half == "float16"
            return x.astype(np.float16) if plain else keras.ops.cast(x, half)
        return x

    return cast


def _remake(layer: keras.layers.Layer, name: str, use_bias: bool) -> keras.layers.Layer:
    scope = {type(inner).__name__: type(inner) for inner in [layer, *layer._flatten_layers(include_self=False)]}
    try:
        config = layer.get_config()
        replace_policies(config, name)
        if use_bias:
            config["use_bias"] = True
        with policy(name), keras.saving.custom_object_scope(scope):  # layers made by its __init__ follow the policy
            copy = type(layer).from_config(config)
            widen_norms(copy, name)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ExportError(
            f"layer {layer_path(layer)!r} ({type(layer).__name__}) cannot be made again from its configuration: "
            f"{one_line(error, 200)}; give it get_config() with every argument of __init__"
        ) from error
    grouped_conv.replace(copy)
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
        if not isinstance(layer, keras.layers.Layer):
            continue
        if id(layer) in remade or isinstance(layer, keras.layers.InputLayer) or hasattr(layer, "operations"):
            continue
        for outer in remade.values():
            if any(inner is layer for inner in outer._flatten_layers(include_self=False)) and outer not in kept:
                raise ConfigError(
                    f"precision.keep_float32: {layer_path(layer)!r} lies within {layer_path(outer)!r} "
                    f"({type(outer).__name__}); match that layer instead"
                )


def _from_config(model: keras.Model, kept: set[int], target: Target) -> tuple[keras.Model, _Pairs]:
    """A subclassed model, from its own configuration; inner layers follow the global policy."""
    if kept:
        raise ExportError("keep_float32 needs a functional or sequential model; this one is a subclass of keras.Model")
    scope = {type(layer).__name__: type(layer) for layer in [model, *flat_layers(model)]}
    try:
        config = model.get_config()
        replace_policies(config, target)
        with policy(target), keras.saving.custom_object_scope(scope):
            copy = type(model).from_config(config)
            widen_norms(copy, target)
            if not copy.built:
                copy.build_from_config(model.get_build_config())
    except (TypeError, ValueError, NotImplementedError, AttributeError) as error:
        raise ExportError(
            f"model {model.name!r} ({type(model).__name__}) cannot be made again from its configuration: "
            f"{one_line(error, 200)}; build it with keras.Model(inputs, outputs), or give it get_config()"
        ) from error
    return copy, [(model, copy)]


def _carry_weights(pairs: _Pairs, folds: dict[int, Fold]) -> CastCounts:
    counts = CastCounts()
    for source, target in pairs:
        fold = folds.get(id(source))
        values = [fold.kernel, fold.bias] if fold else [keras.ops.convert_to_numpy(v) for v in source.weights]
        if isinstance(target, ScaleShift):
            values = scale_and_shift(source) or []
        if len(values) != len(target.weights):
            raise ExportError(
                f"layer {layer_path(source)!r} has {len(values)} weights and its copy {len(target.weights)}; "
                "its configuration does not describe it fully"
            )
        for variable, value in zip(target.weights, values, strict=True):
            counts += _assign(variable, value)
    return counts


def narrowed(path: str, value: np.ndarray, dtype: str = "float16") -> tuple[np.ndarray, CastCounts]:
    """A weight's value for a variable of ``dtype``, and what a cast to float16 lost; integers stay as they are, and
    other floats are rounded where they are assigned.

    Raises:
        ExportError: it is not finite.
    """
    if not np.issubdtype(value.dtype, np.floating) and value.dtype.name != "bfloat16":
        return value, CastCounts()
    if not np.isfinite(value.astype(np.float64)).all():
        raise ExportError(f"weight {path!r} is not finite; the training run lost its numbers")
    return float16.cast(value) if dtype == "float16" else (value, CastCounts())


def _assign(variable: Any, value: np.ndarray) -> CastCounts:
    fitting, counts = narrowed(variable.path, value, keras.backend.standardize_dtype(variable.dtype))
    variable.assign(fitting)
    return counts
