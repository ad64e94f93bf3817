"""Constants that float16 does not hold, in a pipeline's net: its layers train and ship in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tfhalf.config import load_pipeline
from tfhalf.data import Preprocess
from tfhalf.export import write
from tfhalf.numerics.constants import constant_layers, constant_lines, keep_constants
from tfhalf.numerics.islands import joined
from tfhalf.precision.islands import Island
from tfhalf.progress import Progress
from tfhalf.train.job import Job, Places, prepare

NET = """
import keras
from keras import layers, ops


class Cosine(layers.Layer):
    def call(self, x):
        return x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), -1, keepdims=True), 1e-12))


def build(*, input_shape, num_classes, middle):
    image = keras.Input(input_shape)
    x = layers.Dense(8, name="first", use_bias=False)(layers.Flatten()(image))
    if middle == "layer":
        x = Cosine(name="cosine")(x)
    elif middle == "operations":
        x = x / (ops.norm(x, axis=-1, keepdims=True) + 1e-12)
    elif middle == "mask":
        x = layers.Softmax(name="softmax")(ops.where(x > 0, x, -1e9))
    else:
        x = layers.LayerNormalization(epsilon=1e-12)(x)
    return keras.Model(image, layers.Dense(num_classes, name="last")(x))
"""
PIPELINE = """
name: job
model: {build: "net.py:build", args: {middle: %s}}
data: {source: "npz:data.npz", test: 0.5}
train: {epochs: 1, batch_size: 8}
precision: {policy: %s}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    y = (np.arange(32) % 3).astype(np.int32)
    x = np.random.default_rng(0).integers(0, 256, (32, 3, 3, 1)).astype(np.uint8)
    x[::4] = 0
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y)
    return tmp_path


def job_of(folder: Path, middle: str, policy: str = "mixed_float16") -> Job:
    (folder / "p.yaml").write_text(PIPELINE % (middle, policy))
    pipeline = load_pipeline(folder / "p.yaml")
    return prepare(pipeline, Places(folder / "p.yaml", folder / "runs", folder / "exports"), Progress(quiet=True))


@pytest.mark.parametrize(
    ("middle", "kept"),
    [("layer", ["cosine"]), ("operations", ["first"]), ("mask", ["first", "softmax"])],
)
def test_the_layers_are_kept_in_float32(folder: Path, middle: str, kept: list[str]) -> None:
    job = job_of(folder, middle)
    islands = constant_layers(job)
    assert [island.path for island in islands] == kept
    kept_job = keep_constants(job, Progress(quiet=True))
    assert kept_job.pipeline.precision.keep_float32 == tuple(f"^{path}$" for path in kept)
    assert keep_constants(kept_job, Progress(quiet=True)) is kept_job  # as a resumed run finds it
    zeros = np.zeros((1, 3, 3, 1), np.float32)
    before, after = (np.asarray(j.model("mixed_float16")(zeros)) for j in (job, kept_job))
    assert np.isfinite(after).all()
    assert middle == "mask" or not np.isfinite(before).all()


def test_a_net_without_such_constants_stays_as_it_is(folder: Path) -> None:
    """The job is the same object: the same pipeline, the same builder, the same bits."""
    job = job_of(folder, "norm")
    assert keep_constants(job, Progress(quiet=True)) is job


def test_what_trains_in_float32_ships_in_float16(folder: Path) -> None:
    assert [island.path for island in constant_layers(job_of(folder, "layer", "float32"))] == ["cosine"]


def test_what_is_said() -> None:
    islands = tuple(Island(f"layer_{n}", ("the constant 1e-12 is 0 in float16",)) for n in range(6))
    assert constant_lines(()) == []
    first, *rest = constant_lines(islands)
    assert first == "constants  6 layers stay in float32, in training and in what is exported"
    assert rest[0] == "           layer_0: the constant 1e-12 is 0 in float16"
    assert rest[-1].startswith("           and 2 more")


def test_reasons_of_both_kinds_are_joined() -> None:
    found = joined((Island("a", ("epsilon",)),), (Island("b", ("large",)), Island("a", ("large",))))
    assert found == (Island("a", ("epsilon", "large")), Island("b", ("large",)))


def test_the_rehearsal_folds_as_the_export_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried before training is what ships after it."""
    rebuild, folding = write.rebuild, []

    def noted(model: keras.Model, **options: Any) -> Any:
        folding.append(options["fold_batchnorm"])
        return rebuild(model, **options)

    monkeypatch.setattr(write, "rebuild", noted)
    job = job_of(folder, "norm")
    export = job.pipeline.export.model_copy(update={"fold_batchnorm": False, "formats": ("savedmodel",)})
    pipeline = job.pipeline.model_copy(update={"export": export})
    model = job.model("mixed_float16")
    write.rehearse(model, pipeline, preprocess=Preprocess((0.0,), (1.0,)), inputs=job.splits.input_shape)
    assert folding == [False]
