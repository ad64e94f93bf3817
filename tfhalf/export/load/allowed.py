"""What a model's configuration may name: layers, operations and the like, each for its own role.

Keras builds whatever class or function a configuration names, wherever it stands: `keras.models.clone_model` can be an
activation. Here a name has to be of a kind that its place takes; everything else is refused, before Keras reads it.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
from keras.src import activations, losses, metrics
from keras.src.api_export import get_symbol_from_name

from tfhalf.errors import ArtifactError
from tfhalf.inspect.facts import damaged, printable

MAX_DEPTH = 200
MAX_OBJECTS = 500_000
# Keras' own marks for values that JSON lacks.
_VALUES = {"__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__", "__keras_tensor__", "__tuple__"}
_RUNS_CODE = {
    "Lambda": "holds Python bytecode",
    "__lambda__": "holds Python bytecode",
    "TFSMLayer": "loads another model's graph from a path",
    "TorchModuleWrapper": "holds a pickle",
    "JaxLayer": "holds a function",
    "FlaxLayer": "holds a function",
}
# Operations that call a function out of their arguments.
_CALLS_FUNCTIONS = {"Map", "Scan", "AssociativeScan", "Cond", "WhileLoop", "ForiLoop", "VectorizedMap", "Switch"}
_FUNCTIONS = {
    "activation": set(activations.ALL_OBJECTS_DICT),
    "compiled": set(losses.ALL_OBJECTS_DICT) | set(metrics.ALL_OBJECTS_DICT) | set(activations.ALL_OBJECTS_DICT),
}
_KINDS: dict[str, tuple[type, ...]] = {
    "initializer": (keras.initializers.Initializer,),
    "regularizer": (keras.regularizers.Regularizer,),
    "constraint": (keras.constraints.Constraint,),
    "dtype": (keras.DTypePolicy, keras.dtype_policies.DTypePolicyMap),
    "seed": (keras.random.SeedGenerator,),
    "compiled": (keras.Optimizer, keras.Loss, keras.Metric, keras.optimizers.schedules.LearningRateSchedule),
}
_PARTS: tuple[type, ...] = (keras.Layer, keras.Operation, keras.Quantizer, keras.quantizers.QuantizationConfig)
_PARTS += tuple(kind for role, kinds in _KINDS.items() if role != "compiled" for kind in kinds)


def check(path: Path, config: dict[str, Any], custom: set[str]) -> None:
    """Refuse a configuration, as Keras 3 writes it, that names anything but parts of models in their own roles.

    Args:
        path: for messages.
        custom: names of the user's own objects, as Keras registers them or as their file has them.

    Raises:
        ArtifactError: it names something else, or an object whose code is not there.
    """
    missing: dict[str, None] = {}
    for node, role in objects(path, config):
        name = _check_object(path, node, role, custom)
        if name:
            missing[name] = None
    if missing:
        raise ArtifactError(
            f"{path}: needs the code of {', '.join(list(missing)[:6])}; give the file that defines it: --custom FILE.py"
        )


def objects(path: Path, config: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Every dict that names a class, however deep, with the role that its key gives it.

    Raises:
        ArtifactError: they lie too deep, or are too many.
    """
    todo: deque[tuple[Any, int, str]] = deque([(config, 0, "")])
    count = 0
    while todo:
        node, depth, role = todo.popleft()
        if depth > MAX_DEPTH:
            raise damaged(path, f"its configuration is nested deeper than {MAX_DEPTH}")
        if isinstance(node, dict):
            if "class_name" in node:
                count += 1
                if count > MAX_OBJECTS:
                    raise damaged(path, f"its configuration has more than {MAX_OBJECTS:,} objects")
                yield node, role
            todo.extend((value, depth + 1, _role(key, role)) for key, value in node.items())
        elif isinstance(node, list | tuple):
            todo.extend((value, depth + 1, role) for value in node)


def _role(key: Any, above: str) -> str:
    if above == "compiled" or key == "compile_config":
        return "compiled"
    name = str(key)
    return next((word for word in ("activation", *_KINDS) if name == word or name.endswith(f"_{word}")), "")


def _check_object(path: Path, node: dict[str, Any], role: str, custom: set[str]) -> str | None:
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
    package = (module or "builtins").split(".")[0]
    if package == "keras" or (kind == "function" and module in (None, "builtins")):
        if _is_allowed(kind, name, module, role):
            return None
        where = f"{module}.{name}" if module else name
        raise ArtifactError(
            f"{path}: names {printable(where, 80)} where {_expected(role)} stands, which it is not; not loaded"
        )
    return printable(f"{module}.{name}" if module and package != "builtins" else name, 80)


def _is_allowed(kind: str, name: str, module: str | None, role: str) -> bool:
    if kind == "function":
        return name in _FUNCTIONS.get(role, ())
    value = get_symbol_from_name(f"{module}.{name}") or getattr(sys.modules.get(str(module)), name, None)
    if not isinstance(value, type) or name in _CALLS_FUNCTIONS:
        return False
    return issubclass(value, _KINDS.get(role, _PARTS) if role != "activation" else (keras.Layer,))


def _expected(role: str) -> str:
    words = {"": "a layer or operation", "dtype": "a dtype policy", "compiled": "a loss, metric or optimizer"}
    return words.get(role, f"{'an' if role[:1] in ('a', 'i') else 'a'} {role}")


def _names_custom(config: Any, custom: set[str]) -> bool:
    """Whether a Lambda names a function of the user's file instead of holding bytecode."""
    function = config.get("function") if isinstance(config, dict) else None
    if not isinstance(function, dict) or function.get("class_name") != "function":
        return False
    return function.get("config") in custom or function.get("registered_name") in custom


def _layer_name(config: Any) -> str:
    return str(config.get("name", "")) if isinstance(config, dict) else ""
