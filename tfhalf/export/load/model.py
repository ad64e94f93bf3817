"""The input of `tfhalf export`, as a Keras model: a ``.keras`` or HDF5 file, a builder, or a SavedModel."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from tfhalf.artifacts import hdf5
from tfhalf.config.refs import load_file, resolve, user_code
from tfhalf.errors import ArtifactError, RefError, TfhalfError
from tfhalf.export.load import allowed, claims, export_archive, keras2, keras_archive, weights
from tfhalf.export.load.keras2_config import with_modules
from tfhalf.export.load.keras2_weights import assign_flat
from tfhalf.export.request import Request
from tfhalf.files import open_regular, sha256
from tfhalf.inspect.facts import reason
from tfhalf.inspect.keras_h5 import VERSION, WEIGHTS, attribute_strings, model_config
from tfhalf.precision.layer_names import numbered_anew
from tfhalf.precision.policy import flat_layers, policy

ACCEPTED = "a run folder, a .keras or .h5 file, file.py:build with --weights, or a SavedModel folder"


@dataclass(frozen=True)
class Source:
    """A model, and where it came from (for the manifest)."""

    model: keras.Model
    name: str
    facts: dict[str, Any]


def open_source(request: Request) -> Source:
    """The model that the request names, built and with its weights.

    Raises:
        ArtifactError: the file is damaged, not allowed, or holds no model that can be read back.
        RefError, ConfigError: the builder, its arguments, or ``--custom`` are at fault.
    """
    path = Path(request.model)
    custom = _custom_objects(request.custom)
    if re.search(r"(\.py|^[\w.]+):\w+$", request.model) and not path.exists():
        model, facts, name = *_built(request, custom), request.model.rpartition(":")[2]
        name = Path(request.model.rpartition(":")[0]).stem if name in ("build", "build_model", "model") else name
    elif not path.exists():
        raise ArtifactError(f"{path}: does not exist; give {ACCEPTED}")
    elif path.is_dir():
        if not (path / keras2.METADATA).is_file() or (path / "manifest.json").is_file():
            raise _refused_folder(path)
        with no_warnings(), policy("float32"):
            model = keras2.read(path, custom)
        name, facts = path.name, {"kind": "savedmodel", "file": path.name, "sha256": sha256(path / keras2.METADATA)}
    else:
        model, kind = _loaded(path, custom)
        name, facts = path.stem, {"kind": kind, "file": path.name, "sha256": sha256(path)}
    check_kind(model, request.model)
    return Source(model, export_name(name), {**facts, **described(model)})


def export_name(text: str) -> str:
    """A name for ``exports/NAME``: letters, digits, ``_``, ``-`` and ``.``, and no path."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text).strip(".-_")[:80] or "model"


def described(model: keras.Model) -> dict[str, Any]:
    """Facts of a model for the manifest: its class, and how many layers and parameters under which dtype policies."""
    policies = sorted({layer.dtype_policy.name for layer in flat_layers(model)} or {model.dtype_policy.name})
    return {
        "class": type(model).__name__,
        "layers": len(flat_layers(model)),
        "parameters": int(model.count_params()) if model.built else None,
        "policies": policies,
    }


def check_kind(model: keras.Model, where: str) -> None:
    """Refuse stateful and already quantized models; ``where`` the model is begins the message."""
    for layer in flat_layers(model):
        if getattr(layer, "stateful", False):
            raise ArtifactError(
                f"{where}: {layer.name!r} is a stateful {type(layer).__name__}: it keeps its state from call to call, "
                "which an artifact that serves many callers cannot; build it with stateful=False and pass the state"
            )
        mode = getattr(layer.dtype_policy, "quantization_mode", None)
        if mode:
            raise ArtifactError(f"{where}: {layer.name!r} is quantized ({mode}); export the model that it was made of")


# --- .keras files -----------------------------------------------------------------------------------------------------


def _loaded(path: Path, custom: dict[str, Any]) -> tuple[keras.Model, str]:
    """The model of a file, and which kind of file it is."""
    try:
        with open_regular(path) as file:
            start = file.read(8)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}; accepted: {ACCEPTED}") from None
    if start == hdf5.MAGIC:
        return _of_hdf5(path, custom), "hdf5"
    if start[4:] == b"TFL3" or path.suffix in (".onnx", ".pb"):
        raise ArtifactError(
            f"{path}: holds operations whose dtypes are fixed, and no layers that could be made again in float16; give "
            f"the Keras model that it was made from; accepted: {ACCEPTED}"
        )
    if start[:2] != b"PK":
        raise ArtifactError(f"{path}: is not a .keras or .h5 file; accepted: {ACCEPTED}")
    archive = keras_archive.read(path)
    if archive.keras2:
        with no_warnings(), policy("float32"), archive.weights() as stored:
            return keras2.read_groups(path, archive.config, stored, custom), "keras"
    return _built_by_keras(
        path,
        archive.config,
        custom,
        archive.values,
        lambda: keras.saving.load_model(path, custom_objects=custom, compile=False, safe_mode=True),
    ), "keras"


def _of_hdf5(path: Path, custom: dict[str, Any]) -> keras.Model:
    with hdf5.opened(path) as contents:
        config = model_config(contents)
        if config is None:
            raise ArtifactError(
                f"{path}: holds weights alone, and no model; give file.py:build, which makes the layers, with "
                f"--weights {path}"
            )
        if not "".join(attribute_strings(contents, "", VERSION)).startswith("3."):
            with no_warnings(), policy("float32"):
                return keras2.read_h5(contents, config, custom)
        config = with_modules(config)

        def built() -> keras.Model:
            drawn: keras.Model = keras.saving.deserialize_keras_object(copy.deepcopy(config), custom_objects=custom)
            return drawn

        model = _built_by_keras(path, config, custom, keras2.values(contents.datasets), built)
        assign_flat(path, model, None, keras2.flat_layers(contents, WEIGHTS))
        return model


def _built_by_keras(
    path: Path, config: dict[str, Any], custom: dict[str, Any], held: int, build: Callable[[], Any]
) -> keras.Model:
    """What ``build`` makes of a configuration of Keras 3, once that was checked."""
    allowed.check(path, config, set(custom) | {name.split(">")[-1] for name in custom})

    def bare() -> keras.Model:
        drawn: keras.Model = keras.saving.deserialize_keras_object(copy.deepcopy(config), custom_objects=custom)
        return drawn

    try:
        with no_warnings(), policy("float32"):
            claims.check(path, bare, held)
            model = build()
    except TfhalfError:
        raise
    except RecursionError:
        raise ArtifactError(f"{path}: its configuration is nested too deep") from None
    except Exception as error:  # whatever a layer's code raises
        raise ArtifactError(f"{path}: Keras cannot load it: {reason(error)}") from error
    if not isinstance(model, keras.Model):
        raise ArtifactError(f"{path}: holds a {type(model).__name__}, not a model")
    return model


def _custom_objects(path: Path | None) -> dict[str, Any]:
    """Classes and functions of the user's file, by name and by the name that Keras registers them under."""
    if path is None:
        return {}
    module = load_file(path)
    objects: dict[str, Any] = {}
    for name, value in vars(module).items():
        if callable(value) and not name.startswith("__") and getattr(value, "__module__", "") == module.__name__:
            objects[name] = value
            registered = keras.saving.get_registered_name(value)
            objects[registered] = value
    if not objects:
        raise RefError(f"--custom {path}: defines no class or function")
    return objects


# --- builders ---------------------------------------------------------------------------------------------------------


def _built(request: Request, custom: dict[str, Any]) -> tuple[keras.Model, dict[str, Any]]:
    function = resolve(request.model, Path())
    arguments = dict(request.arguments)
    if request.model.startswith("keras.applications:"):
        arguments = {"weights": None, **arguments}
    fails = f"{request.model} fails with the arguments {', '.join(map(repr, arguments)) or '(none)'}"
    with user_code(fails, advice="; --arg NAME=VALUE gives others"), no_warnings(), policy("float32"), numbered_anew():
        model = function(**arguments)
    if not isinstance(model, keras.Model):
        raise RefError(f"{request.model} returned a {type(model).__name__}; accepted: a keras.Model")
    facts: dict[str, Any] = {"kind": "builder", "reference": request.model, "arguments": arguments}
    if request.weights is not None:
        weights.load(model, request.weights)
        held = request.weights / export_archive.INDEX if request.weights.is_dir() else request.weights
        facts |= {"weights": request.weights.name, "sha256": sha256(held)}
    return model, facts


# --- SavedModels ------------------------------------------------------------------------------------------------------


def _refused_folder(path: Path) -> ArtifactError:
    if (path / "manifest.json").is_file():
        return ArtifactError(f"{path}: is an export of tfhalf already; give what it was made of")
    if (path / "saved_model.pb").is_file():
        return ArtifactError(
            f"{path}: is a SavedModel of model.export() or TensorFlow: it holds traced functions with their dtypes "
            "fixed, and no layers that could be made again in float16 (a SavedModel of Keras 2's model.save() does); "
            f"give the .keras file, or file.py:build, which makes the layers, with --weights {path}"
        )
    return ArtifactError(f"{path}: is a folder without run.json or saved_model.pb; give {ACCEPTED}")


@contextmanager
def no_warnings() -> Iterator[None]:
    """Keras' warnings about how a model was written are not about this command."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
