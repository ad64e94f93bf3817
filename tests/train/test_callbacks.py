"""Keras callbacks round a training: when they are called, what they see, what they may change, and what is refused."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from train_helpers import classes, objective

from tfhalf import config
from tfhalf.data import Preprocess, Splits
from tfhalf.errors import ConfigError, RefError, ResumeError, TfhalfError
from tfhalf.progress import Progress
from tfhalf.system.device import cpu
from tfhalf.train.build import Builder
from tfhalf.train.callbacks import Callbacks
from tfhalf.train.job import Job
from tfhalf.train.loop import run_training
from tfhalf.train.record import checkpoint
from tfhalf.train.restore import restore_run
from tfhalf.train.result import TrainResult
from tfhalf.train.trainer import Trainer

pytestmark = pytest.mark.slow  # it trains

FILES = '''
import json
import keras
import numpy as np
from keras import layers


def build(*, input_shape, num_classes):
    image = keras.Input(input_shape)
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, name="conv")(image))
    return keras.Model(image, layers.Dense(num_classes, name="head")(layers.GlobalAveragePooling2D()(x)))


class Told(keras.callbacks.Callback):
    """Writes down each call, and the weights at each epoch's end."""

    def __init__(self, file, stop_at=None, made=None):
        super().__init__()
        self.file, self.stop_at = file, stop_at
        if made:
            with open(made, "w"):
                pass

    def tell(self, *what):
        with open(self.file, "a") as file:
            file.write(json.dumps(what) + "\\n")

    def on_train_begin(self, logs=None):
        inner = self.model.optimizer.inner_optimizer
        self.tell("begin", self.params, int(inner.iterations), self.model.stop_training)

    def on_epoch_begin(self, epoch, logs=None):
        self.tell("epoch", epoch)

    def on_epoch_end(self, epoch, logs=None):
        self.tell("end of epoch", epoch, logs)
        np.savez(f"{self.file}.{epoch}", *self.model.get_weights())
        if epoch == self.stop_at:
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        self.tell("end", logs)


class Batches(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise AssertionError


class Scores(keras.callbacks.Callback):
    """Gives those behind it values to go by."""

    def __init__(self, scores, name="score"):
        super().__init__()
        self.scores, self.name = scores, name

    def on_epoch_end(self, epoch, logs=None):
        logs[self.name] = self.scores[epoch]


class Fails(keras.callbacks.Callback):
    def __init__(self, where):
        super().__init__()
        setattr(self, where, self.fail)

    def fail(self, *_, **__):
        raise KeyError("no such thing")


class Sets(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.optimizer.learning_rate = 0.25


def halves():
    return keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.4 / 2**epoch)


def batches_too():
    return keras.callbacks.LambdaCallback(on_epoch_end=print, on_train_batch_begin=print)


class Zeros(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.model.get_layer("head").kernel.assign(self.model.get_layer("head").kernel * 0 + 3)


def number():
    return 7


def broken():
    raise OSError("no disk")


def leaves():
    raise SystemExit(0)
'''
KEYS = {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "loss_scale", "images_per_s"}


def trainer(
    folder: Path, *callbacks: dict[str, Any] | str, validation: int = 8, policy: str = "mixed_float16", **train: Any
) -> Trainer:
    (folder / "my.py").write_text(FILES)
    listed = [{"build": one} if isinstance(one, str) else one for one in callbacks]
    values = {
        "name": "job",
        "model": {"build": "my.py:build"},
        "data": {"source": "made here"},
        "train": {"epochs": 4, "batch_size": 8, "optimizer": {"learning_rate": 0.05}, "callbacks": listed, **train},
        "precision": {"policy": policy},
    }
    pipe = config.Pipeline.model_validate(values)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 6, 6, 1)).astype(np.uint8), (np.arange(60) % 3).astype(np.int32)
    parts = x[:40], y[:40], x[40 : 40 + validation], y[40 : 40 + validation], x[48:], y[48:]
    data = Splits(*parts, 3, (6, 6, 1), ("a", "b", "c"), "made here")
    goal = objective(pipe)
    builder = Builder(pipe.model, folder, input_shape=(6, 6, 1), task=goal.task)
    return Trainer(Job(pipe, data, Preprocess.fit("standardize", data.x_train), builder, goal), cpu())


def run(t: Trainer, folder: Path, resume: bool = False) -> tuple[TrainResult, str]:
    stream = io.StringIO()
    (folder / "run").mkdir(exist_ok=True)
    return run_training(t, folder / "run", Progress(stream), resume=resume), stream.getvalue()


def told(folder: Path) -> list[list[Any]]:
    return [json.loads(line) for line in (folder / "told").read_text().splitlines()]


def weights_after(folder: Path, epoch: int) -> list[np.ndarray]:
    """The model's at the end of ``epoch``, from 0."""
    with np.load(folder / f"told.{epoch}.npz") as data:
        return [data[name] for name in data.files]


def values(t: Trainer) -> list[np.ndarray]:
    return [np.asarray(v).copy() for v in [*t.state.model.variables, *t.state.optimizer.variables]]


def equal(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


def tells(folder: Path, **args: Any) -> dict[str, Any]:
    return {"build": "my.py:Told", "args": {"file": str(folder / "told"), **args}}


# --- called -----------------------------------------------------------------------------------------------------------


def test_calls_and_what_they_are_given(tmp_path: Path) -> None:
    t = trainer(tmp_path, tells(tmp_path, made=str(tmp_path / "made")), epochs=2)
    t.program.compile()
    t.program.measure_step(patience=0.01)
    assert not (tmp_path / "made").exists()  # nothing is made before training
    result, text = run(t, tmp_path)
    begin, *calls = told(tmp_path)
    assert begin == ["begin", {"epochs": 2, "steps": 5, "verbose": 0}, 0, False]
    assert [call[0] for call in calls] == ["epoch", "end of epoch", "epoch", "end of epoch", "end"]
    assert [call[1] for call in calls[:4]] == [0, 0, 1, 1]
    for row, call in zip(result.epochs, (calls[1], calls[3]), strict=True):
        assert set(call[2]) == KEYS
        assert call[2] == {key: row.to_dict()[key] for key in KEYS}
    assert calls[4][1] == calls[3][2]
    assert text.splitlines()[-1].endswith("done")
    assert not hasattr(t.state.model, "optimizer")
    assert not hasattr(t.state.model, "stop_training")


def test_without_a_validation_part(tmp_path: Path) -> None:
    run(trainer(tmp_path, tells(tmp_path), validation=0, epochs=1), tmp_path)
    assert set(told(tmp_path)[2][2]) == KEYS - {"val_loss", "val_accuracy"}


def test_callbacks_that_only_look_on_change_nothing(tmp_path: Path) -> None:
    plain, watched = trainer(tmp_path), trainer(tmp_path, tells(tmp_path))
    run(plain, tmp_path)
    run(watched, tmp_path)
    assert equal(values(plain), values(watched))


def test_a_callback_may_set_weights_before_training(tmp_path: Path) -> None:
    lookahead = {"learning_rate": 1e-30, "lookahead": {"every": 100}}
    t = trainer(tmp_path, "my.py:Zeros", epochs=1, optimizer=lookahead)
    run(t, tmp_path)
    assert (np.asarray(t.state.model.get_layer("head").kernel) == 3).all()


def test_a_resumed_run_starts_them_anew(tmp_path: Path) -> None:
    args = {"factor": 0.5, "patience": 1, "monitor": "score"}
    listed = [
        {"build": "my.py:Scores", "args": {"scores": [1, 1, 1, 1]}},
        {"build": "keras.callbacks:ReduceLROnPlateau", "args": {**args, "mode": "min"}},
        tells(tmp_path),
    ]

    class StopAfterThree(Progress):
        def line(self, text: str = "", always: bool = False) -> None:
            if text.startswith("    3/"):
                raise InterruptedError

    (tmp_path / "run").mkdir()
    with pytest.raises(InterruptedError):
        run_training(trainer(tmp_path, *listed, checkpoint_seconds=0), tmp_path / "run", StopAfterThree(io.StringIO()))
    again = trainer(tmp_path, *listed)
    run(again, tmp_path, resume=True)
    rates = [call[2]["learning_rate"] for call in told(tmp_path) if call[0] == "end of epoch"]
    # Halved after the second and the third epoch, and so saved.
    assert rates == pytest.approx([0.05, 0.05, 0.025, 0.0125])
    calls = [call[:2] for call in told(tmp_path)]
    assert [call[0] for call in calls].count("begin") == 2
    assert calls[-3:-1] == [["epoch", 3], ["end of epoch", 3]]


# --- training that a callback ends ------------------------------------------------------------------------------------


def stopping(folder: Path) -> list[dict[str, Any]]:
    """The second epoch is the best; two later, training ends after the fourth of six."""
    stop = {"monitor": "score", "mode": "max", "patience": 2, "restore_best_weights": True}
    return [
        {"build": "my.py:Scores", "args": {"scores": [0.5, 0.9, 0.6, 0.7, 0.8, 0.8]}},
        {"build": "keras.callbacks:EarlyStopping", "args": stop},
        tells(folder),
    ]


@pytest.mark.parametrize("average", [{}, {"ema_momentum": 0.9}, {"lookahead": {"every": 3}}])
def test_early_stopping(tmp_path: Path, average: dict[str, Any]) -> None:
    more = {"epochs": 6, "optimizer": {"learning_rate": 0.05, **average}}
    t = trainer(tmp_path, *stopping(tmp_path), **more)
    result, text = run(t, tmp_path)
    assert [row.epoch for row in result.epochs] == [1, 2, 3, 4]
    assert text.splitlines()[-1] == "ended after epoch 4 of 6: a callback set model.stop_training"
    assert text.splitlines()[-2].endswith("done")
    assert equal(t.state.model.get_weights(), weights_after(tmp_path, 1))  # of the best epoch, whatever was averaged
    assert not equal(t.state.model.get_weights(), weights_after(tmp_path, 3))
    assert result.model is t.state.model

    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    found = checkpoint.load(tmp_path / "run")
    assert found is not None
    assert (found.record["epochs_done"], found.record["ended"], len(found.record["rows"])) == (4, True, 4)

    calls = len(told(tmp_path))
    other = trainer(tmp_path, *stopping(tmp_path), **more)
    restored = restore_run(other.job, tmp_path / "run")
    assert restored.epochs == result.epochs
    assert equal(restored.model.get_weights(), t.state.model.get_weights())
    third = trainer(tmp_path, *stopping(tmp_path), **more)
    again, text = run(third, tmp_path, resume=True)
    assert again.epochs == result.epochs
    assert equal(values(third), values(t))
    assert text == "resumed after epoch 4 of 6\n"
    assert len(told(tmp_path)) == calls  # training was over: nobody is called


def test_a_callback_of_ones_own_ends_training(tmp_path: Path) -> None:
    t = trainer(tmp_path, tells(tmp_path, stop_at=0))
    result, text = run(t, tmp_path)
    assert len(result.epochs) == 1
    assert "ended after epoch 1 of 4" in text
    assert told(tmp_path)[-1][0] == "end"
    assert equal(t.state.model.get_weights(), weights_after(tmp_path, 0))


def test_the_direction_of_an_accuracy_is_known(tmp_path: Path) -> None:
    """Keras looks it up in the metrics of a compiled model, which there is none of."""
    stop = {"build": "keras.callbacks:EarlyStopping", "args": {"monitor": "val_accuracy"}}
    for scores, expected in (([0.1, 0.2, 0.3, 0.4], 4), ([0.4, 0.3, 0.2, 0.1], 2)):
        rigged = {"build": "my.py:Scores", "args": {"scores": scores, "name": "val_accuracy"}}
        assert len(run(trainer(tmp_path, rigged, stop), tmp_path)[0].epochs) == expected


def test_training_stops_where_the_validation_loss_stops_falling(tmp_path: Path) -> None:
    """`EarlyStopping` as it comes monitors ``val_loss``; one epoch's patience, and a loss that cannot fall so far."""
    stop = {"build": "keras.callbacks:EarlyStopping", "args": {"min_delta": 100.0, "patience": 1}}
    result, text = run(trainer(tmp_path, stop), tmp_path)
    assert len(result.epochs) == 2
    assert "ended after epoch 2 of 4" in text
    for row in result.epochs:
        assert row.val_loss is not None
        assert 0 < row.val_loss < 100


def test_a_failure_at_the_end_leaves_a_run_to_be_resumed(tmp_path: Path) -> None:
    fails = {"build": "my.py:Fails", "args": {"where": "on_train_end"}}
    with pytest.raises(RefError, match="on_train_end fails"):
        run(trainer(tmp_path, fails, checkpoint_seconds=0), tmp_path)
    with pytest.raises(ResumeError, match="finish it first"):
        restore_run(trainer(tmp_path, fails).job, tmp_path / "run")
    found = checkpoint.load(tmp_path / "run")
    assert found is not None
    assert found.record["epochs_done"] == 4


# --- the learning rate ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["mixed_float16", "float32"])
def test_a_learning_rate_that_is_set_is_what_steps_take(tmp_path: Path, policy: str) -> None:
    result, _ = run(trainer(tmp_path, "my.py:halves", epochs=2, policy=policy), tmp_path)
    assert [row.learning_rate for row in result.epochs] == pytest.approx([0.4, 0.2])
    plain = {"epochs": 2, "policy": policy, "optimizer": {"learning_rate": 0.4, "momentum": 0.0}}
    kept, halved = (trainer(tmp_path, *names, **plain) for names in ((), ("my.py:halves",)))
    run(kept, tmp_path)
    run(halved, tmp_path)
    assert not equal(kept.state.model.get_weights(), halved.state.model.get_weights())


SCHEDULED = {"name": "cosine"}, {"name": "constant", "warmup_epochs": 1.0}


@pytest.mark.parametrize("schedule", SCHEDULED)
@pytest.mark.parametrize(
    ("callback", "epochs"),
    [
        ({"build": "keras.callbacks:ReduceLROnPlateau", "args": {"monitor": "loss"}}, 0),
        ({"build": "my.py:halves"}, 0),
        ({"build": "my.py:Sets"}, 1),
    ],
)
def test_a_schedule_leaves_no_learning_rate_to_set(
    tmp_path: Path, schedule: dict[str, Any], callback: dict[str, Any], epochs: int
) -> None:
    with pytest.raises(ConfigError) as caught:
        run(trainer(tmp_path, callback, tells(tmp_path), schedule=schedule), tmp_path)
    assert str(caught.value) == (
        "train.callbacks: a callback sets the learning rate, which follows train.schedule; only schedule 'constant' "
        "without warmup_epochs leaves it to callbacks, which then set it to a number"
    )
    seen = told(tmp_path) if (tmp_path / "told").exists() else []
    assert sum(call[0] == "epoch" for call in seen) == epochs  # Keras' own are told before the first


def test_a_learning_rate_is_a_number(tmp_path: Path) -> None:
    t = trainer(tmp_path)
    with pytest.raises(ConfigError, match="which then set it to a number"):
        t.state.optimizer.learning_rate = keras.optimizers.schedules.CosineDecay(0.1, 10)
    t.state.optimizer.learning_rate = np.float32(0.5)
    assert float(t.state.optimizer.learning_rate) == 0.5


# --- Keras' own -------------------------------------------------------------------------------------------------------


def test_keras_own_callbacks(tmp_path: Path) -> None:
    file = str(tmp_path / "{epoch}-{val_accuracy:.2f}.keras")
    t = trainer(
        tmp_path,
        {"build": "keras.callbacks:ModelCheckpoint", "args": {"filepath": file}},
        {
            "build": "keras.callbacks:ModelCheckpoint",
            "args": {
                "filepath": str(tmp_path / "best.weights.h5"),
                "save_best_only": True,
                "save_weights_only": True,
                "monitor": "val_accuracy",
            },
        },
        {"build": "keras.callbacks:CSVLogger", "args": {"filename": str(tmp_path / "log.csv")}},
        {"build": "keras.callbacks:TensorBoard", "args": {"log_dir": str(tmp_path / "board"), "histogram_freq": 1}},
        "keras.callbacks:LambdaCallback",
        "keras.callbacks:History",
        epochs=2,
    )
    result, text = run(t, tmp_path)
    assert "callbacks" not in text
    assert (tmp_path / "best.weights.h5").is_file()

    saved = keras.models.load_model(tmp_path / f"2-{result.epochs[1].val_metrics['accuracy']:.2f}.keras")
    assert equal(saved.get_weights(), t.state.model.get_weights())
    with (tmp_path / "log.csv").open(newline="") as lines:
        table = list(csv.DictReader(lines))
    assert [float(row["loss"]) for row in table] == [row.loss for row in result.epochs]
    assert [row["epoch"] for row in table] == ["0", "1"]
    tags: dict[str, list[int]] = {}
    for part in ("train", "validation"):
        (events,) = (tmp_path / "board" / part).iterdir()
        for record in tf.data.TFRecordDataset(str(events)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                tags.setdefault(f"{part}/{value.tag}", []).append(event.step)
    assert tags["train/epoch_loss"] == tags["validation/epoch_accuracy"] == [0, 1]
    assert any("kernel" in tag and "histogram" in tag for tag in tags), tags


def test_hooks_of_batches_are_told_to_be_deaf(tmp_path: Path) -> None:
    t = trainer(
        tmp_path,
        "my.py:Batches",
        "my.py:batches_too",
        {"build": "keras.callbacks:ModelCheckpoint", "args": {"filepath": str(tmp_path / "a.keras"), "save_freq": 3}},
        "keras.callbacks:TerminateOnNaN",
        tells(tmp_path),
        epochs=1,
    )
    lines = [line for line in run(t, tmp_path)[1].splitlines() if line.startswith("callbacks")]
    why = "not called, because many steps run as one program"
    assert lines == [
        f"callbacks  my.py:Batches: on_train_batch_end: {why}",
        f"callbacks  my.py:batches_too: on_train_batch_begin: {why}",
        f"callbacks  keras.callbacks:ModelCheckpoint: on_train_batch_end: {why}",
        f"callbacks  keras.callbacks:TerminateOnNaN: on_batch_end: {why}",
    ]


# --- refused ----------------------------------------------------------------------------------------------------------

EARLY: list[tuple[dict[str, Any], type[TfhalfError], str]] = [
    ({"build": "my.py:nothing"}, RefError, "'my.py:nothing': my.py has no 'nothing'"),
    ({"build": "keras.callbacks:EarlyStoping"}, RefError, "did you mean 'EarlyStopping'?"),
    (
        {"build": "keras.layers:Dense", "args": {"units": 3}},
        RefError,
        "keras.layers:Dense is the class Dense, accepted: a",
    ),
    (
        {"build": "keras.callbacks:EarlyStopping", "args": {"patince": 3}},
        ConfigError,
        "keras.callbacks:EarlyStopping: got an unexpected keyword argument 'patince' (accepted: monitor, min_delta, ",
    ),
    (
        {"build": "my.py:Scores"},
        ConfigError,
        "my.py:Scores: missing a required argument: 'scores' (accepted: scores, name)",
    ),
    ({"build": "my.py:number", "args": {"a": 1}}, ConfigError, "unexpected keyword argument 'a' (accepted: none)"),
]


@pytest.mark.parametrize(("callback", "kind", "message"), EARLY)
def test_refused_before_anything_is_built(
    tmp_path: Path, callback: dict[str, Any], kind: type[TfhalfError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        trainer(tmp_path, callback)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


MONITORED = (
    "accepted: loss, accuracy, val_loss, val_accuracy, learning_rate, loss_scale, images_per_s; set args.monitor"
)
LATE: list[tuple[dict[str, Any], type[TfhalfError], str]] = [
    ({"build": "my.py:number"}, RefError, "my.py:number returned a int, accepted: a keras.callbacks.Callback"),
    ({"build": "my.py:broken"}, RefError, "my.py:broken fails: OSError: no disk"),
    ({"build": "my.py:leaves"}, RefError, "my.py:leaves fails: SystemExit: 0 (raised at my.py:"),
    (
        {"build": "keras.callbacks:ModelCheckpoint", "args": {"filepath": "a"}},
        RefError,
        "keras.callbacks:ModelCheckpoint fails: ValueError: The filepath provided must end in `.keras`",
    ),
    (
        {"build": "keras.callbacks:EarlyStopping", "args": {"monitor": "val_acc"}},
        ConfigError,
        f"keras.callbacks:EarlyStopping: received monitor 'val_acc', {MONITORED}",
    ),
    (
        {"build": "keras.callbacks:EarlyStopping", "args": {"monitor": "loss_scale"}},
        RefError,
        "keras.callbacks:EarlyStopping: on_epoch_end fails: ValueError: EarlyStopping callback received monitor=",
    ),
    *(
        (
            {"build": "my.py:Fails", "args": {"where": hook}},
            RefError,
            f"my.py:Fails: {hook} fails: KeyError: 'no such thing'",
        )
        for hook in ("set_model", "on_train_begin", "on_epoch_begin", "on_epoch_end", "on_train_end")
    ),
]


@pytest.mark.parametrize(("callback", "kind", "message"), [one for one in LATE if "on_epoch" not in one[2]][:5])
def test_check_refuses_what_training_would(
    tmp_path: Path, callback: dict[str, Any], kind: type[TfhalfError], message: str
) -> None:
    (tmp_path / "my.py").write_text(FILES)
    found = Callbacks([config.Callback(**callback)], tmp_path, classes().metrics)
    with pytest.raises(kind) as caught:
        found.check(keras.optimizers.SGD(), validation=True)
    assert str(caught.value).startswith(f"train.callbacks: {message}")


def test_check_tells_what_is_never_called(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(
        FILES + "\n\ndef waits():\n    return keras.callbacks.LambdaCallback(on_train_batch_end=print)\n"
    )
    (line,) = Callbacks([config.Callback(build="my.py:waits")], tmp_path, classes().metrics).check(
        keras.optimizers.SGD(), validation=False
    )
    assert line.startswith("my.py:waits: on_train_batch_end: not called")
    assert not (tmp_path / "told").exists()


@pytest.mark.parametrize(("callback", "kind", "message"), LATE)
def test_refused_in_one_line(tmp_path: Path, callback: dict[str, Any], kind: type[TfhalfError], message: str) -> None:
    t = (
        trainer(tmp_path, tells(tmp_path), callback, epochs=1)
        if "Early" not in message
        else trainer(tmp_path, callback)
    )
    with pytest.raises(kind) as caught:
        run(t, tmp_path)
    assert str(caught.value).startswith(f"train.callbacks: {message}")
    assert "\n" not in str(caught.value)
    assert not hasattr(t.state.model, "optimizer")


def test_nothing_to_monitor_without_a_validation_part(tmp_path: Path) -> None:
    for name in ("val_accuracy", "val_loss"):
        stop = {"build": "keras.callbacks:EarlyStopping", "args": {"monitor": name}}
        with pytest.raises(ConfigError, match=rf"monitor '{name}'.*; set args\.monitor, or data\.validation"):
            run(trainer(tmp_path, stop, validation=0), tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5", "train.callbacks: received 5, accepted: a list, each a mapping with keys build, args"),
        ("[{args: {}}]", "train.callbacks[0].build: is needed and missing; it is text of at least 3 characters"),
        ("[{build: 'a.py:b', arg: 1}]", "train.callbacks[0].arg: unknown key 'arg'; did you mean 'args'?"),
        ("['a.py:b']", "train.callbacks[0]: received 'a.py:b', accepted: a mapping with keys build, args"),
    ],
)
def test_sections_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(f"name: a\nmodel: {{build: m.py:b}}\ndata: {{source: 's.py:l'}}\ntrain: {{callbacks: {text}}}")
    with pytest.raises(ConfigError) as caught:
        config.load_pipeline(file)
    assert message in str(caught.value)
