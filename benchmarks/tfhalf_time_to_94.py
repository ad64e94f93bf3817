"""Seconds from fresh weights to a judged net on CIFAR-10, over many seeds: one JSON line.

    python benchmarks/tfhalf_time_to_94.py [--seeds 10] [--curriculum] [--pipeline FILE] [KEY=VALUE ...]

Timed: whitening, every epoch with its record and checkpoint, and the evaluation of 10,000 test images in the pipeline's
views. Not timed, as in the public scripts: reading the data, random weights, compilation and a first run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tfhalf_training import Loop

from tfhalf.system.device import spared_from_collection

# The bias of the whitening layer stands still after three epochs, as in the record: where the size changes, so that no
# program is added.
CURRICULUM = ("train.sizes=[24, 24, 24, 28, 28, 32, 32, 32, 32]", "train.freeze_after={^whitening: 3}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--curriculum", action="store_true", help=" ".join(CURRICULUM))
    parser.add_argument("--pipeline", type=Path, default=Path("pipelines/cifar10.yaml"))
    arguments = parser.parse_args()
    loop = Loop(arguments.pipeline, [*(CURRICULUM if arguments.curriculum else []), *arguments.overrides])
    seconds, accuracy, plain, steps, evaluation = [], [], [], [], []
    for seed in range(arguments.seeds):
        loop.start_from(seed)
        with tempfile.TemporaryDirectory() as run, spared_from_collection():
            start = time.perf_counter()
            with loop.trainer.writer:  # as `tfhalf train` does: the last checkpoint is written meanwhile
                result, trained = loop.train(Path(run))
                accuracy.append(loop.accuracy(loop.pipeline.train.test_views))
            seconds.append(time.perf_counter() - start)
        steps.append(sum(row.seconds for row in result.epochs))
        evaluation.append(seconds[-1] - trained)
        plain.append(loop.accuracy("none"))
        print(f"seed {seed}: {accuracy[-1]:.2f} % ({plain[-1]:.2f} % plain), {seconds[-1]:.3f} s", file=sys.stderr)
    row = {
        "side": "tfhalf",
        **loop.facts(),
        "seeds": arguments.seeds,
        "sizes": list(loop.pipeline.train.sizes),
        "freeze_after": loop.pipeline.train.freeze_after,
        "seconds": {**_spread(seconds, 3), "median": round(statistics.median(seconds), 3)},
        "steps_s": _spread(steps, 3),
        "evaluation_s": _spread(evaluation, 3),
        "accuracy": _spread(accuracy, 2),
        "plain": _spread(plain, 2),
    }
    print(json.dumps(row), flush=True)


def _spread(values: list[float], digits: int) -> dict[str, float]:
    figures = {"mean": statistics.mean(values), "min": min(values), "max": max(values)}
    return {name: round(value, digits) for name, value in figures.items()}


if __name__ == "__main__":
    main()
