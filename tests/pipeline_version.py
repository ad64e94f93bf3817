"""A small version as a pipeline publishes it, without a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from tfhalf import config
from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts.comparison import Limits
from tfhalf.artifacts.edges import edge_inputs
from tfhalf.artifacts.record import Config, Data, Manifest, ReferenceFacts, Training
from tfhalf.artifacts.reference import Reference, Samples, data_sha256
from tfhalf.data import Preprocess
from tfhalf.export.write import described, write_artifacts
from tfhalf.tasks import Classification

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
    edges = Samples({"image": x}, {"probabilities": ends})
    reference = Reference(Samples({}, {"probabilities": softmax(logits)}), edges, kinds, Y, data_sha256(X))
    reference.save(directory)
    if spoil:
        spoil(model)
    artifacts, rebuilt = write_artifacts(
        model, directory, pipeline, preprocess=Preprocess((8.0,), (5.0,)), inputs=(4, 4, 1), labels=("a", "b", "c")
    )
    data = {"source": "npz:a.npz", "sizes": {"train": 1, "validation": 1, "test": 40}}
    training = {"epochs": 1, "policy": "float32", "seconds": {"train": 1, "compile": 1}, "loss_scale": 1, "skipped": 0}
    manifest = Manifest(
        name="job",
        created="now",
        labels=("a", "b", "c"),
        artifacts=tuple(artifacts),
        limits=Limits(None, None, 99.5, 0.1, 10),
        reference=reference.basis(ReferenceFacts(origin="test set")),
        **described(rebuilt, (4, 4, 1), Classification("abc")),
        config=Config.read(pipeline.dump()),
        pipeline_file="/a.yaml",
        seed=0,
        data=Data.read(data),
        training=Training.read(training),
        hardware={"device": "a CPU"},
        files=manifests.file_hashes(directory),
    )
    manifests.write(directory, manifest)
