"""Runs that are killed: at any instant, what was published stays whole, and the next run is as if nothing had been."""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from kill_helpers import COMMAND, DIGITS, SAVES_OFTEN, assert_whole, content, finish, numbers, running, weights
from random_kills import POLICIES, Job

from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts import version

pytestmark = pytest.mark.slow

# What has happened when the signal is sent: a share of a normal run's time, something said, or a file that is there.
# The process alone is killed, or with it the one that verifies.
KILLS = (
    ("time", "random", "alone"),
    ("time", "random", "all"),
    ("time", "random", "alone"),
    ("said", " 2/30 ", "all"),
    ("said", "30/30 ", "alone"),
    ("file", ".staging-*", "all"),
    ("file", ".staging-*/saved_model.pb", "alone"),
    ("said", "verify ", "all"),
    ("file", ".staging-*/manifest.json", "alone"),
    ("file", ".staging-*/report.md", "all"),
)


@pytest.fixture(scope="module")
def normal(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A folder with one published version, and the seconds that it took."""
    where = tmp_path_factory.mktemp("kill")
    start = time.monotonic()
    finish(where, "train", DIGITS)
    return where, time.monotonic() - start


def test_a_run_that_ends_before_it_is_killed(tmp_path: Path) -> None:
    """A random instant may lie after the end, on a machine that is faster now than when it was measured."""
    with running(tmp_path, command=(sys.executable, "-c", "")) as run:
        assert not run.wait_until(lambda: False)
        for group in (False, True):
            run.kill(signal.SIGKILL, group=group)
        assert run.end() == (0, "", "")


@pytest.mark.parametrize("kills", [(0, 1, 2), (3, 4, 5), (6, 7, 8, 9)])
def test_killed_runs(normal: tuple[Path, float], kills: tuple[int, ...]) -> None:
    """Killed one after another, each beside what may still run of the one before; then one that ends."""
    where, usual = normal
    exports = where / "exports/digits"
    first = content(exports / "1")
    with ExitStack() as stack:
        for index in kills:
            stack.enter_context(killed(where, usual, index))
            assert_whole(exports)
            assert content(exports / "1") == first
        wanted = max(numbers(exports)) + 1
        assert finish(where, "train", DIGITS, "-q") == f"published  exports/digits/{wanted}\n"
    assert numbers(exports) == [*range(1, wanted + 1)]
    assert_whole(exports)
    assert {path.name for path in exports.iterdir()} <= {"config.pbtxt", ".lock", *map(str, numbers(exports))}
    assert content(exports / "1") == first


@contextmanager
def killed(where: Path, usual: float, index: int) -> Iterator[None]:
    """A run that was killed as `KILLS` says; what is left of it may still run within the block."""
    kind, what, whom = KILLS[index]
    exports = where / "exports/digits"
    before, old = numbers(exports), set(exports.glob(".staging-*"))
    after = (index + random.Random(index).random()) / 3 * 0.9 * usual  # the first three: one in each third
    with running(where, "train", DIGITS) as run:
        happened = {
            "time": lambda: time.monotonic() - run.started >= after,
            "said": lambda: run.says(what),
            "file": lambda: any(not old & {path, path.parent} for path in exports.glob(what)),
        }[kind]
        run.wait_until(happened)
        run.kill(signal.SIGKILL, group=whom == "all")
        code, said, _ = run.end()
        at = time.monotonic() - run.started
        left = sorted(path.name for path in exports.glob(".staging-*"))
        last = said.rstrip().splitlines()[-1][:60].strip() if said.strip() else "nothing said yet"
        print(f"kill {index}: {kind} {what!r}, {whom}, after {at:.2f} s of {usual:.1f} ({last}); left {left}")
        assert code == -signal.SIGKILL or (kind == "time" and code == 0), "the run ended before it could be killed"
        assert set(before) <= set(numbers(exports)) <= {*before, max(before) + 1}
        assert len(left) <= 2  # one of the run before, if what is left of that still runs
        if kind == "file":
            assert left or numbers(exports) != before
        yield


def test_a_run_killed_in_training_is_taken_up_again(normal: tuple[Path, float], tmp_path: Path) -> None:
    """It gives the very weights that it would have given undisturbed."""
    with running(tmp_path, "train", DIGITS, *SAVES_OFTEN) as run:
        assert run.wait_until(lambda: run.says(" 9/30 "))
        run.kill(signal.SIGKILL, group=True)
        assert run.end()[0] == -signal.SIGKILL
    assert not (tmp_path / "exports").exists()
    (folder,) = (tmp_path / "runs/digits").iterdir()
    with running(tmp_path, "export", folder) as run:  # not to be had from half a training
        code, said, complained = run.end()
    assert code == 1
    assert not [line for line in said.splitlines() if not line.startswith("loading ")]
    assert re.fullmatch(r"error: \S+: ended after epoch \d+ of 30; finish it first: .*\n", complained)
    said = finish(tmp_path, "train", "--resume", folder, command=COMMAND)  # with a hash seed of its own
    resumed = re.search(r"^resumed after epoch (\d+) of 30$", said, re.MULTILINE)  # an epoch is one call
    assert resumed
    assert 8 <= int(resumed[1]) <= 29  # the checkpoint of the last line may have been half-written
    assert weights(tmp_path / "exports/digits/1") == weights(normal[0] / "exports/digits/1")
    history = np.genfromtxt(folder / "history.csv", delimiter=",", names=True)
    assert history["epoch"].tolist() == list(range(1, 31))


def test_a_run_killed_before_its_first_checkpoint(normal: tuple[Path, float], tmp_path: Path) -> None:
    with running(tmp_path, "train", DIGITS) as run:
        assert run.wait_until(lambda: run.says(" 1/30 "))
        run.kill(signal.SIGKILL, group=False)
        assert run.end()[0] == -signal.SIGKILL
    (folder,) = (tmp_path / "runs/digits").iterdir()
    assert not (folder / "checkpoints").exists()
    assert "\nresumed from the beginning\n" in finish(tmp_path, "train", "--resume", folder)
    assert weights(tmp_path / "exports/digits/1") == weights(normal[0] / "exports/digits/1")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_training(normal: tuple[Path, float], number: signal.Signals, code: int, tmp_path: Path) -> None:
    """It saves, says how to go on, and goes on to the very weights of a run that was left alone."""
    with running(tmp_path, "train", DIGITS) as run:
        assert run.wait_until(lambda: run.says(" 2/30 "))
        run.kill(number, group=True)
        ended, said, complained = run.end()
    assert ended == code, complained
    stopped = re.fullmatch(
        rf"stopped by {number.name} after step ([\d,]+) of 600; go on with: tfhalf train --resume (\S+)\n", complained
    )
    assert stopped
    assert "published  " not in said
    step = int(stopped[1])
    assert [path.name for path in (tmp_path / stopped[2] / "checkpoints").iterdir()] == [f"{step:08d}"]
    again = finish(tmp_path, "train", DIGITS, "--resume")  # the newest unfinished run
    assert f"\nresumed after epoch {step // 20} of 30\n" in again
    assert weights(tmp_path / "exports/digits/1") == weights(normal[0] / "exports/digits/1")
    with running(tmp_path, "train", DIGITS, "--resume") as run:
        assert run.end()[0] == 2  # nothing is unfinished


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """One step takes longer than anyone waits; the process ends in the middle of it."""
    (tmp_path / "net.py").write_text(
        "import keras\nimport tensorflow as tf\n\n"
        "class Slow(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        wait = tf.while_loop(lambda i: i < 10**8, lambda i: [i + 1], [0])[0]\n"
        "        return x + tf.cast(wait * 0, x.dtype)\n\n"
        "def build(*, input_shape, num_classes):\n"
        "    image = keras.Input(input_shape)\n"
        "    return keras.Model(image, Slow()(keras.layers.Dense(num_classes)(keras.layers.Flatten()(image))))\n"
    )
    code = (
        "import sys; from pathlib import Path; from tfhalf.system.tensorflow import import_tensorflow\n"
        "import os; os.environ['KERAS_BACKEND'] = 'tensorflow'; import_tensorflow()\n"
        "from tfhalf import config; from tfhalf.system.device import cpu\n"
        "from tfhalf.train.job import Places, prepare\n"
        "from tfhalf.progress import Progress; from tfhalf.train.loop import run_training\n"
        "from tfhalf.train.trainer import Trainer\n"
        "pipe = config.Pipeline.model_validate({'name': 'slow', 'model': {'build': 'net.py:build'},\n"
        "    'data': {'source': 'sklearn:digits'}, 'precision': {'policy': 'float32'}})\n"
        "job = prepare(pipe, Places(Path('p.yaml'), Path('runs'), Path('exports')), Progress())\n"
        "Path('run').mkdir()\n"
        "run_training(Trainer(job, cpu()), Path('run'), Progress())\n"
    )
    with running(tmp_path, command=(sys.executable, "-c", code)) as run:
        assert run.wait_until(lambda: run.says("val loss"))
        time.sleep(2)
        run.kill(signal.SIGTERM, group=False)
        time.sleep(1)
        assert run.process.poll() is None
        told = time.monotonic()
        run.kill(signal.SIGTERM, group=False)
        assert run.end()[0] == 143
        assert time.monotonic() - told < 30


def test_an_interrupt_while_verifying(tmp_path: Path) -> None:
    """As from a terminal: the whole process group is told."""
    with running(tmp_path, "train", DIGITS, "--set", "train.epochs=3") as run:
        assert run.wait_until(lambda: run.says("verify "))  # the process that does it is there since training began
        run.kill(signal.SIGINT, group=True)
        code, said, complained = run.end()
    assert code == 130, complained
    assert complained == "interrupted; no version is half-written\n"
    assert "published  " not in said
    if (tmp_path / "exports/digits").exists():
        assert set(os.listdir(tmp_path / "exports/digits")) <= {".lock"}


@pytest.mark.parametrize("policy", POLICIES)
def test_random_kills(policy: str, tmp_path: Path) -> None:
    """``python tests/random_kills.py 50`` does more of them."""
    job = Job(tmp_path / "job", policy)
    for seed in range(2 if policy == "mixed_float16" else 1):
        same, words = job.killed(seed)
        print(words)
        assert same, words


def test_a_deterministic_run(tmp_path: Path) -> None:
    """Written down, taken up as such, and the same bits again."""
    for name, command in (("one", ()), ("two", COMMAND)):  # each with a hash seed of its own
        (tmp_path / name).mkdir()
        finish(tmp_path / name, "train", DIGITS, "--set", "train.epochs=4", "--deterministic", command=command)
    one, two = (tmp_path / name / "exports/digits/1" for name in ("one", "two"))
    assert weights(one) == weights(two)
    assert manifests.read(one).training.to_dict()["deterministic"] is True
    (run,) = (tmp_path / "one/runs/digits").iterdir()
    finish(tmp_path / "one", "train", "--resume", run)
    assert manifests.read(tmp_path / "one/exports/digits/2").training.to_dict()["deterministic"] is True
    assert weights(tmp_path / "one/exports/digits/2") == weights(one)


def test_a_kill_between_the_version_and_the_outcome(tmp_path: Path) -> None:
    """What was published is not published again."""
    code = (
        "import os, signal, sys; import tfhalf.workflows.train as pipeline; from tfhalf.cli import main\n"
        "pipeline.record_published = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "main(sys.argv[1:])\n"
    )
    arguments = ("train", DIGITS, "--set", "train.epochs=1")
    with running(tmp_path, *arguments, command=(sys.executable, "-c", code)) as run:
        assert run.end()[0] == -signal.SIGKILL
    assert numbers(tmp_path / "exports/digits") == [1]
    assert finish(tmp_path, *arguments, "--resume") == "published  exports/digits/1, before the run was stopped\n"
    assert numbers(tmp_path / "exports/digits") == [1]
    with running(tmp_path, *arguments, "--resume") as run:
        assert run.end()[0] == 2  # nothing is unfinished


def test_a_folder_without_a_lock_is_cleared_away(tmp_path: Path) -> None:
    """What a kill leaves between the lock's removal and the rename, or before the lock was made."""
    (tmp_path / ".staging-dead").mkdir()
    (tmp_path / ".staging-dead/model.onnx").write_text("half")
    with version.staging(tmp_path) as folder:
        assert list(tmp_path.glob(".staging-*")) == [folder]
    assert not list(tmp_path.glob(".staging-*"))


def test_a_run_that_starts_leaves_a_folder_that_is_being_published(tmp_path: Path) -> None:
    def start() -> None:
        with version.staging(tmp_path):
            pass

    other = threading.Thread(target=start)
    with version.staging(tmp_path) as folder:
        (folder / "model.onnx").write_text("whole")
        with version.numbered(tmp_path) as number:
            (folder / ".lock").unlink()  # publish does so before it syncs and renames
            other.start()
            other.join(0.3)
            assert other.is_alive()
            published = version.publish(folder, tmp_path, number)
        other.join(20)
    assert not other.is_alive()
    assert (published / "model.onnx").read_text() == "whole"
