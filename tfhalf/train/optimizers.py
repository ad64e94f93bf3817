"""Keras optimizers as the pipeline file describes them, with L2 decay and learning rates per variable."""

from __future__ import annotations

import re
from typing import Any

import keras
from keras import ops

from tfhalf.config import LossScale, Optimizer
from tfhalf.errors import ConfigError
from tfhalf.precision.loss_scale import GuardedLossScaleOptimizer


def make_optimizer(config: Optimizer, learning_rate: Any, accumulate: int = 1) -> keras.optimizers.Optimizer:
    """The optimizer that ``config`` names. ``learning_rate`` is a float or a Keras schedule."""
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
    return _CLASSES[config.name](settings=config, **{**common, **own})


def wrap(optimizer: keras.optimizers.Optimizer, config: LossScale) -> GuardedLossScaleOptimizer:
    """``optimizer`` behind guarded dynamic loss scaling."""
    return GuardedLossScaleOptimizer(
        optimizer,
        initial_scale=config.initial,
        dynamic_growth_steps=config.growth_interval,
        floor=config.floor,
        cap=config.cap,
    )


def trained_variables(model: keras.Model, config: Optimizer) -> list[Any]:
    """The trainable variables that the optimizer moves: all but those with a learning-rate multiplier of 0.

    Raises:
        ConfigError: a pattern of ``lr_multipliers`` or ``no_decay`` matches no variable.
    """
    paths = [variable.path for variable in model.trainable_variables]
    for key, patterns in (("lr_multipliers", config.lr_multipliers), ("no_decay", config.no_decay)):
        for pattern in patterns:
            if not any(re.search(pattern, path) for path in paths):
                raise ConfigError(
                    f"train.optimizer.{key}: {pattern!r} matches no variable; the model has {', '.join(paths[:6])}, ..."
                )
    return [v for v in model.trainable_variables if _rate(config, v.path) > 0]


def _rate(config: Optimizer, path: str) -> float:
    """The product of every multiplier whose pattern is found in ``path``."""
    rate = 1.0
    for pattern, factor in config.lr_multipliers.items():
        if re.search(pattern, path):
            rate *= factor
    return rate


class _PerVariable:
    """Mixin before a Keras optimizer: multipliers and L2 decay per variable.

    ``learning_rate * rate(v)`` moves variable v. Coupled decay adds ``weight_decay / rate(v) * v`` to the gradient
    after clipping, so that a multiplier speeds learning up and leaves the pull toward 0 as it is.
    """

    def __init__(self, settings: Optimizer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.settings = settings
        self.paths: tuple[str, ...] = ()

    def build(self, variables: list[Any]) -> None:
        # Keras' TensorFlow trainer hands `update_step` bare tf.Variables, which know no path.
        self.paths = tuple(variable.path for variable in variables)
        super().build(variables)  # type: ignore[misc]

    def _path(self, variable: Any) -> str:
        return self.paths[self._get_variable_index(variable)]  # type: ignore[attr-defined]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        rate = _rate(self.settings, self._path(variable))
        if self.settings.coupled_decay and self.settings.weight_decay and self._decays(variable):
            decay = self.settings.weight_decay / rate
            gradient = ops.add(gradient, ops.multiply(ops.cast(decay, gradient.dtype), ops.convert_to_tensor(variable)))
        super().update_step(gradient, variable, learning_rate if rate == 1 else learning_rate * rate)  # type: ignore[misc]

    def _decays(self, variable: Any) -> bool:
        return not any(re.search(pattern, self._path(variable)) for pattern in self.settings.no_decay)

    def _use_weight_decay(self, variable: Any) -> bool:
        """Keras asks this for decoupled decay."""
        return self._decays(variable)


class _SGD(_PerVariable, keras.optimizers.SGD):
    pass


class _Adam(_PerVariable, keras.optimizers.Adam):
    pass


class _AdamW(_PerVariable, keras.optimizers.AdamW):
    pass


class _Lion(_PerVariable, keras.optimizers.Lion):
    pass


_CLASSES: dict[str, type] = {"sgd": _SGD, "adam": _Adam, "adamw": _AdamW, "lion": _Lion}
