"""A model's configuration as Keras 2 wrote it, turned into one of Keras 3: `modern`.

Keras 2 names classes without their modules, or with modules of its own; calls layers through lists of
[layer, node, tensor, arguments]; has arguments that Keras 3 dropped, and some names that mean something else there.
What matters to training alone (initializers, regularizers, constraints) is left out: the weights come from the file.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import keras

from tfhalf.errors import ArtifactError
from tfhalf.export.load import keras2_ops
from tfhalf.inspect.facts import damaged, printable

_FUNCTIONAL = "keras.src.models.functional"  # the class has no public name
MODELS = ("Functional", "Sequential", "Model")
_RENAMED = {"Model": "Functional", "SyncBatchNormalization": "BatchNormalization"}
_RENAMED |= {"BatchNormalizationV1": "BatchNormalization", "BatchNormalizationV2": "BatchNormalization"}
_NEW_KEYS = {("LeakyReLU", "alpha"): "negative_slope", ("InputLayer", "batch_input_shape"): "batch_shape"}
# Says nothing about what a trained layer answers.
_UNUSED = {"batch_input_shape", "input_length", "implementation", "autocast", "fused", "virtual_batch_size"}
_UNUSED |= {"renorm", "renorm_clipping", "renorm_momentum", "query_shape", "key_shape", "value_shape"}
_UNUSED |= {"has_input_vocabulary", "vocabulary_size", "shared_object_id", "rng_type"}
_OF_TRAINING = ("_initializer", "_regularizer", "_constraint")
_DEFAULT = {"groups": 1, "time_major": False, "ragged": False, "causal": False, "softmax_robust_masking": False}
_ALWAYS = {"name", "trainable", "dtype", "batch_shape", "sparse", "optional"}
RECURRENT = ("LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
_CONSTANT = "_CONSTANT_VALUE"


def modern(path: Path, model: dict[str, Any], custom: set[str]) -> dict[str, Any]:
    """Turn the configuration of a functional or sequential model of Keras 2 into Keras 3's.

    Args:
        path: for messages.
        model: has ``class_name`` and ``config``; not changed.
        custom: names of the user's own objects, whose configurations stay as they are.

    Returns:
        What `keras.saving.deserialize_keras_object` takes. It is still to be checked (`allowed.check`).

    Raises:
        ArtifactError: it is damaged, another kind of model, or says what Keras 3's layers do not know.
    """
    try:
        return _Reader(path, custom).model(_plain(model))
    except (KeyError, IndexError, AttributeError, TypeError, ValueError, RecursionError) as error:
        raise damaged(path, f"its configuration is not Keras 2's ({type(error).__name__}: {error})") from None


def with_modules(tree: Any) -> Any:
    """A configuration out of an HDF5 file of Keras 3, which leaves out the modules of layers, with them."""
    if isinstance(tree, list):
        return [with_modules(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    new = {key: with_modules(value) for key, value in tree.items()}
    kind = str(tree.get("class_name"))
    if "class_name" not in tree or "module" in tree or kind.startswith("__") or ">" in kind:
        return new
    inner = tree.get("config")
    if kind in MODELS:
        module = _FUNCTIONAL if kind == "Functional" else "keras"
    elif isinstance(inner, dict) and "trainable" not in inner and kind != "InputLayer":
        module = keras2_ops.module_of(kind)  # an operation; some layers have the same name
    else:
        module = "keras.layers" if hasattr(keras.layers, kind) else ""
    return {**new, "module": module or None, "registered_name": None if module else kind}


def _plain(tree: Any) -> Any:
    """A configuration with Keras 2's marks for tuples, shapes and arrays as tuples and lists."""
    if isinstance(tree, dict):
        inner = tree.get("config")
        if tree.get("class_name") in ("__tuple__", "TensorShape") and isinstance(tree.get("items"), list):
            return tuple(_plain(item) for item in tree["items"])
        if tree.get("class_name") == "__numpy__" and isinstance(inner, dict):
            return inner["value"]
        if tree.get("type") == "ndarray" and "value" in tree:
            return tree["value"]
        return {key: _plain(value) for key, value in tree.items()}
    return [_plain(item) for item in tree] if isinstance(tree, list) else tree


class _Reader:
    def __init__(self, path: Path, custom: set[str]) -> None:
        self.path, self.custom = path, custom

    def model(self, node: dict[str, Any]) -> dict[str, Any]:
        kind, config = node.get("class_name"), node.get("config")
        if kind == "Sequential" and isinstance(config, list):  # before Keras 2.2.3
            config = {"name": "sequential", "layers": config}
        if kind not in MODELS or not isinstance(config, dict) or not isinstance(config.get("layers"), list):
            raise ArtifactError(
                f"{self.path}: is a model of Keras 2 of the class {printable(str(kind), 60)}: only functional and "
                "sequential models describe themselves; give file.py:build with --weights"
            )
        converted = self._sequential(config) if kind == "Sequential" else self._functional(config)
        kind = _RENAMED.get(kind, kind)
        return self._named(node, _FUNCTIONAL if kind == "Functional" else "keras", kind, converted)

    def _named(self, node: dict[str, Any], module: str | None, kind: str, config: Any) -> dict[str, Any]:
        named = {"module": module, "class_name": kind, "config": config, "registered_name": None}
        return {**named, **({"shared_object_id": node["shared_object_id"]} if "shared_object_id" in node else {})}

    def _sequential(self, config: dict[str, Any]) -> dict[str, Any]:
        layers = [self.layer(layer) for layer in config["layers"]]
        first = config["layers"][0] if config["layers"] else {}
        shape = first.get("config", {}).get("batch_input_shape") if isinstance(first.get("config"), dict) else None
        if shape is not None and first["class_name"] not in ("InputLayer", *MODELS):
            dtype = first["config"].get("dtype")
            dtype = dtype if isinstance(dtype, str) and "_" not in dtype else None
            entry = {"batch_shape": list(shape), "dtype": dtype, "name": f"{first['config']['name']}_input"}
            layers.insert(0, self._named({}, "keras.layers", "InputLayer", entry))
        return {"name": config.get("name"), "trainable": config.get("trainable", True), "layers": layers}

    def _functional(self, config: dict[str, Any]) -> dict[str, Any]:
        kinds = {layer["config"].get("name", layer.get("name")): layer["class_name"] for layer in config["layers"]}
        layers = []
        for node in config["layers"]:
            name = node.get("name", node["config"].get("name"))
            calls = [self._call(node, call, kinds) for call in node.get("inbound_nodes", ())]
            if node["class_name"] in keras2_ops.CLASSES:
                layers += keras2_ops.operations(self.path, name, node["config"], calls)
            else:
                layers.append({**self.layer(node), "name": name, "inbound_nodes": calls})
        return {
            "name": config.get("name"),
            "trainable": config.get("trainable", True),
            "layers": layers,
            "input_layers": config["input_layers"],
            "output_layers": _outputs(config["output_layers"], kinds),
        }

    def _call(self, layer: dict[str, Any], call: Any, kinds: dict[str, str]) -> dict[str, Any]:
        """One call of a layer, as arguments by position and by name."""
        keywords: dict[str, Any] = {}

        def tensor(reference: list[Any]) -> Any:
            name, number, position = reference[:3]
            if len(reference) > 3 and isinstance(reference[3], dict):
                keywords.update(reference[3])
            if name == _CONSTANT:
                return position
            nested = kinds[name] in MODELS  # in Keras 2 a model's own making was its first call
            history = [name, int(number) - nested, int(position)]
            return {
                "class_name": "__keras_tensor__",
                "config": {"shape": [], "dtype": "float32", "keras_history": history},
            }

        def argument(value: Any) -> Any:
            if _is_reference(value, kinds):
                return tensor(value)
            if isinstance(value, dict):
                return {key: argument(item) for key, item in value.items()}
            return type(value)(argument(item) for item in value) if isinstance(value, list | tuple) else value

        first = argument(call)
        if isinstance(first, list) and len(first) == 1:
            first = first[0]
        named = {key: argument(value) for key, value in list(keywords.items())}
        if layer["class_name"] in RECURRENT and isinstance(first, list):  # the states that it starts from
            first, *states = first
            named["initial_state"] = states if len(states) > 1 or layer["class_name"] == "Bidirectional" else states[0]
        return {"args": [first], "kwargs": named}

    def layer(self, node: dict[str, Any]) -> dict[str, Any]:
        kind, registered = str(node["class_name"]), node.get("registered_name")
        for name in (registered, kind, str(registered or kind).split(">")[-1]):
            if isinstance(name, str) and name in self.custom:
                return {**self._named(node, None, kind, node["config"]), "registered_name": name}
        if kind in MODELS:
            return self.model(node)
        kind = _RENAMED.get(kind, kind)
        if not isinstance(getattr(keras.layers, kind, None), type):
            module = node.get("module")
            return {**self._named(node, module if isinstance(module, str) else None, kind, node["config"])}
        return self._named(node, "keras.layers", kind, self._arguments(kind, node["config"]))

    def _arguments(self, kind: str, config: dict[str, Any]) -> dict[str, Any]:
        accepted = _accepted(getattr(keras.layers, kind))
        arguments: dict[str, Any] = {}
        for key, value in config.items():
            key = _NEW_KEYS.get((kind, key), key)
            if key in _UNUSED or key.endswith(_OF_TRAINING):
                continue
            if key not in accepted:
                if value is None or key == "trainable" or (key in _DEFAULT and value == _DEFAULT[key]):
                    continue
                raise ArtifactError(
                    f"{self.path}: {printable(str(config.get('name')), 60)} says {printable(key, 40)}="
                    f"{printable(str(value), 40)}, which Keras 3's {kind} does not know; give file.py:build with "
                    "--weights"
                )
            arguments[key] = self._value(key, value)
        if kind in ("GRU", "GRUCell"):
            arguments.setdefault("reset_after", False)  # what it was before there was a choice
        if kind == "Discretization" and arguments.get("bin_boundaries"):
            arguments.pop("num_bins", None)  # Keras 3 takes one of the two
        axis = arguments.get("axis")
        if isinstance(axis, list | tuple) and len(axis) == 1:
            arguments["axis"] = axis[0]
        return arguments

    def _value(self, key: str, value: Any) -> Any:
        if key == "dtype":
            inner = value.get("config") if isinstance(value, dict) else None
            return inner["name"] if isinstance(inner, dict) else value
        if key.endswith("activation") and isinstance(value, str):
            return self._activation(value)
        if isinstance(value, dict) and "class_name" in value and "config" in value:
            return self._function(value) if value["class_name"] == "function" else self.layer(value)
        if isinstance(value, list) and value and all(isinstance(v, dict) and "class_name" in v for v in value):
            return [self.layer(item) for item in value]
        return value

    def _activation(self, name: str) -> Any:
        short = name.split(">")[-1]
        custom = name if name in self.custom else short if short in self.custom else None
        if custom is None and name in keras2_ops.ACTIVATIONS:
            custom = keras2_ops.ACTIVATIONS[name]
        if custom is None:
            return name
        return {"module": None, "class_name": "function", "config": custom, "registered_name": custom}

    def _function(self, value: dict[str, Any]) -> Any:
        return self._activation(str(value["config"]))


def _outputs(tree: Any, kinds: dict[str, str]) -> Any:
    """The model's outputs. Of functional models Keras 3 knows that their own making was the first call."""
    if _is_reference(tree, kinds):
        return [tree[0], int(tree[1]) - (kinds[tree[0]] == "Sequential"), tree[2]]
    if isinstance(tree, dict):
        return {key: _outputs(value, kinds) for key, value in tree.items()}
    return [_outputs(item, kinds) for item in tree]


def _is_reference(value: Any, kinds: dict[str, str]) -> bool:
    """Whether a value is [layer, node, tensor] or [layer, node, tensor, arguments]."""
    if not isinstance(value, list | tuple) or len(value) not in (3, 4) or not isinstance(value[0], str):
        return False
    return isinstance(value[1], int) and (value[0] == _CONSTANT or (value[0] in kinds and isinstance(value[2], int)))


def _accepted(kind: type) -> set[str]:
    """The arguments that a layer's constructor takes, those included that it hands on to its base."""
    names: set[str] = set()
    for base in kind.__mro__:
        parameters = inspect.signature(vars(base).get("__init__", lambda **_: None)).parameters
        names |= set(parameters)
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
            return names
    return names | _ALWAYS
