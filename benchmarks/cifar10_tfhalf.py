"""Speed and accuracy of tfhalf's training loop on CIFAR-10, without export: one JSON line per training.

    python benchmarks/cifar10_tfhalf.py [--seeds 3] [--pipeline FILE] [KEY=VALUE ...]

The programs are compiled once; every seed starts from weights of its own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from tfhalf_training import Loop

from tfhalf.system.device import spared_from_collection


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pipeline", type=Path, default=Path("pipelines/cifar10.yaml"))
    arguments = parser.parse_args()
    loop = Loop(arguments.pipeline, arguments.overrides)
    for seed in range(arguments.seeds):
        loop.start_from(seed)
        with tempfile.TemporaryDirectory() as run, spared_from_collection():  # as `tfhalf train` does
            result, seconds = loop.train(Path(run))
        row = {
            "side": "tfhalf",
            **loop.facts(),
            "overrides": arguments.overrides,
            "seed": seed,
            "train_s": round(seconds, 3),
            "images_per_s": round(float(np.median([row.images_per_s for row in result.epochs]))),
            "steps_s": round(sum(row.seconds for row in result.epochs), 3),
            "skipped": result.skipped,
            "accuracy": [round(loop.accuracy(views), 2) for views in ("none", "mirror", "mirror_shift")],
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
