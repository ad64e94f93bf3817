"""``tfhalf bench PIPELINE``: what is timed, whose memory is looked at, and digits for real."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from bench_helpers import CHECKOUT, DIGITS, Clock, tfhalf, unheard

from tfhalf.bench import timed as timing
from tfhalf.errors import TrainingError
from tfhalf.system.device import cpu
from tfhalf.system.group import ALONE


class Variable:
    def __init__(self, value: float) -> None:
        self.value = np.float32(value)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self.value)

    def assign(self, value: Any) -> None:
        self.value = np.float32(value)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing, "time", made)
    return made


class Program:
    """A program over 10 images in steps of two; a step takes ``seconds`` and moves the one weight."""

    def __init__(self, clock: Clock, seconds: float, stops: bool = False) -> None:
        self.clock, self.seconds, self.rows, self.stops = clock, seconds, 3, stops
        self.batch_size, self.steps_per_epoch = 2, 5
        self.weight = Variable(7.0)
        self.scale = Variable(1024)
        self.state = SimpleNamespace(
            model=SimpleNamespace(variables=[self.weight]),
            optimizer=SimpleNamespace(variables=[self.scale], dynamic_scale=self.scale),
        )
        self.device = cpu()
        self.calls: list[tuple[int, int, list[list[int]], float]] = []
        self.announced: list[list[list[int]]] = []
        self.feed = self
        self.group = ALONE
        self.measured = 0
        self.waited = 0.0

    def measure_step(self) -> float:
        self.measured += 1
        return self.seconds

    def order(self, epoch: int) -> np.ndarray:
        return np.arange(10, dtype=np.int32).reshape(5, 2) + 100 * epoch

    def announce(self, order: np.ndarray) -> None:
        self.announced.append(order.tolist())

    def __call__(self, order: np.ndarray, epoch: int, first_step: int) -> Any:
        self.calls.append((epoch, first_step, order.tolist(), float(self.weight.value)))
        self.weight.value += len(order)
        self.scale.value /= 2
        self.clock.now += self.seconds * len(order)
        self.waited += self.seconds * len(order) / 4
        done = 0 if self.stops else len(order)
        return SimpleNamespace(steps=done, finite=np.array([False] + [True] * len(order))[:done])


def timed(program: Program) -> timing.Timed:
    return timing.Timed(program, program.device, unheard())  # type: ignore[arg-type]


def test_calls_are_training_s_own(clock: Clock) -> None:
    """Three steps, two, three, two: through each epoch's order, each call told of the one after it."""
    program = Program(clock, 0.001)
    timed(program).repeats(1, 0.05)
    epochs = [(epoch, first) for epoch, first, _, _ in program.calls]
    assert epochs[:5] == [(0, 0), (0, 3), (1, 5), (1, 8), (2, 10)]
    assert program.calls[1][2] == [[6, 7], [8, 9]]
    assert program.calls[2][2] == [[100, 101], [102, 103], [104, 105]]
    asked = [rows for _, _, rows, _ in program.calls]
    assert program.announced[:-1] == asked[1:]
    assert program.measured == 1


def test_every_repeat_takes_its_seconds_from_the_same_weights(clock: Clock) -> None:
    program = Program(clock, 0.002)
    found = timed(program)
    samples = found.repeats(4, 0.06)
    assert samples == pytest.approx([2 / 0.002] * 4)
    starts = [i for i, one in enumerate(program.calls) if one[3] == 7.0]
    assert len(starts) == 1 + 4  # once to warm up
    steps = sum(len(rows) for _, _, rows, _ in program.calls[starts[1] :])
    assert found.steps == steps
    assert found.skipped == len(program.calls) - starts[1]
    assert found.waited == pytest.approx(0.25)
    assert 0.95 * 4 * 0.06 < steps * 0.002 < 1.05 * 4 * 0.06
    assert program.scale.value == 1024 / 2 ** len(program.calls)  # which has settled once it has


@pytest.mark.parametrize(("seconds", "repeats"), [(13, 2), (100, 1), (2, 5)])
def test_slow_steps_end_the_repeats_early(clock: Clock, seconds: float, repeats: int) -> None:
    """Five repeats of 2 s: up to 20 s. A repeat holds at least one step, and there is at least one repeat."""
    program = Program(clock, seconds)
    assert timed(program).repeats(5, 2.0) == pytest.approx([2 / seconds] * repeats)
    assert [len(rows) for _, _, rows, _ in program.calls] == [1] * repeats


def test_a_gpu_s_memory_is_looked_at_while_training_is_timed(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warming up is over: what compilation tries out does not count."""
    reset: list[tuple[str, int]] = []
    program = Program(clock, 0.001)
    program.device = replace(cpu(), kind="GPU")
    experimental = tf.config.experimental
    monkeypatch.setattr(experimental, "reset_memory_stats", lambda name: reset.append((name, len(program.calls))))
    monkeypatch.setattr(experimental, "get_memory_info", lambda name: {"current": 1, "peak": {"GPU:0": 7}[name]})
    timed(program).repeats(2, 0.05)
    starts = [i for i, one in enumerate(program.calls) if one[3] == 7.0]
    assert reset == [("GPU:0", starts[1])]
    assert timing.memory_peak(program.device) == (7, "GPU")


def test_training_that_stands_still_is_an_error(clock: Clock) -> None:
    with pytest.raises(TrainingError, match="too many steps in a row"):
        timed(Program(clock, 0.001, stops=True)).repeats(1, 0.05)


@pytest.mark.slow
def test_the_peak_of_memory_is_this_process_own() -> None:
    code = (
        "import json; from tfhalf.bench.timed import memory_peak; from tfhalf.system.device import cpu; "
        "before, whose = memory_peak(cpu()); import numpy; x = numpy.ones(3 * 10**8, numpy.uint8); "
        "print(json.dumps([before, memory_peak(cpu())[0], whose]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    before, after, whose = json.loads(done.stdout)
    assert 2.5e8 < after - before < 3.5e8
    assert whose == "host, the whole process"


# --- for real ---------------------------------------------------------------------------------------------------------

TRAINING_KEYS = {
    *("policy", "noun", "samples", "batch_size", "steps", "skipped", "compile_seconds", "memory_bytes", "memory_of"),
    "from_cache",
    "memory_limit",
    "remat",
    *("flops_forward", "flops_step", "uncounted", "matrix", "matrix_flops", "device", "device_kind", "emulated"),
    *("source", "images", "image_bytes", "normalised_by", "model"),
    *("devices", "waited", "step_alone_per_s", "feed_alone_per_s"),
    *("parameters", "input_shape", "feed", "xla", "images_per_s", "steps_per_s", "spread", "mfu", "ratio_to_float32"),
}


STAGES = ["importing", "reading", "building", "compiling", "warming", "measuring,", "counting", "multiplying"]


@pytest.mark.slow
def test_digits_are_trained_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    policies = ["mixed_bfloat16", "float32"]
    options = ("--policies", ",".join(policies), "--repeats", 2, "--seconds", 0.2)
    done = tfhalf(DIGITS, *options, "--json", "--plot", "digits.png")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told) == {"kind", "pipeline", "settings", "versions", "policies", "failed"}
    assert (told["kind"], told["pipeline"], told["failed"]) == ("training", "digits", [])
    assert [row["policy"] for row in told["policies"]] == policies
    for row in told["policies"]:
        assert set(row) == TRAINING_KEYS
        layers_ = [2 * 64 * a * b for a, b in ((64, 128), (128, 64), (64, 10))]
        assert row["flops_forward"] == sum(layers_)
        assert row["flops_step"] == 3 * sum(layers_) - layers_[0]
        assert (row["batch_size"], row["source"], row["normalised_by"]) == (64, "sklearn:digits", 1000)
        assert row["image_bytes"] == 64 * row["images"]
        assert len(row["samples"]) == 2
        speed = row["images_per_s"]
        assert 0 < speed["min"] <= speed["median"] <= speed["max"]
        assert row["steps_per_s"] == pytest.approx(speed["median"] / 64)
        assert row["mfu"] == pytest.approx(row["flops_step"] * row["steps_per_s"] / row["matrix_flops"])
        assert 0 < row["mfu"] < 1
        assert (row["waited"], row["step_alone_per_s"], row["feed_alone_per_s"]) == (0, None, None)
        assert 10**8 < row["memory_bytes"] < row["memory_limit"]
        assert row["compile_seconds"] > 0
        assert row["from_cache"] is None  # nothing is kept on a CPU
    assert told["policies"][1]["ratio_to_float32"] == 1
    heard = [line.split("/2 ")[1] for line in done.stderr.splitlines() if "/2 " in line]
    for policy in policies:
        said = [line.removeprefix(policy).strip() for line in heard if line.startswith(f"{policy} ")]
        assert [line.split()[0] for line in said[:-1]] == STAGES
        assert "images/s; took " in said[-1]
    assert "; about " in done.stderr
    assert {"tensorflow", "keras", "python"} <= set(told["versions"])
    assert [path.name for path in Path().iterdir()] == ["digits.png"]


@pytest.mark.slow
def test_feed_and_step_are_measured_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--policies", "float32", "--repeats", 2, "--seconds", 0.2, "--set", "train.feed=streamed", "--feed")
    done = tfhalf(DIGITS, *options, "--json", "--plot", "digits.svg")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["policies"]
    assert row["feed"].startswith("streamed: ")
    assert 0 <= row["waited"] < 1
    assert row["feed_alone_per_s"] > row["images_per_s"]["median"] / 2  # a copy of a few bytes, beside a step
    assert row["step_alone_per_s"] > row["images_per_s"]["median"] / 2
    assert "step alone" in Path("digits.svg").read_text()
    assert "bringing the data alone" in done.stderr
