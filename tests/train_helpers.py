"""What tests of whole trainings share: a small set of images, a pipeline with some keys changed, runs compared."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

from tfhalf import config
from tfhalf.data import Splits
from tfhalf.progress import Progress
from tfhalf.tasks import Classification
from tfhalf.train.objective import Objective
from tfhalf.train.record.history import Epoch


def splits(validation: int = 8) -> Splits:
    """60 images of 6x6 in three classes."""
    draw = np.random.default_rng(0)
    y = (np.arange(60) % 3).astype(np.int32)
    x = draw.integers(0, 128, (60, 6, 6, 1)).astype(np.uint8)
    x[np.arange(60), y] += 100  # a bright row for each class
    parts = x[:40], y[:40], x[40 : 40 + validation], y[40 : 40 + validation], x[48:], y[48:]
    return Splits(*parts, 3, (6, 6, 1), ("a", "b", "c"), "made here")


def classes(count: int = 3, label_smoothing: float = 0.0) -> Classification:
    """The task of telling ``count`` classes apart."""
    return Classification([str(k) for k in range(count)], label_smoothing=label_smoothing)


def objective(pipeline: config.Pipeline, count: int = 3) -> Objective:
    """What ``pipeline`` trains for: `classes`, its labels smoothed as it says."""
    return Objective(classes(count, pipeline.train.label_smoothing))


def smoothed_cross_entropy(y: np.ndarray, logits: np.ndarray, label_smoothing: float = 0.0) -> float:
    """The mean over integers ``y`` [N] and ``logits`` [N, K], in float64."""
    wide = logits.astype(np.float64)
    log_p = wide - wide.max(-1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
    classes = logits.shape[-1]
    target = (1 - label_smoothing) * np.eye(classes)[y] + label_smoothing / classes
    return float(-(target * log_p).sum(-1).mean())


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
    return {key: value for key, value in row.to_dict().items() if key not in ("seconds", "images_per_s", "waited")}
