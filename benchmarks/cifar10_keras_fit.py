"""The net of ``models/speednet.py`` in Keras' own `fit`: ``mixed_float16``, XLA, tf.data. Prints one JSON line.

    python benchmarks/cifar10_keras_fit.py [--epochs 4]

Augmentation is left out, which favours this side.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfhalf.config import load_pipeline
from tfhalf.progress import Progress
from tfhalf.system.device import grow_memory
from tfhalf.train.job import Places, prepare


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--no-xla", action="store_true")
    arguments = parser.parse_args()
    grow_memory()
    path = Path("pipelines/cifar10.yaml")
    pipeline = load_pipeline(path)
    job = prepare(pipeline, Places(path, Path("runs"), Path("exports")), Progress(quiet=True))
    keras.config.set_dtype_policy("mixed_float16")
    model = job.model("mixed_float16")
    x = job.preprocess.apply(job.splits.x_train).astype(np.float16)
    data = tf.data.Dataset.from_tensor_slices((x, job.splits.y_train)).shuffle(50_000)
    data = data.batch(pipeline.train.batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.85, nesterov=True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=not arguments.no_xla)
    seconds = []
    for _ in range(arguments.epochs):
        start = time.perf_counter()
        model.fit(data, epochs=1, verbose=0)
        seconds.append(time.perf_counter() - start)
    images = len(x) // pipeline.train.batch_size * pipeline.train.batch_size
    row = {
        "side": "keras fit" + ("" if arguments.no_xla else " XLA"),
        "compile_s": round(seconds[0] - min(seconds[1:]), 1),
        "images_per_s": round(images / float(np.median(seconds[1:]))),
    }
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
