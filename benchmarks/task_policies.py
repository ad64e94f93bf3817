"""What each dtype policy reaches on pipelines of any task, over seeds: a JSON line for each pipeline and policy.

    python benchmarks/task_policies.py PIPELINE [PIPELINE ...] [--seeds 5] [--policies float32,mixed_float16] [--keras]
                                       [--set NAME:KEY=VALUE ...]

Each row is of a process of its own, so that its memory is its own. ``--keras`` adds a row of plain Keras: the same net,
loss, optimizer and data, `compile` and `fit` under Keras' own mixed_float16, with XLA on a GPU; left out where images
are augmented. ``--set california_housing:data.source=csv:...`` changes one pipeline, ``--set :train.epochs=2`` all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

POLICIES = ("float32", "mixed_float16", "mixed_bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pipelines", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--keras", action="store_true")
    parser.add_argument("--set", action="append", default=[], dest="changes")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(row(arguments.pipelines[0], arguments.row, arguments.seeds, arguments.changes)), flush=True)
        return
    policies = [*arguments.policies.split(","), *(["keras"] if arguments.keras else [])]
    for pipeline in arguments.pipelines:
        for policy in policies:
            command = [sys.executable, __file__, str(pipeline), "--row", policy, "--seeds", str(arguments.seeds)]
            subprocess.run([*command, *(f"--set={change}" for change in arguments.changes)], check=False)


def row(path: Path, policy: str, seeds: int, changes: list[str]) -> dict[str, Any]:
    """The figures of ``path`` under ``policy``, over ``seeds``."""
    own = [change.partition(":") for change in changes]
    overrides = [key for name, _, key in own if name in ("", path.stem)]
    if policy == "keras":
        return by_keras(path, overrides, seeds)
    from tfhalf_training import Loop

    loop = Loop(path, [*overrides, f"precision.policy={policy}"])
    values: dict[str, list[float]] = {}
    rates, skipped, seconds = [], 0, []
    for seed in range(seeds):
        loop.start_from(seed)
        with tempfile.TemporaryDirectory() as run, loop.trainer.writer:
            result, took = loop.train(Path(run))
        splits, evaluator = loop.job.splits, loop.trainer.evaluator
        metrics = evaluator.metrics(splits.x_test, splits.y_test)
        if len(splits.x_val):
            metrics |= {f"val_{name}": one for name, one in evaluator.metrics(splits.x_val, splits.y_val).items()}
        for name, value in metrics.items():
            values.setdefault(name, []).append(value)
        rates.append(statistics.median(epoch.images_per_s for epoch in result.epochs))
        skipped += result.skipped
        seconds.append(took)
    return {
        "pipeline": path.stem,
        **loop.facts(),
        "seeds": seeds,
        "metrics": {name: spread(numbers) for name, numbers in values.items()},
        "items_per_s": round(statistics.median(rates)),
        "skipped": skipped,
        "seconds": round(statistics.mean(seconds), 2),
        "memory_gib": memory(),
    }


def by_keras(path: Path, overrides: list[str], seeds: int) -> dict[str, Any]:
    """The same net by Keras' own `fit`."""
    import keras
    import numpy as np
    import tensorflow as tf
    from tfhalf_training import Loop

    from tfhalf.data.columns import Columns
    from tfhalf.data.normalize import arranged
    from tfhalf.train.state import optimizer_of

    loop = Loop(path, [*overrides, "precision.policy=float32", "train.epochs=1"])
    job, settings = loop.job, loop.pipeline.train
    from tfhalf.config import load_pipeline

    whole = load_pipeline(path, overrides)
    augment = whole.data.augment
    if augment.flip != "none" or augment.crop or augment.cutout or isinstance(job.splits.y_train, Columns):
        return {"pipeline": path.stem, "policy": "keras", "left_out": "augmented, or of several outputs"}
    x, x_test = (job.preprocess.apply(part) for part in (job.splits.x_train, job.splits.x_test))
    values: dict[str, list[float]] = {}
    seconds, rates = [], []
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        keras.config.set_dtype_policy("mixed_float16")
        model = job.builder("mixed_float16")
        optimizer, _ = optimizer_of(whole, len(job.splits.x_train))
        model.compile(
            keras.optimizers.LossScaleOptimizer(optimizer),
            loss=lambda y, answers: job.objective.losses(y, tf.cast(answers, tf.float32)),
            jit_compile=bool(tf.config.list_physical_devices("GPU")),
        )
        inputs, tests = (arranged(model, part) if isinstance(part, dict) else part for part in (x, x_test))
        start = time.perf_counter()
        model.fit(inputs, job.splits.y_train, batch_size=settings.batch_size, epochs=whole.train.epochs, verbose=0)
        seconds.append(time.perf_counter() - start)
        rates.append(len(job.splits.x_train) * whole.train.epochs / seconds[-1])
        answers = np.asarray(model.predict(tests, batch_size=1000, verbose=0), np.float32)
        for name, value in job.objective.scores(job.splits.y_test, answers)[1].items():
            values.setdefault(name, []).append(value)
        keras.config.set_dtype_policy("float32")
    return {
        "pipeline": path.stem,
        "policy": "keras mixed_float16, fit",
        "seeds": seeds,
        "metrics": {name: spread(numbers) for name, numbers in values.items()},
        "items_per_s": round(statistics.median(rates)),
        "seconds": round(statistics.mean(seconds), 2),
        "memory_gib": memory(),
    }


def spread(values: list[float]) -> dict[str, float]:
    """Mean and standard deviation over seeds."""
    return {"mean": round(statistics.mean(values), 6), "std": round(statistics.pstdev(values), 6)}


def memory() -> float | None:
    """The most that TensorFlow has held of a GPU's memory; None without one."""
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        return None
    return round(tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**30, 2)


if __name__ == "__main__":
    main()
