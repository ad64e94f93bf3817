"""What each dtype policy reaches on pipelines of any task, over seeds: a JSON line for each pipeline and policy.

    python benchmarks/task_policies.py PIPELINE [PIPELINE ...] [--seeds 5] [--policies float32,mixed_float16] [--keras]
                                       [--set NAME:KEY=VALUE ...]

Each row is of a process of its own, so that its memory is its own. ``--keras`` adds a row of plain Keras: the same net,
loss, optimizer, data and augmentation, `compile` and `fit` under Keras' own mixed_float16, with XLA on a GPU; left out
of several outputs. ``--set california_housing:data.source=csv:...`` changes one pipeline, ``--set :KEY=VALUE`` all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
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
    """The same net by Keras' own `fit`; its rate is the median epoch's, as in other rows."""
    from keras_fit import KerasFit

    try:
        side = KerasFit(path, overrides)
    except ValueError as error:
        return {"pipeline": path.stem, "policy": "keras", "left_out": str(error)}
    values: dict[str, list[float]] = {}
    seconds, rates = [], []
    for seed in range(seeds):
        took, each = side.train(seed)
        seconds.append(round(took, 2))
        rates += each
        for name, value in side.metrics().items():
            values.setdefault(name, []).append(value)
    return {
        "pipeline": path.stem,
        "policy": "keras mixed_float16, fit",
        "xla": bool(side.model.jit_compile),
        "epochs": side.pipeline.train.epochs,
        "seeds": seeds,
        "metrics": {name: spread(numbers) for name, numbers in values.items()},
        "items_per_s": round(statistics.median(rates)),
        "seconds": seconds,
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
