"""What Keras 2 and Keras 3 compute under other names: activations, and TensorFlow functions called on tensors.

A functional model of Keras 2 holds ``x * 2`` and ``tf.reduce_mean(x, axis=1)`` as layers that name the function
(``TFOpLambda``). Each that is listed here becomes the operation of Keras 3 that computes the same; no name is looked up
in TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from keras import ops

from tfhalf.errors import ArtifactError
from tfhalf.inspect.facts import printable, words

CLASSES = ("TFOpLambda", "SlicingOpLambda")
_PACKAGE = "tfhalf"


@keras.saving.register_keras_serializable(_PACKAGE)
def keras2_hard_sigmoid(x: Any) -> Any:
    """Keras 2's hard sigmoid, 0.2 x + 0.5 within 0 and 1; Keras 3's of this name is x / 6 + 0.5."""
    return ops.clip(x * 0.2 + 0.5, 0.0, 1.0)


ACTIVATIONS = {"hard_sigmoid": f"{_PACKAGE}>keras2_hard_sigmoid"}
OWN = set(ACTIVATIONS.values())

_Call = tuple[str, dict[str, Any], list[Any], dict[str, Any]]  # class, configuration, arguments by position and by name


def _plain(name: str) -> Callable[..., _Call]:
    """An operation of one tensor."""
    return lambda x: (name, {}, [x], {})


def _pair(name: str) -> Callable[..., _Call]:
    """An operation of two, either of which may be a number."""
    return lambda x, y: (name, {}, [x, y], {})


def _reduced(name: str) -> Callable[..., _Call]:
    def reduce(input_tensor: Any, axis: Any = None, keepdims: bool = False) -> _Call:
        return name, {"axis": axis, "keepdims": bool(keepdims)}, [input_tensor], {}

    return reduce


def _matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> _Call:
    if transpose_a or transpose_b:
        raise TypeError("transpose_a or transpose_b")
    return "Matmul", {}, [a, b], {}


def _gelu(features: Any, approximate: bool = False) -> _Call:
    return "Gelu", {"approximate": bool(approximate)}, [features], {}


def _getitem(x: Any, slice_spec: Any) -> _Call:
    return "GetItem", {}, [x, [_index(item) for item in slice_spec]], {}


def _index(item: Any) -> Any:
    if isinstance(item, dict) and set(item) == {"start", "stop", "step"}:
        return {"class_name": "__slice__", "config": item}
    if isinstance(item, dict) and item.get("class_name") == "__ellipsis__":
        return {"class_name": "__ellipsis__", "config": {}}
    if isinstance(item, int) or item is None:
        return item
    raise TypeError(f"slice_spec={item}")


_FUNCTIONS: dict[str, Callable[..., _Call]] = {
    **{f"math.{name}": _pair(kind) for name, kind in zip(
        words("add subtract multiply truediv divide pow maximum minimum"),
        words("Add Subtract Multiply TrueDivide TrueDivide Power Maximum Minimum"), strict=True)},
    **{f"__operators__.{name}": _pair(kind) for name, kind in zip(
        words("add subtract multiply truediv"), words("Add Subtract Multiply TrueDivide"), strict=True)},
    **{f"math.{name}": _plain(kind) for name, kind in zip(
        words("abs negative square sqrt rsqrt exp log log1p sin cos tanh sigmoid softplus sign floor ceil erf"),
        words("Absolute Negative Square Sqrt Rsqrt Exp Log Log1p Sin Cos Tanh Sigmoid Softplus Sign Floor Ceil Erf"),
        strict=True)},
    **{f"math.reduce_{name}": _reduced(name.capitalize()) for name in words("mean sum max min prod")},
    "nn.relu": lambda features: ("Relu", {}, [features], {}),
    "nn.relu6": lambda features: ("Relu6", {}, [features], {}),
    "nn.elu": lambda features: ("Elu", {}, [features], {}),
    "nn.softplus": lambda features: ("Softplus", {}, [features], {}),
    "nn.sigmoid": _plain("Sigmoid"),
    "nn.tanh": _plain("Tanh"),
    "nn.silu": lambda features, beta=1.0: ("Silu", {}, [_only(features, beta == 1)], {}),
    "nn.leaky_relu": lambda features, alpha=0.2: ("LeakyRelu", {"negative_slope": alpha}, [features], {}),
    "nn.gelu": _gelu,
    "nn.softmax": lambda logits, axis=-1: ("Softmax", {"axis": -1 if axis is None else axis}, [logits], {}),
    "nn.log_softmax": lambda logits, axis=-1: ("LogSoftmax", {"axis": -1 if axis is None else axis}, [logits], {}),
    "concat": lambda values, axis: ("Concatenate", {"axis": axis}, [values], {}),
    "stack": lambda values, axis=0: ("Stack", {"axis": axis}, [values], {}),
    "reshape": lambda tensor, shape: ("Reshape", {"newshape": list(shape)}, [tensor], {}),
    "transpose": lambda a, perm=None, conjugate=False: ("Transpose", {"axes": perm}, [_only(a, not conjugate)], {}),
    "expand_dims": lambda input, axis: ("ExpandDims", {"axis": axis}, [input], {}),
    "squeeze": lambda input, axis=None: ("Squeeze", {"axis": axis}, [input], {}),
    "tile": lambda input, multiples: ("Tile", {"repeats": list(multiples)}, [input], {}),
    "cast": lambda x, dtype: ("Cast", {"dtype": dtype}, [x], {}),
    "clip_by_value": lambda t, clip_value_min, clip_value_max: (
        "Clip", {"x_min": clip_value_min, "x_max": clip_value_max}, [t], {}),
    "linalg.matmul": _matmul,
    "__operators__.getitem": _getitem,
}  # fmt: skip
_FUNCTIONS |= {f"compat.v1.{name}": _FUNCTIONS[name] for name in words("transpose expand_dims squeeze")}
_FUNCTIONS |= {f"math.{name}": _FUNCTIONS[f"nn.{name}"] for name in words("softmax log_softmax")}


def _only(value: Any, plain: bool) -> Any:
    if not plain:
        raise TypeError("an argument that is not the default")
    return value


def operations(path: Path, name: str, config: dict[str, Any], calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Turn a layer that names a TensorFlow function into an operation of Keras 3.

    Args:
        path: for messages.
        name: of the layer.
        config: its configuration.
        calls: of the layer: ``args``, of which the first is the function's first argument, and ``kwargs``.

    Returns:
        The layer of a functional model's configuration, in a list.

    Raises:
        ArtifactError: the function is not listed, or is called in a way that Keras 3's operation does not know.
    """
    function = str(config.get("function"))
    make = _FUNCTIONS.get(function)
    if make is None:
        raise ArtifactError(
            f"{path}: {printable(name, 60)!r} calls tf.{printable(function, 60)}, which is not among the functions "
            "that are made again; write it as a layer, or give file.py:build with --weights"
        )
    nodes: list[dict[str, Any]] = []
    kind, settings = "", dict[str, Any]()
    for call in calls:
        named = {key: value for key, value in call["kwargs"].items() if key != "name"}
        try:
            kind, settings, arguments, keywords = make(*call["args"], **named)
        except TypeError as error:
            raise ArtifactError(
                f"{path}: {printable(name, 60)!r} calls tf.{function} with {printable(str(error), 80)}, which is not "
                "made again; give file.py:build with --weights"
            ) from None
        nodes.append({"args": arguments, "kwargs": keywords})
    op = {
        "module": module_of(kind),
        "class_name": kind,
        "config": {"name": name, **settings},
        "registered_name": kind,
    }
    return [{**op, "name": name, "inbound_nodes": nodes}]


def module_of(kind: str) -> str:
    """The module of Keras 3 that has an operation of this name; empty where none has."""
    from keras.src.ops import core, math, nn, numpy

    return next((m.__name__ for m in (numpy, nn, core, math) if isinstance(vars(m).get(kind), type)), "")
