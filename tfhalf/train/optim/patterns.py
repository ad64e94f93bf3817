"""Which variables the pipeline's patterns match: what moves them, and how fast."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import keras

from tfhalf.config import Optimizer
from tfhalf.errors import ConfigError


def trained_variables(model: keras.Model, config: Optimizer) -> list[Any]:
    """The trainable variables that the optimizer moves: all but those with a learning-rate multiplier of 0.

    Raises:
        ConfigError: a pattern of ``lr_multipliers``, ``no_decay`` or ``muon.match`` matches no variable, or Muon is to
            move a variable that is not a matrix.
    """
    paths = [variable.path for variable in model.trainable_variables]
    of_muon = muon_patterns(config)
    matched = {"lr_multipliers": config.lr_multipliers, "no_decay": config.no_decay, "muon.match": of_muon}
    for key, patterns in matched.items():
        for pattern in patterns:
            if not any(re.search(pattern, path) for path in paths):
                raise ConfigError(
                    f"train.optimizer.{key}: {pattern!r} matches no variable; the model has {', '.join(paths[:6])}, ..."
                )
    trained = [v for v in model.trainable_variables if rate_of(config, v.path) > 0]
    for variable in trained:
        if len(variable.shape) < 2 and matches(of_muon, variable.path):
            raise ConfigError(
                f"train.optimizer.muon.match: matches {variable.path} of shape {tuple(variable.shape)}; Muon moves "
                "kernels, which have two dimensions or more: narrow the pattern, for example to 'kernel'"
            )
    return trained


def muon_patterns(config: Optimizer) -> Iterable[str]:
    """The patterns of the paths that Muon moves; none without it."""
    return config.muon.match if config.muon else ()


def matches(patterns: Iterable[str], path: str) -> bool:
    """Whether one of ``patterns`` is found in ``path``."""
    return any(re.search(pattern, path) for pattern in patterns)


def rate_of(config: Optimizer, path: str) -> float:
    """The product of every multiplier whose pattern is found in ``path``."""
    rate = 1.0
    for pattern, factor in config.lr_multipliers.items():
        if re.search(pattern, path):
            rate *= factor
    return rate
