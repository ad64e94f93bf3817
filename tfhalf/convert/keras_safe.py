"""A ``.keras`` file looked through before Keras reads it: what it may name, and that it is whole.

Keras builds whatever its JSON names. Safe mode refuses stored bytecode; here everything else that could run code, read
other files or fill the memory is refused as well, by what is allowed rather than by what is known to be bad.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import keras

from tfhalf.errors import ArtifactError
from tfhalf.inspect.facts import damaged, printable, words
from tfhalf.inspect.keras_file import inspect_keras

MAX_RATIO = 200
MAX_BYTES = 32 << 30
MAX_DEPTH = 200
# What a configuration may name: parts of models. Not keras.saving, keras.utils, keras.config and the like.
_PARTS = words(
    "layers models ops activations initializers regularizers constraints losses metrics optimizers dtype_policies "
    "quantizers random applications"
)
_FUNCTIONS = ("activations", "initializers", "regularizers", "constraints", "losses", "metrics", "ops")
# Keras' own marks for values that JSON lacks.
_VALUES = {"__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__", "__typespec__", "__keras_tensor__"}
_VALUES |= {"__tuple__", "DTypePolicy", "DTypePolicyMap"}
_RUNS_CODE = {
    "Lambda": "holds Python bytecode",
    "__lambda__": "holds Python bytecode",
    "TFSMLayer": "loads another model's graph from a path",
    "TorchModuleWrapper": "holds a pickle",
    "JaxLayer": "holds a function",
    "FlaxLayer": "holds a function",
}


def check(path: Path, custom: set[str]) -> dict[str, Any]:
    """The configuration of a ``.keras`` file that is whole and names nothing but parts of models.

    Args:
        custom: names of the user's own objects, as Keras registers them or as their file has them.

    Raises:
        ArtifactError: it is damaged, or names something that is not allowed, or lacks the code of a custom object.
    """
    _check_archive(path)
    inspect_keras(path)  # its HDF5 part: no links, no other files, no claims beyond what is there
    with zipfile.ZipFile(path) as archive:
        config: dict[str, Any] = json.loads(archive.read("config.json"))
    config.pop("compile_config", None)  # losses and the like are not built
    missing: dict[str, None] = {}
    for node in _objects(path, config):
        name = _check_object(path, node, custom)
        if name:
            missing[name] = None
    if missing:
        raise ArtifactError(
            f"{path}: needs the code of {', '.join(list(missing)[:6])}; give the file that defines it: --custom FILE.py"
        )
    return config


def check_legacy(path: Path, config: dict[str, Any], custom: set[str]) -> None:
    """As `check`, of a configuration of Keras 2, which names classes without their modules.

    Raises:
        ArtifactError: as there.
    """
    missing: dict[str, None] = {}
    for node in _objects(path, config):
        _check_object(path, node, custom)
        kind = str(node["class_name"])
        places = (keras.layers, keras.initializers, keras.regularizers, keras.constraints, keras.dtype_policies)
        known = kind in ("Functional", "Sequential", "Model", "Policy", *_VALUES) or any(
            hasattr(p, kind) for p in places
        )
        if not known and not {kind, kind.split(">")[-1]} & custom:
            missing[printable(kind, 60)] = None
    if missing:
        raise ArtifactError(f"{path}: needs the code of {', '.join(list(missing)[:6])}; give it: --custom FILE.py")


def _check_archive(path: Path) -> None:
    """Every member's size, name and checksum, in small pieces."""
    try:
        with zipfile.ZipFile(path) as archive:
            total = 0
            for info in archive.infolist():
                name = PurePosixPath(info.filename)
                if name.is_absolute() or ".." in name.parts or "\\" in info.filename:
                    raise ValueError(f"it has a member named {printable(info.filename, 60)!r}")
                if info.file_size > MAX_RATIO * max(info.compress_size, 1 << 16):
                    raise ValueError(
                        f"{printable(info.filename, 60)} claims {info.file_size:,} bytes out of {info.compress_size:,}"
                    )
                total += info.file_size
                if total > MAX_BYTES:
                    raise ValueError(f"it unpacks to more than {MAX_BYTES:,} bytes")
                with archive.open(info) as member:
                    while member.read(1 << 20):
                        pass
    except FileNotFoundError:
        raise ArtifactError(f"{path}: does not exist; give a .keras file") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, RuntimeError, NotImplementedError) as error:
        raise damaged(path, f"cannot be read as a .keras file: {error}") from None


def _objects(path: Path, config: Any) -> Iterator[dict[str, Any]]:
    """Every dict that names a class, however deep."""
    todo = deque([(config, 0)])
    while todo:
        node, depth = todo.popleft()
        if depth > MAX_DEPTH:
            raise damaged(path, f"its configuration is nested deeper than {MAX_DEPTH}")
        if isinstance(node, dict):
            if "class_name" in node:
                yield node
            todo.extend((value, depth + 1) for value in node.values())
        elif isinstance(node, list):
            todo.extend((value, depth + 1) for value in node)


def _check_object(path: Path, node: dict[str, Any], custom: set[str]) -> str | None:
    """The name of a custom object whose code is not there; None for what may be built."""
    kind, module, registered = node["class_name"], node.get("module"), node.get("registered_name")
    if not isinstance(kind, str) or not isinstance(module, str | None) or not isinstance(registered, str | None):
        raise damaged(path, "its configuration names a class in no way that Keras does")
    inner = node.get("config")
    name = str(inner) if kind == "function" and isinstance(inner, str) else kind
    if kind in _RUNS_CODE and not (kind == "Lambda" and _names_custom(inner, custom)):
        raise ArtifactError(
            f"{path}: {printable(_layer_name(inner) or kind, 60)!r} is a {kind} and {_RUNS_CODE[kind]}, which could "
            "run anything; nothing was run. Rewrite it as a layer of its own class and give --custom FILE.py"
        )
    if isinstance(inner, dict) and isinstance(inner.get("vocabulary"), str):
        raise ArtifactError(
            f"{path}: {printable(name, 60)!r} reads its vocabulary from a path; save the words themselves"
        )
    if kind in _VALUES or {name, registered} & custom or (registered and registered.split(">")[-1] in custom):
        return None
    parts = (module or "builtins").split(".")
    if parts[0] == "keras":
        allowed = _FUNCTIONS if kind == "function" else _PARTS
        part = parts[2] if parts[1:2] == ["src"] and len(parts) > 2 else parts[1] if len(parts) > 1 else "models"
        if part in allowed:
            return None
        raise ArtifactError(
            f"{path}: names {printable(f'{module}.{name}', 80)}, which is no part of a model; not loaded"
        )
    if module is None or parts == ["builtins"]:
        return None if kind == "function" or module is None else printable(name, 60)
    return printable(f"{module}.{name}", 80)


def _names_custom(config: Any, custom: set[str]) -> bool:
    """Whether a Lambda names a function of the user's file instead of holding bytecode."""
    function = config.get("function") if isinstance(config, dict) else None
    if not isinstance(function, dict) or function.get("class_name") != "function":
        return False
    return function.get("config") in custom or function.get("registered_name") in custom


def _layer_name(config: Any) -> str:
    return str(config.get("name", "")) if isinstance(config, dict) else ""
