"""Models that Keras 2 saved: SavedModel folders, HDF5 files, ``.keras`` files of TensorFlow 2.12 to 2.15 and tf_keras.

A SavedModel of ``model.save()`` holds the layers' configurations beside its graph: ``keras_metadata.pb``
(tensorflow/python/keras/protobuf/saved_metadata.proto) has a node for each layer: where it hangs in the tree of
objects, and its configuration as JSON. The checkpoint names values by the same paths.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from google.protobuf.message import DecodeError
from keras.src.backend import get_keras_mask
from keras.src.models.functional import Functional
from keras.src.saving.serialization_lib import ObjectSharingScope
from tensorflow.core.protobuf import trackable_object_graph_pb2

from tfhalf.artifacts import hdf5
from tfhalf.errors import ArtifactError, TfhalfError
from tfhalf.export.load import allowed, claims, keras2_ops
from tfhalf.export.load.keras2_config import MODELS, RECURRENT, modern
from tfhalf.export.load.keras2_weights import RENAMED, Assignment, assign_flat, assign_groups
from tfhalf.inspect import bundle
from tfhalf.inspect.bundle import varint
from tfhalf.inspect.facts import damaged, printable, reason
from tfhalf.inspect.keras_h5 import WEIGHTS, attribute_strings

METADATA = "keras_metadata.pb"
INDEX = Path("variables") / "variables.index"
MAX_BYTES = 256 << 20
_NODES, _PATH, _JSON = 1, 3, 5  # fields of SavedMetadata, and of SavedObject


def build(path: Path, config: dict[str, Any], custom: dict[str, Any], held: int) -> keras.Model:
    """Make the model of a configuration of Keras 2, with weights that are still drawn.

    Args:
        path: for messages.
        config: with ``class_name`` and ``config``; not changed.
        custom: the user's own classes and functions, by name.
        held: how many values the file has for weights.

    Raises:
        ArtifactError: it names or claims what is not allowed, or Keras 3 cannot make it.
    """
    new = modern(path, config, set(custom))
    allowed.check(path, new, set(custom) | keras2_ops.OWN)

    def bare() -> keras.Model:
        with ObjectSharingScope():
            model: keras.Model = keras.saving.deserialize_keras_object(copy.deepcopy(new), custom_objects=custom)
        return _masks_passed(model)

    try:
        claims.check(path, bare, held)
        model = bare()
    except TfhalfError:
        raise
    except RecursionError:
        raise ArtifactError(f"{path}: its configuration is nested too deep") from None
    except Exception as error:  # whatever a layer's code raises
        raise ArtifactError(f"{path}: Keras 3 cannot make this model of Keras 2: {reason(error)}") from error
    _check_vocabularies(path, model)
    return model


def _masks_passed(model: keras.Model) -> keras.Model:
    """``model``, where recurrent layers that are given a state are given the mask of their steps too: with a state
    Keras 3 leaves it out, which Keras 2 did not."""
    if not isinstance(model, Functional):
        return model
    within = {id(layer): _masks_passed(layer) for layer in model.layers}
    changed = any(within[id(layer)] is not layer for layer in model.layers)
    nodes = [node for nodes in model._nodes_by_depth.values() for node in nodes]
    if not changed and not any(
        _lacks_mask(node.operation, node.arguments.args, node.arguments.kwargs) for node in nodes
    ):
        return model

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if _lacks_mask(operation, args, kwargs):
            kwargs |= {"mask": get_keras_mask(args[0])}
        return operation(*args, **kwargs)

    return keras.models.clone_model(
        model, clone_function=lambda layer: within.get(id(layer), layer), call_function=call
    )


def _lacks_mask(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if type(operation).__name__ not in RECURRENT or kwargs.get("initial_state") is None:
        return False
    return kwargs.get("mask") is None and get_keras_mask(args[0]) is not None


def _check_vocabularies(path: Path, model: keras.Model) -> None:
    for layer in model._flatten_layers(include_self=False, recursive=True):
        inner = getattr(layer, "_lookup_layer", layer)
        if hasattr(inner, "vocabulary_size") and hasattr(inner, "input_vocabulary") and not inner.input_vocabulary:
            raise ArtifactError(
                f"{path}: {printable(layer.name, 60)!r} has its vocabulary in a table and not in its configuration; "
                "save the model with vocabulary=[...] given, or give file.py:build with --weights"
            )


# --- HDF5 and .keras --------------------------------------------------------------------------------------------------


def read_h5(contents: hdf5.Contents, config: dict[str, Any], custom: dict[str, Any]) -> keras.Model:
    """Make the model of an HDF5 file of Keras 2, with its weights.

    Raises:
        ArtifactError: as `build`, or the weights do not fit.
    """
    model = build(contents.path, config, custom, values(contents.datasets))
    assign_flat(contents.path, model, config, flat_layers(contents, WEIGHTS))
    return model


def flat_layers(contents: hdf5.Contents, group: str) -> dict[str, list[hdf5.Stored]]:
    """The layers that an HDF5 file lists in ``group`` (empty: its root), in order, each with its datasets.

    Raises:
        ArtifactError: it is damaged.
    """
    stored = {}
    for layer in attribute_strings(contents, group, "layer_names"):
        path = f"{group}/{layer}" if group else layer
        names = [f"{path}/{name}" for name in attribute_strings(contents, path, "weight_names")]
        lost = next((name for name in names if name not in contents.datasets), None)
        if lost is not None:
            raise damaged(contents.path, f"it lists {printable(lost, 80)} and lacks it")
        stored[layer] = [contents.datasets[name] for name in names]
    return stored


def values(datasets: Mapping[str, hdf5.Stored]) -> int:
    """How many values are stored that are not an optimizer's."""
    return sum(stored.tensor.count for stored in datasets.values() if stored.tensor.role != "optimizer")


def read_groups(
    path: Path, config: dict[str, Any], datasets: Mapping[str, hdf5.Stored], custom: dict[str, Any]
) -> keras.Model:
    """Make the model of a ``.keras`` file of Keras 2, with its weights.

    Raises:
        ArtifactError: as `build`, or the weights do not fit.
    """
    model = build(path, config, custom, values(datasets))
    assign_groups(path, model, config, datasets)
    return model


# --- SavedModels ------------------------------------------------------------------------------------------------------


def read(folder: Path, custom: dict[str, Any]) -> keras.Model:
    """The model that a SavedModel folder of Keras 2 holds, with its weights.

    Raises:
        ArtifactError: it is damaged, is a subclass of keras.Model or another model that no configuration describes,
            names what is not allowed, or its weights do not fit Keras 3's layers.
    """
    nodes = dict(_nodes(folder))
    root = nodes.get("root", {})
    if root.get("class_name") not in MODELS or not isinstance(root.get("config"), dict):
        raise ArtifactError(
            f"{folder}: is a SavedModel of Keras 2 whose model is a {printable(str(root.get('class_name')), 60)}: only "
            "functional and sequential models describe themselves in it; give file.py:build with --weights"
        )
    held = sum(entry.tensor.count for entry in bundle.read(folder / INDEX))
    model = build(folder, {"class_name": root["class_name"], "config": root["config"]}, custom, held)
    _assign(folder, model, nodes)
    return model


def load_weights(folder: Path, model: keras.Model) -> None:
    """Give ``model``, which is built, the weights of a SavedModel of Keras 2 that has layers of the same names.

    Raises:
        ArtifactError: it is damaged, or its weights are not the model's.
    """
    bundle.read(folder / INDEX)
    _assign(folder, model, dict(_nodes(folder)))


def _nodes(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every layer's path in the tree of objects, and what its JSON says."""
    path = folder / METADATA
    if path.stat().st_size > MAX_BYTES:
        raise damaged(path, f"it has more than {MAX_BYTES:,} bytes")
    try:
        for field, node in _fields(path.read_bytes()):
            if field == _NODES:
                parts = dict(_fields(node))
                facts = json.loads(parts.get(_JSON, b"{}") or b"{}")
                if isinstance(facts, dict):
                    yield parts[_PATH].decode(), facts
    except (ValueError, KeyError, IndexError, RecursionError) as error:
        raise damaged(path, f"cannot be read: {error}") from None


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Field numbers and contents of a protobuf message; of numbers only that they are there."""
    position = 0
    while position < len(data):
        tag, position = varint(data, position)
        kind = tag & 7
        if kind == 2:
            length, position = varint(data, position)
            if position + length > len(data):
                raise ValueError("a field goes beyond the end")
            yield tag >> 3, data[position : position + length]
            position += length
        elif kind == 0:
            _, position = varint(data, position)
        else:
            raise ValueError(f"a field of wire type {kind}")


def _assign(folder: Path, model: keras.Model, nodes: dict[str, dict[str, Any]]) -> None:
    """Give every weight of ``model`` the checkpoint's value of the same path."""
    assignment = Assignment(folder, model)
    try:
        checkpoint = tf.train.load_checkpoint(str((folder / INDEX).with_suffix("")))
        shapes = checkpoint.get_variable_to_shape_map()
        for key, variable in _variables(model, nodes, checkpoint):
            if key in shapes:
                assignment.give(variable, key, tuple(shapes[key]), lambda key=key: checkpoint.get_tensor(key))
    except (tf.errors.OpError, DecodeError, IndexError, UnicodeError, ValueError, RuntimeError) as error:
        raise damaged(folder, f"its checkpoint cannot be read: {error}") from None
    assignment.finish()


def _variables(model: keras.Model, nodes: dict[str, dict[str, Any]], checkpoint: Any) -> Iterator[tuple[str, Any]]:
    """The checkpoint's keys with the variables of ``model`` that stand at the same path in the tree of objects."""
    tree = trackable_object_graph_pb2.TrackableObjectGraph()
    tree.ParseFromString(checkpoint.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
    todo: list[tuple[int, str, Any]] = [(0, "root", model)]
    seen = set()
    while todo:
        number, location, here = todo.pop()
        if (number, id(here)) in seen:
            continue
        seen.add((number, id(here)))
        node = tree.nodes[number]
        if hasattr(here, "assign"):
            yield from ((a.checkpoint_key, here) for a in node.attributes if a.name == "VARIABLE_VALUE")
            continue
        for child in node.children:
            path = f"{location}.{child.local_name}"
            there = _child(here, child.local_name, nodes.get(path, {}).get("name"))
            if there is not None:
                todo.append((child.node_id, path, there))


def _child(here: Any, step: str, name: Any) -> Any:
    """What hangs at ``step`` of a layer: a layer of a model by the name that it has, or a layer or weight it holds."""
    if step.startswith(("layer-", "layer_with_weights-")) and isinstance(here, keras.Model):
        return next((layer for layer in here.layers if layer.name == name), None)
    if isinstance(here, list | tuple):
        return here[int(step)] if step.isdecimal() and int(step) < len(here) else None
    if step in RENAMED and not hasattr(here, step):
        step = RENAMED[step]
    held = vars(here).get(step) if isinstance(here, keras.layers.Layer) else None
    held = getattr(here, step, None) if held is None and not step.startswith("__") else held
    if step == "cells" and isinstance(held, list | tuple):
        return held
    return held if isinstance(held, keras.layers.Layer | keras.Variable) else None
