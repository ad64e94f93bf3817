"""A function whose backward pass works its forward pass out again: `recomputed`.

Gradient checkpointing (T. Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174). Of Keras'
variables the second forward pass sees the values that the first one saw, random seeds and moving statistics too, and
changes none: so it draws the same masks, and a step changes each of them once. `tf.recompute_grad` and `keras.remat`
read the variables anew, and move them twice.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import keras
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.backend.common.keras_tensor import any_symbolic_tensors
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask

from tfhalf.errors import ConfigError
from tfhalf.train.kernels.norm import barrier

Compiler = Literal["xla-gpu", "xla-cpu", "none"]

_CONTEXT = ("current_call_ctx", "autocast_scope")  # of Keras: `training` for the layers within, dtypes of variables
_ODD_NAN = 0x7FC5A5A5  # a float32 that no arithmetic makes


_assigned: list[str] = []  # trained weights that calls assign, while a step is traced


@contextmanager
def refusing_assigned() -> Iterator[None]:
    """A block in which a step is traced. Of a weight that a call assigns the step has no gradient from there on, while
    `recomputed` would have one.

    Raises:
        ConfigError: at its end, where what is `recomputed` in it assigns a weight that is trained.
    """
    _assigned.clear()
    yield
    if _assigned:
        raise ConfigError(
            f"train.remat: {_assigned[0]} is trained, and assigned in the call of its layer; accepted: layers that "
            "assign no such weight; leave that layer out of the patterns"
        )


class _Values(keras.StatelessScope):
    """Takes down which variables are read within, and what is assigned to them, which changes none of them."""

    def __init__(self, values: Mapping[int, Any] | None = None) -> None:
        super().__init__(collect_losses=True, initialize_variables=False)
        self.values = dict(values or {})
        self.read: dict[int, Any] = {}
        self.assigned: dict[int, Any] = {}

    def get_current_value(self, variable: Any) -> Any:
        """What was assigned within, else the value given for ``variable``, else that of the scope around this one."""
        key = id(variable)
        if key in self.state_mapping:
            return self.state_mapping[key]
        self.read.setdefault(key, variable)
        if key in self.values:
            return self.values[key]
        return self.original_scope.get_current_value(variable) if self.original_scope else None

    def add_update(self, update: tuple[Any, Any]) -> None:
        """Keep the pair of a variable and its new value."""
        super().add_update(update)
        self.assigned[id(update[0])] = update[0]

    def before(self, variable: Any) -> Any:
        """The value of ``variable`` at the beginning, a tensor of its own dtype."""
        value = self.original_scope.get_current_value(variable) if self.original_scope else None
        return tf.convert_to_tensor(variable._value if value is None else value)


def recomputed(
    function: Callable[..., Any], arguments: Any, compiler: Compiler, add_loss: Callable[[Any], None]
) -> Any:
    """What ``function(arguments)`` returns, of which nothing is kept for the backward pass but the tensors among
    ``arguments`` and the variables that it reads.

    Args:
        function: calls layers of Keras on the tensors; any nest of tensors and None, of which the floating ones have
            gradients.
        arguments: a nest; its dense tensors may have gradients. With sparse or symbolic ones ``function`` is simply
            called.
        compiler: of the program that is traced, which decides how the second forward pass is kept apart from the first.
        add_loss: receives each loss that layers within have added, a scalar.
    """
    flat = keras.tree.flatten(arguments)
    if any_symbolic_tensors((arguments,)) or any(isinstance(x, (tf.SparseTensor, tf.RaggedTensor)) for x in flat):
        return function(arguments)
    indices = [i for i, x in enumerate(flat) if tf.is_tensor(x)]
    masks = [get_keras_mask(flat[i]) for i in indices]
    context = _captured()

    def forward(tensors: Sequence[Any], scope: _Values) -> tuple[Any, list[Any]]:
        changed = list(flat)
        for index, tensor, mask in zip(indices, tensors, masks, strict=True):
            changed[index] = tensor
            if mask is not None:
                set_keras_mask(tensor, mask)
        with scope:
            out = function(keras.tree.pack_sequence_as(arguments, changed))
        return out, [*keras.tree.flatten(out), *scope.losses]

    first = _Values()
    out, results = forward([flat[i] for i in indices], first)
    _assigned.extend(variable.path for variable in first.assigned.values() if variable.trainable)
    variables = [first.read[key] for key in first.read]
    values = [first.before(variable) for variable in variables]
    tensors_at = [i for i, result in enumerate(results) if tf.is_tensor(result)]
    ends = [i for i in tensors_at if results[i].dtype.is_floating]

    @tf.custom_gradient
    def run(*leaves: Any) -> Any:
        def gradient(*upstream: Any) -> list[Any]:
            above = [
                tf.zeros_like(results[i]) if dy is None else tf.convert_to_tensor(dy)
                for i, dy in zip(tensors_at, upstream, strict=True)
                if results[i].dtype.is_floating
            ]
            held, above = _after(list(leaves[: len(indices)]), above, compiler)
            sources = [*held, *leaves[len(indices) :]]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([x for x in sources if x.dtype.is_floating])
                with _restored(context):
                    scope = _Values({id(v): x for v, x in zip(variables, sources[len(held) :], strict=True)})
                    _, again = forward(held, scope)
            floating = [i for i, x in enumerate(sources) if x.dtype.is_floating]
            slopes = tape.gradient([again[i] for i in ends], [sources[i] for i in floating], above)
            of = dict(zip(floating, slopes, strict=True))
            return [None if of.get(i) is None else tf.convert_to_tensor(of[i]) for i in range(len(sources))]

        return [tf.stop_gradient(results[i]) for i in tensors_at], gradient

    outputs = run(*(flat[i] for i in indices), *values)
    for i, tensor in zip(tensors_at, outputs, strict=True):
        if (mask := get_keras_mask(results[i])) is not None:
            set_keras_mask(tensor, mask)
        results[i] = tensor
    for key, variable in first.assigned.items():
        variable.assign(tf.stop_gradient(first.state_mapping[key]))
    count = len(keras.tree.flatten(out))
    for loss in results[count:]:
        add_loss(loss)
    return keras.tree.pack_sequence_as(out, results[:count])


def _after(tensors: list[Any], above: list[Any], compiler: Compiler) -> tuple[list[Any], list[Any]]:
    """``tensors`` of the same values, and the gradients ``above``, so that what is computed from them is computed once
    those are there: a compiler that saw the same numbers twice would compute them once, and keep them.

    XLA takes its barriers away before it looks for what is there twice, on a CPU; then a factor of 1 does that hangs on
    ``above`` by a comparison that is never true.
    """
    if not tf.inside_function() or not above or not tensors:
        return tensors, above
    if compiler == "xla-gpu":
        joined = barrier(*tensors, *above)
        return joined[: len(tensors)], joined[len(tensors) :]
    if compiler == "none":
        with tf.control_dependencies(above):
            return [tf.identity(x) for x in tensors], above
    first = tf.add_n([tf.reshape(tf.cast(dy, tf.float32), [-1])[0] for dy in above if dy.shape.num_elements() != 0])
    never = tf.equal(tf.bitcast(first, tf.int32), _ODD_NAN)
    return [_same(x, never) for x in tensors], above


def _same(x: Any, never: Any) -> Any:
    if x.dtype == tf.bool:
        return tf.math.logical_xor(x, never)
    if x.dtype.is_floating or x.dtype.is_complex:
        return x * tf.cast(tf.where(never, 2.0, 1.0), x.dtype)
    return x + tf.cast(never, x.dtype)


def _captured() -> list[Any]:
    """What Keras passes to the layers within beside their arguments, as it is now."""
    return [copy.copy(global_state.get_global_attribute(name)) for name in _CONTEXT]


@contextmanager
def _restored(context: Sequence[Any]) -> Iterator[None]:
    """Within the block it is ``context`` that Keras passes to layers."""
    before = [global_state.get_global_attribute(name) for name in _CONTEXT]
    for name, value in zip(_CONTEXT, context, strict=True):
        global_state.set_global_attribute(name, copy.copy(value))
    try:
        yield
    finally:
        for name, value in zip(_CONTEXT, before, strict=True):
            global_state.set_global_attribute(name, value)
