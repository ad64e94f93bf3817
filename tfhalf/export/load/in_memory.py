"""A model that lies in memory, as a `Source`: a copy, since an export may change what it works on."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from tfhalf.errors import ArtifactError
from tfhalf.export.load.model import Source, check_kind, described, export_name, no_warnings
from tfhalf.precision.keras_graph import reason
from tfhalf.precision.policy import flat_layers, policy


def source_of(model: keras.Model, custom_objects: Mapping[str, Any] | None = None) -> Source:
    """A copy of ``model``, which stays as it is.

    The copy is what Keras saves and loads: so what can be exported is what can be exported from a ``.keras`` file, and
    the copy has the layers' state that is not a variable, such as a vocabulary. A file of the size of the model and its
    optimizer's state lies in the folder for temporary files meanwhile.

    Args:
        model: built, of any kind and dtype policy.
        custom_objects: what its configuration names beside its own layers and their functions.

    Raises:
        ArtifactError: Keras cannot save it and load it again, or it is of a kind that is not exported.
    """
    own = {**_own_objects(model), **(custom_objects or {})}
    where = f"model {model.name!r} ({type(model).__name__})"
    with tempfile.TemporaryDirectory(prefix="tfhalf-model-") as folder, no_warnings(), policy("float32"):
        path = Path(folder) / "model.keras"
        try:
            keras.saving.save_model(model, path)
            # The user's own code, which is in this process already.
            copy = keras.saving.load_model(path, custom_objects=own, compile=False, safe_mode=False)
        except Exception as error:  # whatever a layer's code raises
            raise ArtifactError(
                f"{where}: Keras cannot save it and load it again: {reason(error)}; give its classes get_config() with "
                "every argument of __init__, and name functions that they use in custom_objects"
            ) from error
    check_kind(copy, where)
    facts = {"kind": "object", "reference": "a model in memory", **described(copy)}
    return Source(copy, export_name(model.name), facts)


def _own_objects(model: keras.Model) -> dict[str, Any]:
    """The classes of the model and its layers, and the functions that they hold, which are not Keras' own; by their
    name and by the name that Keras registers them under."""
    objects: dict[str, Any] = {}
    for layer in [model, *flat_layers(model)]:
        held = [value for value in vars(layer).values() if hasattr(value, "__qualname__") and callable(value)]
        for value in [type(layer), *held]:
            if not str(getattr(value, "__module__", "")).startswith("keras."):
                objects |= {value.__name__: value, keras.saving.get_registered_name(value): value}
    return objects
