"""Runs that are stopped anywhere and go on as if nothing had been; checkpoints that are damaged; training that blows
up."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from train_helpers import changed, equal, objective, quiet, splits, timeless

from tfhalf import config
from tfhalf.data import Preprocess
from tfhalf.errors import ConfigError, Interrupted, ResumeError, TrainingError
from tfhalf.progress import Progress
from tfhalf.system.device import cpu
from tfhalf.train.build import Builder
from tfhalf.train.diagnose.divergence import BlowUp
from tfhalf.train.job import Job
from tfhalf.train.loop import Epochs, run_training
from tfhalf.train.record import checkpoint
from tfhalf.train.record.history import Epoch
from tfhalf.train.restore import restore_run
from tfhalf.train.trainer import Trainer

pytestmark = pytest.mark.slow

FILES = '''
import keras
from keras import layers


class Noise(layers.Layer):
    """Draws its numbers from the seed that all of Keras shares."""

    def call(self, x, training=False):
        return x + 0.1 * keras.random.normal(keras.ops.shape(x), dtype=x.dtype) if training else x


def build(*, input_shape, num_classes, width=4):
    image = keras.Input(input_shape)
    x = layers.Conv2D(width, 3, name="conv")(image)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = Noise()(layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x)))
    return keras.Model(image, layers.Dense(num_classes, name="head")(x))


class Decays(keras.callbacks.Callback):
    """What it does when training and epochs begin is not to be done again within one."""

    def on_train_begin(self, logs=None):
        self.model.get_layer("head").kernel.assign(self.model.get_layer("head").kernel * 0.5)

    def on_epoch_begin(self, epoch, logs=None):
        self.model.optimizer.learning_rate = self.model.optimizer.learning_rate * 0.9
'''
BASE: dict[str, Any] = {
    "name": "job",
    "seed": 5,
    "model": {"build": "net.py:build"},
    "data": {"source": "made here", "augment": {"flip": "random", "crop": 1, "cutout": 2}},
    "train": {
        "epochs": 3,
        "batch_size": 8,
        "checkpoint_seconds": 0,
        "optimizer": {"learning_rate": 0.05, "weight_decay": 0.001, "clip_norm": 5.0},
        "schedule": {"name": "triangular"},
    },
    "precision": {"policy": "mixed_float16", "loss_scale": {"growth_interval": 6}},
}
STEPS = 5  # in an epoch


def pipeline(**changes: Any) -> config.Pipeline:
    """``BASE`` with ``train__epochs=4`` and the like."""
    return changed(BASE, changes)


def trainer(folder: Path, rows: int = 2, validation: int = 8, **changes: Any) -> Trainer:
    """``rows`` steps in a call."""
    (folder / "net.py").write_text(FILES)
    data, pipe = splits(validation), pipeline(**changes)
    goal = objective(pipe)
    builder = Builder(pipe.model, folder, input_shape=data.input_shape, task=goal.task)
    t = Trainer(Job(pipe, data, Preprocess.fit("standardize", data.x_train), builder, goal), cpu())
    t.program.rows = rows
    return t


def run(t: Trainer, folder: Path, resume: bool = False) -> tuple[list[dict[str, Any]], str]:
    """The rows without their times, and what was said."""
    folder.mkdir(exist_ok=True)
    stream = io.StringIO()
    result = run_training(t, folder, Progress(stream), resume=resume)
    return [timeless(row) for row in result.epochs], stream.getvalue()


def found(folder: Path) -> checkpoint.Checkpoint:
    loaded = checkpoint.load(folder)
    assert loaded is not None
    return loaded


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / checkpoint.FOLDER).iterdir())


class Killed(BaseException):
    """As sudden as a kill can be within a process."""


def kill_at(monkeypatch: pytest.MonkeyPatch, call: int, when: str = "before") -> None:
    """End the next run at its ``call``-th boundary between two calls of the feed, from 0, before or after a save; or
    within the save."""
    boundary, seen = Epochs._boundary, [0]

    def counted(self: Epochs, last: bool = False) -> None:
        seen[0] += 1
        if seen[0] <= call:
            return boundary(self, last)
        if when == "within":
            self.trainer.writer.wait()  # the save before is not the one to hit
            monkeypatch.setattr(Path, "replace", killed)
        if when != "before":
            boundary(self, last)
        raise Killed

    def killed(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(Epochs, "_boundary", counted)


# --- taken up again ---------------------------------------------------------------------------------------------------

CASES: dict[str, dict[str, Any]] = {
    "float16": {},
    "float32": {"precision__policy": "float32"},
    "average": {"train__optimizer": {"name": "adamw", "learning_rate": 0.01, "ema_momentum": 0.8}},
    "accumulated": {"train__accumulate": 2, "precision__policy": "float32"},
    "lookahead": {"train__optimizer": {"learning_rate": 0.05, "lookahead": {"every": 2}}},
    "no validation": {"validation": 0},
    "muon": {"train__optimizer": {"learning_rate": 0.05, "muon": {"match": ["conv/kernel"], "learning_rate": 0.02}}},
    "streamed": {"train__feed": "streamed", "train__sizes": (4, 6)},
    "callbacks": {
        "train__callbacks": ({"build": "net.py:Decays"},),
        "train__schedule": {"name": "constant"},
        "precision__policy": "float32",
    },
}
# Calls of two steps: an epoch has three boundaries, the last its end. A kill within the save leaves the one before.
KILLS = [(0, "before"), (0, "after"), (1, "within"), (2, "after"), (4, "after"), (5, "before"), (8, "after")]


FAST = ("float16", "average", "callbacks")


@pytest.mark.parametrize("case", [c if c in FAST else pytest.param(c, marks=pytest.mark.slow) for c in CASES])
def test_a_run_killed_anywhere_ends_as_one_that_was_not(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed twice, the second time in the call after the first that it makes."""
    whole = trainer(tmp_path, **CASES[case])
    rows, _ = run(whole, tmp_path / "whole")
    chosen = random.Random(case).sample(KILLS, 2)
    for number, (call, when) in enumerate(sorted(chosen)):
        with monkeypatch.context() as patch:
            kill_at(patch, call if not number else 1, when)
            with pytest.raises(Killed):
                run(trainer(tmp_path, rows=2, **CASES[case]), tmp_path / "run", resume=number > 0)
    last = trainer(tmp_path, rows=3, **CASES[case])  # as many steps in a call as it likes
    again, said = run(last, tmp_path / "run", resume=True)
    assert "resumed" in said
    assert again == rows
    assert equal(last.state.values(), whole.state.values())
    table = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert [timeless(Epoch.from_dict(row)) for row in table] == rows


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """The rows of a run that nothing stops, and the state that it ends in."""
    folder = tmp_path_factory.mktemp("undisturbed")
    whole = trainer(folder)
    rows, _ = run(whole, folder / "whole")
    return rows, whole.state.values()


@pytest.mark.parametrize(
    ("call", "when"), [kill if kill[0] in (1, 4) else pytest.param(*kill, marks=pytest.mark.slow) for kill in KILLS]
)
def test_every_kind_of_place(
    tmp_path: Path, call: int, when: str, undisturbed: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, values = undisturbed
    kill_at(monkeypatch, call, when)
    with pytest.raises(Killed):
        run(trainer(tmp_path), tmp_path / "run")
    monkeypatch.undo()
    saved = call if when != "after" else call + 1  # boundaries that were passed with a save
    words = {0: "resumed from the beginning", 1: "in epoch 1 of 3, after step 2 of 5", 3: "resumed after epoch 1 of 3"}
    words |= {5: "resumed in epoch 2 of 3, after step 4 of 5", 9: "resumed after epoch 3 of 3"}
    second = trainer(tmp_path)
    again, said = run(second, tmp_path / "run", resume=True)
    assert words[saved] in said
    assert again == rows
    assert equal(second.state.values(), values)


def test_skipped_steps_within_an_epoch_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"precision__loss_scale": {"initial": 2.0**126, "cap": 2.0**126, "floor": 2.0**120, "max_skipped": 50}}
    whole = trainer(tmp_path, **changes)
    rows, _ = run(whole, tmp_path / "whole")
    assert rows[0]["skipped"] == 5
    assert sum(row["skipped_at_floor"] for row in rows) > 0
    for call in (1, 3, 3):
        with monkeypatch.context() as patch:
            kill_at(patch, call)
            with pytest.raises(Killed):
                run(trainer(tmp_path, **changes), tmp_path / "run", resume=call == 3)
    last = trainer(tmp_path, **changes)
    again, _ = run(last, tmp_path / "run", resume=True)
    assert json.dumps(again) == json.dumps(rows)  # a loss may be NaN, which equals nothing
    assert equal(last.state.values(), whole.state.values())


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``net.py`` and ``run``, a finished run of two epochs."""
    folder = tmp_path_factory.mktemp("finished")
    run(trainer(folder, train__epochs=2, train__keep_checkpoints=3), folder / "run")
    return folder


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"train__optimizer__learning_rate": 0.01}, "train.optimizer.learning_rate 0.05 -> 0.01"),
        ({"seed": 6}, "seed 5 -> 6"),
        ({"precision__policy": "float32"}, "precision.policy 'mixed_float16' -> 'float32'"),
        ({"train__sizes": (4, 6)}, "train.sizes [] -> [4, 6]"),
        (
            {"precision__loss_scale__floor": 2.0, "data__augment__crop": 0},
            "data.augment.crop 1 -> 0, precision.loss_scale.floor 1.0 -> 2.0",
        ),
    ],
)
def test_a_changed_pipeline_is_not_taken_up(finished: Path, changes: dict[str, Any], named: str) -> None:
    t = trainer(finished, **{"train__epochs": 2, **changes})
    before = t.state.values()
    with pytest.raises(ConfigError) as caught:
        run_training(t, finished / "run", quiet(), resume=True)
    assert f"was trained with other settings: {named}; bring them back" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert equal(t.state.values(), before)


def test_many_differing_keys(finished: Path) -> None:
    changed = {"batch_size": 4, "label_smoothing": 0.2, "accumulate": 3, "xla": "off", "test_views": "mirror"}
    optimizer = {"name": "lion", "learning_rate": 0.1, "weight_decay": 0.2, "clip_norm": None, "beta_2": 0.9}
    t = trainer(finished, train__epochs=2, train__optimizer=optimizer, **{f"train__{k}": v for k, v in changed.items()})
    with pytest.raises(ConfigError, match=r"train\.batch_size 8 -> 4, .* and \d more; bring them back"):
        run_training(t, finished / "run", quiet(), resume=True)


def test_what_no_number_depends_on_may_change(finished: Path) -> None:
    free = {"feed": "streamed", "checkpoint_seconds": 7.5, "keep_checkpoints": 9, "blowup": {"action": "rollback"}}
    t = trainer(
        finished,
        train__epochs=2,
        export__opset=15,
        verify__min_agreement=50.0,
        data__decode="eager",
        **{f"train__{key}": value for key, value in free.items()},
    )
    assert len(run(t, finished / "run", resume=True)[0]) == 2


def test_other_variables_are_refused(finished: Path) -> None:
    arrays = found(finished / "run").arrays
    t = trainer(finished, train__epochs=2, model__args={"width": 5})
    with pytest.raises(ResumeError, match="holds other variables than this pipeline builds"):
        checkpoint.restore(arrays, t.state.variables)
    with pytest.raises(ResumeError, match="holds other variables"):
        checkpoint.restore(arrays[:-1], trainer(finished, train__epochs=2).state.variables)


# --- the files --------------------------------------------------------------------------------------------------------


def test_what_is_kept(tmp_path: Path) -> None:
    """The newest, and the best by validation accuracy; nothing half-written, nothing unpickled."""

    def save(step: int, accuracy: float | None) -> None:
        checkpoint.save(tmp_path, step, [np.full(3, step)], {"val_accuracy": accuracy}, {"loss": np.ones(2)}, keep=2)

    for step, accuracy in ((5, 0.5), (7, None), (10, 0.9), (12, None), (15, 0.9), (20, 0.7), (22, None)):
        save(step, accuracy)
    assert names(tmp_path) == ["00000010", "00000020", "00000022"]
    save(22, 0.95)
    assert names(tmp_path) == ["00000022", "00000022.1"]  # of the same step: the better, and the newer
    for _ in range(10):
        save(22, 0.1)
    assert names(tmp_path) == ["00000022.1", "00000022.10", "00000022.11"]
    loaded = found(tmp_path)
    assert loaded.path.name == "00000022.11"
    assert loaded.record == {"val_accuracy": 0.1}
    assert loaded.arrays[0].tolist() == [22, 22, 22]
    assert loaded.within["loss"].tolist() == [1, 1]
    assert {path.name for path in loaded.path.iterdir()} == {"arrays.npz", "record.json"}
    checkpoint.clear(tmp_path)
    assert checkpoint.load(tmp_path) is None


def test_a_run_keeps_its_last_and_its_best(finished: Path) -> None:
    whole = names(finished / "run")
    assert whole[-3:] == ["00000009", "00000010", "00000010.1"]
    record = found(finished / "run").record
    assert (record["epochs_done"], record["done"], record["ended"]) == (2, 0, True)
    best = max(row["val_accuracy"] for row in record["rows"])
    kept = [json.loads((finished / "run/checkpoints" / name / "record.json").read_text())["record"] for name in whole]
    assert best in [one["score"] for one in kept]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def pickled(path: Path) -> None:
    np.savez(path, v0=np.array([print], object))


DAMAGES: list[tuple[str, str, Callable[[Path], Any]]] = [
    ("arrays.npz is not what record.json says", "arrays.npz", truncate),
    ("arrays.npz is not what record.json says", "arrays.npz", flip),
    ("arrays.npz is not what record.json says", "arrays.npz", pickled),
    ("No such file or directory", "arrays.npz", Path.unlink),
    ("record.json is n", "record.json", truncate),
    ("record.json is n", "record.json", flip),
    ("record.json is not JSON", "record.json", lambda path: path.write_bytes(b"\x00")),
    ("record.json is not as it was written", "record.json", lambda path: path.write_text("[]")),
    ("record.json is not as it was written", "record.json", lambda path: path.write_text('{"sha256": 3}')),
    ("No such file or directory", "record.json", Path.unlink),
]


@pytest.mark.parametrize(("words", "file", "damage"), DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(
    finished: Path, tmp_path: Path, words: str, file: str, damage: Callable[[Path], Any]
) -> None:
    shutil.copytree(finished / "run", tmp_path / "run")
    last = found(tmp_path / "run").path
    damage(last / file)
    said: list[str] = []
    loaded = checkpoint.load(tmp_path / "run", said.append)
    assert loaded is not None
    assert loaded.path.name == "00000010"
    (line,) = said
    assert line.startswith(f"checkpoint {last}: passed over: {words}")
    assert "\n" not in line
    checkpoint.load(tmp_path / "run", said.append, set_aside=True)
    assert checkpoint.load(tmp_path / "run", said.append) is not None
    assert len(said) == 2  # once set aside it is met no more


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(finished: Path, tmp_path: Path) -> None:
    whole = trainer(tmp_path, train__epochs=2, train__keep_checkpoints=3)
    rows, _ = run(whole, tmp_path / "whole")
    shutil.copytree(finished / "run", tmp_path / "run")
    for name in ("00000010", "00000010.1"):
        flip(tmp_path / "run/checkpoints" / name / "arrays.npz")
    with pytest.raises(ResumeError, match="ended after epoch 1 of 2; finish it first"):
        restore_run(trainer(tmp_path, train__epochs=2).job, tmp_path / "run")
    last = trainer(tmp_path, train__epochs=2, train__keep_checkpoints=3)
    again, said = run(last, tmp_path / "run", resume=True)
    assert said.count("passed over") == 2
    assert "resumed in epoch 2 of 2, after step 4 of 5" in said
    assert again == rows
    assert equal(last.state.values(), whole.state.values())
    assert not [name for name in names(tmp_path / "run") if "damaged" in name]


def test_no_checkpoint_is_whole(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "run", tmp_path / "run")
    for path in (tmp_path / "run/checkpoints").iterdir():
        flip(path / "arrays.npz")
    with pytest.raises(ResumeError, match=r"no checkpoint in it is whole \(\d damaged\); start the run anew") as caught:
        run_training(trainer(tmp_path, train__epochs=2), tmp_path / "run", quiet(), resume=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["arrays.npz", "record.json"])
def test_garbled_bytes(finished: Path, tmp_path: Path, file: str) -> None:
    """Whatever is overwritten, the checkpoint is passed over."""
    shutil.copytree(found(finished / "run").path, tmp_path / "checkpoints/00000010")
    path, draw = tmp_path / "checkpoints/00000010" / file, random.Random(0)
    content = path.read_bytes()
    for _ in range(100):
        garbled = bytearray(content)
        for _ in range(draw.choice([1, 3])):
            garbled[draw.randrange(len(content))] ^= draw.randrange(1, 256)
        path.write_bytes(garbled)
        with pytest.raises(ResumeError):
            checkpoint.load(tmp_path)


def test_leftovers_of_a_killed_process_are_cleared_away(tmp_path: Path) -> None:
    for name in (".00000003.77", ".00000002", "00000004.damaged"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "arrays.npz").write_text("half")
    assert checkpoint.load(tmp_path) is None
    checkpoint.save(tmp_path, 5, [np.ones(2)], {})
    assert names(tmp_path) == ["00000005"]


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    checkpoint.save(tmp_path, 5, [np.ones(2)], {})
    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(TrainingError, match=r"cannot be written: No space left on device; make room, .* --resume"):
        checkpoint.save(tmp_path, 6, [np.ones(2)], {})
    monkeypatch.undo()
    assert names(tmp_path) == ["00000005"]
    assert found(tmp_path).path.name == "00000005"


def test_checkpoints_are_not_written_more_often_than_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    monkeypatch.setattr(checkpoint, "save", lambda run, step, *_: saved.append(step))
    run(trainer(tmp_path, train__checkpoint_seconds=3600), tmp_path / "run")
    assert saved == [15]
    run(trainer(tmp_path), tmp_path / "run")
    assert saved == [15, 2, 4, 5, 7, 9, 10, 12, 14, 15, 15]


def test_saving_takes_a_small_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    monkeypatch.setattr(checkpoint, "save", lambda run, step, *_: saved.append(step))
    monkeypatch.setattr("tfhalf.train.loop._SHARE", 1e-9)
    run(trainer(tmp_path, train__checkpoint_seconds=1e-6), tmp_path / "run")
    assert saved == [2, 15]


# --- training that blows up -------------------------------------------------------------------------------------------

WILD = {
    "precision__policy": "float32",
    "train__schedule": {"name": "constant"},
    "data__augment": {},
    "train__epochs": 2,
}


def poison(t: Trainer, step: int, times: int = 1, value: float = float("nan")) -> None:
    """Have the feed tell that ``step`` gave the loss ``value``, ``times`` times."""
    feed, left = type(t.program.feed).__call__, [times]

    class Poisoned(type(t.program.feed)):  # type: ignore[misc]
        def __call__(self, order: np.ndarray, epoch: int, first_step: int, size: int | None = None) -> Any:
            result = feed(self, order, epoch, first_step, size)
            place = step - first_step
            if left[0] and 0 <= place < result.steps:
                left[0] -= 1
                result.loss[place] = value
                if not np.isfinite(value) and not t.program.step.guarded:
                    result.variable[place] = -2
            return result

    t.program.feed.__class__ = Poisoned


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    """The layer is found with the weights as they were before the step."""
    t = trainer(tmp_path, train__optimizer={"learning_rate": 1e30}, **WILD)
    with pytest.raises(TrainingError) as caught:
        run(t, tmp_path / "run")
    message = str(caught.value)
    assert message.startswith("step 1: the loss is ")
    assert "; the first layer whose output is not finite is 'head': its input goes from " in message
    assert "(largest absolute " in message
    assert ", its weights reach 6" in message
    assert message.endswith(
        "; lower the learning rate, or clip gradients (train.optimizer.clip_norm); there is no checkpoint yet; "
        "--on-blowup rollback begins again with half the learning rate"
    )
    assert "\n" not in message


def test_a_loss_above_the_bound(tmp_path: Path) -> None:
    changes = {**WILD, "train__blowup": {"bound": 100.0}}
    t = trainer(tmp_path, **changes)
    poison(t, step=3, value=101.0)
    with pytest.raises(TrainingError) as caught:
        run(t, tmp_path / "run")
    message = str(caught.value)
    assert message.startswith("step 3: the loss is 101, above train.blowup.bound (100); every layer's output is finite")
    assert f"the last good checkpoint is {tmp_path / 'run/checkpoints/00000002'}" in message
    assert names(tmp_path / "run") == ["00000002"]
    rows, _ = run(trainer(tmp_path, **changes), tmp_path / "run", resume=True)
    assert rows == run(trainer(tmp_path, **changes), tmp_path / "other")[0]


def test_the_layer_is_looked_for_where_the_step_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps since the last checkpoint are run again; nothing else changes the weights that are looked at."""
    seen: list[list[np.ndarray]] = []
    monkeypatch.setattr(
        "tfhalf.train.replay.explain", lambda step, *_: seen.append([np.asarray(v) for v in step.variables]) or "x"
    )
    t = trainer(tmp_path, train__checkpoint_seconds=100.0, **WILD)
    poison(t, step=8)
    with pytest.raises(TrainingError):
        run(t, tmp_path / "run")
    other = trainer(tmp_path, rows=8, **WILD)
    other.program.feed(other.program.order(0), 0, 0)
    other.program.feed(other.program.order(1)[:3], 1, 5)
    assert equal(seen[0], [np.asarray(v) for v in other.program.step.variables])


def test_weights_that_are_lost_are_not_saved(tmp_path: Path) -> None:
    """A step with a loss may leave weights that are no numbers: the next would tell, and there may be none."""
    t = trainer(tmp_path, rows=5, **WILD)
    feed = type(t.program.feed).__call__

    class Spoiled(type(t.program.feed)):  # type: ignore[misc]
        def __call__(self, *arguments: Any) -> Any:
            result = feed(self, *arguments)
            t.state.model.get_layer("head").bias.assign([0.0, float("nan"), 0.0])
            return result

    t.program.feed.__class__ = Spoiled
    with pytest.raises(TrainingError, match="step 4: the weight head/bias is not finite after it; the first layer "):
        run(t, tmp_path / "run")
    assert not (tmp_path / "run/checkpoints").exists()


@pytest.mark.parametrize("schedule", [{"name": "constant"}, {"name": "triangular"}])
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_rollback(tmp_path: Path, schedule: dict[str, Any], policy: str) -> None:
    changes = {
        "precision__policy": policy,
        "train__schedule": schedule,
        "train__blowup": {"bound": 50.0, "action": "rollback"},
    }
    plain = run(trainer(tmp_path, **changes), tmp_path / "plain")[0]
    t = trainer(tmp_path, **changes)
    poison(t, step=8, times=2, value=77.0)
    rows, said = run(t, tmp_path / "run")
    lines = [line for line in said.splitlines() if line.startswith(("blow-up", "rollback"))]
    assert lines[0].startswith("blow-up    step 8: the loss is 77, above train.blowup.bound (50); every layer's ")
    assert lines[1] == "rollback   to step 7, with half the learning rate (1 of 2)"
    assert lines[3] == "rollback   to step 7, with half the learning rate (2 of 2)"
    assert [row["rollbacks"] for row in rows] == [0, 2, 2]
    for before, after in zip(plain, rows, strict=True):
        factor = 0.25 if after["rollbacks"] else 1
        assert after["learning_rate"] == pytest.approx(before["learning_rate"] * factor)
    record = found(tmp_path / "run").record
    assert [(one["step"], one["back_to"]) for one in record["rollbacks"]] == [(8, 7), (8, 7)]
    restored = restore_run(trainer(tmp_path, **changes).job, tmp_path / "run")
    assert [one["step"] for one in restored.rollbacks] == [8, 8]


def test_no_more_rollbacks_than_allowed(tmp_path: Path) -> None:
    t = trainer(tmp_path, train__blowup={"action": "rollback", "retries": 2}, **WILD)
    poison(t, step=3, times=100)
    with pytest.raises(TrainingError, match=r"step 3: .*; gone back 2 times already \(train\.blowup\.retries\)"):
        run(t, tmp_path / "run")


def test_a_rollback_survives_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {**WILD, "train__schedule": {"name": "cosine"}, "train__blowup": {"action": "rollback"}}
    whole = trainer(tmp_path, **changes)
    poison(whole, step=3)
    rows, _ = run(whole, tmp_path / "whole")
    first = trainer(tmp_path, **changes)
    poison(first, step=3)
    kill_at(monkeypatch, 1)
    with pytest.raises(Killed):
        run(first, tmp_path / "run")
    monkeypatch.undo()
    second = trainer(tmp_path, **changes)
    assert run(second, tmp_path / "run", resume=True)[0] == rows
    assert equal(second.state.values(), whole.state.values())
    assert found(tmp_path / "run").record["rollbacks"][0]["back_to"] == 2


def test_a_callback_that_ended_training_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it saw came of steps that are undone."""
    stop = {"monitor": "loss", "patience": 0, "min_delta": 100.0}
    listed = ({"build": "keras.callbacks:EarlyStopping", "args": stop},)
    changes = {**WILD, "train__epochs": 4, "train__blowup": {"action": "rollback"}}
    t, lost = trainer(tmp_path, train__callbacks=listed, **changes), [9]

    def check(self: Epochs) -> None:
        if self.epoch == 2 and lost:
            raise BlowUp(lost.pop(), float("nan"), "step 9: made up", explained=True)

    monkeypatch.setattr(Epochs, "_check_weights", check)
    rows, said = run(t, tmp_path / "run")
    assert "rollback   to step 9" in said
    assert [(row["epoch"], row["rollbacks"]) for row in rows] == [(1, 0), (2, 1)]
    assert not hasattr(t.state.model, "stop_training")


@pytest.mark.parametrize("after", [4, 6, 7])
def test_callbacks_know_what_they_knew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Patience is counted on, and the best weights are those of an epoch before the kill."""
    stop = {"monitor": "loss", "patience": 3, "min_delta": 100.0, "restore_best_weights": True}
    changes = {"train__epochs": 9, "train__callbacks": ({"build": "keras.callbacks:EarlyStopping", "args": stop},)}
    whole = trainer(tmp_path, **changes)
    rows, _ = run(whole, tmp_path / "whole")
    assert len(rows) == 4  # the first is the best, and three more are waited for
    kill_at(monkeypatch, after)
    with pytest.raises(Killed):
        run(trainer(tmp_path, **changes), tmp_path / "run")
    monkeypatch.undo()
    assert found(tmp_path / "run").record["epochs_done"] in (1, 2)
    second = trainer(tmp_path, **changes)
    assert run(second, tmp_path / "run", resume=True)[0] == rows
    assert equal(second.state.values(), whole.state.values())


def test_rollback_to_the_beginning(tmp_path: Path) -> None:
    t = trainer(tmp_path, train__blowup={"action": "rollback"}, **{**WILD, "train__checkpoint_seconds": 100.0})
    poison(t, step=3)
    rows, said = run(t, tmp_path / "run")
    assert "rollback   to step 0, with half the learning rate (1 of 2)" in said
    slow = trainer(tmp_path, **{**WILD, "train__optimizer__learning_rate": 0.025})
    run(slow, tmp_path / "slow")
    assert equal(t.state.model.get_weights(), slow.state.model.get_weights())
    assert [row["rollbacks"] for row in rows] == [1, 1]


def test_too_many_skipped_steps_are_gone_back_on(tmp_path: Path) -> None:
    scale = {"initial": 2.0**126, "cap": 2.0**126, "floor": 2.0**126, "max_skipped": 3}
    t = trainer(tmp_path, precision__loss_scale=scale, train__blowup={"action": "rollback", "retries": 1})
    with pytest.raises(TrainingError, match=r"step 2: 3 steps in a row .*gone back 1 times already"):
        run(t, tmp_path / "run")


# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 3])
def test_a_signal_ends_training_at_the_next_boundary(tmp_path: Path, after: int) -> None:
    whole = trainer(tmp_path, train__checkpoint_seconds=100.0)
    rows, _ = run(whole, tmp_path / "whole")
    t, calls = trainer(tmp_path, train__checkpoint_seconds=100.0), [0]
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    announce = t.program.feed.announce

    def told(order: np.ndarray) -> None:
        if calls[0] == after:
            os.kill(os.getpid(), signal.SIGTERM)
        calls[0] += 1
        announce(order)

    t.program.feed.announce = told  # type: ignore[method-assign]
    with pytest.raises(Interrupted) as caught:
        run(t, tmp_path / "run")
    step = {0: 2, 3: 7}[after]
    assert str(caught.value) == (
        f"stopped by SIGTERM after step {step} of 15; go on with: tfhalf train --resume {tmp_path / 'run'}"
    )
    assert caught.value.exit_code == 143
    assert {number: signal.getsignal(number) for number in before} == before
    assert names(tmp_path / "run") == [f"{step:08d}"]
    second = trainer(tmp_path, train__checkpoint_seconds=100.0)
    assert run(second, tmp_path / "run", resume=True)[0] == rows
    assert equal(second.state.values(), whole.state.values())
