"""The whole state of a run at an epoch's end, in one file that appears whole or not at all.

An ``.npz`` (no pickle) of every variable of model and optimizer, loss scale and random seeds included, beside what was
recorded so far. Data order and augmentation are functions of seed and step and need no state.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfhalf.errors import ResumeError

NAME = "checkpoint.npz"


def save(run: Path, model: keras.Model, optimizer: keras.optimizers.Optimizer, record: dict[str, Any]) -> None:
    """Write ``run/checkpoint.npz``: beside it first, synced, then renamed over the one before."""
    arrays = {f"v{i}": keras.ops.convert_to_numpy(v) for i, v in enumerate(_variables(model, optimizer))}
    arrays["record"] = np.frombuffer(json.dumps(record).encode(), np.uint8)
    beside = run / f".{NAME}.{os.getpid()}"
    with beside.open("wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(run / NAME)


def load(run: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Record and arrays of ``run``'s checkpoint.

    Raises:
        ResumeError: there is none, or it cannot be read.
    """
    path = run / NAME
    if not path.is_file():
        raise ResumeError(f"{run}: has no {NAME}; the run was stopped before its first epoch ended, start it anew")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            record = json.loads(data["record"].tobytes())
            return record, [data[f"v{i}"] for i in range(len(data.files) - 1)]
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ResumeError(
            f"{path}: cannot be read ({' '.join(str(error).split())[:120]}); start the run anew"
        ) from error


def restore(arrays: list[np.ndarray], model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
    """Put ``arrays`` into the variables.

    Raises:
        ResumeError: they are not this model's and optimizer's.
    """
    variables = _variables(model, optimizer)
    if [tuple(v.shape) for v in variables] != [a.shape for a in arrays]:
        raise ResumeError("the checkpoint holds other variables than this pipeline builds; start the run anew")
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _variables(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> list[Any]:
    return [*model.variables, *optimizer.variables]
