"""Runs of ``tfhalf train`` that are killed at a random instant and taken up again, each compared with one that was not:
``python tests/random_kills.py 50``."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import fork_server

from tfhalf.train.record import checkpoint

NET = """
import keras
from keras import layers


def build(*, input_shape, num_classes):
    image = keras.Input(input_shape)
    x = layers.Dense(32, name="hidden")(layers.Flatten()(image))
    x = layers.Dropout(0.2)(layers.ReLU()(layers.BatchNormalization(name="norm")(x)))
    return keras.Model(image, layers.Dense(num_classes, name="head")(x))
"""
# 718 steps an epoch and 500 at most in a call: every epoch has a boundary within it, and each boundary a checkpoint.
PIPELINE = """
name: killed
model: {build: net.py:build}
data: {source: "sklearn:digits", augment: {crop: 1}}
train:
  epochs: 8
  batch_size: 2
  checkpoint_seconds: 0
  optimizer: {name: adam, learning_rate: 0.001, ema_momentum: 0.99}
  schedule: {name: cosine}
precision: {policy: POLICY, loss_scale: {growth_interval: 300}}
"""
_ENDED = re.compile(r"^export  ", re.MULTILINE)  # by then the last checkpoint is written
POLICIES = ("float32", "mixed_float16")


class Job:
    """A folder with the pipeline, and what it gives undisturbed: the weights' hash, and the seconds of training."""

    def __init__(self, where: Path, policy: str) -> None:
        self.where, self.policy = where, policy
        where.mkdir(parents=True)
        (where / "net.py").write_text(NET)
        (where / "p.yaml").write_text(PIPELINE.replace("POLICY", policy))
        run, self.seconds, _ = self.train(None, "p.yaml")
        self.expected = result(run)

    def train(self, kill_after: float | None, *arguments: object) -> tuple[Path, float, str]:
        """Run ``tfhalf train``; kill it so many seconds after it said where its run is, and in any case once training
        has ended. Returns the run, the seconds of training, and what was said."""
        with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
            process: fork_server.Process | subprocess.Popen[bytes]
            if "--resume" in arguments:  # with a hash seed of its own: the others have that of the server
                process = subprocess.Popen(
                    [sys.executable, "-m", "tfhalf", "train", *map(str, arguments)],
                    cwd=self.where, stdout=said, stderr=complained, start_new_session=True,
                )  # fmt: skip
            else:
                process = fork_server.start(
                    self.where, "train", *arguments, stdout=said, stderr=complained, new_session=True
                )
            begun, run = 0.0, None
            try:
                while process.poll() is None:
                    time.sleep(0.002)
                    text = text_of(said)
                    if run is None and (named := re.search(r"^run        (\S+)$", text, re.MULTILINE)):
                        begun, run = time.monotonic(), self.where / named[1]
                    if run and (
                        (kill_after is not None and time.monotonic() - begun >= kill_after) or _ENDED.search(text)
                    ):
                        break
                else:
                    raise AssertionError(text_of(said) + text_of(complained))
            finally:
                with suppress(ProcessLookupError):  # it has ended, and its group with it
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            assert run is not None
            return run, time.monotonic() - begun, text_of(said)

    def killed(self, seed: int) -> tuple[bool, str]:
        """Whether a run that is killed once, anywhere in training, ends with the same weights; and how it went."""
        after = random.Random(seed).random() * self.seconds
        run, _, _ = self.train(after, "p.yaml")
        there = checkpoint.load(run)
        at = (
            "no checkpoint" if there is None else f"step {there.path.name}{' (ended)' if there.record['ended'] else ''}"
        )
        _, _, said = self.train(None, "--resume", run)
        resumed = re.search(r"^resumed .*$", said, re.MULTILINE)
        same = result(run) == self.expected
        words = f"{self.policy}, killed after {after:.2f} s of {self.seconds:.2f} at {at}; "
        return same, words + f"{resumed[0] if resumed else '?'}: {'identical' if same else 'DIFFERENT'}"


def text_of(file: object) -> str:
    return os.pread(file.fileno(), 1 << 20, 0).decode()  # type: ignore[attr-defined]


def result(run: Path) -> str:
    """One hash of all variables at the end of training, and of the rows without their times."""
    there = checkpoint.load(run)
    assert there is not None
    assert there.record["ended"], there.record
    digest = hashlib.sha256()
    for array in there.arrays:
        digest.update(array.tobytes())
    for row in there.record["rows"]:
        lasting = {k: v for k, v in row.items() if k not in ("seconds", "images_per_s", "waited")}
        digest.update(json.dumps(lasting).encode())
    return digest.hexdigest()


def main() -> int:
    """As many kills as the first argument says."""
    count, good, start = int(sys.argv[1]), 0, time.monotonic()
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as folder:
        jobs = [Job(Path(folder) / policy, policy) for policy in POLICIES]
        for seed in range(count):
            same, words = jobs[seed % len(jobs)].killed(seed)
            good += same
            print(f"{seed + 1:>3}  {words}", flush=True)
    print(f"{good} of {count} identical, in {time.monotonic() - start:.0f} s")
    return 0 if good == count else 1


if __name__ == "__main__":
    sys.exit(main())
