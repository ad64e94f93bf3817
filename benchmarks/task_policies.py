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
from itertools import pairwise
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
    """The same net by Keras' own `fit`, compiled once; its rate is the median epoch's, as in other rows."""
    import keras
    import numpy as np
    import tensorflow as tf

    from tfhalf.config import load_pipeline
    from tfhalf.data.columns import Columns
    from tfhalf.data.normalize import arranged
    from tfhalf.progress import Progress
    from tfhalf.system.device import grow_memory
    from tfhalf.train.job import Places, prepare
    from tfhalf.train.state import optimizer_of

    grow_memory()
    whole = load_pipeline(path, overrides)
    job = prepare(whole, Places(path, Path("runs"), Path("exports")), Progress(quiet=True))
    splits, augment = job.splits, whole.data.augment
    if augment.flip != "none" or augment.crop or augment.cutout or isinstance(splits.y_train, Columns):
        return {"pipeline": path.stem, "policy": "keras", "left_out": "augmented, or of several outputs"}
    keras.config.set_dtype_policy("mixed_float16")
    model = job.builder("mixed_float16")
    optimizer, _ = optimizer_of(whole, len(splits.x_train))

    def loss(y: Any, answers: Any) -> Any:  # Keras hands classes on as floats
        return job.objective.losses(tf.cast(y, splits.y_train.dtype), tf.cast(answers, tf.float32))

    gpu = bool(tf.config.list_physical_devices("GPU"))
    model.compile(keras.optimizers.LossScaleOptimizer(optimizer), loss=loss, jit_compile="auto" if gpu else False)
    model.optimizer.build(model.trainable_variables)
    fresh = [keras.ops.convert_to_numpy(v) for v in model.optimizer.variables]

    class Ends(keras.callbacks.Callback):
        """When training began, and each epoch ended."""

        def __init__(self) -> None:
            super().__init__()
            self.ends = [time.perf_counter()]

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.ends.append(time.perf_counter())

    def inputs(x: Any) -> Any:
        x = job.preprocess.apply(x)
        return arranged(model, x) if isinstance(x, dict) else x

    x = inputs(splits.x_train)
    parts = {"": (inputs(splits.x_test), splits.y_test)}
    if len(splits.x_val):
        parts["val_"] = (inputs(splits.x_val), splits.y_val)
    values: dict[str, list[float]] = {}
    seconds, rates = [], []
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        model.set_weights(job.builder("mixed_float16").get_weights())
        for variable, value in zip(model.optimizer.variables, fresh, strict=True):
            variable.assign(value)
        clock = Ends()
        settings = {"batch_size": whole.train.batch_size, "epochs": whole.train.epochs, "verbose": 0}
        model.fit(x, splits.y_train, callbacks=[clock], **settings)
        seconds.append(clock.ends[-1] - clock.ends[0])
        rates += [len(splits.x_train) / (end - start) for start, end in pairwise(clock.ends)]
        for prefix, (tests, y) in parts.items():
            answers = np.asarray(model.predict(tests, batch_size=1000, verbose=0), np.float32)
            for name, value in job.objective.scores(y, answers)[1].items():
                values.setdefault(prefix + name, []).append(value)
    keras.config.set_dtype_policy("float32")
    return {
        "pipeline": path.stem,
        "policy": "keras mixed_float16, fit",
        "xla": bool(model.jit_compile),
        "epochs": whole.train.epochs,
        "seeds": seeds,
        "metrics": {name: spread(numbers) for name, numbers in values.items()},
        "items_per_s": round(statistics.median(rates)),
        "seconds": [round(one, 2) for one in seconds],
        "memory_gib": memory(),
    }


def spread(values: list[float]) -> dict[str, Any]:
    """Mean and standard deviation over seeds."""
    mean, std = round(statistics.mean(values), 6), round(statistics.pstdev(values), 6)
    return {"mean": mean, "std": std, "all": [round(value, 6) for value in values]}


def memory() -> float | None:
    """The most that TensorFlow has held of a GPU's memory; None without one."""
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        return None
    return round(tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**30, 2)


if __name__ == "__main__":
    main()
