"""Numbers in a Keras model's configuration that float16 makes 0 or infinite: epsilons, mask values, scales."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfhalf.inspect.constants import Constant
from tfhalf.inspect.facts import printable

_ZERO_UP_TO, _INFINITE_FROM = 2.0**-25, 65520.0
# Layers that compute with these in float32 under every policy, and what is of training alone.
_FLOAT32 = ("BatchNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization", "Normalization")
_RAW = ("Rescaling", "Discretization")
_SKIPPED = ("dtype", "build_config", "compile_config", "seed", "rate", "momentum", "name", "registered_name")
_TRAINING = ("initializer", "regularizer", "constraint")
# Where whole numbers are numbers to compute with, and no sizes.
_VALUES = ("mask_value", "scale", "offset", "value", "fill_value", "args", "kwargs")


def keras_constants(layers: Iterator[dict[str, Any]]) -> list[Constant]:
    """What the serialized ``layers`` of a ``.keras`` file hold, each once. Layers within them are among them too."""
    constants: dict[Constant, None] = {}
    for layer in layers:
        class_name, config = str(layer["class_name"]), layer.get("config")
        if class_name in (*_FLOAT32, *_RAW) or not isinstance(config, dict):
            continue
        name = printable(str(layer.get("name") or config.get("name") or class_name), 60)
        for key, value in (*_numbers(config, ""), *_numbers(layer.get("inbound_nodes"), "args")):
            becomes = _becomes(value)
            if becomes:
                where = "argument" if key in ("args", "kwargs") else printable(key, 60)
                constants.setdefault(Constant(name, printable(class_name, 60), where, value, becomes))
    return list(constants)


def _becomes(value: float) -> str:
    size = abs(value)
    if _INFINITE_FROM <= size < float("inf"):
        return "infinite"
    return "0" if 0 < size <= _ZERO_UP_TO else ""


def _numbers(tree: Any, key: str) -> Iterator[tuple[str, float]]:
    """The numbers within a layer's own configuration, with the key that each has; not those of layers within it."""
    todo = [(key, tree)]
    while todo:
        key, node = todo.pop()
        if isinstance(node, dict):
            if "class_name" not in node:
                todo += [(str(k), v) for k, v in node.items() if k not in _SKIPPED and not str(k).endswith(_TRAINING)]
        elif isinstance(node, list):
            todo += [(key, value) for value in node]
        elif isinstance(node, float) or (isinstance(node, int) and not isinstance(node, bool) and key in _VALUES):
            try:
                yield key, float(node)
            except OverflowError:
                yield key, float("inf")
