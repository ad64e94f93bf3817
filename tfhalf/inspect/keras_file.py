"""A ``.keras`` file: `inspect_keras`, from its JSON and the HDF5 file within. No layer is built, no code of it runs."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfhalf.artifacts import hdf5
from tfhalf.inspect.constants import tell
from tfhalf.inspect.facts import Account, Port, Shape, Tensor, damaged, printable
from tfhalf.inspect.keras_constants import keras_constants

_CONFIG, _METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
MAX_JSON = 64 << 20
# Code that is stored within the file: shown, never run.
_CODE = ("Lambda", "__lambda__")
_NO_LAYERS = ("InputLayer", "Functional", "Sequential", "Model", "DTypePolicy")
_OF_KERAS = ("keras", "builtins", "tf_keras", "tensorflow.python.keras")


def inspect_keras(path: Path) -> Account:
    """The account of a ``.keras`` file.

    Raises:
        ArtifactError: it is none, or not whole.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if _CONFIG not in names:
                raise ValueError(f"it lacks {_CONFIG}")
            config = _json(archive, _CONFIG)
            metadata = _json(archive, _METADATA) if _METADATA in names else {}
            account = Account(path, "Keras", path.stat().st_size)
            describe(account, config, metadata)
            weights = sorted(n for n in names if n.endswith(".weights.h5") and "/" not in n)
            if not weights:
                raise ValueError(f"it lacks {WEIGHTS}")
            for name in weights:
                account.tensors += _tensors(path, archive, name)
    except (ValueError, OSError, RuntimeError, KeyError, RecursionError, NotImplementedError) as error:
        raise damaged(path, f"cannot be read as a Keras file: {error}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise damaged(path, f"cannot be read as a zip archive: {error}") from None
    return account


def _json(archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    """A member as a JSON object; what the archive claims of its size is not believed."""
    with archive.open(name) as file:
        data = file.read(MAX_JSON + 1)
    if len(data) > MAX_JSON:
        raise ValueError(f"{name} has more than {MAX_JSON:,} bytes")
    value = json.loads(data)
    if not isinstance(value, dict):
        raise ValueError(f"{name} holds no object")
    return value


# --- what it says -----------------------------------------------------------------------------------------------------


def describe(account: Account, config: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Fill in what a configuration says: inputs, layers, policies, and which code of others it needs."""
    policies: Counter[str] = Counter()
    layers: Counter[str] = Counter()
    custom: set[str] = set()
    code = 0
    for layer in _objects({key: value for key, value in config.items() if key != "compile_config"}):
        name, module = str(layer["class_name"]), layer.get("module")
        inner = layer["config"] if isinstance(layer.get("config"), dict) else {}
        code += name in _CODE
        if ">" in str(layer.get("registered_name")) or (module is None and layer.get("registered_name")):
            custom.add(printable(str(layer.get("registered_name")), 60))
        elif isinstance(module, str) and not module.startswith(_OF_KERAS):
            custom.add(printable(f"{module}.{name}", 60))
        if name == "InputLayer":
            account.inputs.append(_port(inner))
        policy = _policy(inner.get("dtype"))
        if policy and "name" in inner and name not in _NO_LAYERS:
            policies[policy] += 1
            layers[printable(name, 60)] += 1
    account.policies = dict(sorted(policies.items()))
    version, saved = (printable(str(metadata.get(key, "not said")), 40) for key in ("keras_version", "date_saved"))
    counts = ", ".join(f"{name} {count:,}" for name, count in layers.most_common(8))
    account.facts = {
        "made by": f"Keras {version}, saved {saved}",
        "model": f"{printable(str(config.get('class_name')), 40)}: {counts}" + (", ..." if len(layers) > 8 else ""),
        "policies": ", ".join(f"{count:,} of {policy}" for policy, count in account.policies.items()) or "not said",
        "custom": ", ".join(sorted(custom)[:6]) + (": their code is needed to load it" if custom else ""),
    }
    account.details = {
        "keras_version": version,
        "policies": account.policies,
        "layers": dict(sorted(layers.items())),
        "custom": sorted(custom),
        "stored_code": code,
    }
    constants = keras_constants(_objects({key: value for key, value in config.items() if key != "compile_config"}))
    tell(account, constants)
    if code:
        account.notes.append(f"{code:,} Lambda layers hold Python bytecode: loading it runs code; it was not run here")


def _objects(tree: Any) -> Iterator[dict[str, Any]]:
    """Every serialized object within a config."""
    todo = deque([tree])
    while todo:
        node = todo.popleft()
        if isinstance(node, dict):
            if isinstance(node.get("class_name"), str):
                yield node
            todo += [value for value in node.values() if isinstance(value, dict | list)]
        else:
            todo += [value for value in node if isinstance(value, dict | list)]


def _policy(dtype: Any) -> str:
    """A layer's dtype policy by name."""
    if isinstance(dtype, dict):
        inner = dtype.get("config")
        dtype = inner.get("name") if isinstance(inner, dict) else None
    return printable(dtype, 40) if isinstance(dtype, str) else ""


def _port(config: dict[str, Any]) -> Port:
    batch_shape = config.get("batch_shape", config.get("batch_input_shape"))
    shape: Shape | None = None
    if isinstance(batch_shape, list):
        shape = tuple(dim if isinstance(dim, int) else None for dim in batch_shape[:64])
    return Port(printable(str(config.get("name"))), _policy(config.get("dtype")) or "float32", shape)


# --- what it holds ----------------------------------------------------------------------------------------------------


def _tensors(path: Path, archive: zipfile.ZipFile, name: str) -> list[Tensor]:
    with hdf5.member(path, archive, name) as file:
        return hdf5.datasets(path, file)
