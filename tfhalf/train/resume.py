"""Whether a checkpoint belongs to the run that is to be taken up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tfhalf import config
from tfhalf.data import Preprocess
from tfhalf.errors import ResumeError

# What is made of a trained model may change, and how images are held and fed: no number of the training depends on it.
_FREE = ("export", "verify")
_HELD = {"data": "decode", "train": "feed"}


def check_pipeline(record: dict[str, Any], pipeline: config.Pipeline, run: Path) -> None:
    """Compare the pipeline that ``run`` was trained with.

    Raises:
        ResumeError: names the sections that differ.
    """
    before, now = _compared(record["pipeline"]), _compared(pipeline.dump())
    differing = sorted(key for key in now if before.get(key) != now[key])
    if differing:
        raise ResumeError(f"{run}: was trained with other values of {', '.join(differing)}; start the run anew")


def check_preprocess(record: dict[str, Any], preprocess: Preprocess, run: Path) -> None:
    """Compare what images were normalised by.

    A sample is measured where images stay encoded, which ``data.decode: auto`` decides by the memory.

    Raises:
        ResumeError: it is not what ``preprocess`` has.
    """
    before = record.get("preprocess")
    if before is None:
        return
    for name, values in preprocess.to_dict().items():
        # Another CPU may add in another order.
        if np.shape(values) != np.shape(before[name]) or not np.allclose(values, before[name], rtol=1e-6, atol=1e-9):
            raise ResumeError(
                f"{run}: its images had {name} {before[name]}, and now have {values}; bring the data back as it was, "
                f"or set data.decode in {run / 'pipeline.yaml'} to what it was, eager or lazy"
            )


def _compared(pipeline: dict[str, Any]) -> dict[str, Any]:
    return {
        section: {key: value for key, value in values.items() if key != _HELD[section]} if section in _HELD else values
        for section, values in pipeline.items()
        if section not in _FREE
    }
