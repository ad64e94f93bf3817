"""Whole jobs that are killed at a random instant, from start-up to publishing: ``python tests/job_kills.py 30``.

Each is ``tfhalf train pipelines/digits.yaml`` in a folder of its own, killed once or twice, and taken up with
``--resume``. It has to end with one published version that is whole and has the weights of a job that nobody disturbed.
"""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from test_kill import DIGITS, assert_whole, finish, numbers, running, weights

from tfhalf.errors import TfhalfError
from tfhalf.train.record.run_folder import newest_unfinished


def killed(where: Path, arguments: tuple[object, ...], after: float, group: bool) -> str:
    """What the job had said last when it was killed ``after`` seconds; it may have ended before."""
    with running(where, "train", DIGITS, *arguments) as run:
        if run.wait_until(lambda: time.monotonic() - run.started >= after):
            run.kill(signal.SIGKILL, group)
        code, said, complained = run.end()
    assert code in (0, -signal.SIGKILL), complained
    assert "Traceback" not in complained, complained
    lines = said.rstrip().splitlines()
    return f"{after:.2f} s ({' '.join(lines[-1].split()[:3])})" if lines else f"{after:.2f} s (nothing said)"


def published(where: Path) -> list[int]:
    """The numbers of the versions."""
    exports = where / "exports/digits"
    return numbers(exports) if exports.exists() else []


def unfinished(where: Path) -> bool:
    """Whether there is a run that ``--resume`` would find."""
    try:
        newest_unfinished(where / "runs", "digits")
    except TfhalfError:
        return False
    return True


def job(where: Path, seed: int, usual: float, expected: dict[str, bytes]) -> str:
    """Kill it once, or twice, and finish it. Returns how it went; raises AssertionError where it went wrong."""
    draw = random.Random(seed)
    words = []
    for _ in range(1 + (seed % 3 == 0)):
        if published(where):
            break
        resume = ("--resume",) if unfinished(where) else ()
        words.append(killed(where, resume, draw.random() * usual, group=draw.random() < 0.5))
    before = published(where)
    if unfinished(where):
        said = finish(where, "train", DIGITS, "--resume")
        words.append(next((line for line in said.splitlines() if line.startswith(("resumed", "published"))), "?"))
    elif not before:
        finish(where, "train", DIGITS)
        words.append("begun again")
    exports = where / "exports/digits"
    assert numbers(exports) == [1], numbers(exports)
    assert_whole(exports)
    assert {path.name for path in exports.iterdir()} <= {"config.pbtxt", ".lock", "1"}, list(exports.iterdir())
    assert weights(exports / "1") == expected
    return ", ".join(words) + (" (published when it was killed)" if before else "")


def main() -> int:
    """As many as the first argument says, from the seed that the second one is."""
    count, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    start, good = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        normal = Path(folder) / "normal"
        normal.mkdir()
        begun = time.monotonic()
        finish(normal, "train", DIGITS)
        usual, expected = time.monotonic() - begun, weights(normal / "exports/digits/1")
        for seed in range(first, first + count):
            where = Path(folder) / str(seed)
            where.mkdir()
            try:
                words = job(where, seed, usual, expected)
                good += 1
            except AssertionError as error:
                words = f"WRONG: {str(error)[:600]}"
            print(f"{seed + 1:>3}  {words}", flush=True)
    print(
        f"{good} of {count} published once, with the same weights; {time.monotonic() - start:.0f} s, {usual:.1f} s each"
    )
    return int(good < count)


if __name__ == "__main__":
    sys.exit(main())
