"""``run/model.keras``: the trained model as a file that plain Keras loads."""

from __future__ import annotations

import warnings
from pathlib import Path

import keras

from tfhalf.errors import TrainingError
from tfhalf.files import disk_fault, replacing, sha256
from tfhalf.progress import Progress
from tfhalf.text import one_line

MODEL = "model.keras"


def save_model(model: keras.Model, run: Path, progress: Progress) -> str | None:
    """Write ``run/model.keras``, whole or not at all; its sha256, or None where Keras cannot write one of its layers.

    It holds the model as it was trained: the variables of the pipeline's dtype policy (float32, under ``float16``
    float16), logits, no optimizer, and no normalisation of inputs, which the artifacts hold.
    `keras.models.load_model` reads it without tfhalf; layers of the model file's own are to be named in
    ``custom_objects``, unless the file registers them.

    Raises:
        TrainingError: the disk does not take it.
    """
    try:
        with replacing(run / MODEL, synced=True) as beside:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of layers that Keras guesses a configuration for
                model.save(beside, include_optimizer=False)
            digest = sha256(beside)
    except Exception as error:  # whatever a layer's own get_config raises
        if fault := disk_fault(error):
            raise TrainingError(f"{run / MODEL}: cannot be written: {fault}; make room, then export the run") from error
        progress.line(
            f"note       {MODEL} is not written: a layer of the model cannot be saved ({one_line(error, 160)})"
        )
        return None
    return digest
