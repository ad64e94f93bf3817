"""Images per second of whole training steps in PyTorch: the side that tfhalf has to beat.

    python benchmarks/pytorch_throughput.py speednet|resnet9|resnet50 [--data DATA.npz] [--mode best]

A step gathers its batch from images that lie on the GPU as uint8, augments and normalises it as tfhalf does, and runs
forward, loss, backward, `GradScaler.step`, `update` and `zero_grad`: float16 autocast, channels_last, fused SGD.
DATA.npz holds x_train, y_train, x_test, y_test (uint8 [N, 32, 32, 3], integers [N]); without it the CIFAR nets train on
patterns that can be learnt. ResNet-50 has random images of 224x224 and no augmentation.

A figure counts only if the net trained meanwhile: every loss finite, weights changed, loss scale not run down, and for
the CIFAR nets a falling loss. Otherwise the row holds ``trouble``, and the exit code is 1. Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pytorch_modes import BEST, MODES, each_mode, machine, memory, synchronize, troubles, use_fast_kernels, without_mode
from pytorch_nets import NETS
from pytorch_training import DTYPES, RECIPES, Stepped, Trained

LEAST_STEPS, _TINY_BATCH = 24, 16


@dataclass(frozen=True)
class Repeat:
    """Images per second, and the mean loss of its first and last steps."""

    images_per_s: float
    first: float
    last: float


def repeat(trained: Stepped, steps: int) -> Repeat:
    """``steps`` steps from the first weights."""
    trained.restart()
    window = min(50, steps // 4)
    synchronize(trained.device)
    start = time.perf_counter()
    for _ in range(window):
        trained.step()
    first = trained.total.clone()
    for _ in range(steps - 2 * window):
        trained.step()
    before = trained.total.clone()
    for _ in range(window):
        trained.step()
    last = trained.total - before
    synchronize(trained.device)
    passed = time.perf_counter() - start
    return Repeat(steps * trained.batch / passed, float(first) / window, float(last) / window)


def measure(trained: Stepped, arguments: argparse.Namespace, least: int = LEAST_STEPS) -> dict[str, Any]:
    """One mode's row: ``seconds`` a repeat, but ``least`` steps; ``repeats`` of them."""
    compiling = trained.warm_up()
    # Twice: the first, of few steps, tells how many there must be and is no measurement.
    rate = repeat(trained, least).images_per_s
    rate = repeat(trained, max(least, _steps(rate, arguments.seconds / 2, trained.batch))).images_per_s
    steps = max(least, _steps(rate, arguments.seconds, trained.batch))
    repeats = [repeat(trained, steps) for _ in range(arguments.repeats)]
    samples = [one.images_per_s for one in repeats]
    scale = float(trained.scaler.get_scale())
    row: dict[str, Any] = {
        "side": "pytorch",
        "net": arguments.net,
        "mode": arguments.mode,
        "policy": arguments.policy,
        "batch": trained.batch,
        "images_per_s": {"median": float(np.median(samples)), "min": min(samples), "max": max(samples)},
        "samples": samples,
        "steps": steps,
        "compile_s": round(compiling, 1),
        "loss": {"first": repeats[-1].first, "last": repeats[-1].last},
        "loss_scale": scale,
        "memory_bytes": memory(arguments.device),
        **machine(arguments.device),
    }
    trouble = _trouble(trained, repeats, scale)
    row["accuracy"] = trained.accuracy()
    return {**row, "trouble": trouble} if trouble else row


def _steps(rate: float, seconds: float, batch: int) -> int:
    return round(rate * seconds / batch)


def _trouble(trained: Stepped, repeats: list[Repeat], scale: float) -> str:
    """Why this was no training; empty if it was."""
    if scale < 1:
        return f"does not train: the loss scale fell to {scale:.3g}, so nearly every step was skipped"
    for one in repeats:
        if not np.isfinite([one.first, one.last]).all():
            return f"does not train: the loss is {one.last}"
        if trained.learns and one.last > 0.95 * one.first:
            return f"does not train: the loss went from {one.first:.3f} to {one.last:.3f}"
    if not trained.moved():
        return "does not train: weights are what they were at first"
    return ""


def best(arguments: argparse.Namespace, argv: list[str]) -> dict[str, Any]:
    """The row of the fastest mode that trains, with all the others' under ``modes``."""
    modes = [name.strip() for name in arguments.modes.split(",")]
    rows = each_mode(__file__, without_mode(argv), modes, arguments.budget)
    good = [row for _, row in rows if not row.get("trouble")]
    table = [{"mode": mode, **row} for mode, row in rows]
    if not good:
        return {"side": "pytorch", "net": arguments.net, "trouble": troubles(rows), "modes": table}
    return {**max(good, key=lambda row: row["images_per_s"]["median"]), "modes": table}


def main() -> None:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", choices=sorted(NETS))
    parser.add_argument("--data", help="an npz file; patterns of its own without")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--mode", choices=[*dict.fromkeys(MODES), "best"], default="best")
    parser.add_argument("--modes", default=",".join(BEST), help="what best tries, in this order")
    parser.add_argument("--policy", choices=sorted(DTYPES), default="float16")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--budget", type=float, default=540.0, help="seconds for all that best tries")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if gpu else "cpu")
    parser.add_argument("--tiny", action="store_true", help="a small net, few images: to test this script")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.seconds, arguments.repeats = min(arguments.seconds, 0.5), min(arguments.repeats, 2)
    if arguments.mode == "best":
        row = best(arguments, sys.argv[1:])
    else:
        arguments.batch = arguments.batch or (_TINY_BATCH if arguments.tiny else RECIPES[arguments.net].batch)
        torch.manual_seed(0)
        use_fast_kernels()
        row = {**measure(Trained(arguments), arguments), "data": arguments.data or "synthetic"}
    print(json.dumps(row), flush=True)
    raise SystemExit(1 if row.get("trouble") else 0)


if __name__ == "__main__":
    main()
