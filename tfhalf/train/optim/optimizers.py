"""Keras optimizers as the pipeline file describes them: with L2 decay and learning rates per variable, with Muon for
some of the variables, and with Lookahead around all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfhalf.config import Lookahead, LossScale, Muon, Optimizer
from tfhalf.errors import ConfigError
from tfhalf.precision.loss_scale import GuardedLossScaleOptimizer
from tfhalf.train.optim import lookahead, muon, rounded
from tfhalf.train.optim.patterns import matches, muon_patterns, rate_of
from tfhalf.train.optim.rounded import is_float16, wide
from tfhalf.train.optim.stochastic import rounded_by_chance

_INT32 = 2**31 - 1  # the largest that counters hold


def make_optimizer(
    config: Optimizer,
    learning_rate: Any,
    accumulate: int = 1,
    total_steps: int | None = None,
    *,
    accumulate_dtype: str = "float32",
    rounding_seed: int | None = None,
) -> keras.optimizers.Optimizer:
    """The optimizer that ``config`` names.

    Args:
        learning_rate: a float, which becomes a variable that callbacks may set, or a Keras schedule.
        accumulate: gradients of so many steps are averaged and applied as one.
        total_steps: steps of the whole training, before accumulation; `Lookahead` with a ``power`` needs it.
        accumulate_dtype: what gradients are added up in.
        rounding_seed: float16 weights are rounded stochastically, with draws of this seed; None: to the nearest.
    """
    if config.lookahead and config.lookahead.power and total_steps is None:
        raise ValueError("lookahead with a power needs total_steps")
    updates = max(1, (total_steps or 0) // accumulate)
    common: dict[str, Any] = {
        "name": config.name,  # the name that Keras makes of the class starts with "_", which no TensorFlow scope may
        "learning_rate": learning_rate,
        "weight_decay": None if config.coupled_decay else config.weight_decay or None,
        "global_clipnorm": config.clip_norm,
        "clipvalue": config.clip_value,
        "use_ema": config.ema_momentum is not None,
        "ema_momentum": config.ema_momentum or 0.99,
        "gradient_accumulation_steps": accumulate if accumulate > 1 else None,
    }
    betas = {"beta_1": config.beta_1, "beta_2": config.beta_2}
    own = {
        "sgd": {"momentum": config.momentum, "nesterov": config.nesterov and config.momentum > 0},
        "adam": {**betas, "epsilon": config.epsilon},
        "adamw": {**betas, "epsilon": config.epsilon, "weight_decay": common["weight_decay"] or 0.0},
        "lion": betas,
    }[config.name]
    numbers = {"accumulate_dtype": accumulate_dtype, "rounding_seed": rounding_seed}
    return _CLASSES[config.name](settings=config, updates=updates, **numbers, **{**common, **own})


def wrap(optimizer: keras.optimizers.Optimizer, config: LossScale) -> GuardedLossScaleOptimizer:
    """``optimizer`` behind guarded loss scaling; a static scale is one whose floor and cap are where it is."""
    static = config.mode == "static"
    return GuardedLossScaleOptimizer(
        optimizer,
        initial_scale=config.initial,
        dynamic_growth_steps=min(config.growth_interval, _INT32),
        growth_factor=config.growth_factor,
        backoff_factor=config.backoff_factor,
        floor=config.initial if static else config.floor,
        cap=config.initial if static else config.cap,
        hysteresis=config.hysteresis,
        consecutive_hysteresis=config.consecutive_hysteresis,
    )


class _PerVariable(keras.optimizers.Optimizer):
    """Mixin before a Keras optimizer: multipliers and L2 decay per variable, Muon and Lookahead.

    ``learning_rate * rate(v)`` moves variable v. Coupled decay adds ``weight_decay / rate(v) * v`` to the gradient
    after clipping, so that a multiplier speeds learning up and leaves the pull toward 0 as it is; decoupled decay takes
    the learning rate without it, to the same end.

    Muon's variables have neither slots nor decay of the optimizer named. Clipping, accumulation and moving averages lie
    around `_backend_update_step` and so are the same for all.

    Variables that are float16 have float16 slots, averages and slow weights. Their steps are worked out in float32
    (`tfhalf.train.optim.rounded`), decoupled decay with them, and rounded once. What ``accumulate`` adds up has a dtype
    of its own, ``accumulate_dtype``: sums of gradients between two updates, of which float16 flushes the small ones.
    """

    def __init__(
        self, settings: Optimizer, updates: int, accumulate_dtype: str, rounding_seed: int | None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.settings, self.updates = settings, updates
        self.accumulate_dtype, self.rounding_seed = accumulate_dtype, rounding_seed
        self._scheduled: Any = None  # the learning rate, within `_apply_weight_decay`
        self.stage_rate = 1.0  # what the learning rate is multiplied by in the stage whose step is traced
        self.paths: tuple[str, ...] = ()

    def build(self, variables: list[Any]) -> None:
        if self.built:
            return
        # Keras' TensorFlow trainer hands `update_step` bare tf.Variables, which know no path.
        self.paths = tuple(variable.path for variable in variables)
        super().build(variables)
        self.momenta = [self._slot(v, "muon_momentum") if self._by_muon(v.path) else None for v in variables]
        self.slow = [self._slot(v, "slow") for v in variables] if self.settings.lookahead else []
        self.start()

    def start(self) -> None:
        """Training starts from the weights as they are now, and so do Lookahead's slow ones."""
        for slow, variable in zip(self.slow, self._trainable_variables, strict=False):
            slow.assign(variable)

    def add_optimizer_variables(self, trainable_variables: list[Any], name: Any, initializer: Any = "zeros") -> Any:
        """As Keras makes slots, with None where Muon moves the variable; moving averages are for all."""
        own = [name == "average" or not self._by_muon(v.path) for v in trainable_variables]
        chosen = [v for v, mine in zip(trainable_variables, own, strict=True) if mine]
        added = super().add_optimizer_variables(chosen, name, initializer)
        rows = [iter(row) for row in ([added] if isinstance(name, str) else added)]
        slots = [[next(row) if mine else None for mine in own] for row in rows]
        return slots[0] if isinstance(name, str) else tuple(slots)

    def add_variable_from_reference(self, reference_variable: Any, name: Any = None, initializer: Any = "zeros") -> Any:
        """As Keras makes a slot, with the variable's dtype; sums of gradients have their own."""
        if name == "gradient_accumulator" and reference_variable.dtype != self.accumulate_dtype:
            path, shape = reference_variable.path.replace("/", "_"), reference_variable.shape
            return self.add_variable(shape, initializer, dtype=self.accumulate_dtype, name=f"{path}_{name}")
        return super().add_variable_from_reference(reference_variable, name=name, initializer=initializer)

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> Any:
        """As Keras applies them, in the dtype that they are added up in; where none are added up, those of float16
        weights as float32. They are clipped in float32, too."""
        dtype = self.accumulate_dtype if self.gradient_accumulation_steps else "float32"
        cast = [g if g is None or (dtype == "float32" and not is_float16(g)) else ops.cast(g, dtype) for g in grads]
        return super().apply(cast, trainable_variables)

    def assign(self, variable: Any, value: Any) -> None:
        """As Keras assigns; a float16 variable stays finite: a second moment that is infinite would be NaN next."""
        super().assign(variable, rounded.clamped(value) if is_float16(variable) else value)

    def _backend_increment_gradient_accumulators(self, grads: Sequence[Any], acc_grads: Sequence[Any]) -> None:
        """Keras' sum; of float16 ones it stays finite."""
        if self.accumulate_dtype == "float32":
            super()._backend_increment_gradient_accumulators(grads, acc_grads)
            return
        for gradient, kept in zip(grads, acc_grads, strict=True):
            self.assign(kept, ops.add(wide(kept), wide(gradient)))

    def _clip_gradients(self, grads: Sequence[Any]) -> Any:
        """Keras clips what was added up, here in float32."""
        return super()._clip_gradients([rounded.clamped(wide(g)) if is_float16(g) else g for g in grads])

    def _weight(self, variable: Any, value: Any) -> None:
        """Set a weight to ``value``, float32, rounded as the pipeline says where it is float16."""
        if is_float16(variable) and self.rounding_seed is not None:
            index = self._get_variable_index(variable)
            value = rounded_by_chance(value, self.rounding_seed, self._iterations, index)
        self.assign(variable, value)

    def _slot(self, variable: Any, name: str) -> Any:
        return self.add_variable_from_reference(variable, name=name)

    def _path(self, variable: Any) -> str:
        path: str = self.paths[self._get_variable_index(variable)]
        return path

    def _by_muon(self, path: str) -> bool:
        return matches(muon_patterns(self.settings), path)

    def _backend_update_step(self, grads: Sequence[Any], variables: Sequence[Any], learning_rate: Any) -> None:
        """Keras calls this once per applied step, with clipped gradients in the variables' order."""
        momenta = [self.momenta[self._get_variable_index(v)] for v in variables]
        triples = list(zip(grads, variables, momenta, strict=True))
        own = [(g, v) for g, v, m in triples if m is None]
        if own:
            super()._backend_update_step([g for g, _ in own], [v for _, v in own], learning_rate)
        if self.settings.muon and len(own) < len(triples):
            self._muon_step([triple for triple in triples if triple[2] is not None], learning_rate, self.settings.muon)
        if self.settings.lookahead:
            self._synchronize(self.settings.lookahead)

    def _muon_step(self, triples: list[tuple[Any, Any, Any]], learning_rate: Any, config: Muon) -> None:
        variables, momenta = [v for _, v, _ in triples], [m for _, _, m in triples]
        # Schedules and callbacks speak of the optimizer's learning rate: Muon's keeps its ratio to it.
        ratio = config.learning_rate / self.settings.learning_rate
        weights, new_momenta = muon.update(
            [wide(v) for v in variables],
            [wide(g) for g, _, _ in triples],
            [wide(m) for m in momenta],
            rates=[rate_of(self.settings, self._path(v)) for v in variables],
            decays=[self.settings.weight_decay if self._decays(v) else 0.0 for v in variables],
            learning_rate=ops.multiply(ops.cast(learning_rate, "float32"), ratio),
            config=config,
        )
        for variable, value in zip(variables, weights, strict=True):
            self._weight(variable, value)
        for momentum, value in zip(momenta, new_momenta, strict=True):
            self.assign(momentum, value)

    def _synchronize(self, config: Lookahead) -> None:
        fast, slow = [wide(v) for v in self._trainable_variables], [wide(v) for v in self.slow]
        applied = ops.add(self.iterations, 1)  # Keras counts the step after it
        fast, slow = lookahead.synchronize(fast, slow, applied, self.updates, config)
        for variable, value in zip([*self._trainable_variables, *self.slow], [*fast, *slow], strict=True):
            self.assign(variable, value)

    def finalize_variable_values(self, var_list: list[Any]) -> None:
        """Training is over: where weights were averaged, or followed by slow ones, those become the weights. Where no
        step was applied there is no average yet, and they stay."""
        if int(self._iterations):
            super().finalize_variable_values(var_list)
        if self.slow:
            for variable in var_list:
                variable.assign(self.slow[self._get_variable_index(variable)])

    @property
    def learning_rate(self) -> Any:
        """The learning rate in force: a variable, or a tensor that a schedule gives."""
        return super().learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        if callable(self._learning_rate) or callable(value):
            raise ConfigError(
                "train.callbacks: a callback sets the learning rate, which follows train.schedule; only schedule "
                "'constant' without warmup_epochs leaves it to callbacks, which then set it to a number"
            )
        self._learning_rate.assign(value)

    def _get_current_learning_rate(self) -> Any:
        if self._scheduled is not None:
            return self._scheduled
        rate = super()._get_current_learning_rate()
        return rate if self.stage_rate == 1 else ops.multiply(rate, self.stage_rate)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        rate = rate_of(self.settings, self._path(variable))
        if is_float16(variable):
            self._rounded_step(wide(gradient), variable, ops.cast(learning_rate, "float32"), rate)
            return
        if self.settings.coupled_decay and self.settings.weight_decay and self._decays(variable):
            decay = self.settings.weight_decay / rate
            gradient = ops.add(gradient, ops.multiply(ops.cast(decay, gradient.dtype), ops.convert_to_tensor(variable)))
        super().update_step(gradient, variable, learning_rate if rate == 1 else learning_rate * rate)

    def _rounded_step(self, gradient: Any, variable: Any, learning_rate: Any, rate: float) -> None:
        """`update_step` of a float16 variable, decoupled decay included; ``gradient`` and ``learning_rate`` float32."""
        weight, decay = wide(variable), self.settings.weight_decay if self._decays(variable) else 0.0
        if decay and self.settings.coupled_decay:
            gradient = ops.add(gradient, ops.multiply(decay / rate, weight))
        elif decay:
            weight = ops.subtract(weight, ops.multiply(ops.multiply(learning_rate, decay), weight))
        index = self._get_variable_index(variable)
        slots = [slots[index] for slots in self._slots()]
        weight, *values = self._moved(
            weight, [wide(slot) for slot in slots], gradient, ops.multiply(learning_rate, rate)
        )
        self._weight(variable, weight)
        for kept, value in zip(slots, values, strict=True):
            self.assign(kept, value)

    def _slots(self) -> list[list[Any]]:
        """The optimizer's slots, a list for each kind of them, in the variables' order."""
        raise NotImplementedError

    def _moved(self, weight: Any, slots: list[Any], gradient: Any, rate: Any) -> Sequence[Any]:
        """New weight and slots after a step; all float32."""
        raise NotImplementedError

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        """Keras' decoupled decay; that of float16 variables belongs to their step.

        Keras takes the learning rate anew for each variable; here a schedule's is traced once for all of them.
        """
        if self.weight_decay is not None and callable(self._learning_rate):
            self._scheduled = self._get_current_learning_rate()
        try:
            super()._apply_weight_decay([v for v in variables if not is_float16(v)])
        finally:
            self._scheduled = None

    def _update_model_variables_moving_average(self, trainable_variables: Sequence[Any]) -> None:
        if not any(map(is_float16, trainable_variables)):
            super()._update_model_variables_moving_average(trainable_variables)
            return
        momentum = ops.multiply(ops.cast(ops.not_equal(self.iterations, 0), "float32"), self.ema_momentum)
        for variable, average in zip(trainable_variables, self._model_variables_moving_average, strict=True):
            average.assign(rounded.average(wide(average), wide(variable), momentum))

    def _decays(self, variable: Any) -> bool:
        return not matches(self.settings.no_decay, self._path(variable))

    def _use_weight_decay(self, variable: Any) -> bool:
        """Keras asks this for decoupled decay."""
        return self._decays(variable) and not self._by_muon(self._path(variable))


class _SGD(_PerVariable, keras.optimizers.SGD):
    def _slots(self) -> list[list[Any]]:
        return [self.momentums] if self.momentum else []

    def _moved(self, weight: Any, slots: list[Any], gradient: Any, rate: Any) -> Sequence[Any]:
        held = slots[0] if slots else None
        moved = rounded.sgd(weight, held, gradient, rate, decay=self.momentum, nesterov=self.nesterov)
        return moved[: 1 + len(slots)]


class _Adam(_PerVariable, keras.optimizers.Adam):
    def _slots(self) -> list[list[Any]]:
        return [self._momentums, self._velocities]

    def _moved(self, weight: Any, slots: list[Any], gradient: Any, rate: Any) -> Sequence[Any]:
        step, betas = ops.cast(ops.add(self.iterations, 1), "float32"), (self.beta_1, self.beta_2)
        first, second = slots
        return rounded.adam(weight, first, second, gradient, rate, step, betas=betas, epsilon=self.epsilon)


class _AdamW(_Adam, keras.optimizers.AdamW):
    pass


class _Lion(_PerVariable, keras.optimizers.Lion):
    def _slots(self) -> list[list[Any]]:
        return [self._momentums]

    def _moved(self, weight: Any, slots: list[Any], gradient: Any, rate: Any) -> Sequence[Any]:
        return rounded.lion(weight, slots[0], gradient, rate, betas=(self.beta_1, self.beta_2))


_CLASSES: dict[str, type] = {"sgd": _SGD, "adam": _Adam, "adamw": _AdamW, "lion": _Lion}
