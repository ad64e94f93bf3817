"""Two ways of feeding one step: streamed against resident, what is fetched ahead, and which of them is chosen."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from train_helpers import classes, equal, objective, quiet
from train_loops import StopAfter, Stopped, values

from tfhalf import config
from tfhalf.config import Augment, LossScale, Optimizer
from tfhalf.data import LazyImages, Preprocess, Splits
from tfhalf.errors import ConfigError, DataError, ResumeError
from tfhalf.precision.policy import policy
from tfhalf.progress import Progress
from tfhalf.system.device import Device, cpu
from tfhalf.system.group import ALONE, Group
from tfhalf.train.build import Builder
from tfhalf.train.diagnose.non_finite import explain_non_finite
from tfhalf.train.feeds import choose
from tfhalf.train.feeds.base import ChunkResult, Feed
from tfhalf.train.feeds.resident import Resident
from tfhalf.train.feeds.streamed import Streamed
from tfhalf.train.job import Job
from tfhalf.train.loop import run_training
from tfhalf.train.objective import Objective
from tfhalf.train.optim.optimizers import make_optimizer, wrap
from tfhalf.train.optim.patterns import trained_variables
from tfhalf.train.optim.schedules import EpochSchedule, Schedule
from tfhalf.train.record import checkpoint
from tfhalf.train.restore import restore_run
from tfhalf.train.stages import PLAIN, Stage
from tfhalf.train.step import Batch, Step, StepResult
from tfhalf.train.trainer import Trainer
from tfhalf.workflows import train

pytestmark = pytest.mark.slow

DRAW = np.random.default_rng(0)
X = DRAW.integers(0, 256, (40, 6, 6, 1)).astype(np.uint8)
Y = (np.arange(40) % 3).astype(np.int32)
ORDER = DRAW.permutation(40).astype(np.int32).reshape(10, 4)
ITEM = 36  # bytes of an image
RESULTS = ("loss", "sums", "scale", "finite")


def lazy(x: np.ndarray, decode: Callable[..., None] | None = None) -> LazyImages:
    def fill(places: np.ndarray, out: np.ndarray) -> None:
        out[:] = x[places]

    return LazyImages(decode or fill, np.arange(len(x)), x.shape[1:], x.dtype, "made here")


def make(
    kind: type[Feed], policy_name: str, x: Any = X, *, steps: int = 4, accumulate: int = 1, max_skipped: int = 50,
    **scale: float,
) -> tuple[Step, Any]:  # fmt: skip
    """A step and its feed; streamed in blocks of at most ``steps``."""
    keras.utils.set_random_seed(0)
    with policy(policy_name):
        image = keras.Input((6, 6, 1))
        hidden = layers.BatchNormalization(momentum=0.9)(layers.Conv2D(4, 3, name="conv")(image))
        hidden = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(layers.ReLU()(hidden)))
        model = keras.Model(image, layers.Dense(3, name="head")(hidden))
    settings = Optimizer(learning_rate=0.1, weight_decay=0.01, ema_momentum=0.9)
    optimizer = make_optimizer(settings, EpochSchedule(Schedule(name="cosine"), 0.1, 10, 3), accumulate)
    if policy_name == "mixed_float16":
        optimizer = wrap(optimizer, LossScale(**{"growth_interval": 4, **scale}))
    step = Step(model, optimizer, trained_variables(model, settings), preprocess=Preprocess((128.0,), (64.0,)),
                objective=Objective(classes(3, 0.1)), augmentation=Augment(flip="alternating", crop=1, cutout=2),
                seed=7)  # fmt: skip
    more = {"block_bytes": steps * 4 * x.dtype.itemsize * ITEM} if kind is Streamed else {}
    return step, kind(step, x, Y, batch_size=4, capacity=10, xla=False, max_skipped=max_skipped, **more)


def state(step: Step) -> list[np.ndarray]:
    return [np.asarray(v).copy() for v in [*step.model.variables, *step.optimizer.variables]]


def same(one: ChunkResult, other: ChunkResult) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True) for name in RESULTS)


# --- streamed against resident ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("policy_name", ["mixed_float16", "float32"])
def test_streamed_trains_as_resident_does(policy_name: str, accumulate: int) -> None:
    """Ten steps in blocks of four, so the last block is partial; then another call, of a part of a block."""
    one, resident = make(Resident, policy_name, accumulate=accumulate)
    two, streamed = make(Streamed, policy_name, accumulate=accumulate)
    assert streamed.block == 4
    assert streamed(ORDER[:0], 0, 0).steps == 0
    assert equal(state(one), state(two))
    for order, epoch, first in ((ORDER, 0, 0), (ORDER[3:6], 1, 13)):
        a, b = resident(order, epoch, first), streamed(order, epoch, first)
        assert b.steps == len(order)
        for name in RESULTS:
            left, right = getattr(a, name), getattr(b, name)
            assert left.dtype == right.dtype
            np.testing.assert_allclose(left, right, rtol=0 if policy_name == "float32" else 2e-3)
    if policy_name == "float32":
        assert equal(state(one), state(two))
    else:
        assert float(two.optimizer.dynamic_scale) == 2.0**18  # grown every fourth of thirteen steps
        for left, right in zip(state(one), state(two), strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int16", "int32", "float64"])
def test_every_dtype_of_a_source(dtype: str) -> None:
    x = X.astype(dtype)
    one, resident = make(Resident, "float32", x)
    two, streamed = make(Streamed, "float32", x)
    assert same(resident(ORDER[:6], 0, 0), streamed(ORDER[:6], 0, 0))
    assert equal(state(one), state(two))


def test_a_memory_map_and_encoded_images(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    expected = make(Resident, "float32")[1](ORDER, 0, 0)
    for x in (np.load(tmp_path / "x.npy", mmap_mode="r"), lazy(X)):
        _, streamed = make(Streamed, "float32", x)
        assert same(streamed(ORDER, 0, 0), expected)
        batch = streamed.batch(ORDER[2])
        np.testing.assert_array_equal(batch.x, X[ORDER[2]])
        np.testing.assert_array_equal(batch.y, Y[ORDER[2]])


def test_skipped_steps_are_skipped_alike() -> None:
    hot = X.astype(np.float32)
    hot[ORDER[1:9:3]] = 1e9
    one, resident = make(Resident, "mixed_float16", hot)
    two, streamed = make(Streamed, "mixed_float16", hot)
    a, b = resident(ORDER, 0, 0), streamed(ORDER, 0, 0)
    assert b.finite.tolist() == [True, False, True, True, False, True, True, False, True, True]
    assert same(a, b)
    assert int(two.optimizer.skipped) == 3
    assert float(two.optimizer.dynamic_scale) == float(one.optimizer.dynamic_scale) == 2.0**12
    assert explain_non_finite(two, streamed, ORDER[1], 0, 0) == explain_non_finite(one, resident, ORDER[1], 0, 0)
    assert "'conv'" in explain_non_finite(two, streamed, ORDER[1], 0, 0)


def test_checkpoints_keep_the_names_of_what_steps_leave() -> None:
    result = ChunkResult(np.float32([0.5]), np.float32([[3, 4]]), np.float32([8]), np.int32([2]))
    arrays = result.arrays()
    assert list(arrays) == ["loss", "sums", "scale", "culprit"]
    assert ChunkResult.of(arrays, 4) == result


@pytest.mark.parametrize("first_hot", [0, 1, 2, 5])
def test_too_many_skipped_steps_end_a_call_within_a_block_or_at_its_end(first_hot: int) -> None:
    hot = X.astype(np.float32)
    hot[ORDER[first_hot:]] = 1e9
    gathered: list[int] = []

    def decode(places: np.ndarray, out: np.ndarray) -> None:
        gathered.append(len(places))
        out[:] = hot[places]

    two, streamed = make(Streamed, "mixed_float16", lazy(hot, decode), steps=1, max_skipped=3)
    result = streamed(ORDER, 0, 0)
    assert len(gathered) <= min(10, first_hot + 3 + 2 + 2)  # two that ran no step, and those fetched ahead
    assert result.finite.tolist() == [True] * first_hot + [False] * 3
    assert int(two.optimizer.skipped_in_row) == 3
    assert streamed(ORDER, 0, 0).steps == 0


def test_compiled_programs_train_alike() -> None:
    results = []
    for kind, more in ((Resident, {}), (Streamed, {"block_bytes": 16 * ITEM})):
        step, _ = make(kind, "float32")
        compiled: Any = kind(step, X, Y, batch_size=4, capacity=10, xla=True, max_skipped=5, **more)
        results.append((compiled(ORDER, 0, 0), state(step)))
    (one, left), (two, right) = results
    assert two.steps == 10
    np.testing.assert_allclose(one.loss, two.loss, rtol=1e-5)
    for mine, theirs in zip(left, right, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)


# --- blocks -----------------------------------------------------------------------------------------------------------


class Stub:
    """Stands for a step, and keeps what it was traced with; its loss is the sum of the batch, plus the size."""

    guarded, group = False, ALONE
    objective = Objective(classes(3))

    def __init__(self) -> None:
        self.traced: list[int | None] = []

    def __call__(self, batch: Batch, epoch: Any, step: Any, stage: Stage = PLAIN) -> StepResult:
        self.traced.append(stage.size)
        loss = tf.reduce_sum(tf.cast(batch.x, tf.float32)) + float(stage.size or 0)
        return StepResult(loss, tf.cast([step + 100 * epoch, stage.size or 0], tf.float32), tf.constant(True))


@pytest.mark.parametrize("kind", [Resident, Streamed])
def test_a_stage_reaches_the_step_in_a_program_of_its_own(kind: type[Feed]) -> None:
    stub: Any = Stub()
    fed = kind(stub, X, Y, batch_size=4, capacity=10, xla=False, max_skipped=5)
    sums = X[ORDER].astype(np.float32).sum((1, 2, 3, 4))
    np.testing.assert_array_equal(fed(ORDER, 2, 5).loss, sums)
    assert stub.traced == [None]
    result = fed(ORDER[:7], 2, 5, Stage(4))
    np.testing.assert_array_equal(result.loss, sums[:7] + 4)
    assert result.sums.tolist() == [[205 + i, 4] for i in range(7)]
    fed(ORDER[:3], 3, 5, stage=Stage(4))
    fed(ORDER[:3], 3, 5)
    assert stub.traced == [None, 4]
    fed(ORDER[:3], 3, 5, stage=Stage(3))
    assert stub.traced == [None, 4, 3]


@pytest.mark.parametrize(
    ("capacity", "steps", "block"),
    [(10, 4, 4), (48, 40, 24), (10, 1000, 10), (10, 0, 1), (1, 4, 1), (7, 6, 4), (500, 128, 125)],
)
def test_blocks_are_as_few_and_as_even_as_their_bound_allows(capacity: int, steps: int, block: int) -> None:
    stub: Any = Stub()
    bound = steps * 4 * ITEM + ITEM
    fed = Streamed(stub, X, Y, batch_size=4, capacity=capacity, xla=False, max_skipped=5, block_bytes=bound)
    assert fed.block == block
    assert fed.step_bytes == 4 * ITEM
    wide = Streamed(stub, X.astype(np.float32), Y, batch_size=4, capacity=10, xla=False, max_skipped=5)
    assert (wide.step_bytes, wide.block) == (16 * ITEM, 10)


def counted() -> tuple[Streamed, list[list[int]]]:
    """A feed of blocks of two steps, and the first place of every row it gathered, block by block."""
    gathered: list[list[int]] = []

    def decode(places: np.ndarray, out: np.ndarray) -> None:
        gathered.append(places[::4].tolist())
        out[:] = X[places]

    stub: Any = Stub()
    fed = Streamed(stub, lazy(X, decode), Y, batch_size=4, capacity=10, xla=False, max_skipped=5, block_bytes=8 * ITEM)
    return fed, gathered


def settled(gathered: list[list[int]], blocks: int) -> list[list[int]]:
    """What was gathered once ``blocks`` were, or after half a minute."""
    end = time.monotonic() + 30
    while len(gathered) < blocks and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.05)
    return sorted(gathered)


def test_what_is_announced_is_gathered_before_it_is_asked_for_and_once() -> None:
    fed, gathered = counted()
    first = ORDER[:, 0].tolist()
    fed.announce(ORDER[4:9])
    fed(ORDER[:4], 0, 0)
    two_ahead = sorted([first[0:2], first[2:4], first[4:6], first[6:8]])
    assert settled(gathered, 4) == two_ahead
    result = fed(ORDER[4:9], 0, 4)
    assert settled(gathered, 5) == sorted([*two_ahead, first[8:9]])
    np.testing.assert_array_equal(result.loss, X[ORDER[4:9]].astype(np.float32).sum((1, 2, 3, 4)))
    fed(ORDER[:2], 1, 0)
    assert len(settled(gathered, 6)) == 6  # no longer announced


def test_an_announcement_that_does_not_come_true_changes_nothing() -> None:
    fed, _ = counted()
    sums = X[ORDER].astype(np.float32).sum((1, 2, 3, 4))
    fed.announce(ORDER[6:])
    np.testing.assert_array_equal(fed(ORDER[:4], 0, 0).loss, sums[:4])
    np.testing.assert_array_equal(fed(ORDER[2:7], 0, 0).loss, sums[2:7])
    fed.announce(ORDER[:0])
    np.testing.assert_array_equal(fed(ORDER[6:], 0, 0).loss, sums[6:])


def test_slow_blocks_keep_their_order() -> None:
    """The first block takes longest, so the second is there before it."""

    def decode(places: np.ndarray, out: np.ndarray) -> None:
        time.sleep(0.2 if places[0] == ORDER[0, 0] else 0)
        out[:] = X[places]

    stub: Any = Stub()
    fed = Streamed(stub, lazy(X, decode), Y, batch_size=4, capacity=10, xla=False, max_skipped=5, block_bytes=8 * ITEM)
    np.testing.assert_array_equal(fed(ORDER, 0, 0).loss, X[ORDER].astype(np.float32).sum((1, 2, 3, 4)))


def test_the_wait_for_data_is_what_a_block_comes_late_by() -> None:
    """Steps of no time: the device waits while the first block and the third are decoded, not for the second, which is
    decoded beside the first."""

    def decode(places: np.ndarray, out: np.ndarray) -> None:
        time.sleep(0.3 if places[0] in (ORDER[0, 0], ORDER[4, 0]) else 0)
        out[:] = X[places]

    stub: Any = Stub()
    fed = Streamed(stub, lazy(X, decode), Y, batch_size=4, capacity=10, xla=False, max_skipped=5, block_bytes=8 * ITEM)
    start = time.perf_counter()
    result = fed(ORDER[:6], 0, 0)
    np.testing.assert_array_equal(result.loss, X[ORDER[:6]].astype(np.float32).sum((1, 2, 3, 4)))
    assert 0.2 <= fed.waited <= time.perf_counter() - start  # the first begins a little before it is waited for
    assert fed.beside(stub).waited == 0
    fed.waited = 0.0
    fed.announce(ORDER[8:])
    fed(ORDER[6:8], 0, 6)
    time.sleep(0.2)
    before = fed.waited
    fed(ORDER[8:], 0, 8)  # which lay ready
    assert fed.waited - before < 0.15


def test_a_step_that_takes_longer_than_its_data_waits_for_none() -> None:
    """But for the first block, of which nobody knew before."""

    class Slow(Stub):
        def __call__(self, batch: Batch, epoch: Any, step: Any, stage: Stage = PLAIN) -> StepResult:
            tf.py_function(lambda: time.sleep(0.05), [], [])
            return super().__call__(batch, epoch, step, stage)

    stub: Any = Slow()
    fed = Streamed(stub, X, Y, batch_size=4, capacity=10, xla=False, max_skipped=5, block_bytes=4 * ITEM)
    fed(ORDER[:1], 0, 0)
    fed.waited = 0.0
    fed.announce(ORDER[:0])
    fed(ORDER, 0, 0)
    assert fed.waited < 0.4  # of half a second of steps
    resident = Resident(stub, X, Y, batch_size=4, capacity=10, xla=False, max_skipped=5)
    resident(ORDER, 0, 0)
    assert (resident.waited, resident.streams, fed.streams) == (0, False, True)


def test_bringing_computes_nothing() -> None:
    fed, gathered = counted()
    fed.announce(ORDER[4:6])
    fed.bring(ORDER[:4])
    first = ORDER[:, 0].tolist()
    assert settled(gathered, 3) == sorted([first[0:2], first[2:4], first[4:6]])
    assert fed.waited == 0
    np.testing.assert_array_equal(fed(ORDER[4:6], 0, 0).loss, X[ORDER[4:6]].astype(np.float32).sum((1, 2, 3, 4)))
    assert len(settled(gathered, 3)) == 3


def test_of_a_shared_batch_a_process_brings_its_part() -> None:
    gathered: list[list[int]] = []

    def decode(places: np.ndarray, out: np.ndarray) -> None:
        gathered.append(places.tolist())
        out[:] = X[places]

    stub: Any = Stub()
    stub.group = Group(1, 2)
    fed = Streamed(stub, lazy(X, decode), Y, batch_size=2, capacity=10, xla=False, max_skipped=5, block_bytes=4 * ITEM)
    fed.announce(ORDER[4:6])
    fed.bring(ORDER[:4])
    mine = [ORDER[start : start + 2, 2:].ravel().tolist() for start in (0, 2, 4)]
    assert settled(gathered, 3) == sorted(mine)


def test_what_cannot_be_decoded_ends_the_call() -> None:
    def decode(places: np.ndarray, out: np.ndarray) -> None:
        if ORDER[7, 2] in places:
            raise DataError("folder:x: a/7.png is damaged")
        out[:] = X[places]

    _, streamed = make(Streamed, "float32", lazy(X, decode))
    with pytest.raises(DataError, match=r"^folder:x: a/7\.png is damaged$"):
        streamed(ORDER, 0, 0)


# --- the choice -------------------------------------------------------------------------------------------------------

GIB = 2**30


def gpu(memory: int | None) -> Device:
    return Device("GPU", "NVIDIA", (9, 0), memory, True, True, 16)


class Sized:
    """Stands for an array of so many bytes."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


@pytest.mark.parametrize(
    ("mode", "size", "device", "resident", "reason"),
    [
        ("auto", 150_000_000, gpu(80 * GIB), True, "resident: 150.00 MB of 80.0 GiB"),
        ("auto", 31 * GIB, gpu(80 * GIB), True, "resident: 33.29 GB of 80.0 GiB"),
        ("auto", 32 * GIB, gpu(80 * GIB), False,
         "streamed: 34.36 GB of 80.0 GiB, more than the 40% that the training set may take"),
        ("auto", 32 * GIB, gpu(None), True, "resident: 34.36 GB"),
        ("auto", 32 * GIB, cpu(), True, "resident: 34.36 GB of"),
        ("streamed", 9, cpu(), False, "streamed: train.feed is streamed; 9 bytes of"),
        ("resident", 70 * GIB, gpu(80 * GIB), True, "resident: train.feed is resident; 75.16 GB of 80.0 GiB"),
    ],
)  # fmt: skip
def test_the_choice(
    mode: Any, size: int, device: Device, resident: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tf.config.experimental, "get_memory_info", lambda name: {"current": GIB // 2})
    x: Any = Sized(size)
    chosen, said = choose.choose(mode, x, device)
    assert chosen == resident
    assert said.startswith(reason)


def test_what_is_in_use_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config.experimental, "get_memory_info", lambda name: {"current": 41 * GIB})
    x: Any = Sized(16 * GIB)
    assert not choose.choose("auto", x, gpu(80 * GIB))[0]


@pytest.mark.parametrize("mode", ["auto", "streamed"])
def test_encoded_images_are_streamed(mode: Any) -> None:
    resident, reason = choose.choose(mode, lazy(X), cpu())
    assert not resident
    assert reason == "streamed: images are decoded while training goes on, 1.44 kB of them"


def test_encoded_images_cannot_be_resident() -> None:
    with pytest.raises(ConfigError, match=r"train\.feed is resident .* accepted: streamed or auto"):
        choose.choose("resident", lazy(X), cpu())


def test_the_feed_that_is_made_says_how_it_streams() -> None:
    step, _ = make(Resident, "float32")
    settings = {"batch_size": 4, "capacity": 10, "xla": False, "max_skipped": 5}
    made, reason = choose.make("streamed", step, X, Y, None, cpu(), **settings)
    assert isinstance(made, Streamed)
    assert reason.endswith("; 10 steps, 1.44 kB, at a time")
    made, reason = choose.make("auto", step, X, Y, None, cpu(), **settings)
    assert isinstance(made, Resident)
    assert reason == f"resident: 1.44 kB of {(cpu().memory_bytes or 0) / GIB:.1f} GiB"


# --- whole runs -------------------------------------------------------------------------------------------------------

NET = """
import keras
from keras import layers


def build(*, input_shape, num_classes):
    image = keras.Input(input_shape)
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3)(image)))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(num_classes)(x))
"""


def trainer(folder: Path, feed_name: str, x: Any = X, **data: Any) -> Trainer:
    """Ten steps an epoch, four a call, in blocks of two where they are streamed."""
    (folder / "net.py").write_text(NET)
    made = config.Pipeline.model_validate(
        {
            "name": "job",
            "seed": 5,
            "model": {"build": "net.py:build"},
            "data": {"source": "made here", "augment": {"flip": "random", "crop": 1, "cutout": 2}, **data},
            "train": {
                "epochs": 4,
                "checkpoint_seconds": 0,
                "batch_size": 4,
                "optimizer": {"learning_rate": 0.05, "ema_momentum": 0.8},
                "accumulate": 2,
                "feed": feed_name,
            },
            "precision": {"policy": "float32"},
        }
    )
    splits = Splits(x, Y, X[:8], Y[:8], X[8:20], Y[8:20], 3, (6, 6, 1), ("a", "b", "c"), "made here")
    goal = objective(made)
    builder = Builder(made.model, folder, input_shape=splits.input_shape, task=goal.task)
    t = Trainer(Job(made, splits, Preprocess.fit("standardize", x), builder, goal), cpu())
    t.program.rows = 4
    return t


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    init = Streamed.__init__
    monkeypatch.setattr(Streamed, "__init__", lambda self, *a, **k: init(self, *a, **k, block_bytes=8 * ITEM))


@pytest.mark.usefixtures("small_blocks")
def test_a_killed_run_is_taken_up_by_either_feed(tmp_path: Path) -> None:
    whole = trainer(tmp_path, "resident")
    (tmp_path / "whole").mkdir()
    expected = run_training(whole, tmp_path / "whole", quiet())
    for number, (before, after) in enumerate(
        [("streamed", "streamed"), ("resident", "streamed"), ("streamed", "auto")]
    ):
        run = tmp_path / str(number)
        run.mkdir()
        with pytest.raises(Stopped):
            run_training(trainer(tmp_path, before), run, StopAfter(2))
        second = trainer(tmp_path, after, lazy(X) if after == "auto" else X)
        assert second.program.feed_reason.startswith("streamed: ")
        result = run_training(second, run, quiet(), resume=True)
        assert equal(values(second), values(whole))
        assert [row.loss for row in result.epochs] == [row.loss for row in expected.epochs]
        assert [row.val_metrics for row in result.epochs] == [row.val_metrics for row in expected.epochs]
        assert all(row.waited is not None and 0 <= row.waited <= 1 for row in result.epochs)
    assert [row.waited for row in expected.epochs] == [0.0] * 4


@pytest.mark.usefixtures("small_blocks")
def test_a_run_gathers_each_block_once_and_the_next_epoch_before_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered: list[list[int]] = []

    def decode(places: np.ndarray, out: np.ndarray) -> None:
        gathered.append(places.tolist())
        out[:] = X[places]

    t = trainer(tmp_path, "auto", lazy(X, decode))
    gathered.clear()
    at_epochs_end: list[int] = []

    def scores(x: np.ndarray, y: np.ndarray, weight: np.ndarray | None, group: Group) -> tuple[float, dict[str, float]]:
        settled(gathered, 5 + 5 * len(at_epochs_end) + 2)
        at_epochs_end.append(len(gathered))
        return 1.0, {"accuracy": 0.0}

    monkeypatch.setattr(t.evaluator, "scores", scores)
    (tmp_path / "run").mkdir()
    run_training(t, tmp_path / "run", quiet())
    wanted = [t.program.order(epoch)[i : i + 2].ravel().tolist() for epoch in range(4) for i in range(0, 10, 2)]
    assert sorted(gathered) == sorted(wanted)
    assert at_epochs_end == [7, 12, 17, 20]  # two blocks of the next epoch are on their way; the last has none


def test_the_feed_is_told_before_training(tmp_path: Path) -> None:
    stream = io.StringIO()
    t = trainer(tmp_path, "streamed")
    train._device_truth(t, Progress(stream))
    lines = stream.getvalue().splitlines()
    assert f"feed       {t.program.feed_reason}" in lines
    assert t.program.feed_reason.startswith("streamed: train.feed is streamed; 1.44 kB of ")


def test_other_images_than_those_trained_on_are_not_taken_up(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    t = trainer(tmp_path, "resident")
    run_training(t, run, quiet())
    found = checkpoint.load(run)
    assert found is not None
    assert found.record["preprocess"] == t.job.preprocess.to_dict()
    other = trainer(tmp_path, "resident", X // 2, decode="eager")
    for take_up in (lambda: run_training(other, run, quiet(), resume=True), lambda: restore_run(other.job, run)):
        with pytest.raises(
            ResumeError, match=r"its inputs had mean \[.*set data\.decode in .*pipeline\.yaml"
        ) as caught:
            take_up()
        assert "\n" not in str(caught.value)
    assert len(restore_run(trainer(tmp_path, "resident", X, decode="eager").job, run).epochs) == 4
