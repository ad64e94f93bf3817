"""What a run folder gives without training: the model of any state that it keeps, and a file for plain Keras."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from train_helpers import equal, quiet, splits
from train_loops import StopAfter, Stopped, run_folder, said, trainer

from tfhalf.errors import ResumeError, TrainingError
from tfhalf.files import sha256
from tfhalf.train import program, state
from tfhalf.train.loop import run_training
from tfhalf.train.record import checkpoint
from tfhalf.train.record.model_file import MODEL, save_model
from tfhalf.train.record.outcome import RunOutcome, published_version, read_outcome
from tfhalf.train.record.run_folder import held, held_if_free
from tfhalf.train.restore import restore_run
from tfhalf.train.trainer import Trainer


@pytest.fixture
def kept(folder: Path) -> tuple[Trainer, Path]:
    """A run of four epochs that keeps them all."""
    run = run_folder(folder, "kept")
    t = trainer(folder, train__keep_checkpoints=9)
    run_training(t, run, quiet())
    return t, run


def test_the_model_alone_is_made(kept: tuple[Trainer, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """No optimizer, and nothing that would bring the training set to a device."""
    t, run = kept

    def refused(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(state, "optimizer_of", refused)
    monkeypatch.setattr(program, "make", refused)
    restored = restore_run(t.job, run)
    assert equal(restored.model.get_weights(), t.state.model.get_weights())
    assert (restored.ended, len(restored.epochs), restored.loss_scale) == (True, 4, t.state.loss_scale())


def test_an_epoch_by_number_and_the_best(kept: tuple[Trainer, Path]) -> None:
    t, run = kept
    third = restore_run(t.job, run, 3)
    assert (third.ended, len(third.epochs), third.steps_more) == (False, 3, 0)
    scores = [row.val_metrics["accuracy"] for row in restore_run(t.job, run, "last").epochs]
    best = restore_run(t.job, run, "best")
    assert len(best.epochs) == 1 + scores.index(max(scores))
    with pytest.raises(ResumeError, match=r"epoch 9 is not kept; kept at their end: .*\(best\)") as caught:
        restore_run(t.job, run, 9)
    assert "\n" not in str(caught.value)


def test_no_epoch_is_the_best_without_a_validation_part(folder: Path) -> None:
    run = run_folder(folder, "run")
    t = trainer(folder, splits(validation=0), train__epochs=1)
    run_training(t, run, quiet())
    with pytest.raises(ResumeError, match="no epoch is kept with a score on a validation part; kept at their end: 1;"):
        restore_run(t.job, run, "best")


def test_a_run_that_was_stopped_as_it_stands(folder: Path) -> None:
    """With the averages of its weights, which the end of training would have put in their place."""
    run = run_folder(folder, "run")
    with pytest.raises(Stopped):
        run_training(trainer(folder), run, StopAfter(2))
    t = trainer(folder)
    with pytest.raises(ResumeError, match=r"finish it first: tfhalf train --resume .* --epoch last"):
        restore_run(t.job, run)
    found = checkpoint.load(run)
    assert found is not None
    t.state.restore(found.arrays)
    plain = t.state.model.get_weights()
    t.state.finalize()
    restored = restore_run(t.job, run, "last")
    assert not restored.ended
    assert equal(restored.model.get_weights(), t.state.model.get_weights())
    assert not equal(restored.model.get_weights(), plain)
    with pytest.raises(ResumeError, match="holds no checkpoint yet"):
        restore_run(t.job, run_folder(folder, "empty"), "last")


def test_a_checkpoint_that_is_removed_while_it_is_read(
    kept: tuple[Trainer, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the process that trains the run: there is a newer one then."""
    _, run = kept
    read, newest = checkpoint._read, max(run.glob("checkpoints/*"), key=lambda path: float(path.name))
    moved = newest.rename(newest.with_name("moved"))

    def removed(path: Path) -> checkpoint.Checkpoint:
        if moved.exists():
            path.rename(path.with_name(f".{path.name}"))
            moved.rename(newest)
        return read(path)

    monkeypatch.setattr(checkpoint, "_read", removed)
    progress, stream = said()
    found = checkpoint.load(run, progress.line)
    assert found is not None
    assert found.path == newest
    assert not stream.getvalue()


# --- model.keras ------------------------------------------------------------------------------------------------------

LOAD = """
import json, sys
import keras, numpy as np
model = keras.models.load_model(sys.argv[1])
x = np.load(sys.argv[2])
np.savez(sys.argv[3], y=np.asarray(model(x)), **{str(i): w for i, w in enumerate(model.get_weights())})
assert not any(name.split('.')[0] == 'tfhalf' for name in sys.modules)
compiled = getattr(model, "optimizer", None) is not None
print(json.dumps([str({w.dtype for w in model.weights}), model.layers[1].dtype_policy.name, compiled]))
"""


@pytest.mark.slow
def test_plain_keras_loads_the_model_in_another_process(folder: Path) -> None:
    t = trainer(folder)
    digest = save_model(t.state.model, folder, quiet())
    assert digest == sha256(folder / MODEL)
    x = np.random.default_rng(0).normal(size=(5, 6, 6, 1)).astype(np.float32)
    np.save(folder / "x.npy", x)
    files = [folder / name for name in (MODEL, "x.npy", "y.npz")]
    done = subprocess.run([sys.executable, "-c", LOAD, *files], capture_output=True, text=True, check=True, cwd=folder)
    assert json.loads(done.stdout.splitlines()[-1]) == ["{'float32'}", "mixed_float16", False]
    with np.load(folder / "y.npz") as found:
        weights = t.state.model.get_weights()
        assert equal([found[str(i)] for i in range(len(weights))], weights)
        np.testing.assert_allclose(found["y"], np.asarray(t.state.model(x)), rtol=1e-2, atol=1e-3)


def test_a_disk_that_is_full_leaves_no_half_of_a_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("tfhalf.files.sync", full)
    with pytest.raises(TrainingError, match=r"model\.keras: cannot be written: .*No space left"):
        save_model(trainer(folder).state.model, folder, quiet())
    assert not [path for path in folder.iterdir() if path.suffix == ".keras"]


class Closed(keras.layers.Layer):
    """A layer that cannot be written down."""

    def get_config(self) -> dict[str, object]:
        raise NotImplementedError("no configuration")

    def call(self, x: object) -> object:
        return x


def test_a_model_that_keras_cannot_write_is_named_in_one_line(tmp_path: Path) -> None:
    progress, stream = said()
    image = keras.Input((2,))
    assert save_model(keras.Model(image, Closed()(image)), tmp_path, progress) is None
    assert stream.getvalue().startswith("note       model.keras is not written: a layer of the model cannot be saved (")
    assert stream.getvalue().count("\n") == 1
    assert not list(tmp_path.iterdir())


# --- outcome.json -----------------------------------------------------------------------------------------------------


def test_an_outcome_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_outcome(tmp_path) == {}
    outcome = RunOutcome(False, 4, 0.5, {"better": True}, 1.0, 0, {"train": 1.0}, "abc")
    outcome.write(tmp_path)
    assert RunOutcome(**read_outcome(tmp_path)) == outcome
    assert published_version(tmp_path) is None
    (tmp_path / "outcome.json").write_text("[half")
    assert read_outcome(tmp_path) == {}


def test_a_run_in_use_may_be_looked_at(tmp_path: Path) -> None:
    with held_if_free(tmp_path) as alone:
        assert alone
        with held_if_free(tmp_path) as second:
            assert not second
        with pytest.raises(ResumeError, match="another process"), held(tmp_path):
            pass
