"""Each task from its targets to a verified export: one tiny training each in mixed float16, and what its files say."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import task_jobs
from click.testing import CliRunner
from kill_helpers import weights
from train_helpers import equal, quiet, timeless

from tfhalf import config
from tfhalf.artifacts import manifest as manifests
from tfhalf.cli import main
from tfhalf.errors import TrainingError
from tfhalf.progress import Progress
from tfhalf.system.device import cpu
from tfhalf.train.job import Places, prepare
from tfhalf.train.loop import Epochs, run_training
from tfhalf.train.trainer import Trainer
from tfhalf.workflows.publish import Outcome
from tfhalf.workflows.train import train_and_export

pytestmark = pytest.mark.slow  # it trains, exports and verifies

FILES = """
import keras
import numpy as np
from keras import layers

N = 120


def load(task):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(N, 6)).astype(np.float32)
    total = x.sum(-1)
    y = {
        "classification": lambda: (total > -1).astype(np.int32) + (total > 1),
        "binary": lambda: (total > 0).astype(np.int32),
        "multilabel": lambda: (x[:, :3] > 0).astype(np.float32),
        "regression": lambda: (2e5 + 9e4 * total).astype(np.float32),
    }
    if task == "segmentation":
        x = draw.integers(0, 256, (N, 8, 8, 1)).astype(np.uint8)
        return {"x_train": x, "y_train": (x[..., 0] > 100).astype(np.int32)}
    if task == "sequence":
        x = draw.normal(size=(N, 5, 4)).astype(np.float32)
        steps = (x.sum(-1) > 0).astype(np.int32)
        steps[::3, -1] = -1
        return {"x_train": x, "y_train": steps}
    if task == "two inputs":
        x = {"numbers": x, "code": draw.integers(0, 5, (N, 1)).astype(np.int32)}
        return {"x_train": x, "y_train": (2e5 + 9e4 * total).astype(np.float32)}
    if task == "outputs":
        return {"x_train": x, "y_train": {"sign": y["binary"](), "price": y["regression"]()}}
    return {"x_train": x, "y_train": y[task]()}


def flat(*, input_shape, num_outputs):
    image = keras.Input(input_shape)
    return keras.Model(image, layers.Dense(num_outputs, name="head")(layers.Dense(8, "relu")(image)))


def pixels(*, input_shape, num_outputs):
    image = keras.Input(input_shape)
    return keras.Model(image, layers.Conv2D(num_outputs, 1)(layers.Conv2D(4, 3, padding="same")(image)))


def two_inputs(*, input_shape, num_outputs):
    numbers = keras.Input(input_shape["numbers"], name="numbers")
    code = keras.Input(input_shape["code"], name="code", dtype="int32")
    x = layers.Concatenate()([layers.Dense(8, "relu")(numbers), layers.Flatten()(layers.Embedding(5, 3)(code))])
    x = layers.Dropout(0.1)(x)
    return keras.Model({"numbers": numbers, "code": code}, layers.Dense(num_outputs, name="head")(x))


def two_outputs(*, input_shape, num_outputs):
    image = keras.Input(input_shape)
    x = layers.Dense(8, "relu")(image)
    return keras.Model(image, {name: layers.Dense(width)(x) for name, width in num_outputs.items()})
"""
NUMBERS = ["rmse", "mae", "r2"]
CASES: dict[str, tuple[str, dict[str, Any], list[str], dict[str, str]]] = {
    "classification": ("flat", {"task": "classification"}, ["accuracy"], {"probabilities": "classification"}),
    "binary": ("flat", {"task": "binary"}, ["accuracy", "auc"], {"probabilities": "binary"}),
    "multilabel": ("flat", {"task": "multilabel"}, ["f1", "exact"], {"probabilities": "multilabel"}),
    "regression": ("flat", {"task": {"name": "regression", "unit": "$"}}, NUMBERS, {"value": "regression"}),
    "segmentation": ("pixels", {"task": "segmentation"}, ["iou", "accuracy"], {"probabilities": "segmentation"}),
    "sequence": ("flat", {"task": "sequence"}, ["accuracy"], {"probabilities": "sequence"}),
    "two inputs": ("two_inputs", {"task": "regression"}, NUMBERS, {"value": "regression"}),
    "outputs": (
        "two_outputs",
        {"outputs": {"sign": {"name": "binary"}, "price": {"name": "regression", "weight": 0.5}}},
        ["sign_accuracy", "sign_auc", "price_rmse", "price_mae", "price_r2"],
        {"sign": "binary", "price": "regression"},
    ),
}


def pipeline_of(folder: Path, case: str, **train: Any) -> tuple[config.Pipeline, Places]:
    """The pipeline of ``case``, written into ``folder`` beside its code."""
    (folder / "own.py").write_text(FILES)
    net, sections, _, _ = CASES[case]
    values = {
        "name": "job",
        "seed": 5,
        "model": {"build": f"own.py:{net}"},
        "data": {"source": "own.py:load", "args": {"task": case}},
        "train": {"epochs": 2, "batch_size": 16, "optimizer": {"name": "adam", "learning_rate": 0.01}, **train},
        "precision": {"policy": "mixed_float16"},
        **sections,
    }
    file = folder / "job.yaml"
    file.write_text(json.dumps(values))
    return config.load_pipeline(file), Places(file, folder / "runs", folder / "exports")


@pytest.fixture(scope="module", params=list(CASES))
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Outcome, str]:
    """A case, what its training left, and what was said."""
    stream = io.StringIO()
    pipeline, places = pipeline_of(tmp_path_factory.mktemp("job"), request.param)
    return request.param, train_and_export(pipeline, places, Progress(stream)), stream.getvalue()


def test_what_its_files_say(published: tuple[str, Outcome, str]) -> None:
    case, outcome, _ = published
    _, _, names, tasks = CASES[case]
    rows = [json.loads(line) for line in (outcome.run / "history.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    for row in rows:
        assert {"loss", "val_loss", *names, *(f"val_{name}" for name in names)} <= set(row)
        assert all(np.isfinite(row[name]) for name in ("loss", "val_loss", *names))
    facts = json.loads((outcome.run / "outcome.json").read_text())
    assert list(facts["test_metrics"]) == names
    assert facts["test_metrics"] == pytest.approx(outcome.metrics)
    manifest = manifests.read(outcome.version)
    assert {port: task["name"] for port, task in manifest.tasks.items()} == tasks
    assert set(tasks) <= {port.name for port in manifest.outputs}
    assert {port.dtype for port in manifest.outputs} == {"float32"}


def test_how_good_its_artifacts_are(published: tuple[str, Outcome, str]) -> None:
    """Those of the float32 model on the test set are the run's own."""
    case, outcome, _ = published
    _, _, names, tasks = CASES[case]
    assert {comparison.artifact for comparison in outcome.comparisons} >= {"savedmodel", "onnx"}
    for comparison in outcome.comparisons:
        assert comparison.passed
        for port in tasks:
            (output,) = [one for one in comparison.outputs if one.name == port]
            own = [name.removeprefix(f"{port}_") for name in names if case != "outputs" or name.startswith(port)]
            if case in ("classification", "binary"):
                assert output.reference_accuracy == pytest.approx(100 * outcome.metrics["accuracy"], abs=1e-3)
                continue
            assert set(own) <= set(output.metrics)
            for name in own:
                before = outcome.metrics[name if case != "outputs" else f"{port}_{name}"]
                assert output.reference_metrics[name] == pytest.approx(before, rel=2e-2, abs=2e-2)
                assert output.metrics[name] == pytest.approx(before, rel=5e-2, abs=5e-2)


def test_verified_and_exported_once_more(published: tuple[str, Outcome, str]) -> None:
    _, outcome, _ = published
    again = CliRunner().invoke(
        main, ["verify", str(outcome.version), "--pipeline", str(outcome.run.parents[2] / "job.yaml")]
    )
    assert again.exit_code == 0, again.output
    exported = CliRunner().invoke(
        main, ["export", str(outcome.run), "--exports", str(outcome.run.parents[2] / "again")]
    )
    assert exported.exit_code == 0, exported.output
    (version,) = (outcome.run.parents[2] / "again" / "job").glob("[0-9]*")
    assert manifests.read(version).tasks == manifests.read(outcome.version).tasks


@pytest.mark.parametrize("average", [{"ema_momentum": 0.8}, {"lookahead": {"every": 5}}])
def test_an_epoch_with_averaged_weights_is_what_a_run_ends_with(average: dict[str, Any], tmp_path: Path) -> None:
    """The first of two epochs, exported, has the weights of a run of one; and it says which they are."""
    published = {}
    for epochs in (1, 2):
        folder = tmp_path / str(epochs)
        folder.mkdir()
        optimizer = {"name": "adam", "learning_rate": 0.01, **average}
        train = {"epochs": epochs, "optimizer": optimizer, "checkpoint_seconds": 0, "keep_checkpoints": 9}
        pipeline, places = pipeline_of(folder, "regression", **train)
        published[epochs] = train_and_export(pipeline, places, quiet())
    done = CliRunner().invoke(
        main, ["export", str(published[2].run), "--epoch", "1", "--exports", str(tmp_path / "stopped")]
    )
    assert done.exit_code == 0, done.output
    (stopped,) = (tmp_path / "stopped" / "job").glob("[0-9]*")
    one, two = (weights(published[epochs].version) for epochs in (1, 2))
    assert weights(stopped) == one != two
    name = "moving averages of the weights (ema_momentum 0.8)" if "ema_momentum" in average else "slow weights of look"
    assert f"with the {name}" in done.output
    assert "of the validation part by the weights before averaging)" in done.output


def test_two_inputs_that_blow_up_are_explained(tmp_path: Path) -> None:
    """By the layer, as of one input; and not by the empty cells of a table."""
    file = task_jobs.table(tmp_path)
    pipeline = config.load_pipeline(file, ["train.optimizer.learning_rate=1e30"])
    places = Places(file, tmp_path / "runs", tmp_path / "exports")
    (tmp_path / "run").mkdir()
    why = r"the forward pass overflowed, first in the output of layer"
    with pytest.raises(TrainingError, match=why):
        run_training(Trainer(prepare(pipeline, places, quiet()), cpu()), tmp_path / "run", quiet())


def test_texts_that_blow_up_are_explained_from_their_words_on(tmp_path: Path) -> None:
    """By the layer of the words, which takes integers; not by a layer after it, whose path is not known."""
    file = task_jobs.text(tmp_path)
    pipeline = config.load_pipeline(file, ["train.optimizer.learning_rate=1e39", "train.optimizer.name=sgd"])
    places = Places(file, tmp_path / "runs", tmp_path / "exports")
    (tmp_path / "run").mkdir()
    why = r"the first layer whose output is not finite is 'words': it takes integers, its weights are not finite"
    with pytest.raises(TrainingError, match=why):
        run_training(Trainer(prepare(pipeline, places, quiet()), cpu()), tmp_path / "run", quiet())


class Killed(BaseException):
    """As sudden as a kill can be within a process."""


def test_two_inputs_taken_up_within_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit by bit what a run is that nothing stopped."""

    def trainer() -> Trainer:
        pipeline, places = pipeline_of(tmp_path, "two inputs", checkpoint_seconds=0)
        keras.utils.set_random_seed(pipeline.seed)
        t = Trainer(prepare(pipeline, places, quiet()), cpu())
        t.program.rows = 2
        return t

    whole = trainer()
    (tmp_path / "whole").mkdir()
    expected = run_training(whole, tmp_path / "whole", quiet())
    boundary, seen = Epochs._boundary, []

    def counted(self: Epochs, last: bool = False) -> None:
        seen.append(last)
        boundary(self, last)
        if len(seen) == 2:
            self.trainer.writer.wait()
            raise Killed

    (tmp_path / "run").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Epochs, "_boundary", counted)
        with pytest.raises(Killed):
            run_training(trainer(), tmp_path / "run", quiet())
    second, stream = trainer(), io.StringIO()
    result = run_training(second, tmp_path / "run", Progress(stream), resume=True)
    assert "resumed in epoch 1 of 2, after step 4" in stream.getvalue()
    assert equal(second.state.values(), whole.state.values())
    assert [timeless(row) for row in result.epochs] == [timeless(row) for row in expected.epochs]
