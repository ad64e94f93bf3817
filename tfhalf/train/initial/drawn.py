"""Weights that training starts from, drawn as ``model.initializers`` says in place of the layers' own initializers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfhalf.errors import ConfigError

_KEY = "model.initializers"


def draw_weights(model: keras.Model, initializers: Mapping[str, str | dict[str, Any]], seed: int) -> None:
    """Draw each trainable weight whose path a pattern matches; where several do, the last one counts.

    A weight's numbers depend on ``seed`` and on its place among the model's weights alone.

    Args:
        initializers: by pattern, a name of `keras.initializers`, or ``{name: ..., ARGUMENT: ...}``.

    Raises:
        ConfigError: a pattern matches no weight; Keras has no such initializer, or it does not take such arguments or
            such a shape.
    """
    drawers = {pattern: (value, _initializer(pattern, value)) for pattern, value in initializers.items()}
    variables = model.trainable_variables
    for pattern in drawers:
        if not any(re.search(pattern, variable.path) for variable in variables):
            paths = ", ".join(variable.path for variable in variables[:6])
            raise ConfigError(f"{_KEY}: {pattern!r} matches no weight; the model has {paths}, ...")
    for number, variable in enumerate(variables):
        matching = [pattern for pattern in drawers if re.search(pattern, variable.path)]
        if not matching:
            continue
        value, initializer = drawers[matching[-1]]
        settings = initializer.get_config()
        if "seed" in settings:
            drawn = np.random.SeedSequence([seed, number]).generate_state(1)[0]
            settings["seed"] = int(drawn >> 1)
        try:
            numbers = type(initializer).from_config(settings)(tuple(variable.shape), dtype="float32")
        except (ValueError, TypeError, IndexError) as error:
            shape = tuple(variable.shape)
            raise ConfigError(f"{_KEY}: {value!r} does not take {variable.path} of shape {shape}: {error}") from error
        variable.assign(numbers)


def _initializer(pattern: str, value: str | dict[str, Any]) -> keras.initializers.Initializer:
    arguments = dict(value) if isinstance(value, dict) else {"name": value}
    name = arguments.pop("name", None)
    try:
        initializer = keras.initializers.get({"class_name": str(name), "config": arguments} if arguments else name)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{_KEY}: {pattern!r}: received {value!r}; accepted: a name of keras.initializers, such as he_normal, or "
            f"{{name: TruncatedNormal, stddev: 0.02}} ({str(error).splitlines()[0]})"
        ) from error
    if not isinstance(initializer, keras.initializers.Initializer):
        raise ConfigError(f"{_KEY}: {pattern!r}: received {value!r}; accepted: a name of keras.initializers")
    return initializer
