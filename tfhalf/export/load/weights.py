"""``--weights``: weights for a model that a builder makes, out of every form that Keras saves them in."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import keras

from tfhalf.artifacts import hdf5
from tfhalf.errors import ArtifactError, TfhalfError
from tfhalf.export.load import export_archive, keras2, keras_archive
from tfhalf.export.load.keras2_weights import assign_flat, assign_groups
from tfhalf.files import open_regular
from tfhalf.inspect.facts import reason
from tfhalf.inspect.keras_h5 import WEIGHTS, attribute_strings

ACCEPTED = (
    "a file of model.save_weights() (.weights.h5, .h5), a .keras or .h5 file of a whole model, or a SavedModel folder"
)


def load(model: keras.Model, path: Path) -> None:
    """Give ``model``, which is built, the weights that ``path`` holds. The file is checked before Keras reads it.

    Raises:
        ArtifactError: there is no such file, it is damaged or not of these kinds, or its weights do not fit.
    """
    if not path.exists():
        raise ArtifactError(f"--weights {path}: does not exist; give {ACCEPTED}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _load(model, path)
    except TfhalfError as error:
        if str(error).startswith("--weights"):
            raise
        raise ArtifactError(f"--weights {error}") from None
    except OSError as error:
        raise ArtifactError(f"--weights {path}: cannot be read: {error.strerror or reason(error)}") from None
    except Exception as error:  # whatever Keras raises where shapes or layers differ
        raise ArtifactError(f"--weights {path}: do not fit the model, or are damaged: {reason(error)}") from error


def _load(model: keras.Model, path: Path) -> None:
    if path.is_dir():
        if (path / keras2.METADATA).is_file() and not (path / "manifest.json").is_file():
            keras2.load_weights(path, model)
        else:
            export_archive.load_variables(path, model)
        return
    with open_regular(path) as file:
        start = file.read(8)
    if start == hdf5.MAGIC:
        _load_h5(model, path)
    elif start[:2] == b"PK" and zipfile.is_zipfile(path):
        archive = keras_archive.read(path)
        if archive.keras2:
            with archive.weights() as stored:
                assign_groups(path, model, archive.config, stored)
            return
        _check_suffix(path, ".keras")
        model.load_weights(path)
    else:
        raise ArtifactError(f"--weights {path}: is neither HDF5 nor a .keras file; give {ACCEPTED}")


def _load_h5(model: keras.Model, path: Path) -> None:
    with hdf5.opened(path) as contents:
        group = next((name for name in ("", WEIGHTS) if attribute_strings(contents, name, "layer_names")), None)
        if group is not None:
            assign_flat(path, model, None, keras2.flat_layers(contents, group))
            return
    _check_suffix(path, ".weights.h5")
    model.load_weights(path)


def _check_suffix(path: Path, suffix: str) -> None:
    """Keras goes by the name."""
    if not path.name.endswith(suffix):
        raise ArtifactError(
            f"--weights {path}: is what Keras calls a {suffix} file; give it a name that ends in {suffix}"
        )
