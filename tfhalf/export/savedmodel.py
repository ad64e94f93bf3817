"""A `Program` as a SavedModel that plain `tf.saved_model.load` and TensorFlow Serving open."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from tfhalf.artifacts.lookups import SIGNATURE, Lookups
from tfhalf.export.program import Program
from tfhalf.export.texts import TextProgram


def write(program: Program, directory: Path, lookups: Lookups = Lookups()) -> list[Path]:  # noqa: B008  # frozen
    """Write ``saved_model.pb`` and ``variables/`` into ``directory``; returns the files. Where there are ``lookups``, a
    second signature takes texts.

    Keras' own export keeps every weight of a mixed model in float32, and twice: once as the model's variable and once
    in the tracked endpoint. Here a bare `tf.Module` holds each variable of the float16 model once.
    """
    module = tf.Module(name="tfhalf")
    module.weights = [variable.value for variable in program.weights]
    module.state = list(program.state)  # the function reaches them, so they must be tracked
    signatures = {"serving_default": program.function}
    if lookups.by_input:
        texts = TextProgram(program, lookups)
        module.tables = texts.tables
        signatures[SIGNATURE] = texts.function
    tf.saved_model.save(module, str(directory), signatures=signatures)
    fingerprint = directory / "fingerprint.pb"
    fingerprint.unlink(missing_ok=True)  # holds a hash of its own; the manifest's sha256 covers every file
    (directory / "assets").rmdir()
    return sorted(path for path in [directory / "saved_model.pb", *(directory / "variables").iterdir()])
