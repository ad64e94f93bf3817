"""The process that calls tfhalf: a notebook or a program with a TensorFlow, seeds and settings of its own."""

from __future__ import annotations

import os
import random
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from tfhalf.errors import ConfigError, TfhalfError
from tfhalf.progress import LoggedProgress, Progress

# What the command line's options are called in Python, where that is not their own name with underscores.
_ARGUMENTS = {
    "verify-with": "samples",
    "format": "formats",
    "size": "sizes",
    "custom": "custom_objects",
    "set": "overrides",
}
_OPTION = re.compile(r"--([a-z][a-z0-9-]+)(?: (?:[A-Z][A-Z_]*(?:[.=|][A-Za-z]+)*)\b)?")


def progress_of(verbose: bool) -> Progress:
    """Where lines go: printed as the command prints them, or to the logger ``tfhalf`` alone."""
    return Progress() if verbose else LoggedProgress()


def need_tensorflow() -> None:
    """Import Keras on TensorFlow, unless the caller has done so. Nothing of what the command sets for speed and quiet
    is set here: it would reach into the caller's process.

    Raises:
        ConfigError: Keras is on another backend.
    """
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # Keras' own file of settings may name another
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ConfigError(
            f"Keras is on the backend {keras.backend.backend()!r}; tfhalf needs tensorflow: set "
            "KERAS_BACKEND=tensorflow before Keras is imported"
        )


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within the block may be drawn and named what likes; afterwards Python's and numpy's random numbers, and the names
    that Keras makes for layers, go on as if nothing had been."""
    from tfhalf.precision.layer_names import numbered_anew

    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with numbered_anew():
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


@contextmanager
def python_words(**arguments: str) -> Iterator[None]:
    """Within the block an error that names an option of the command names the argument instead: ``arguments`` by the
    option's name, or those that all functions share."""
    names = {**_ARGUMENTS, **arguments}
    try:
        yield
    except TfhalfError as error:
        text = _OPTION.sub(lambda option: names.get(option[1], option[1].replace("-", "_")), str(error))
        error.args = (text,)
        raise
