"""The weights of a model of Keras 2, for the model of Keras 3 that its configuration describes.

Keras 2 stored them in three ways. HDF5: for each layer of the model a flat list of names, trainable ones first.
``.keras``: groups by attribute, ``layers/dense/vars/0``. SavedModel: a graph of objects, ``layer-1/kernel``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras

from tfhalf.artifacts.hdf5 import Stored
from tfhalf.errors import ArtifactError
from tfhalf.export.load import keras2_ops
from tfhalf.export.load.keras2_config import MODELS
from tfhalf.inspect.facts import printable

RENAMED = {"depthwise_kernel": "kernel"}  # of DepthwiseConv alone; SeparableConv still has both
_ONLY_TRAINING = ("moving_stddev", "renorm_mean", "renorm_stddev")  # BatchNormalization with renorm
_CONTAINERS = ("layers", "_layer_checkpoint_dependencies", "cells", "_layers")
_Pair = tuple[Any, Any]


class Assignment:
    """Which weights of a model have their value. `give` each its own, then `finish`."""

    def __init__(self, path: Path, model: keras.Model) -> None:
        self.path, self.model = path, model
        self.left = {id(variable): variable for variable in model.weights}

    def give(self, variable: keras.Variable, name: str, shape: tuple[int, ...], read: Any) -> None:
        """Assign ``read()``, whose shape is ``shape``; a variable that has its value already keeps it.

        Raises:
            ArtifactError: the variable's shape is another, or the values cannot be read.
        """
        if id(variable) not in self.left:
            return
        if tuple(shape) != tuple(variable.shape):
            raise ArtifactError(
                f"{self.path}: {printable(name, 80)} has shape {tuple(shape)}; the layer "
                f"{printable(str(variable.path), 60)} takes {tuple(variable.shape)}"
            )
        try:
            value = read()
        except ValueError as error:
            raise ArtifactError(f"{self.path}: {printable(str(error))}; it is damaged, make it again") from None
        self.left.pop(id(variable)).assign(value)

    def finish(self) -> None:
        """Refuse the model if a weight has no value, and make its preprocessing layers ready.

        Raises:
            ArtifactError: it names some.
        """
        missing = [v.path for v in self.left.values() if "seed_generator" not in v.path]
        if missing:
            raise ArtifactError(
                f"{self.path}: has no value for {', '.join(printable(str(m), 60) for m in missing[:4])}, which Keras "
                "3's layers have; give file.py:build, which makes the layers, with --weights"
            )
        for layer in self.model._flatten_layers(include_self=False, recursive=True):
            if hasattr(layer, "finalize_state"):
                layer.finalize_state()


# --- HDF5 -------------------------------------------------------------------------------------------------------------


def assign_flat(
    path: Path, model: keras.Model, config: dict[str, Any] | None, layers: Mapping[str, list[Stored]]
) -> None:
    """Give ``model`` what an HDF5 file of Keras 2 (or of Keras 3 in that form) lists for each of its layers.

    Args:
        path: for messages.
        model: built.
        config: its configuration of Keras 2, which has the order of layers within layers; None where there is none.
        layers: the file's layers by name, in their order, each with its datasets.

    Raises:
        ArtifactError: they are not the model's.
    """
    nodes = dict(_ordered(model, config))
    own = {layer.name: flat_weights(layer, node) for layer, node in nodes.items()} if config else {}
    own = own or {layer.name: flat_weights(layer, None) for layer in model.layers}
    needed = {name: variables for name, variables in own.items() if variables}
    held = {name: stored for name, stored in layers.items() if stored}
    if set(needed) != set(held):
        if config is not None or len(needed) != len(held):
            raise ArtifactError(_others(path, needed, held))
        held = dict(zip(needed, held.values(), strict=True))  # layers named anew, in the same order
    assignment = Assignment(path, model)
    for name, variables in needed.items():
        stored = [item for item in held[name] if _last(item.tensor.name) not in _ONLY_TRAINING]
        if len(stored) != len(variables):
            raise ArtifactError(
                f"{path}: the layer {printable(name, 60)} has {len(stored)} weights in the file and {len(variables)} "
                "in the model; build the model that they were saved from"
            )
        for variable, item in zip(variables, _in_order(variables, stored), strict=True):
            last = _last(item.tensor.name)
            if variable.name not in (last, RENAMED.get(last)):
                raise ArtifactError(
                    f"{path}: {printable(item.tensor.name, 80)} stands where the model has "
                    f"{printable(variable.path, 60)}; build the model that it was saved from"
                )
            assignment.give(variable, item.tensor.name, item.tensor.shape, item.read)
    assignment.finish()


def _in_order(variables: list[Any], stored: list[Stored]) -> list[Stored]:
    """``stored`` in the order of ``variables``, where their layers and names are the same ones; else as it is."""
    named = {"/".join(_parts(item.tensor.name)): item for item in stored}
    paths = ["/".join(_parts(variable.path)) for variable in variables]
    same = len(named) == len(stored) and set(named) == set(paths)
    return [named[name] for name in paths] if same else stored


def _parts(name: str) -> list[str]:
    """The layer's name and the weight's: ``late/dense_1/kernel:0`` as ``dense_1``, ``kernel``."""
    layer, _, weight = name.rpartition("/")
    weight = _last(weight)
    return [layer.rpartition("/")[2], RENAMED.get(weight, weight)]


def _others(path: Path, own: dict[str, Any], stored: dict[str, Any]) -> str:
    lacks, more = [n for n in own if n not in stored], [n for n in stored if n not in own]
    parts = [f"has no weights for {', '.join(printable(n, 40) for n in lacks[:3])}"] if lacks else []
    parts += [f"has weights for {', '.join(printable(n, 40) for n in more[:3])}, which the model lacks"] if more else []
    return f"{path}: {' and '.join(parts)}; build the model that they were saved from"


def _last(name: str) -> str:
    """``conv/kernel_1:0`` as ``kernel``."""
    return re.sub(r"_\d+$", "", name.rpartition("/")[2].split(":")[0])


def flat_weights(layer: Any, node: dict[str, Any] | None) -> list[keras.Variable]:
    """A layer's weights in Keras 2's order: its own and its layers' trainable ones, then the others."""
    trainable, rest = _flat(layer, node)
    return list({id(variable): variable for variable in [*trainable, *rest]}.values())


def _flat(layer: Any, node: dict[str, Any] | None) -> tuple[list[Any], list[Any]]:
    first, second = list(layer._trainable_variables), list(layer._non_trainable_variables)
    trainable = bool(node["config"].get("trainable", True)) if node and isinstance(node["config"], dict) else True
    trainable = trainable if node else layer.trainable
    children = [_flat(child, inner) for child, inner in _children(layer, node)]
    if not trainable:
        return [], [*first, *second, *(v for one, two in children for v in (*one, *two))]
    return [*first, *(v for one, _ in children for v in one)], [*second, *(v for _, two in children for v in two)]


def _children(layer: Any, node: dict[str, Any] | None) -> list[tuple[Any, dict[str, Any] | None]]:
    if isinstance(layer, keras.Model):
        return list(_ordered(layer, node))
    config = node["config"] if node else {}
    inner = config.get("layer", config.get("cell"))
    inner = inner if isinstance(inner, dict) and "class_name" in inner else None
    held = layer._flatten_layers(include_self=False, recursive=False)
    return [(child, inner) for child in held]


def _ordered(model: keras.Model, node: dict[str, Any] | None) -> Iterator[tuple[Any, dict[str, Any] | None]]:
    """The layers of ``model`` in the order that Keras 2 had them in, with their configurations."""
    if node is None or node["class_name"] not in MODELS:
        yield from ((layer, None) for layer in model.layers)
        return
    config = node["config"]
    for inner in config if isinstance(config, list) else config["layers"]:
        if inner["class_name"] in keras2_ops.CLASSES:
            continue
        settings = inner["config"] if isinstance(inner["config"], dict) else {}
        name = settings.get("name", inner.get("name"))
        match = next((layer for layer in model._layers if layer.name == name), None)
        if match is not None:
            yield match, inner


# --- .keras -----------------------------------------------------------------------------------------------------------


def assign_groups(path: Path, model: keras.Model, config: dict[str, Any], stored: Mapping[str, Stored]) -> None:
    """Give ``model`` what the weights of a ``.keras`` file of Keras 2 hold.

    Args:
        path: for messages.
        model: built of ``config``, the configuration of Keras 2.
        stored: datasets by path, such as ``layers/dense/vars/0``; on Windows the separators were backslashes.

    Raises:
        ArtifactError: they are not the model's.
    """
    groups: dict[str, dict[int, Stored]] = {}
    for name, held in stored.items():
        group, _, number = name.replace("\\", "/").rpartition("/")
        if number.isdecimal() and (group == "vars" or group.endswith("/vars")):
            groups.setdefault(group.removesuffix("vars").strip("/"), {})[int(number)] = held
    assignment = Assignment(path, model)
    seen: set[int] = set()
    for where, layer in _placed("", model, config, groups, seen):
        own = [*layer._trainable_variables, *layer._non_trainable_variables]
        items = groups.get(where, {})
        for index, variable in enumerate(own):
            if item := items.get(index):
                assignment.give(variable, item.tensor.name, item.tensor.shape, item.read)
    assignment.finish()


def _placed(
    where: str, layer: Any, node: dict[str, Any] | None, groups: Mapping[str, Any], seen: set[int]
) -> Iterator[tuple[str, Any]]:
    """Every layer below ``layer`` with the group that Keras 2 put its variables into."""
    if id(layer) in seen:
        return
    seen.add(id(layer))
    yield where, layer
    start = f"{where}/" if where else ""
    if isinstance(layer, keras.Model):
        inside = [name for name in _CONTAINERS if any(group.startswith(f"{start}{name}/") for group in groups)]
        yield from _contained(f"{start}{(inside or ['layers'])[0]}/", list(_ordered(layer, node)), groups, seen)
        return
    for child, inner in _children(layer, node):
        attribute = next((name for name, value in vars(layer).items() if value is child), None)
        if attribute is not None:
            yield from _placed(f"{start}{attribute}", child, inner, groups, seen)
    lists = [
        (name, value) for name, value in vars(layer).items() if name == "cells" and isinstance(value, list | tuple)
    ]
    for name, value in lists:
        yield from _contained(f"{start}{name}/", [(cell, None) for cell in value], groups, seen)


def _contained(
    start: str, layers: list[tuple[Any, dict[str, Any] | None]], groups: Mapping[str, Any], seen: set[int]
) -> Iterator[tuple[str, Any]]:
    """Layers in a list, each in a group that is named after its class, with a number from the second on."""
    used: dict[str, int] = {}
    for layer, node in layers:
        if id(layer) in seen:
            continue
        kind = _snake(str(node["class_name"]).split(">")[-1] if node else type(layer).__name__)
        used[kind] = used.get(kind, -1) + 1
        number = f"_{used[kind]}" if used[kind] else ""
        yield from _placed(f"{start}{kind}{number}", layer, node, groups, seen)


def _snake(name: str) -> str:
    """A class's name as Keras writes it in paths: ``ReLU`` is ``re_lu``, ``Conv2D`` is ``conv2d``."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
