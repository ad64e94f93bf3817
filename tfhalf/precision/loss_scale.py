"""Dynamic loss scaling that can neither collapse to 0 nor grow without end, and that counts what it skips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

_SMALL = 2**18  # numbers in a gradient
_NONE = np.int32(-1)


def is_power_of_two(value: float) -> bool:
    """Whether multiplying by ``value`` changes nothing of a number but its exponent."""
    return 0 < value < math.inf and math.frexp(value)[0] == 0.5


class ScaleState(NamedTuple):
    """State of the algorithm: the scale, finite steps since it changed, skipped steps in all and in a row, and those
    that hysteresis has let pass."""

    scale: Any
    good_steps: Any
    skipped: Any
    skipped_in_row: Any
    tolerated: Any


class Rule(NamedTuple):
    """How the scale moves; see `next_state`. With ``floor`` and ``cap`` at the scale it is static: it never moves."""

    growth_interval: int = 2000
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    floor: float = 1.0
    cap: float = 2.0**24
    hysteresis: int = 1
    consecutive_hysteresis: bool = False


def next_state(state: ScaleState, finite: Any, rule: Rule) -> ScaleState:
    """One step of dynamic loss scaling (Micikevicius et al., arXiv:1710.03740, section 3.2), with bounds, and with
    hysteresis as in DeepSpeed's ``DynamicLossScaler`` (deepspeed/runtime/fp16/loss_scaler.py).

    ::

        if finite:                               # every number of every gradient
            good_steps += 1
            skipped_in_row = 0
            if consecutive_hysteresis:
                tolerated = 0
            if good_steps == growth_interval:
                scale = min(scale * growth_factor, cap)
                good_steps = 0
                tolerated = 0
        else:                                    # the weights stay as they are
            good_steps = 0
            skipped += 1
            skipped_in_row += 1
            if tolerated < hysteresis - 1:
                tolerated += 1
            else:
                scale = max(scale * backoff_factor, floor)

    So ``hysteresis`` n lets n - 1 non-finite steps pass; the n-th and all after it lower the scale, until it has grown
    (or, with ``consecutive_hysteresis``, until a step is finite). Where DeepSpeed differs: its scale has no cap, and at
    the floor it ends the run with an exception.

    The factors are powers of two, and so is a scale that starts as one: multiplying by it and dividing by it again
    changes the exponent of a number and no digit, as long as nothing leaves the format's range.

    Args:
        state: scalars; ``scale`` float32, the counts int32.
        finite: bool scalar.

    Returns:
        The new state; works on arrays and inside a compiled step alike.
    """
    good = ops.add(state.good_steps, 1)
    grow = ops.greater_equal(good, rule.growth_interval)
    grown = ops.where(grow, ops.minimum(ops.multiply(state.scale, rule.growth_factor), rule.cap), state.scale)
    passes = ops.less(state.tolerated, rule.hysteresis - 1)
    lowered = ops.maximum(ops.multiply(state.scale, rule.backoff_factor), rule.floor)
    reset = ops.where(grow, 0, 0 if rule.consecutive_hysteresis else state.tolerated)
    return ScaleState(
        scale=ops.where(finite, grown, ops.where(passes, state.scale, lowered)),
        good_steps=ops.where(finite, ops.where(grow, 0, good), 0),
        skipped=ops.add(state.skipped, ops.where(finite, 0, 1)),
        skipped_in_row=ops.where(finite, 0, ops.add(state.skipped_in_row, 1)),
        tolerated=ops.where(finite, reset, ops.add(state.tolerated, ops.where(passes, 1, 0))),
    )


@keras.saving.register_keras_serializable(package="tfhalf")
class GuardedLossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Keras' `LossScaleOptimizer` with a floor, a cap, hysteresis and counts.

    Keras halves the scale without end: 200 non-finite steps take it to 0, and the next finite gradient divides by it.
    Here the scale stays in [``floor``, ``cap``], both powers of two for exact division. Clipping, moving averages and
    accumulation belong on ``inner_optimizer``, which sees unscaled gradients and only finite ones: so a skipped step
    advances neither its learning rate nor anything else of it.

    Args:
        dynamic_growth_steps: `Rule.growth_interval`, by the name that Keras has for it.
        growth_factor, backoff_factor: powers of two, at least 2 and at most 1/2.

    It goes into ``compile`` as it is. A ``.keras`` file keeps it with its scale and counters; a process that loads one
    imports this class first, which makes it known to Keras.

    Raises:
        ValueError: a bound or a factor does not hold.
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer,
        initial_scale: float = 2.0**15,
        dynamic_growth_steps: int = 2000,
        floor: float = 1.0,
        cap: float = 2.0**24,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        hysteresis: int = 1,
        consecutive_hysteresis: bool = False,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        if not 0 < floor <= initial_scale <= cap or cap == float("inf"):
            raise ValueError(f"0 < floor <= initial_scale <= cap is needed, received {floor}, {initial_scale}, {cap}")
        if not (
            is_power_of_two(growth_factor) and is_power_of_two(backoff_factor) and backoff_factor < 1 < growth_factor
        ):
            raise ValueError(
                "powers of two with backoff_factor < 1 < growth_factor are needed, "
                f"received {backoff_factor}, {growth_factor}"
            )
        if hysteresis < 1:
            raise ValueError(f"hysteresis >= 1 is needed, received {hysteresis}")
        super().__init__(inner_optimizer, initial_scale, dynamic_growth_steps, name=name, **kwargs)
        self.rule = Rule(
            dynamic_growth_steps, growth_factor, backoff_factor, floor, cap, hysteresis, consecutive_hysteresis
        )
        self.branchless = False  # compute every update and select: a branch makes a compiled GPU program wait for it

    def build(self, var_list: Sequence[Any]) -> None:
        """Create the counters beside Keras' scale and step counter."""
        if self.built:
            return
        self.skipped = self.add_variable(shape=(), dtype="int", initializer="zeros", name="skipped")
        self.skipped_in_row = self.add_variable(shape=(), dtype="int", initializer="zeros", name="skipped_in_row")
        self.tolerated = self.add_variable(shape=(), dtype="int", initializer="zeros", name="tolerated")
        super().build(var_list)

    @property
    def _own(self) -> list[Any]:
        return [self.dynamic_scale, self.step_counter, self.skipped, self.skipped_in_row, self.tolerated]

    def _next(self, finite: Any) -> ScaleState:
        state = ScaleState(*(ops.convert_to_tensor(variable) for variable in self._own))
        return next_state(state, finite, self.rule)

    def check_finite(self, grads: Sequence[Any]) -> Any:
        """Whether no gradient holds an inf or a NaN, a bool scalar."""
        return ops.less(self.bad_gradient(grads), 0)

    def bad_gradient(self, grads: Sequence[Any]) -> Any:
        """The index of the last of ``grads`` that holds an inf or a NaN, an int32 scalar; -1 where none does.

        The last in the variables' order is the nearest to the loss, where the backward pass met the fault first.

        Without branches small gradients are checked together: each check is a kernel of its own on a GPU, and takes
        longer to start than to run. One reduction gives the index of the last bad number among them all, and with it
        the gradient that holds it.
        """
        indexed = [(i, g) for i, g in enumerate(grads) if g is not None]
        small = {i for i, g in indexed if math.prod(g.shape) <= _SMALL} if self.branchless else set()
        bad = [
            ops.reshape(ops.where(ops.all(ops.isfinite(g)), _NONE, np.int32(i)), (1,))
            for i, g in indexed
            if i not in small
        ]
        by_dtype: dict[str, list[tuple[int, Any]]] = {}
        for i, g in indexed:
            if i in small:
                by_dtype.setdefault(keras.backend.standardize_dtype(g.dtype), []).append((i, g))
        for group in by_dtype.values():
            flat = ops.concatenate([ops.reshape(g, (-1,)) for _, g in group])
            last = ops.max(ops.where(ops.isfinite(flat), _NONE, ops.arange(flat.shape[0], dtype="int32")), initial=-1)
            starts = np.cumsum([0, *(math.prod(g.shape) for _, g in group[:-1])]).astype(np.int32)
            bad.append(ops.where(ops.greater_equal(last, starts), np.asarray([i for i, _ in group], np.int32), _NONE))
        return ops.max(ops.concatenate(bad)) if bad else ops.convert_to_tensor(_NONE)

    def _unscaled(self, grads: Sequence[Any]) -> list[Any]:
        """Gradients over the scale; those of float16 weights as float32: in float16 what the scale has lifted above
        2^-24 would fall below it again, and be 0."""
        inverse = ops.divide(1.0, ops.convert_to_tensor(self.dynamic_scale))
        wide = [
            g if g is None or keras.backend.standardize_dtype(g.dtype) != "float16" else ops.cast(g, "float32")
            for g in grads
        ]
        return [g if g is None else ops.multiply(g, ops.cast(inverse, g.dtype)) for g in wide]

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> Any:
        """Unscale ``grads`` and apply them, or skip the step when one is not finite. Returns whether it was applied."""
        return ops.less(self.guarded_apply(grads, trainable_variables), 0)

    def guarded_apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> Any:
        """`apply`, which returns the `bad_gradient`: -1 where the step was applied."""
        if not self.built:
            self.build(trainable_variables or [])
        bad = self.bad_gradient(grads)
        finite = ops.less(bad, 0)
        new = self._next(finite)
        unscaled = self._unscaled(grads)
        if self.branchless:
            variables = [
                *(trainable_variables or self.inner_optimizer._trainable_variables),
                *self.inner_optimizer.variables,
            ]
            before = [ops.copy(ops.convert_to_tensor(variable)) for variable in variables]
            self.inner_optimizer.apply(unscaled, trainable_variables=trainable_variables)
            for variable, old in zip(variables, before, strict=True):
                variable.assign(ops.where(finite, ops.convert_to_tensor(variable), old))
        else:
            ops.cond(
                finite,
                lambda: self.inner_optimizer.apply(unscaled, trainable_variables=trainable_variables),
                lambda: None,
            )
        for variable, value in zip(self._own, new, strict=True):
            variable.assign(value)
        return bad

    def stateless_apply(
        self, optimizer_variables: Sequence[Any], grads: Sequence[Any], trainable_variables: Sequence[Any]
    ) -> tuple[list[Any], list[Any]]:
        """`apply` on values: returns new ``(trainable_variables, optimizer_variables)``."""
        finite = self.check_finite(grads)
        mapping = list(zip(self.variables, optimizer_variables, strict=True))
        with keras.StatelessScope(state_mapping=mapping) as scope:
            new, unscaled = self._next(finite), self._unscaled(grads)
            for variable, value in zip(self._own, new, strict=True):
                variable.assign(value)
            own = [scope.get_current_value(variable) for variable in self._variables]
        inner = list(optimizer_variables[len(self._variables) :])
        weights, inner = ops.cond(
            finite,
            lambda: self.inner_optimizer.stateless_apply(inner, unscaled, trainable_variables),
            lambda: (list(trainable_variables), inner),
        )
        return weights, own + list(inner)

    def get_config(self) -> dict[str, Any]:
        """Configuration that `from_config` takes."""
        own = self.rule._asdict()
        del own["growth_interval"]  # Keras has it, as dynamic_growth_steps
        return {**super().get_config(), **own}
