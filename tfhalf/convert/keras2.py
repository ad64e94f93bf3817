"""A SavedModel of Keras 2's ``model.save()`` read back: beside its graph it holds the layers' configurations.

``keras_metadata.pb`` (tensorflow/python/keras/protobuf/saved_metadata.proto) has a node for each layer: where it hangs
in the tree of objects, and its configuration as JSON. The checkpoint names values by the same paths.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from google.protobuf.message import DecodeError
from keras.src.legacy.saving import saving_utils
from tensorflow.core.protobuf import trackable_object_graph_pb2

from tfhalf.convert.keras_safe import check_legacy
from tfhalf.errors import ArtifactError, TfhalfError
from tfhalf.inspect.bundle import varint
from tfhalf.inspect.facts import damaged, printable

METADATA = "keras_metadata.pb"
MAX_BYTES = 256 << 20
_NODES, _PATH, _JSON = 1, 3, 5  # fields of SavedMetadata, and of SavedObject
_MODELS = ("Functional", "Sequential", "Model")


def read(folder: Path, custom: dict[str, Any]) -> keras.Model:
    """The model that a SavedModel folder of Keras 2 holds, with its weights.

    Raises:
        ArtifactError: it is damaged, is a subclass of keras.Model or another model that no configuration describes,
            names what is not allowed, or its weights do not fit Keras 3's layers.
    """
    nodes = dict(_nodes(folder))
    root = nodes.get("root", {})
    if root.get("class_name") not in _MODELS or not isinstance(root.get("config"), dict):
        raise ArtifactError(
            f"{folder}: is a SavedModel of Keras 2 whose model is a {printable(str(root.get('class_name')), 60)}: only "
            "functional and sequential models describe themselves in it; give file.py:build with --weights"
        )
    check_legacy(folder, root["config"], set(custom))
    kind = "Functional" if root["class_name"] == "Model" else root["class_name"]
    try:
        _renumbered(root["config"])
        config = _fitted(folder, {"class_name": kind, "config": _plain(root["config"])})
        known = {name: kind for name, kind in vars(keras.layers).items() if isinstance(kind, type)}  # within wrappers
        model: keras.Model = saving_utils.model_from_config(config, custom_objects={**known, **custom})
        checkpoint = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    except TfhalfError:
        raise
    except Exception as error:  # whatever a layer's code raises
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise ArtifactError(f"{folder}: Keras 3 cannot make this model of Keras 2: {why}") from error
    _assign(folder, model, nodes, checkpoint)
    return model


def _plain(tree: Any) -> Any:
    """A configuration with Keras 2's marks for tuples and shapes made tuples."""
    if isinstance(tree, dict):
        if tree.get("class_name") in ("__tuple__", "TensorShape") and isinstance(tree.get("items"), list):
            return tuple(_plain(item) for item in tree["items"])
        return {key: _plain(value) for key, value in tree.items()}
    return [_plain(item) for item in tree] if isinstance(tree, list) else tree


def _fitted(folder: Path, tree: Any) -> Any:
    """A configuration without the arguments that Keras 3's layers no longer have, where those said nothing.

    Raises:
        ArtifactError: one said something.
    """
    if isinstance(tree, list | tuple):
        return type(tree)(_fitted(folder, item) for item in tree)
    if not isinstance(tree, dict):
        return tree
    tree = {key: _fitted(folder, value) for key, value in tree.items()}
    kind = getattr(keras.layers, str(tree.get("class_name")), None)
    config = tree.get("config")
    if kind is None or not isinstance(config, dict) or "name" not in config:
        return tree
    accepted = {name for base in kind.__mro__ for name in inspect.signature(base.__init__).parameters}
    accepted |= {"name", "trainable", "dtype", "batch_input_shape", "batch_shape", "optional", "sparse", "ragged"}
    for key in [key for key in config if key not in accepted]:
        value = config.pop(key)
        plain = value in (None, False, 1, 2, "glorot_uniform") or _is_of_training(key)
        if not plain and key not in ("implementation", "autocast"):
            raise ArtifactError(
                f"{folder}: {printable(str(config['name']), 60)} says {key}={printable(str(value), 40)}, which Keras "
                f"3's {tree['class_name']} does not know; give file.py:build with --weights"
            )
    if isinstance(config.get("axis"), list | tuple) and len(config["axis"]) == 1 and "epsilon" in config:
        config["axis"] = config["axis"][0]
    return tree


def _renumbered(config: dict[str, Any]) -> None:
    """Count the calls of models within a model from 0: in Keras 2 their own making was the first."""
    kinds = {layer["config"].get("name"): layer["class_name"] for layer in config.get("layers", ())}
    for layer in config.get("layers", ()):
        if layer["class_name"] in _MODELS:
            _renumbered(layer["config"])
        for node in layer.get("inbound_nodes", ()):
            for reference in node:
                if kinds.get(reference[0]) in _MODELS:
                    reference[1] -= 1
    for reference in config.get("output_layers", ()):
        if isinstance(reference, list) and kinds.get(reference[0]) == "Sequential":  # of the others Keras 3 knows
            reference[1] -= 1


def _is_of_training(key: str) -> bool:
    return key.endswith(("_initializer", "_regularizer", "_constraint"))


def _nodes(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every layer's path in the tree of objects, and what its JSON says."""
    path = folder / METADATA
    if path.stat().st_size > MAX_BYTES:
        raise damaged(path, f"it has more than {MAX_BYTES:,} bytes")
    try:
        for field, node in _fields(path.read_bytes()):
            if field == _NODES:
                parts = dict(_fields(node))
                told = json.loads(parts.get(_JSON, b"{}") or b"{}")
                if isinstance(told, dict):
                    yield parts[_PATH].decode(), told
    except (ValueError, KeyError, IndexError, RecursionError) as error:
        raise damaged(path, f"cannot be read: {error}") from None


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Field numbers and contents of a protobuf message; of numbers only that they are there."""
    place = 0
    while place < len(data):
        tag, place = varint(data, place)
        kind = tag & 7
        if kind == 2:
            length, place = varint(data, place)
            if place + length > len(data):
                raise ValueError("a field goes beyond the end")
            yield tag >> 3, data[place : place + length]
            place += length
        elif kind == 0:
            _, place = varint(data, place)
        else:
            raise ValueError(f"a field of wire type {kind}")


def _assign(folder: Path, model: keras.Model, nodes: dict[str, dict[str, Any]], checkpoint: Any) -> None:
    """Give every weight of ``model`` the checkpoint's value of the same place."""
    left = {id(variable): variable for variable in model.weights}
    for key, variable in _places(folder, model, nodes, checkpoint):
        if id(variable) not in left:
            continue  # reached by another path before
        value = checkpoint.get_tensor(key)
        if tuple(value.shape) != tuple(variable.shape):
            raise ArtifactError(
                f"{folder}: {printable(key, 80)} has shape {value.shape}; Keras 3's layer takes {tuple(variable.shape)}"
            )
        left.pop(id(variable)).assign(value)
    missing = [v.path for v in left.values() if "seed_generator" not in v.path]
    if missing:
        raise ArtifactError(
            f"{folder}: has no value for {', '.join(missing[:4])}, which Keras 3's layers have; save the model as "
            ".keras with the Keras that it was made with, or give file.py:build with --weights"
        )


def _places(
    folder: Path, model: keras.Model, nodes: dict[str, dict[str, Any]], checkpoint: Any
) -> Iterator[tuple[str, Any]]:
    """The checkpoint's keys with the variables of ``model`` that stand at the same place in the tree of objects."""
    tree = trackable_object_graph_pb2.TrackableObjectGraph()
    try:
        tree.ParseFromString(checkpoint.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
        todo: list[tuple[int, str, Any]] = [(0, "root", model)]
        seen = set()
        while todo:
            number, place, here = todo.pop()
            if (number, id(here)) in seen:
                continue
            seen.add((number, id(here)))
            node = tree.nodes[number]
            if hasattr(here, "assign"):
                yield from ((a.checkpoint_key, here) for a in node.attributes if a.name == "VARIABLE_VALUE")
                continue
            for child in node.children:
                path = f"{place}.{child.local_name}"
                there = _child(here, child.local_name, nodes.get(path, {}).get("name"))
                if there is not None:
                    todo.append((child.node_id, path, there))
    except (tf.errors.OpError, DecodeError, IndexError) as error:
        raise damaged(folder, f"its checkpoint cannot be read: {error}") from None


def _child(here: Any, step: str, name: Any) -> Any:
    """What hangs at ``step`` of a layer: a layer of a model by the name that it has, or a layer or weight it holds."""
    if step.startswith(("layer-", "layer_with_weights-")) and isinstance(here, keras.Model):
        return next((layer for layer in here.layers if layer.name == name), None)
    held = vars(here).get(step) if isinstance(here, keras.layers.Layer) else None
    held = getattr(here, step, None) if held is None and not step.startswith("__") else held
    return held if isinstance(held, keras.layers.Layer | keras.Variable) else None
