"""What a configuration claims, held against the weights that are really there, before memory is taken for it.

A file of 1 KB can name a layer of 10^9 units. Within `keras.StatelessScope` Keras builds a model without values: every
variable knows its shape alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import keras
from keras.src.backend.common import global_state

from tfhalf.errors import ArtifactError
from tfhalf.inspect.facts import printable
from tfhalf.precision.layer_names import numbered_anew

_UNINITIALIZED = "uninitialized_variables"  # where Keras lists them
SLACK = 1 << 20  # values that a file need not hold: seeds of layers that draw, statistics that were never saved


def check(path: Path, build: Callable[[], keras.Model], held: int) -> None:
    """Build a model without values, and refuse it where its weights are more than what ``path`` holds.

    Args:
        path: for messages.
        build: makes the model; called once here, and what it makes is dropped.
        held: how many values the file has for weights.

    Raises:
        ArtifactError: the model claims more.
        Exception: whatever ``build`` raises.
    """
    before = global_state.get_global_attribute(_UNINITIALIZED)
    global_state.set_global_attribute(_UNINITIALIZED, [])
    try:
        with numbered_anew(), keras.StatelessScope(initialize_variables=False):
            model = build()
        largest = max(model.variables, key=_size, default=None)
        claimed = sum(_size(variable) for variable in model.variables)
    finally:
        global_state.set_global_attribute(_UNINITIALIZED, before)
    if largest is not None and claimed > held + SLACK:
        raise ArtifactError(
            f"{path}: its layers claim {claimed:,} weights, {printable(str(largest.path), 60)} alone "
            f"{_size(largest):,}, and it holds {held:,}; it is damaged or cut short, make it again"
        )


def _size(variable: keras.Variable) -> int:
    return math.prod(variable.shape)
