"""A learning rate that falls where training gets no better, in a run of its own and in one that was stopped."""

from __future__ import annotations

from pathlib import Path

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from train_helpers import equal, quiet, timeless
from train_loops import NET, StopAfter, Stopped, run_folder, said, trainer, values

from tfhalf.config import Schedule
from tfhalf.train.loop import run_training
from tfhalf.train.plateau import falls

FALLING = {"name": "plateau", "patience": 1, "factor": 0.5, "least": 0.2}
SCORES = st.lists(st.floats(-2, 2).map(lambda x: round(x, 1)), min_size=1, max_size=25)


@settings(max_examples=30)
@given(SCORES, st.integers(1, 4))
def test_it_falls_when_keras_would_have_it_fall(scores: list[float], patience: int) -> None:
    """Against `keras.callbacks.ReduceLROnPlateau`, epoch by epoch."""
    callback = keras.callbacks.ReduceLROnPlateau("score", factor=0.5, patience=patience, mode="max", min_delta=0.0)

    class Model:
        optimizer = keras.optimizers.SGD(1.0)

    callback.set_model(Model())
    callback.on_train_begin()
    rate = 1.0
    Model.optimizer.learning_rate = 1.0
    for epoch, score in enumerate(scores):
        callback.on_epoch_end(epoch, {"score": score})
        after = float(Model.optimizer.learning_rate.numpy())
        falling = falls(scores[: epoch + 1], Schedule(name="plateau", patience=patience))
        assert (epoch + 1 in falling) == (after < rate)
        rate = after


def test_the_warm_up_counts_for_nothing_but_the_best() -> None:
    config = Schedule(name="plateau", patience=2, warmup_epochs=3)
    assert falls([5, 1, 1, 1], config) == ()
    assert falls([5, 1, 1, 1, 1], config) == (5,)
    assert falls([1, float("nan"), float("nan"), float("nan"), float("nan")], config) == (5,)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [{"learning_rate": 1e-9}, {"learning_rate": 1e-9, "name": "adam"}])
def test_a_run_that_gets_no_better(tmp_path: Path, optimizer: dict[str, object]) -> None:
    """With a rate too low to change anything it falls after the second epoch and each one after it, to the least; and
    one that was stopped goes on the same way."""
    (tmp_path / "net.py").write_text(NET)
    changes = {"train__schedule": FALLING, "train__epochs": 6, "train__optimizer": optimizer}
    whole = trainer(tmp_path, **changes)
    progress, stream = said()
    expected = run_training(whole, run_folder(tmp_path, "whole"), progress)
    rates = [row.learning_rate / 1e-9 for row in expected.epochs]
    assert rates == pytest.approx([1, 1, 0.5, 0.25, 0.2, 0.2], rel=1e-5)
    assert stream.getvalue().count("plateau    an epoch was no better: the learning rate is ") == 3
    run = run_folder(tmp_path, "stopped")
    with pytest.raises(Stopped):
        run_training(trainer(tmp_path, **changes), run, StopAfter(3))
    second = trainer(tmp_path, **changes)
    result = run_training(second, run, quiet(), resume=True)
    assert [timeless(row) for row in result.epochs] == [timeless(row) for row in expected.epochs]
    assert equal(values(second), values(whole))
