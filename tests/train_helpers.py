"""What tests of whole trainings share: a small set of images, a pipeline with some keys changed, runs compared."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from typing import Any

import numpy as np

from tfhalf import config
from tfhalf.data import Splits
from tfhalf.progress import Progress
from tfhalf.train.record.history import Epoch


def splits(validation: int = 8) -> Splits:
    """60 images of 6x6 in three classes."""
    draw = np.random.default_rng(0)
    y = (np.arange(60) % 3).astype(np.int32)
    x = draw.integers(0, 128, (60, 6, 6, 1)).astype(np.uint8)
    x[np.arange(60), y] += 100  # a bright row for each class
    parts = x[:40], y[:40], x[40 : 40 + validation], y[40 : 40 + validation], x[48:], y[48:]
    return Splits(*parts, 3, (6, 6, 1), ("a", "b", "c"), "made here")


def changed(base: dict[str, Any], changes: dict[str, Any]) -> config.Pipeline:
    """The pipeline ``base`` with ``train__epochs=3`` and the like."""
    values = json.loads(json.dumps(base))
    for key, value in changes.items():
        *path, last = key.split("__")
        place = values
        for name in path:
            place = place.setdefault(name, {})
        place[last] = value
    return config.Pipeline.model_validate(values)


def quiet() -> Progress:
    return Progress(io.StringIO(), quiet=True)


def equal(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


def timeless(row: Epoch) -> dict[str, Any]:
    return {key: value for key, value in asdict(row).items() if key not in ("seconds", "images_per_s")}
