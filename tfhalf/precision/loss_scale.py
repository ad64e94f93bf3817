"""Dynamic loss scaling that can neither collapse to 0 nor grow without end, and that counts what it skips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

_SMALL = 2**18  # numbers in a gradient


class ScaleState(NamedTuple):
    """State of the algorithm: the scale, finite steps since it changed, skipped steps in all and in a row."""

    scale: Any
    good_steps: Any
    skipped: Any
    skipped_in_row: Any


def next_state(state: ScaleState, finite: Any, *, growth_interval: int, floor: float, cap: float) -> ScaleState:
    """One step of dynamic loss scaling (Micikevicius et al., arXiv:1710.03740, section 3.2), with bounds.

    ::

        if every gradient is finite:
            good_steps += 1;  skipped_in_row = 0
            if good_steps == growth_interval:
                scale = min(2 * scale, cap);  good_steps = 0
        else:                                    # the weights stay as they are
            scale = max(scale / 2, floor);  good_steps = 0
            skipped += 1;  skipped_in_row += 1

    Args:
        state: scalars; ``scale`` float32, the counts int32.
        finite: bool scalar.

    Returns:
        The new state; works on arrays and inside a compiled step alike.
    """
    good = ops.add(state.good_steps, 1)
    grow = ops.greater_equal(good, growth_interval)
    grown = ops.where(grow, ops.minimum(ops.multiply(state.scale, 2.0), cap), state.scale)
    backed_off = ops.maximum(ops.multiply(state.scale, 0.5), floor)
    return ScaleState(
        scale=ops.where(finite, grown, backed_off),
        good_steps=ops.where(finite, ops.where(grow, 0, good), 0),
        skipped=ops.add(state.skipped, ops.where(finite, 0, 1)),
        skipped_in_row=ops.where(finite, 0, ops.add(state.skipped_in_row, 1)),
    )


class GuardedLossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Keras' `LossScaleOptimizer` with a floor, a cap and counts.

    Keras halves the scale without end: 200 non-finite steps take it to 0, and the next finite gradient divides by it.
    Here the scale stays in [``floor``, ``cap``], both powers of two for exact division. Clipping, moving averages and
    accumulation belong on ``inner_optimizer``, which sees unscaled gradients and only finite ones.
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer,
        initial_scale: float = 2.0**15,
        dynamic_growth_steps: int = 2000,
        floor: float = 1.0,
        cap: float = 2.0**24,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        if not 0 < floor <= initial_scale <= cap or cap == float("inf"):
            raise ValueError(f"0 < floor <= initial_scale <= cap is needed, received {floor}, {initial_scale}, {cap}")
        super().__init__(inner_optimizer, initial_scale, dynamic_growth_steps, name=name, **kwargs)
        self.floor, self.cap = floor, cap
        self.branchless = False  # compute every update and select: a branch makes a compiled GPU program wait for it

    def build(self, var_list: Sequence[Any]) -> None:
        """Create the counters beside Keras' scale and step counter."""
        if self.built:
            return
        self.skipped = self.add_variable(shape=(), dtype="int", initializer="zeros", name="skipped")
        self.skipped_in_row = self.add_variable(shape=(), dtype="int", initializer="zeros", name="skipped_in_row")
        super().build(var_list)

    @property
    def _own(self) -> list[Any]:
        return [self.dynamic_scale, self.step_counter, self.skipped, self.skipped_in_row]

    def _next(self, finite: Any) -> ScaleState:
        state = ScaleState(*(ops.convert_to_tensor(variable) for variable in self._own))
        return next_state(state, finite, growth_interval=self.dynamic_growth_steps, floor=self.floor, cap=self.cap)

    def check_finite(self, grads: Sequence[Any]) -> Any:
        """Whether no gradient holds an inf or a NaN, a bool scalar.

        Small ones are looked at together: each check is a kernel of its own on a GPU, and takes longer to start than
        to run.
        """
        found = [g for g in grads if g is not None]
        small = [g for g in found if math.prod(g.shape) <= _SMALL] if self.branchless else []
        groups = [g for g in found if not any(g is other for other in small)]
        by_dtype: dict[str, list[Any]] = {}
        for g in small:
            by_dtype.setdefault(keras.backend.standardize_dtype(g.dtype), []).append(ops.reshape(g, (-1,)))
        groups += [ops.concatenate(alike) for alike in by_dtype.values()]
        return ops.all(ops.stack([ops.all(ops.isfinite(g)) for g in groups])) if groups else ops.convert_to_tensor(True)

    def _unscaled(self, grads: Sequence[Any]) -> list[Any]:
        inverse = ops.divide(1.0, ops.convert_to_tensor(self.dynamic_scale))
        return [g if g is None else ops.multiply(g, ops.cast(inverse, g.dtype)) for g in grads]

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> Any:
        """Unscale ``grads`` and apply them, or skip the step when one is not finite. Returns whether it was applied."""
        if not self.built:
            self.build(trainable_variables or [])
        finite = self.check_finite(grads)
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
        return finite

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
        return {**super().get_config(), "floor": self.floor, "cap": self.cap}
