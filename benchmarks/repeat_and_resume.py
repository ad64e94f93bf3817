"""Whether a training gives the same weights again, and after it was killed and taken up: one JSON line for each pair.

    python benchmarks/repeat_and_resume.py PIPELINE --out DIR [--deterministic] [--at STEP] [KEY=VALUE ...]

Trains PIPELINE twice by `tfhalf train`, and a third time until there is a checkpoint of step STEP or later, when the
process gets SIGKILL; `tfhalf train --resume` ends it. Compared are all arrays of the last checkpoints: weights,
optimizer slots, loss scale, seeds. Each run is a process of its own;
XLA's programs of the first are found by the others.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for runs, exports and what was printed")
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--at", type=int, default=1, metavar="STEP")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True)
    whole = _trained(arguments, "whole")
    for name in ("again", "killed"):
        run = _trained(arguments, name, kill=name == "killed")
        print(json.dumps({"pair": f"whole, {name}", **_compared(whole, run)}), flush=True)


def _trained(arguments: argparse.Namespace, name: str, kill: bool = False) -> Path:
    """The run folder of a training that has ended; with ``kill`` in two processes."""
    folder = arguments.out / name
    command = [sys.executable, "-m", "tfhalf", "train", str(arguments.pipeline), *_places(folder)]
    command += ["--deterministic"] if arguments.deterministic else []
    # Where training can be taken up is where it saves: as often as it can.
    settings = [*arguments.overrides, *(["train.checkpoint_seconds=0"] if kill else [])]
    command += [part for setting in settings for part in ("--set", setting)]
    start = time.perf_counter()
    log = (arguments.out / f"{name}.txt").open("ab")
    env = {**os.environ, "TFHALF_CACHE_DIR": str(arguments.out.absolute() / "cache")}
    with log, subprocess.Popen(command, stdout=log, stderr=log, env=env) as process:
        if kill:
            _kill(process, folder / "runs", arguments.at)
        code = process.wait()
    row: dict[str, Any] = {"run": name, "code": code}
    run = _only_run(folder / "runs")
    if kill:
        row["killed_at"] = sorted(path.name for path in (run / "checkpoints").iterdir())[-1]
        with (arguments.out / f"{name}.txt").open("ab") as log:
            command = [sys.executable, "-m", "tfhalf", "train", "--resume", str(run), *_places(folder)]
            row["code"] = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
    row["seconds"] = round(time.perf_counter() - start, 1)
    row["last_epoch"] = json.loads((run / "history.jsonl").read_text().splitlines()[-1])
    print(json.dumps(row), flush=True)
    if row["code"]:
        raise SystemExit(f"{arguments.out / name}.txt: ended with code {row['code']}")
    return run


def _places(folder: Path) -> list[str]:
    return ["--runs", str(folder / "runs"), "--exports", str(folder / "exports"), "--quiet"]


def _kill(process: subprocess.Popen[bytes], runs: Path, at: int) -> None:
    while process.poll() is None:
        steps = [int(path.name.split(".")[0]) for path in runs.glob("*/*/checkpoints/0*")]
        if max(steps, default=0) >= at:
            process.send_signal(signal.SIGKILL)
            return
        time.sleep(0.01)
    raise SystemExit(f"training ended before there was a checkpoint of step {at}")


def _only_run(runs: Path) -> Path:
    (run,) = (path.parent for path in runs.glob("*/*/run.json"))
    return run


def _compared(one: Path, other: Path) -> dict[str, Any]:
    """Whether the last checkpoints are equal bit by bit, and how far their floats are apart."""
    arrays, others = ({**np.load(_last(run), allow_pickle=False)} for run in (one, other))
    differing = [name for name in arrays if arrays[name].tobytes() != others[name].tobytes()]
    floats = [name for name, array in arrays.items() if array.dtype.kind == "f"]
    distance = sum(float(((arrays[n].astype("f8") - others[n]) ** 2).sum()) for n in floats)
    size = sum(float((arrays[n].astype("f8") ** 2).sum()) for n in floats)
    return {
        "arrays": len(arrays),
        "bit_identical": not differing,
        "differing": len(differing),
        "relative_distance": (distance / size) ** 0.5 if size else 0.0,
    }


def _last(run: Path) -> Path:
    return sorted((run / "checkpoints").glob("0*"))[-1] / "arrays.npz"


if __name__ == "__main__":
    main()
