"""What a classifier's last layer gives: logits, so that softmax and loss can be computed in float32."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tfhalf.errors import ConfigError

Closing = Literal["softmax", "sigmoid"]
OTHER: dict[str, Closing] = {"softmax": "sigmoid", "sigmoid": "softmax"}
REFUSED = {
    "sigmoid": "model.build: the model ends in a sigmoid ({where}), which would be taken for logits; give one output "
    "for each class, without activation: the softmax is added in float32; or set task: binary or task: multilabel",
    "softmax": "model.build: the model ends in a softmax ({where}), of whose outputs one is right; give logits, "
    "without activation: the sigmoid is added in float32; or set task: classification",
}
# Layers whose answers are their activation's; a recurrent layer's activation is another thing.
_ACTIVATED = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.src.layers.convolutional.base_conv.BaseConv,
    keras.src.layers.convolutional.base_separable_conv.BaseSeparableConv,
    keras.src.layers.convolutional.base_depthwise_conv.BaseDepthwiseConv,
)
# Operations of TensorFlow that may take for ever.
_ENDLESS = {"While", "StatelessWhile", "For", "PyFunc", "PyFuncStateless", "EagerPyFunc", "RemoteCall"}


def as_logits(model: keras.Model, closing: Closing = "softmax") -> tuple[keras.Model, bool]:
    """``model``, of one output, with a closing softmax or sigmoid taken off, and whether there was one: a layer, an
    activation or an operation of `keras.ops`, also at the end of a model within, and before what changes no value (a
    cast, a linear activation).

    A float16 softmax loses small probabilities (below 6e-8 they are 0, and their loss infinite).

    Raises:
        ConfigError: it ends in the other of the two.
    """
    tensor, had = _before(model, closing)
    if tensor is None:
        return model, had
    # A list of one input would make Keras warn at every call with a bare tensor.
    inputs = model.inputs[0] if len(model.inputs) == 1 else model.inputs
    return keras.Model(inputs, tensor, name=model.name), had


def ends_in_a_linear_layer(model: keras.Model) -> bool:
    """Whether the last layer of ``model``, which `as_logits` gave, is one whose answers are logits for certain; layers
    that only scale and shift them may follow."""
    tensor = model.outputs[0]
    while True:
        last, node = _last(tensor)
        if _graph(last) is not None:
            return ends_in_a_linear_layer(last)
        if isinstance(last, _ACTIVATED):
            return function_of(last.activation, tensor.shape[-1]) == "identity"
        before = node.arguments.keras_tensors
        if len(before) != 1 or before[0].shape != tensor.shape or getattr(last, "weights", []):
            return False
        if function_of(last, tensor.shape[-1]) not in ("identity", "affine"):
            return False
        tensor = before[0]


def closing_activation(model: keras.Model) -> str | None:
    """The activation of the last layer of ``model``, which `as_logits` gave; None where it has none that is known."""
    last, _ = _last(model.outputs[0])
    if _graph(last) is not None:
        return closing_activation(last)
    if not isinstance(last, _ACTIVATED) or ends_in_a_linear_layer(model):
        return None
    return str(getattr(last.activation, "__name__", last.activation))


def _before(model: keras.Model, closing: Closing) -> tuple[Any, bool]:
    """The tensor before a ``closing`` function, None where ``model`` itself was changed or is to stay as it is; and
    whether there was one."""
    tensor = model.outputs[0]
    while True:
        last, node = _last(tensor)
        if _graph(last) is not None:
            if len(last.outputs) != 1 or tensor.shape != last.outputs[0].shape:
                return None, False
            inner, had = as_logits(last, closing)
            return (inner(*node.arguments.args) if inner is not last else None), had
        if isinstance(last, _ACTIVATED):
            kind = function_of(last.activation, tensor.shape[-1])
            if kind == OTHER[closing]:
                raise ConfigError(REFUSED[kind].format(where=f"the activation of {last.name!r}"))
            if kind == closing:
                last.activation = keras.activations.linear
            return None, kind == closing
        before = node.arguments.keras_tensors
        if len(before) != 1 or before[0].shape != tensor.shape or getattr(last, "weights", []):
            return None, False
        kind = function_of(last, tensor.shape[-1])
        if kind == OTHER[closing]:
            raise ConfigError(REFUSED[kind].format(where=repr(last.name)))
        if kind == closing:
            return before[0], True
        if kind != "identity":
            return None, False
        tensor = before[0]


def _last(tensor: Any) -> tuple[Any, Any]:
    """The operation that made a symbolic ``tensor``, and its call."""
    history = tensor._keras_history
    return history.operation, history.operation._inbound_nodes[history.node_index]


def _graph(operation: Any) -> Any:
    if isinstance(operation, keras.Sequential):
        return operation._functional if operation.built else None
    return operation if isinstance(operation, keras.Model) and hasattr(operation, "operations") else None


def function_of(function: Any, width: int) -> str | None:
    """``softmax``, ``sigmoid``, ``identity`` or ``affine`` (one factor, one offset): which of them a function of
    [N, width] is, by its values; else None. One that may take for ever, of a user's own loop or Python, is not run."""
    x = np.linspace(-3, 4, 2 * width, dtype=np.float32).reshape(2, width) ** 2
    x[1] *= -1
    try:
        traced = tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec(x.shape, tf.float32))
        if not _ends(traced):
            return None
        y = keras.ops.convert_to_numpy(traced(tf.constant(x))).astype(np.float32)
    except (TypeError, ValueError, AttributeError, NotImplementedError, RuntimeError):
        return None  # it does not take such an array alone: none of these
    if y.shape != x.shape:
        return None
    softmax = np.exp(x - x.max(-1, keepdims=True))
    factor = (y.max() - y.min()) / (x.max() - x.min())
    kinds = {
        "identity": x,
        "sigmoid": 1 / (1 + np.exp(-x)),
        "softmax": softmax / softmax.sum(-1, keepdims=True),
        "affine": factor * (x - x.min()) + y.min(),
    }
    return next((kind for kind, answers in kinds.items() if np.allclose(y, answers, rtol=1e-3, atol=5e-3)), None)


def _ends(traced: Any) -> bool:
    """Whether a traced function comes to an end for certain: its graph has neither loops nor Python."""
    graph = traced.graph.as_graph_def()
    nodes = (*graph.node, *(node for function in graph.library.function for node in function.node_def))
    return not any(node.op in _ENDLESS for node in nodes)
