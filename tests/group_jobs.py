"""One of several processes that train together: each training of `JOBS`, one after another, its results in a file.

python tests/group_jobs.py FOLDER COORDINATOR SIZE RANK [NAME ...]
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3")

from tfhalf.progress import Progress
from tfhalf.system.cluster import Cluster
from tfhalf.system.group import ALONE, Group
from tfhalf.system.tensorflow import import_tensorflow

if TYPE_CHECKING:
    from tfhalf.system.device import Device
    from tfhalf.train.job import Job

NET = """
import keras
from keras import layers


def build(*, input_shape, num_classes, norm=False, dropout=0.0):
    image = keras.Input(input_shape)
    x = layers.Conv2D(4, 3, name="conv", kernel_regularizer="l2")(image)
    x = layers.BatchNormalization(name="norm")(x) if norm else x
    x = layers.Dropout(dropout)(layers.ReLU()(x)) if dropout else layers.ReLU()(x)
    x = layers.Dense(16, name="hidden")(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(num_classes, name="head")(x))


def masks(*, input_shape, num_classes):
    image = keras.Input(input_shape)
    x = layers.ReLU()(layers.Conv2D(4, 3, padding="same", name="conv")(image))
    return keras.Model(image, layers.Conv2D(num_classes, 1, name="head")(x))
"""

FLOAT32 = {"precision__policy": "float32"}
ADAM = {"name": "adam", "learning_rate": 0.01}
MUON = {"learning_rate": 0.05, "muon": {"match": ["hidden/kernel"], "learning_rate": 0.05}, "lookahead": {"every": 2}}
DROPOUT = {"model__args": {"norm": True, "dropout": 0.4}, **FLOAT32}
# What differs of each from `train_loops.BASE`: augmentation, clipping, averaged weights, a schedule, mixed float16.
JOBS: dict[str, dict[str, Any]] = {
    "mixed, streamed": {"train__optimizer": ADAM, "train__feed": "streamed"},
    "muon, weighted": {"train__optimizer": MUON, "data": "weights", **FLOAT32},
    "growing, accumulated": {
        "train__schedule": {"name": "step", "milestones": [1], "decay": "batch", "factor": 0.5, "max_batch_size": 16},
        "train__accumulate": 2,
        **FLOAT32,
    },
    "reduced in float16": {
        "precision__policy": "float16",
        "precision__loss_scale": {"initial": 256},  # far from where a rounding decides whether a step is skipped
        "train__reduce_dtype": "float16",
    },
    "masks": {**FLOAT32, "data": "masks", "model__build": "net.py:masks"},
    "norms together": {"model__args": {"norm": True}, "train__sync_batch_norm": True, **FLOAT32},
    "norms together, computed twice": {
        "model__args": {"norm": True},
        "train__sync_batch_norm": True,
        "train__remat": ["conv", "norm", "re_lu"],
        **FLOAT32,
    },
    "dropout": DROPOUT,
    "dropout again": DROPOUT,
    "a bad row": {"data": "bad row"},
}
MEASURED = ("mixed, streamed", "muon, weighted")


def run(name: str, folder: Path, group: Group) -> None:
    """Train ``name`` of `JOBS`, and write what came of it into ``folder``."""
    from train_helpers import quiet, splits
    from train_loops import trainer

    from tfhalf.tasks.segmentation import Segmentation
    from tfhalf.train.loop import run_training

    changes = {"model__build": "net.py:build", "train__epochs": 2, **JOBS[name]}
    kind, data = changes.pop("data", ""), splits()
    if kind == "weights":
        data = replace(data, w_train=np.linspace(0.2, 2, len(data.x_train)).astype(np.float32))
    if kind == "bad row":
        weight = np.ones(len(data.x_train), np.float32)
        weight[7] = np.inf
        data = replace(data, w_train=weight)
    if kind == "masks":
        y = (data.x_train[..., 0] > 90).astype(np.int32)
        y[::3, :4] = -1  # some rows of the batch count more pixels than others
        data = replace(
            data, y_train=y, y_val=(data.x_val[..., 0] > 90).astype(np.int32),
            y_test=(data.x_test[..., 0] > 90).astype(np.int32), num_classes=2, class_names=("dark", "light"),
        )  # fmt: skip
    own = folder / f"{name} {group.size} {group.rank}"
    own.mkdir()
    t = trainer(folder, data, group, Segmentation(data.class_names) if kind == "masks" else None, **changes)
    t.program.compile()
    t.program.rows = 2
    result = run_training(t, own, quiet())
    facts = [
        {k: v for k, v in row.to_dict().items() if k not in ("seconds", "images_per_s", "waited")}
        for row in result.epochs
    ]
    arrays = {f"{i:03}": np.asarray(value) for i, value in enumerate(t.state.values())}
    np.savez(own / "result.npz", rows=json.dumps(facts), **arrays)
    some = data.x_test[:11]  # a number that nothing divides
    answers = {"together": t.evaluator.answers(some, group=group), "alone": t.evaluator.answers(some)}
    np.savez(own / "answers.npz", **{key: np.asarray(one) for key, one in answers.items()})
    if name in MEASURED:
        rows, counts, largest = measure(t.job, t.device)
        np.savez(own / "numerics.npz", rows=json.dumps(rows), counts=counts, largest=largest)


def measure(job: Job, device: Device) -> tuple[list[list[str]], np.ndarray, np.ndarray]:
    """Kinds and names, counts by exponent and largest magnitudes of what a net's numbers are in some steps."""
    from tfhalf.numerics.measure import Measuring, float32_program

    measuring = Measuring(float32_program(job, device))
    measuring.compile()
    timing = measuring.time()
    tensors = measuring.run(0, 4, 2, timing, Progress(quiet=True)).tensors
    histograms = [tensor.histogram for tensor in tensors]
    return (
        [[tensor.kind, tensor.name] for tensor in tensors],
        np.array([histogram.counts for histogram in histograms]),
        np.array([histogram.largest for histogram in histograms]),
    )


def main(folder: str, coordinator: str, size: str, rank: str, *names: str) -> None:
    """Meet the others and train; what fails is written down."""
    import_tensorflow()
    group = ALONE
    if int(size) > 1:
        from tfhalf.system.join import join

        group = join(Cluster(coordinator, int(size), int(rank)), {}, Progress(quiet=True), wait=90)
    for name in names or JOBS:
        run(name, Path(folder), group)


if __name__ == "__main__":
    main(*sys.argv[1:])
