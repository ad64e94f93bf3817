"""Steps of float16 weights that have no float32 copy: worked out in float32, and what is kept is rounded to float16.

Each function takes weight and slots as they are kept, cast up, and gives new values in float32; the caller rounds each
of them once. So what a policy without a float32 copy loses is what rounding loses of weights and slots between two
steps, and nothing else: an update smaller than half of a weight's last digit (2^-12 to 2^-11 of its size) changes
nothing, unless weights are rounded by chance (`tfhalf.train.optim.stochastic`). In float16 throughout, as Keras
computes its updates under that policy, the learning rate, ``beta_2 ** step`` and gradients below 2^-25 would be lost
besides, in which float32 weights have no part. Fused optimizers compute so, too: PyTorch's ``opmath_t`` is float32 for
float16 parameters (aten/src/ATen/native/cuda/fused_adam_utils.cuh).

Numbers beyond 65504 are kept as that, as in an export.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from tfhalf.precision.cast import MAX

EPSILON = 2.0**-12
"""The least epsilon of Adam for float16 slots, the square root of their smallest number, 2^-24.

A second moment below 2^-25, that of gradients below 1.7e-4, is kept as 0, and so is one that grows from 0 by less than
that a step. Beside an epsilon of 1e-7 the step that follows could be a thousand times too long; beside 1e-8, which is 0
in float16, it would divide by 0. Beside this one it is a dozen times too long at most, with ``beta_2`` of 0.999.
"""


def sgd(
    weight: Any, momentum: Any | None, gradient: Any, rate: Any, *, decay: float, nesterov: bool
) -> tuple[Any, Any | None]:
    """One step of SGD, with momentum as `keras.optimizers.SGD` has it.

    ::

        m = decay * m - rate * g
        w = w + (decay * m - rate * g  if nesterov else  m)      # without momentum: w - rate * g

    Args:
        weight, momentum, gradient: float32 of one shape; no ``momentum`` where ``decay`` is 0.
        rate: float32 scalar.

    Returns:
        New weight and new momentum, float32.
    """
    down = ops.multiply(gradient, rate)
    if momentum is None:
        return ops.subtract(weight, down), None
    momentum = ops.subtract(ops.multiply(momentum, decay), down)
    step = ops.subtract(ops.multiply(momentum, decay), down) if nesterov else momentum
    return ops.add(weight, step), momentum


def adam(
    weight: Any,
    first: Any,
    second: Any,
    gradient: Any,
    rate: Any,
    step: Any,
    *,
    betas: tuple[float, float],
    epsilon: float,
) -> tuple[Any, Any, Any]:
    """One step of Adam (Kingma and Ba, arXiv:1412.6980, section 2), in the form that `keras.optimizers.Adam` has.

    ::

        m = m + (1 - beta_1) * (g - m)
        v = v + (1 - beta_2) * (g * g - v)
        w = w - rate * sqrt(1 - beta_2 ** step) / (1 - beta_1 ** step) * m / (sqrt(v) + max(epsilon, 2^-12))

    Args:
        weight, first, second, gradient: float32 of one shape; ``first`` and ``second`` are the moments m and v.
        rate: float32 scalar.
        step: float32 scalar, counted from 1.
        epsilon: raised to `EPSILON`.

    Returns:
        New weight and moments, float32. Its step divides by moments that are not rounded yet.
    """
    beta_1, beta_2 = betas
    correction = ops.divide(
        ops.sqrt(ops.subtract(1.0, ops.power(beta_2, step))), ops.subtract(1.0, ops.power(beta_1, step))
    )
    first = ops.add(first, ops.multiply(1.0 - beta_1, ops.subtract(gradient, first)))
    second = ops.add(second, ops.multiply(1.0 - beta_2, ops.subtract(ops.square(gradient), second)))
    size = ops.add(ops.sqrt(second), max(epsilon, EPSILON))
    return ops.subtract(weight, ops.divide(ops.multiply(ops.multiply(rate, correction), first), size)), first, second


def lion(weight: Any, momentum: Any, gradient: Any, rate: Any, *, betas: tuple[float, float]) -> tuple[Any, Any]:
    """One step of Lion (Chen et al., arXiv:2302.06675, algorithm 2).

    ::

        w = w - rate * sign(beta_1 * m + (1 - beta_1) * g)
        m = beta_2 * m + (1 - beta_2) * g

    Args:
        weight, momentum, gradient: float32 of one shape.
        rate: float32 scalar.

    Returns:
        New weight and new momentum, float32.
    """
    beta_1, beta_2 = betas
    ahead = ops.add(ops.multiply(beta_1, momentum), ops.multiply(1.0 - beta_1, gradient))
    kept = ops.add(ops.multiply(beta_2, momentum), ops.multiply(1.0 - beta_2, gradient))
    return ops.subtract(weight, ops.multiply(rate, ops.sign(ahead))), kept


def average(kept: Any, weight: Any, momentum: Any) -> Any:
    """The moving average of a weight, ``momentum * kept + (1 - momentum) * weight``; all float32.

    Kept in float16, an average stands still once ``1 - momentum`` of the difference is less than half of its last
    digit.
    """
    return ops.add(ops.multiply(momentum, kept), ops.multiply(ops.subtract(1.0, momentum), weight))


def clamped(value: Any) -> Any:
    """``value`` within what float16 holds, [-65504, 65504]."""
    return ops.clip(value, -MAX, MAX)


def is_float16(variable: Any) -> bool:
    """Whether a variable of Keras or TensorFlow is kept in float16."""
    return bool(variable.dtype == "float16")


def wide(value: Any) -> Any:
    """A variable's value, or a tensor, as float32."""
    return ops.cast(ops.convert_to_tensor(value), "float32")
