"""The variables of a SavedModel that Keras 3's `model.export()` made, given to a model that was built anew.

Such a folder has traced functions and no layers. Its checkpoint lists the model's variables in their order, each by its
path; nothing of its functions is loaded or run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import trackable_object_graph_pb2

from tfhalf.errors import ArtifactError
from tfhalf.inspect import bundle
from tfhalf.inspect.facts import damaged, printable

INDEX = Path("variables") / "variables.index"
_LIST = "variables"  # what Keras' ExportArchive calls it
_NO_WEIGHT = "seed_generator_state"


def load_variables(folder: Path, model: keras.Model) -> None:
    """Give every weight of ``model``, which is built, the value that ``folder`` has for it: by their paths where both
    have the same, else by their order, with equal names and shapes.

    Raises:
        ArtifactError: it is not a SavedModel of `model.export()`, is damaged, or its variables are not the model's.
    """
    index = folder / INDEX
    if not index.is_file():
        raise ArtifactError(f"--weights {folder}: is not a SavedModel, whose variables would lie in {INDEX}")
    bundle.read(index)  # every offset and size that it claims, before TensorFlow believes it
    try:
        checkpoint = tf.train.load_checkpoint(str(index.with_suffix("")))
        stored = _stored(checkpoint)
        own = [variable for variable in model.variables if not variable.path.endswith(_NO_WEIGHT)]
        for variable, key in _matched(folder, stored, own):
            variable.assign(checkpoint.get_tensor(key))
    except (tf.errors.OpError, DecodeError, IndexError, ValueError) as error:
        raise damaged(index, f"its checkpoint cannot be read: {error}") from None


def _stored(checkpoint: Any) -> list[tuple[str, str, tuple[int, ...]]]:
    """Path, key and shape of each variable, in the model's order; none where Keras did not list them."""
    tree = trackable_object_graph_pb2.TrackableObjectGraph()
    tree.ParseFromString(checkpoint.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
    shapes = checkpoint.get_variable_to_shape_map()
    lists = [child.node_id for child in tree.nodes[0].children if child.local_name == _LIST]
    children = tree.nodes[lists[0]].children if lists else ()
    numbered = sorted((int(c.local_name), c.node_id) for c in children if c.local_name.isdecimal())
    attributes = [a for _, number in numbered for a in tree.nodes[number].attributes if a.checkpoint_key in shapes]
    entries = [(a.full_name, a.checkpoint_key, tuple(shapes[a.checkpoint_key])) for a in attributes]
    return [entry for entry in entries if not entry[0].endswith(_NO_WEIGHT)]


def _matched(folder: Path, stored: list[tuple[str, str, tuple[int, ...]]], own: list[Any]) -> list[tuple[Any, str]]:
    if not stored:
        raise ArtifactError(
            f"--weights {folder}: lists no variables of a model; a SavedModel that Keras 3's model.export() made does"
        )
    if len(stored) != len(own):
        raise ArtifactError(
            f"--weights {folder}: has {len(stored)} variables and the model {len(own)}; build the model that it was "
            "made of"
        )
    paths = {path: (path, key, shape) for path, key, shape in stored}
    if len(paths) == len(stored) and set(paths) == {variable.path for variable in own}:
        stored = [paths[variable.path] for variable in own]
    for variable, (path, _, shape) in zip(own, stored, strict=True):
        same = path.rpartition("/")[2] == variable.path.rpartition("/")[2]
        if not same or tuple(variable.shape) != shape:
            raise ArtifactError(
                f"--weights {folder}: {printable(path, 60)} of shape {shape} stands where the model has "
                f"{variable.path} of {tuple(variable.shape)}; build the model that it was made of"
            )
    return [(variable, key) for variable, (_, key, _) in zip(own, stored, strict=True)]
