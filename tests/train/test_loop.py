"""A whole training run: stopped and taken up again, given up when the numbers are lost, recorded, averaged."""

from __future__ import annotations

import csv
import errno
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from train_helpers import classes, equal, quiet, smoothed_cross_entropy, splits, timeless
from train_loops import NET, StopAfter, Stopped, pipeline, run_folder, said, trainer, values

from tfhalf.data import Preprocess
from tfhalf.errors import ResumeError, TrainingError
from tfhalf.system import programs
from tfhalf.system.device import float32_exactly
from tfhalf.train import program
from tfhalf.train.evaluate import Evaluator, _view
from tfhalf.train.loop import run_training
from tfhalf.train.objective import Objective
from tfhalf.train.optim.schedules import multiplier
from tfhalf.train.record import checkpoint
from tfhalf.train.record.history import Epoch, History, header
from tfhalf.train.restore import restore_run
from tfhalf.train.trainer import Trainer

pytestmark = pytest.mark.slow  # it trains


# --- taken up again ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy_name", ["mixed_float16", "float32"])
def test_a_resumed_run_equals_one_that_was_not_stopped(folder: Path, policy_name: str) -> None:
    whole = trainer(folder, precision__policy=policy_name)
    one = run_folder(folder, "whole")
    expected = run_training(whole, one, quiet())

    two = run_folder(folder, "stopped")
    first = trainer(folder, precision__policy=policy_name)
    with pytest.raises(Stopped):
        run_training(first, two, StopAfter(2))
    second = trainer(folder, precision__policy=policy_name)
    progress, stream = said()
    result = run_training(second, two, progress, resume=True)
    assert "resumed after epoch 2 of 4" in stream.getvalue()
    assert equal(values(second), values(whole))
    assert [timeless(row) for row in result.epochs] == [timeless(row) for row in expected.epochs]
    assert (result.loss_scale, result.skipped) == (expected.loss_scale, expected.skipped)
    rows = [json.loads(line) for line in (two / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]

    third = trainer(folder, precision__policy=policy_name)  # the finished run, taken up once more
    again = run_training(third, two, quiet(), resume=True)
    assert equal(values(third), values(whole))
    assert [timeless(row) for row in again.epochs] == [timeless(row) for row in expected.epochs]
    assert equal(values(trainer(folder, precision__policy=policy_name)), values(third)) is False
    fourth = trainer(folder, precision__policy=policy_name)
    restored = restore_run(fourth.job, two)
    assert equal(restored.model.get_weights(), whole.state.model.get_weights())
    assert restored.epochs == again.epochs


def test_a_run_that_had_not_ended_is_not_restored(folder: Path) -> None:
    run = run_folder(folder, "run")
    with pytest.raises(Stopped):
        run_training(trainer(folder), run, StopAfter(1))
    with pytest.raises(ResumeError, match="ended after epoch 1 of 4; finish it first: tfhalf train --resume"):
        restore_run(trainer(folder).job, run)


# --- given up ---------------------------------------------------------------------------------------------------------


def test_a_run_of_skipped_steps_is_given_up_and_the_layer_named(folder: Path) -> None:
    t = trainer(
        folder,
        model__build="net.py:build_broken",
        precision__loss_scale__max_skipped=4,
        precision__loss_scale__floor=2.0**14,
    )
    before = values(t)[: len(t.state.model.variables)]
    progress, stream = said()
    with pytest.raises(TrainingError) as caught:
        run_training(t, run_folder(folder, "run"), progress)
    message = str(caught.value)
    assert message.startswith("step 3: 4 steps in a row had a non-finite gradient (loss scale is down to 16384); ")
    assert "the first layer (from the loss) with one is 'culprit' (bias; 4 of 8); lower the learning rate" in message
    assert "precision.keep_float32" in message
    told = [line for line in stream.getvalue().splitlines() if "loss scale" in line][1:]
    assert told == [
        "      step 0: loss scale 32,768 -> 16,384 (gradient of culprit/bias not finite; step skipped)",
        "      step 1: loss scale stays 16,384 (gradient of culprit/bias not finite; step skipped)",
        "warning    step 1: the loss scale is stuck at its floor, 16,384: gradient of culprit/bias not finite, and no "
        "lower scale is left to try; lower precision.loss_scale.floor, keep that layer in float32 "
        "(precision.keep_float32), clip gradients (train.optimizer.clip_norm) or lower the learning rate",
        "      step 2: loss scale stays 16,384 (gradient of culprit/bias not finite; step skipped)",
        "      step 3: loss scale stays 16,384 (gradient of culprit/bias not finite; step skipped)",
    ]
    assert (folder / "run/loss_scale.png").is_file()
    assert equal(values(t)[: len(before)], before)


def test_a_float32_loss_that_is_not_finite_ends_the_run(folder: Path) -> None:
    t = trainer(
        folder,
        precision__policy="float32",
        train__optimizer={"learning_rate": 1e30},
        train__schedule={"name": "constant"},
        data__augment={},
    )
    with pytest.raises(TrainingError, match=r"step [12]: the loss is (nan|inf); .*; lower the learning rate, or clip"):
        run_training(t, run_folder(folder, "run"), quiet())


# --- what is recorded -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trainer, Any, str]:
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "net.py").write_text(NET)
    t = trainer(folder, train__epochs=3)
    run = run_folder(folder, "run")
    progress, stream = said()
    return run, t, run_training(t, run, progress), stream.getvalue()


def test_rows(recorded: tuple[Path, Trainer, Any, str]) -> None:
    _, t, result, text = recorded
    assert [row.epoch for row in result.epochs] == [1, 2, 3]
    for row in result.epochs:
        assert row.steps == 5
        assert 0 < row.loss < 3
        (accuracy,), (val_accuracy,) = row.metrics.values(), row.val_metrics.values()
        assert 0 <= accuracy <= 1
        assert (accuracy * 40) % 1 == pytest.approx(0, abs=1e-6)
        assert (val_accuracy * 8) % 1 == 0
        assert [*row.metrics, *row.val_metrics] == ["accuracy", "accuracy"]
        assert row.seconds > 0
        assert row.skipped == 0
    schedule = pipeline().train.schedule
    rates = [0.05 * multiplier(schedule, epoch + 0.1, 3) for epoch in (1, 2, 3)]  # of the step that comes next
    assert [row.learning_rate for row in result.epochs] == pytest.approx(rates, rel=1e-4)
    assert [row.loss_scale for row in result.epochs] == [2.0**15, 2.0**16, 2.0**17]  # 15 steps, grown every 6
    assert result.loss_scale == t.state.loss_scale() == 2.0**17
    assert "      step 5: loss scale 32,768 -> 65,536 (gradients were finite for long)" in text
    assert text.splitlines()[-1].endswith("done")


def test_the_table_says_what_is_counted() -> None:
    assert " images/s " in header(False, ())
    assert header(False, (), noun="rows").replace("  rows/s", "images/s") == header(False, ())


def test_the_table_tells_the_validation_loss(recorded: tuple[Path, Trainer, Any, str]) -> None:
    _, _, result, text = recorded
    (head,) = [line for line in text.splitlines() if line.startswith("epoch ")]
    assert " ".join(head.split()) == "epoch loss train % val loss val % images/s loss scale skipped left"
    for row in result.epochs:
        (line,) = [line for line in text.splitlines() if line.startswith(f"{row.epoch:>5}/")]
        assert line.split()[3] == f"{row.val_loss:.4f}"
        assert len(line) <= len(head) <= 100


def test_rows_of_runs_that_recorded_no_validation_loss() -> None:
    row = {"epoch": 1, "steps": 5, "loss": 1.5, "accuracy": 0.5, "val_accuracy": 0.25, "images_per_s": 9.0}
    row |= {"loss_scale": 8.0, "skipped": 0, "learning_rate": 0.1, "seconds": 2.0}
    old, columns = Epoch.from_dict(row), classes().metrics
    assert (old.metrics, old.val_metrics) == ({"accuracy": 0.5}, {"accuracy": 0.25})
    assert old.val_loss is old.waited is None
    assert old.line(3, "2.0 s", scaled=True, columns=columns).split()[1:5] == ["1.5000", "50.00", "-", "25.00"]
    assert "8" not in old.line(3, "2.0 s", scaled=False, columns=columns)  # nothing of a loss scale where there is none
    assert "scale" not in header(scaled=False, columns=columns)
    assert "wait" not in header(scaled=False, columns=columns)


def test_a_feed_that_brings_data_has_a_column_for_the_wait() -> None:
    nothing = {"loss": 1.5, "metrics": {"accuracy": 0.5}, "val_metrics": {}, "images_per_s": 12_345.0}
    facts: dict[str, Any] = {
        "epoch": 1,
        "steps": 5,
        "loss_scale": 8.0,
        "skipped": 0,
        "learning_rate": 0.1,
        "seconds": 2,
    }
    row, columns = Epoch(**nothing, **facts, waited=0.1234), classes().metrics
    for scaled in (False, True):
        head = header(scaled, columns, True)
        line = row.line(3, "2.0 s", scaled, columns, True)
        assert len(line) == len(head)
        end = head.index("waited") + len("waited")
        assert line[:end].endswith(" 12.3%")
        assert replace(row, waited=None).line(3, "2.0 s", scaled, columns, True)[:end].endswith(" -")
        assert "12.3" not in row.line(3, "2.0 s", scaled, columns)
    assert Epoch.from_dict(row.to_dict()) == row


def test_a_checkpoint_that_recorded_no_wait_is_taken_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_folder(folder, "older")
    with pytest.raises(Stopped):
        run_training(trainer(folder), run, StopAfter(2))
    load = checkpoint.load

    def older(*arguments: Any, **how: Any) -> Any:
        saved = load(*arguments, **how)
        del saved.record["waiting"]
        for row in saved.record["rows"]:
            del row["waited"]
        return saved

    monkeypatch.setattr(checkpoint, "load", older)
    result = run_training(trainer(folder), run, quiet(), resume=True)
    assert [row.waited for row in result.epochs] == [None, None, 0.0, 0.0]


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_validation_loss_is_that_of_training(folder: Path, smoothing: float) -> None:
    """With label smoothing and penalties, over images that are answered in unequal batches."""
    t = trainer(folder, train__label_smoothing=smoothing)
    t.state.model.get_layer("head").kernel.regularizer = keras.regularizers.L2(0.1)
    loss, metrics = t.validation()
    logits = t.evaluator.answers(t.job.splits.x_val)
    y = t.job.splits.y_val
    kernel = np.asarray(t.state.model.get_layer("head").kernel)
    expected = smoothed_cross_entropy(y, logits, smoothing) + 0.1 * float((kernel**2).sum())
    assert loss == pytest.approx(expected, rel=1e-5)
    assert metrics == {"accuracy": (logits.argmax(-1) == y).mean()}


@pytest.mark.filterwarnings("error")
def test_the_loss_of_logits() -> None:
    rng = np.random.default_rng(0)
    logits, y = (rng.normal(size=(20_000, 5)) * 50).astype(np.float32), rng.integers(0, 5, 20_000)
    for smoothing in (0.0, 0.1):
        loss, metrics = Objective(classes(5, smoothing)).scores(y, logits)
        assert loss == pytest.approx(smoothed_cross_entropy(y, logits, smoothing), rel=1e-5)
        assert metrics == {"accuracy": (logits.argmax(-1) == y).mean()}
    two = Objective(classes(2))
    assert two.scores(np.array([1]), np.array([[3e38, -3e38]], np.float32))[0] == np.inf
    assert np.isnan(two.scores(np.array([1]), np.array([[np.nan, 0]], np.float32))[0])


def test_history_files(recorded: tuple[Path, Trainer, Any, str]) -> None:
    run, _, result, _ = recorded
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert rows == [row.to_dict() for row in result.epochs]
    with (run / "history.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [list(row) for row in table] == [list(rows[0])] * 3
    assert [float(row["loss"]) for row in table] == [row["loss"] for row in rows]


def test_tensorboard(recorded: tuple[Path, Trainer, Any, str]) -> None:
    run, _, result, _ = recorded
    (file,) = (run / "tensorboard").iterdir()
    found: dict[str, dict[int, float]] = {}
    for record in tf.data.TFRecordDataset(str(file)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = value.simple_value
    assert found["epoch/loss"] == pytest.approx({5 * row.epoch: row.loss for row in result.epochs})
    assert found["epoch/val_loss"] == pytest.approx({5 * row.epoch: row.val_loss for row in result.epochs})
    epoch = ["loss", "accuracy", "val_loss", "val_accuracy", "images_per_s", "waited", "learning_rate"]
    epoch += ["skipped", "skipped_at_floor"]
    step = ["loss", "loss_scale", "learning_rate", "skipped", "skipped_in_row"]
    assert set(found) == {f"epoch/{name}" for name in epoch} | {f"step/{name}" for name in step}
    assert sorted(found["step/loss"]) == list(range(15))
    assert list(found["step/loss_scale"].values()) == [2.0**15] * 6 + [2.0**16] * 6 + [2.0**17] * 3
    schedule = pipeline().train.schedule
    rates = [0.05 * multiplier(schedule, (step + 0.5) / 5, 3) for step in range(15)]
    assert list(found["step/learning_rate"].values()) == pytest.approx(rates, rel=1e-4)
    assert set(found["step/skipped"].values()) == {0.0}


def test_a_full_disk_for_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, but not in the place of what had ended the run before."""

    def full(self: EventFileWriter) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(EventFileWriter, "close", full)
    with pytest.raises(OSError, match="No space left"), History(tmp_path, []):
        pass
    with pytest.raises(TrainingError, match="the loss"), History(tmp_path, []):
        raise TrainingError("the loss is nan")


@pytest.mark.parametrize("xla", ["on", "off"])
def test_a_state_that_is_held_stays_as_it_was(folder: Path, xla: str) -> None:
    t = trainer(folder, train__xla=xla)
    t.program.compile()
    before, held, small = t.state.values(), t.state.held(), t.state.to_go_back_to(t.device.memory_bytes)
    t.program.feed(t.program.order(0), 0, 0)
    assert not equal(t.state.values(), before)
    assert equal([tensor.numpy() for tensor in held], before)
    assert tf.is_tensor(small[0])
    assert isinstance(t.state.to_go_back_to(1000)[0], np.ndarray)
    t.state.restore(held)
    assert equal(t.state.values(), before)
    t.program.feed(t.program.order(0), 0, 0)
    assert equal([tensor.numpy() for tensor in held], before)


@pytest.mark.parametrize(("xla", "names", "cached"), [("on", ["p"], True), ("on", [], None), ("off", ["p"], None)])
def test_a_program_says_whether_it_came_from_the_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch, xla: str, names: list[str], cached: bool | None
) -> None:
    for module in (programs, program):
        monkeypatch.setattr(module, "program_names", lambda: frozenset(names))
    t = trainer(folder, train__xla=xla)
    assert t.program.from_cache is None
    t.program.compile()
    assert t.program.from_cache is cached


def test_no_validation_part(folder: Path) -> None:
    data = splits(validation=0)
    result = run_training(trainer(folder, data, train__epochs=1), run_folder(folder, "run"), quiet())
    assert (result.epochs[0].val_metrics, result.epochs[0].val_loss) == ({}, None)
    assert json.loads((folder / "run/history.jsonl").read_text())["val_accuracy"] is None


# --- settings that reach the numbers --------------------------------------------------------------------------------


def test_measuring_a_step_leaves_no_trace(folder: Path) -> None:
    t = trainer(folder)
    before = values(t)
    t.program.compile()
    assert equal(values(t), before)
    assert t.program.compile_seconds > 0
    assert t.program.measure_step(patience=0.05) > 0
    assert equal(values(t), before)
    other = trainer(folder)
    assert equal(values(other), before)
    one, two = (run_training(each, run_folder(folder, name), quiet()) for each, name in ((t, "a"), (other, "b")))
    assert [timeless(row) for row in one.epochs] == [timeless(row) for row in two.epochs]
    assert equal(values(t), values(other))


def test_the_seed_decides(folder: Path) -> None:
    assert not np.array_equal(trainer(folder).program.order(0), trainer(folder, seed=6).program.order(0))
    assert not equal(values(trainer(folder)), values(trainer(folder, seed=6)))


def test_every_image_once_an_epoch(folder: Path) -> None:
    t = trainer(folder)
    for epoch in range(3):
        assert sorted(t.program.order(epoch).ravel()) == list(range(40))
    assert not np.array_equal(t.program.order(0), t.program.order(1))
    odd = trainer(folder, train__batch_size=9)
    assert odd.program.order(0).shape == (4, 9)
    assert len(set(odd.program.order(0).ravel())) == 36
    assert trainer(folder, train__batch_size=1000).program.order(0).shape == (1, 40)


def test_averaged_weights_are_what_a_run_gives(folder: Path) -> None:
    t = trainer(folder, train__epochs=1)
    (kernel,) = [v for v in t.state.model.trainable_variables if v.path == "head/kernel"]
    average = None
    for i, row in enumerate(t.program.order(0)):
        t.program.feed(row[None], 0, i)
        now = np.asarray(kernel).astype(np.float64)
        average = now if average is None else 0.8 * average + 0.2 * now
    trained = trainer(folder, train__epochs=1)
    run_training(trained, run_folder(folder, "run"), quiet())
    got = np.asarray(trained.state.model.get_layer("head").kernel)
    np.testing.assert_allclose(got, average, rtol=1e-5, atol=1e-7)
    assert not np.allclose(got, now, atol=1e-5)


def test_a_frozen_variable_stays(folder: Path) -> None:
    t = trainer(
        folder, train__optimizer={"learning_rate": 0.05, "lr_multipliers": {"^conv/kernel": 0}, "ema_momentum": 0.5}
    )
    before = {v.path: np.asarray(v).copy() for v in t.state.model.trainable_variables}
    run_training(t, run_folder(folder, "run"), quiet())
    same = {v.path for v in t.state.model.trainable_variables if np.array_equal(np.asarray(v), before[v.path])}
    assert same == {"conv/kernel"}


def test_accumulation_moves_the_weights_every_nth_step(folder: Path) -> None:
    t = trainer(folder, train__accumulate=2, train__optimizer={"learning_rate": 0.05})
    kernel = t.state.model.get_layer("head").kernel
    seen = [np.asarray(kernel).copy()]
    for i, row in enumerate(t.program.order(0)):
        t.program.feed(row[None], 0, i)
        seen.append(np.asarray(kernel).copy())
    moved = [not np.array_equal(a, b) for a, b in pairwise(seen)]
    assert moved == [False, True, False, True, False]


def test_the_schedule_reaches_its_end_with_accumulation_too(folder: Path) -> None:
    result = run_training(trainer(folder, train__accumulate=2, train__epochs=2), run_folder(folder, "run"), quiet())
    expected = 0.05 * multiplier(pipeline().train.schedule, 1.1, 2)
    assert result.epochs[0].learning_rate == pytest.approx(expected, rel=1e-4)


def test_label_smoothing_reaches_the_loss(folder: Path) -> None:
    losses = []
    for smoothing in (0.0, 0.5):
        t = trainer(folder, train__label_smoothing=smoothing, data__augment={}, precision__policy="float32")
        losses.append(t.program.feed(t.program.order(0)[:1], 0, 0).loss[0])
    assert losses[0] != losses[1]


def test_training_learns(folder: Path) -> None:
    data = splits()
    t = trainer(
        folder, data, train__epochs=40, train__optimizer={"name": "adam", "learning_rate": 0.02}, data__augment={}
    )
    result = run_training(t, run_folder(folder, "run"), quiet())
    assert result.epochs[-1].loss < result.epochs[0].loss - 0.1


@pytest.mark.slow
def test_emulation_cost_is_a_ratio(folder: Path) -> None:
    t = trainer(folder)
    before = values(t)
    assert 0.05 < t.emulation_cost() < 100
    assert equal(values(t), before)


# --- evaluation -------------------------------------------------------------------------------------------------------


def evaluated(model: keras.Model, x: np.ndarray) -> np.ndarray:
    return np.asarray(model((x.astype(np.float32) - 3) / 2, training=False)).astype(np.float64)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((5, 4, 2)), layers.Conv2D(3, 3), layers.Flatten(), layers.Dense(4)])


def test_views(model: keras.Model) -> None:
    x = np.random.default_rng(0).integers(0, 20, (7, 5, 4, 2)).astype(np.uint8)
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect")
    shifts = [padded[:, :5, :4], padded[:, 2:, 2:]]
    both = lambda v: (evaluated(model, v) + evaluated(model, v[:, :, ::-1])) / 2  # noqa: E731
    expected = {
        "none": evaluated(model, x),
        "mirror": both(x),
        "mirror_shift": 0.5 * both(x) + 0.25 * both(shifts[0]) + 0.25 * both(shifts[1]),
    }
    for views, answer in expected.items():
        evaluator = Evaluator(model, Preprocess((3.0,), (2.0,)), Objective(classes(4)), batch_size=3)
        got = evaluator.answers(x, views)
        assert got.dtype == np.float32
        assert got.shape == (7, 4)
        np.testing.assert_allclose(got, answer, rtol=1e-4, atol=1e-5)
    y = expected["none"].argmax(-1)
    y[:2] = (y[:2] + 1) % 4
    evaluator = Evaluator(model, Preprocess((3.0,), (2.0,)), Objective(classes(4)))
    assert evaluator.metrics(x, y) == {"accuracy": pytest.approx(5 / 7)}


def test_float32_exactly_puts_back_what_was() -> None:
    enabled = tf.config.experimental.tensor_float_32_execution_enabled
    before = enabled()

    def fail() -> None:
        with float32_exactly():
            assert not enabled()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert enabled() == before


def test_vectors_are_not_augmented(folder: Path) -> None:
    (folder / "net.py").write_text(NET + "\n\ndef flat(*, input_shape, num_classes):\n"
        "    return keras.Sequential([keras.Input(input_shape), layers.Dense(num_classes)])\n")  # fmt: skip
    data = splits()
    flat = replace(
        data,
        x_train=data.x_train.reshape(40, 36),
        x_val=data.x_val.reshape(8, 36),
        x_test=data.x_test.reshape(12, 36),
        input_shape=(36,),
    )
    result = run_training(
        trainer(folder, flat, model__build="net.py:flat", train__epochs=1), run_folder(folder, "run"), quiet()
    )
    assert np.isfinite(result.epochs[0].loss)


@pytest.mark.parametrize("by", [-1, 1])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_shift_is_that_of_images_padded_by_reflection(by: int, mirrored: bool) -> None:
    x = np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3)).astype(np.uint8)
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], "reflect")
    shifted = padded[:, 1 + by : 7 + by, 1 + by : 6 + by]
    expected = shifted[:, :, ::-1] if mirrored else shifted
    np.testing.assert_array_equal(_view(x, by, mirrored), expected)
