"""Batches that grow in training: by stages, at milestones, and where a plateau is reached."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from train_helpers import equal, quiet, timeless
from train_loops import NET, StopAfter, Stopped, pipeline, run_folder, said, trainer, values

from tfhalf import config
from tfhalf.progress import Progress
from tfhalf.train.batches import Batches
from tfhalf.train.loop import run_training
from tfhalf.train.optim.schedules import EpochSchedule

STEP = {"name": "step", "milestones": [1, 2, 3], "factor": 0.5, "decay": "batch", "max_batch_size": 16}
PLATEAU = {"name": "plateau", "patience": 1, "factor": 0.5, "decay": "batch", "max_batch_size": 32}


def train(**changes: Any) -> config.Train:
    return pipeline(**{f"train__{key}": value for key, value in changes.items()}).train


def test_a_batch_grows_at_milestones_until_its_bound_and_the_rate_falls_after() -> None:
    batches = Batches(train(schedule=STEP), 100)
    assert [batches.size(epoch) for epoch in range(4)] == [8, 16, 16, 16]
    assert batches.plan == (12, 6, 6, 6)
    assert batches.rate_schedule.milestones == (2, 3)
    assert batches.words("images") == "12 of 8 images x 1, 6 of 16 images x 3 epochs"
    assert "batches of 8, 16" in batches.lines()[0]


def test_the_default_bound_is_a_tenth_of_the_items() -> None:
    schedule = {**STEP, "max_batch_size": None}
    assert [Batches(train(schedule=schedule), 330).size(epoch) for epoch in range(4)] == [8, 16, 32, 32]
    assert Batches(train(schedule=schedule), 50).growth == 0
    assert Batches(train(schedule=schedule), 50).rate_schedule.milestones == (1, 2, 3)


def test_a_plateau_grows_as_often_as_it_is_met() -> None:
    batches = Batches(train(schedule=PLATEAU), 100)
    assert [batches.size(3, falls) for falls in range(4)] == [8, 16, 32, 32]
    assert [batches.steps(3, falls) for falls in range(4)] == [12, 6, 3, 3]
    assert list(batches.falls) == [0, 1, 2]
    assert batches.plan == (12,) * 4


def test_without_growth_all_is_as_it_was() -> None:
    batches = Batches(train(), 100)
    assert batches.plan == (12,) * 4
    assert batches.rate_schedule == train().schedule
    assert batches.words("rows") == "12 of 8 rows x 4 epochs"
    assert not batches.lines()


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        ({"name": "cosine", "decay": "batch"}, "needs the schedule 'step' or 'plateau', received 'cosine'"),
        ({"name": "step", "milestones": [2], "factor": 0.3, "decay": "batch"}, "take 0.333333"),
        ({"name": "step", "milestones": [2.5], "factor": 0.5, "decay": "batch"}, "whole epochs, received [2.5]"),
        ({"name": "step", "milestones": [2], "max_batch_size": 64}, "set decay to batch, or leave it out"),
    ],
)
def test_what_does_not_go_together_is_refused(schedule: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says.replace("[", r"\[")):
        pipeline(train__schedule=schedule)


def test_a_remedy_for_a_factor_is_taken() -> None:
    schedule = {"name": "step", "milestones": [2], "factor": 0.333333, "decay": "batch"}
    assert Batches(train(schedule=schedule), 1000).size(2) == 24


def test_two_ways_to_grow_exclude_each_other() -> None:
    stages = [{"epochs": 2}, {"epochs": 2, "batch_size": 16}]
    with pytest.raises(ValidationError, match="exclude each other: keep one"):
        pipeline(train__stages=stages, train__schedule=STEP)
    optimizer = {"lookahead": {"power": 1}}
    with pytest.raises(ValidationError, match="set power to 0, or schedule"):
        pipeline(train__schedule=PLATEAU, train__optimizer=optimizer)


def test_a_schedule_over_epochs_of_different_lengths() -> None:
    """At every step of it the rate is that of the epoch's share, whatever the epoch's length is."""
    schedule, steps = config.Schedule(name="triangular", warmup_epochs=0.5), (6, 6, 3, 1)
    rates = EpochSchedule(schedule, 0.4, steps, 4).at(np.arange(sum(steps)))
    at = [(epoch + (step + 0.5) / count) for epoch, count in enumerate(steps) for step in range(count)]
    even = EpochSchedule(schedule, 0.4, 1000, 4).at(np.asarray([round(one * 1000 - 0.5) for one in at]))
    np.testing.assert_allclose(rates, even, rtol=2e-3)
    graph = [float(EpochSchedule(schedule, 0.4, steps, 4)(step)) for step in range(sum(steps))]
    np.testing.assert_allclose(graph, rates, rtol=1e-6)


PLAIN: dict[str, Any] = {"precision__policy": "float32", "data__augment": {"flip": "none", "crop": 0}}
GROWING: dict[str, dict[str, Any]] = {
    "step": {"train__schedule": STEP},
    "stages": {
        "train__schedule": {"name": "constant"},
        "train__stages": [{"epochs": 1}, {"epochs": 2, "batch_size": 16}, {"epochs": 1, "batch_size": 12}],
    },
    "plateau": {"train__schedule": PLATEAU, "train__optimizer": {"learning_rate": 1e-9}},
}
SIZES = {"step": [8, 16, 16, 16], "stages": [8, 16, 16, 12], "plateau": [8, 8, 16, 32]}


class StopWithin(Progress):
    """Ends the run after the first step of ``epoch``, whose checkpoint is written."""

    def __init__(self, epoch: int) -> None:
        super().__init__(io.StringIO())
        self.start, self.begun = f"epoch {epoch}:", False

    def status(self, text: str) -> None:
        if self.begun and text.startswith(self.start):
            raise Stopped
        self.begun |= text.startswith(self.start)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "feed", "stop"),
    [("step", "streamed", StopAfter(2)), ("stages", "resident", StopWithin(3)), ("plateau", "streamed", StopWithin(3))],
)
def test_a_run_whose_batches_grow(tmp_path: Path, how: str, feed: str, stop: Progress) -> None:
    """It does as many steps as its batches leave, with the rate that is left to it; stopped before larger batches or
    among them, it goes on to the same weights."""
    (tmp_path / "net.py").write_text(NET)
    changes = {**PLAIN, **GROWING[how], "train__feed": feed}
    whole = trainer(tmp_path, **changes)
    items = len(whole.job.splits.x_train)
    progress, stream = said()
    expected = run_training(whole, run_folder(tmp_path, "whole"), progress)
    assert [row.steps for row in expected.epochs] == [items // size for size in SIZES[how]]
    assert int(whole.state.inner._iterations) == sum(items // size for size in SIZES[how])
    if how == "step":
        assert [row.learning_rate for row in expected.epochs[:1]] == pytest.approx([0.05])
        assert expected.epochs[-1].learning_rate == pytest.approx(0.05 / 4)
    if how == "plateau":
        assert "an epoch was no better: a batch is 16 now" in stream.getvalue()
        assert "an epoch was no better: a batch is 32 now" in stream.getvalue()
    run, first = run_folder(tmp_path, "stopped"), trainer(tmp_path, **changes)
    first.program.rows = 1
    with pytest.raises(Stopped):
        run_training(first, run, stop)
    second = trainer(tmp_path, **changes)
    result = run_training(second, run, quiet(), resume=True)
    assert [timeless(row) for row in result.epochs] == [timeless(row) for row in expected.epochs]
    assert equal(values(second), values(whole))


def test_both_feeds_train_the_same(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    trained = []
    for feed in ("resident", "streamed"):
        one = trainer(tmp_path, **PLAIN, train__schedule=STEP, train__feed=feed, train__epochs=2)
        run_training(one, run_folder(tmp_path, feed), quiet())
        trained.append(values(one))
    assert equal(*trained)
