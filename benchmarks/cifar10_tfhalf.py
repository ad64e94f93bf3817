"""Speed and accuracy of tfhalf's training loop on CIFAR-10, without export: one JSON line per training.

    python benchmarks/cifar10_tfhalf.py [--seeds 3] [KEY=VALUE ...]

The program is compiled once; every seed starts from weights of its own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

from tfhalf.config import load_pipeline
from tfhalf.device import detect, grow_memory
from tfhalf.job import Places, prepare
from tfhalf.progress import Progress
from tfhalf.train.evaluate import Evaluator
from tfhalf.train.loop import Trainer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pipeline", type=Path, default=Path("pipelines/cifar10.yaml"))
    arguments = parser.parse_args()
    grow_memory()
    pipeline = load_pipeline(arguments.pipeline, arguments.overrides)
    job = prepare(pipeline, Places(arguments.pipeline, Path("runs"), Path("exports")), Progress(quiet=True))
    trainer = Trainer(pipeline, job.splits, job.builder, job.preprocess, detect())
    compiled = trainer.compile()
    fresh = [keras.ops.convert_to_numpy(v) for v in trainer.optimizer.variables]
    views = [
        Evaluator(trainer.model, mean=np.asarray(job.preprocess.mean), std=np.asarray(job.preprocess.std), views=kind)
        for kind in ("none", "mirror", "mirror_shift")
    ]
    for seed in range(arguments.seeds):
        keras.utils.set_random_seed(seed)
        model = job.builder(pipeline.precision.policy)
        job.builder.adapt(model, job.preprocess.apply(job.splits.x_train[:5000]))
        trainer.model.set_weights(model.get_weights())
        for variable, value in zip(trainer.optimizer.variables, fresh, strict=True):
            variable.assign(value)
        trainer.pipeline = pipeline.model_copy(update={"seed": seed})
        with tempfile.TemporaryDirectory() as run:
            start = time.perf_counter()
            result = trainer.run(Path(run), Progress(quiet=True))
            wall = time.perf_counter() - start
        row = {
            "side": "tfhalf",
            "policy": pipeline.precision.policy,
            "epochs": pipeline.train.epochs,
            "overrides": arguments.overrides,
            "seed": seed,
            "compile_s": round(compiled, 1),
            "train_s": round(wall, 2),
            "images_per_s": round(float(np.median([row.images_per_s for row in result.epochs]))),
            "skipped": result.skipped,
            "accuracy": [round(view.accuracy(job.splits.x_test, job.splits.y_test) * 100, 2) for view in views],
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
