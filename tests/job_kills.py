"""Whole jobs that are killed at random instants, from start-up to publishing: ``python tests/job_kills.py 30`` for
``pipelines/digits.yaml``, ``--kind text`` for one of `task_jobs`, or any pipeline with what `tfhalf train` takes:
``python tests/job_kills.py 3 --stages training export -- pipelines/sunspots.yaml --set train.epochs=20``.

Each is ``tfhalf train`` in a folder of its own, killed once or twice, and taken up with ``--resume``. It has to end
with one published version that is whole, and with the bits of a job that nobody disturbed: weights, optimizer, loss
scale and seeds, history, metrics on the test set, and files.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kill_helpers import COMMAND, DIGITS, assert_whole, finish, numbers, running, weights
from random_kills import result
from task_jobs import KINDS

from tfhalf.artifacts import manifest as manifests
from tfhalf.errors import TfhalfError
from tfhalf.train.record.run_folder import newest_unfinished

# Said where a stage begins; it lasts until the next one does, the last until the process has ended.
STAGES = {"start-up": "", "training": "\nrun  ", "export": "\nexport  "}
TIMES = ("seconds", "images_per_s", "waited")


class Job:
    """``tfhalf train`` with ``arguments``, of which the first is a pipeline file; ``spans`` has the seconds of each
    stage, and ``expected`` what lies in ``where`` after a job that nobody disturbed."""

    def __init__(self, where: Path, arguments: Sequence[object]) -> None:
        self.arguments = arguments
        begun: dict[str, float] = {}
        with running(where, "train", *arguments) as run:
            for stage, text in STAGES.items():
                assert run.wait_until(lambda text=text: run.says(text)), run.end()
                begun[stage] = time.monotonic() - run.started
            code, _, complained = run.end()
            ends = [*list(begun.values())[1:], time.monotonic() - run.started]
        assert (code, complained) == (0, ""), complained
        self.usual = ends[-1]
        self.spans = {stage: end - begun[stage] for stage, end in zip(STAGES, ends, strict=True)}
        self.expected = left_by(where)

    def killed(self, where: Path, seed: int, stages: Sequence[str] | None = None) -> str:
        """Kill one in ``where``, and finish it. Returns how it went.

        Args:
            seed: what all instants, and whether the process alone is killed, are drawn from.
            stages: of `STAGES`, a kill in each; None: one or two, anywhere.

        Raises:
            AssertionError: it did not end as one that nobody disturbed.
        """
        draw = random.Random(seed)
        words = []
        for stage in stages if stages is not None else [None] * (1 + (seed % 3 == 0)):
            if versions(where):
                break
            resume = ("--resume",) if unfinished(where) else ()
            after = draw.random() * (self.spans[stage] if stage else self.usual)
            words.append(self._kill(where, resume, stage or "start-up", after, group=draw.random() < 0.5))
        before = versions(where)
        if unfinished(where):
            # With a hash seed of its own: what was killed, and what it is compared with, have one.
            said = finish(where, "train", *self.arguments, "--resume", command=COMMAND)
            words.append(next((line for line in said.splitlines() if line.startswith(("resumed", "published"))), "?"))
        elif not before:
            finish(where, "train", *self.arguments)
            words.append("begun again")
        now = left_by(where)
        differing = [name for name, value in self.expected.items() if now[name] != value]
        said = ", ".join(words) + (" (published when it was killed)" if before else "")
        assert not differing, f"{said}: {differing} differ: {[(self.expected[k], now[k]) for k in differing]}"
        return said

    def _kill(self, where: Path, resume: tuple[str, ...], stage: str, after: float, group: bool) -> str:
        """Kill it ``after`` seconds of ``stage``; it may have ended before. Returns when, and what was said last."""
        with running(where, "train", *self.arguments, *resume) as run:
            run.wait_until(lambda: run.says(STAGES[stage]))
            begun = time.monotonic()
            run.wait_until(lambda: time.monotonic() - begun >= after)
            run.kill(signal.SIGKILL, group)
            code, said, complained = run.end()
        assert code in (0, -signal.SIGKILL), complained
        assert "Traceback" not in complained, complained
        last = " ".join(said.rstrip().splitlines()[-1].split()[:3]) if said.strip() else "nothing said"
        return f"{after:.2f} s of {stage} ({last})"


def base(where: Path) -> Path:
    """The folder of versions, which may not be there yet."""
    return next((where / "exports").glob("*"), where / "exports/none")


def versions(where: Path) -> list[int]:
    """The numbers of the versions."""
    return numbers(base(where)) if base(where).exists() else []


def unfinished(where: Path) -> bool:
    """Whether there is a run that ``--resume`` would find."""
    try:
        for name in (where / "runs").iterdir() if (where / "runs").exists() else ():
            newest_unfinished(where / "runs", name.name)
            return True
    except TfhalfError:
        pass
    return False


def left_by(where: Path) -> dict[str, Any]:
    """All that a job leaves in ``where`` but times, by name.

    Raises:
        AssertionError: there is not one version that is whole with one run, or there is more than these.
    """
    exports = base(where)
    assert numbers(exports) == [1], numbers(exports)
    assert_whole(exports)
    assert {path.name for path in exports.iterdir()} <= {"config.pbtxt", ".lock", "1"}, list(exports.iterdir())
    run = max((where / "runs" / exports.name).iterdir())  # one killed at once may have left an empty one
    with (run / "history.csv").open(newline="") as file:
        history = [{name: value for name, value in row.items() if name not in TIMES} for row in csv.DictReader(file)]
    outcome = json.loads((run / "outcome.json").read_text())
    manifest = manifests.read(exports / "1")
    named = {name: digest for name, digest in manifest.files.items() if name.endswith((".npz", ".json"))}
    return {
        "state": result(run),
        "history": history,
        "outcome": {key: outcome[key] for key in ("epochs", "test_metrics", "chance", "loss_scale", "skipped")},
        "weights": sorted(weights(exports / "1").values()),  # of equal constants the converter keeps one or the other
        "files": named,
        "comparisons": [(row.artifact, row.outputs) for row in manifest.comparisons],
    }


def main() -> int:
    """As many as the first argument says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0, help="of the first job; the next has one more")
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--stages", nargs="+", choices=STAGES, help="a kill in each, in place of one or two anywhere")
    options, arguments = parser.parse_known_args()
    arguments = [word for word in arguments if word != "--"]
    start, good = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:

        def begin(name: str) -> tuple[Path, Sequence[object]]:
            where = Path(folder) / name
            where.mkdir()
            if options.kind:
                return where, [KINDS[options.kind](where), *arguments]
            return where, [Path(arguments[0]).resolve(), *arguments[1:]] if arguments else [DIGITS]

        job = Job(*begin("normal"))
        print(f"{job.usual:.1f} s undisturbed:", ", ".join(f"{k} {v:.1f} s" for k, v in job.spans.items()), flush=True)
        for seed in range(options.seed, options.seed + options.count):
            where, job.arguments = begin(str(seed))
            try:
                words = job.killed(where, seed, options.stages)
                good += 1
            except AssertionError as error:
                words = f"WRONG: {str(error)[:600]}"
            print(f"seed {seed:>3}  {words}", flush=True)
    print(f"{good} of {options.count} published once, with the same bits; {time.monotonic() - start:.0f} s")
    return int(good < options.count)


if __name__ == "__main__":
    sys.exit(main())
