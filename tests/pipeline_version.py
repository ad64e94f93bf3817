"""A small version as a pipeline publishes it, without a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from tfhalf import config
from tfhalf.artifacts import manifest as manifests
from tfhalf.data import Preprocess
from tfhalf.export.write import describe, write_artifacts
from tfhalf.verify.reference import Edges, Reference, data_sha256, edge_inputs

X = np.random.default_rng(0).integers(0, 17, (40, 4, 4, 1)).astype(np.uint8)
Y = (np.arange(40) % 3).astype(np.int32)


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return (e / e.sum(-1, keepdims=True)).astype(np.float32)


def export(directory: Path, spoil: Any = None) -> None:
    """A small version as `tfhalf.workflows.publish` writes it; ``spoil`` changes the model before it is exported."""
    keras.utils.set_random_seed(0)
    image = keras.Input((4, 4, 1))
    model = keras.Model(image, layers.Dense(3)(layers.Dense(16, activation="relu")(layers.Flatten()(image))))
    pipeline = config.Pipeline.model_validate(
        {
            "name": "job",
            "model": {"build": "a.py:b"},
            "data": {"source": "npz:a.npz"},
            "verify": {"true_float16_samples": 10},
        }
    )
    logits = np.asarray(model((X.astype(np.float32) - 8) / 5)).astype(np.float64)
    x, kinds = edge_inputs(X)
    ends = softmax(np.asarray(model((x.astype(np.float32) - 8) / 5)))
    Reference(softmax(logits), Y, data_sha256(X), Edges(x, kinds, ends)).save(directory)
    if spoil:
        spoil(model)
    _, rebuilt = write_artifacts(
        model, directory, pipeline, preprocess=Preprocess((8.0,), (5.0,)), input_shape=(4, 4, 1), labels=("a", "b", "c")
    )
    manifests.write(
        directory,
        {
            "schema": manifests.SCHEMA,
            "name": "job",
            "created": "now",
            "pipeline_file": "/a.yaml",
            "config": pipeline.dump(),
            "seed": 0,
            "versions": {},
            "hardware": {"device": "a CPU"},
            "data": {"source": "npz:a.npz", "sizes": {"train": 1, "validation": 1, "test": 40}},
            "labels": ["a", "b", "c"],
            "training": {
                "epochs": 1,
                "policy": "float32",
                "seconds": {"train": 1, "compile": 1},
                "loss_scale": 1,
                "skipped": 0,
            },
            **describe(rebuilt, (4, 4, 1), 3),
            "files": manifests.file_hashes(directory),
        },
    )
