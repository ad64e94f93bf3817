"""`tfhalf.train_pipeline`: runs that are taken up, and runs that give the same bits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import tfhalf

CHECKOUT = Path(__file__).resolve().parents[2]
DIGITS = CHECKOUT / "pipelines" / "digits.yaml"

STOP = """
import os, pathlib, signal, keras

class Once(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        stopped = pathlib.Path(__file__).with_name("stopped")
        if not stopped.exists():
            stopped.touch()
            os.kill(os.getpid(), signal.SIGTERM)
"""

# In a process of its own: TensorFlow's determinism cannot be taken back.
PROGRAM = """
import json, sys
import numpy as np
import tfhalf

folder = sys.argv[1]
more = ["train.epochs=2", "train.callbacks=[{build: %s/stop.py:Once}]" % folder, "export.formats=[onnx]"]
pipeline = tfhalf.load_pipeline(sys.argv[2], more)
places = {"runs": folder + "/runs", "exports": folder + "/exports"}
try:
    tfhalf.train_pipeline(pipeline, deterministic=True, **places)
except tfhalf.Interrupted:
    print("stopped", file=sys.stderr)
outcome = tfhalf.train_pipeline(pipeline, resume="newest", **places)
whole = tfhalf.train_pipeline(pipeline, deterministic=True, **places)
again = None
try:
    tfhalf.train_pipeline(pipeline, resume="newest", **places)
except tfhalf.ConfigError as error:
    again = str(error)
models = [tfhalf.open_artifact(one.version)(np.ones((1, 8, 8, 1), np.float32)) for one in (outcome, whole)]
same = all(np.array_equal(y, models[1][name]) for name, y in models[0].items())
runs = [json.loads((one.run / "run.json").read_text())["deterministic"] for one in (outcome, whole)]
print(json.dumps([outcome.run != whole.run, same, runs, again]))
"""


@pytest.mark.slow
def test_a_stopped_run_is_taken_up(tmp_path: Path) -> None:
    (tmp_path / "stop.py").write_text(STOP)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(DIGITS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CHECKOUT, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "stopped" in done.stderr
    others, same, deterministic, again = json.loads(done.stdout.splitlines()[-1])
    assert others
    assert same
    assert deterministic == [True, True]
    assert again.endswith("holds no unfinished run; leave resume out to start one, or name RUN")
    numbers = [path.name for path in (tmp_path / "exports" / "digits").iterdir() if path.name.isdigit()]
    assert sorted(numbers) == ["1", "2"]


def test_what_cannot_be_taken_up_is_refused_before_tensorflow(tmp_path: Path) -> None:
    with pytest.raises(tfhalf.ConfigError, match=r"^resume takes the run's own settings; smoke belongs to a new run"):
        tfhalf.train_pipeline(DIGITS, runs=tmp_path, resume="newest", smoke=True)
    with pytest.raises(tfhalf.ConfigError, match="holds no unfinished run"):
        tfhalf.train_pipeline(DIGITS, runs=tmp_path, resume="newest")
    run = tmp_path / "digits" / "20260101-000000"
    run.mkdir(parents=True)
    (run / "run.json").write_text('{"pipeline_file": "digits.yaml", "deterministic": false}')
    (run / "pipeline.yaml").write_text(DIGITS.read_text())
    with pytest.raises(tfhalf.ConfigError, match="was started without deterministic; leave it out"):
        tfhalf.train_pipeline(DIGITS, runs=tmp_path, resume=run, deterministic=True)
    with pytest.raises(tfhalf.ConfigError, match=r"train\.epochs"):
        tfhalf.train_pipeline(tfhalf.load_pipeline(DIGITS, ["train.epochs=3"]), runs=tmp_path, resume=run)


@pytest.mark.slow
def test_a_run_begins_from_another_one(tmp_path: Path) -> None:
    """By a pipeline of its own, by the other's, and by the other's changed, whose paths are those of its file."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "net.py").write_text(
        "import keras\n\n"
        "def build(*, input_shape, num_classes):\n"
        "    image = keras.Input(input_shape)\n"
        "    return keras.Model(image, keras.layers.Dense(num_classes, name='head')(keras.layers.Flatten()(image)))\n"
    )
    file = tmp_path / "own" / "small.yaml"
    file.write_text(
        "{name: small, model: {build: 'net.py:build'}, data: {source: 'sklearn:digits'}, export: {formats: [onnx]},"
        " precision: {policy: float32}, train: {epochs: 1}}"
    )
    places = {"runs": tmp_path / "runs", "exports": tmp_path / "exports", "smoke": True}
    first = tfhalf.train_pipeline(file, **places)
    changed = tfhalf.load_pipeline(first.run / "pipeline.yaml", ["train.optimizer.learning_rate=0.01"])
    begun = [
        tfhalf.train_pipeline(tfhalf.load_pipeline(file, ["seed=3"]), from_run=first.run, epoch="last", **places),
        tfhalf.train_pipeline(from_run=str(first.run), **places),
        tfhalf.train_pipeline(changed, from_run=first.run, **places),
    ]
    for one in begun:
        facts = json.loads((one.run / "run.json").read_text())
        assert facts["weights"]["taken"] == 2
        assert facts["pipeline_file"] == str(file.resolve())
    assert len({one.run for one in (first, *begun)}) == 4
    with pytest.raises(tfhalf.ResumeError, match="epoch 7 is not kept"):
        tfhalf.train_pipeline(file, from_run=first.run, epoch=7, **places)


def test_what_a_run_cannot_begin_from_is_refused_before_tensorflow(tmp_path: Path) -> None:
    with pytest.raises(tfhalf.ConfigError, match="no pipeline: give one, or the folder of a run"):
        tfhalf.train_pipeline(runs=tmp_path)
    with pytest.raises(tfhalf.ConfigError, match="no pipeline"):
        tfhalf.train_pipeline(runs=tmp_path, resume="newest")
    with pytest.raises(tfhalf.ConfigError, match=r"^epoch=3: says which state of from_run to begin from; give that"):
        tfhalf.train_pipeline(DIGITS, epoch=3)
    with pytest.raises(tfhalf.ConfigError, match="from_run begins a new one: give one of them"):
        tfhalf.train_pipeline(DIGITS, from_run=tmp_path, resume="newest")
    for epoch in (0, True, "newest"):
        with pytest.raises(tfhalf.ConfigError, match=r"^epoch=.*, or the number of an epoch, from 1, is accepted"):
            tfhalf.train_pipeline(DIGITS, from_run=tmp_path, epoch=epoch)
    with pytest.raises(tfhalf.ConfigError, match="is not a run folder"):
        tfhalf.train_pipeline(DIGITS, from_run=tmp_path)
