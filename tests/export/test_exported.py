"""Weights out of a SavedModel that Keras 3's own `model.export()` made, whose layers a builder makes again."""

from __future__ import annotations

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from click.testing import CliRunner
from keras import layers

from tfhalf.cli import main
from tfhalf.errors import ArtifactError
from tfhalf.export.load.export_archive import load_variables
from tfhalf.runtimes.open import open_predictor

CODE = """
import keras
from keras import layers


def build(width=8, other=False):
    x = image = keras.Input((6, 3), name="steps")
    x = layers.BatchNormalization(name="norm")(layers.Dense(width, name="stem")(x))
    x = layers.LSTM(8, dropout=0.1, name="read")(layers.Dropout(0.2)(x))
    return keras.Model(image, layers.Dense(5, activation="softmax", name="other" if other else "head")(x))
"""


def build(**arguments: object) -> keras.Model:
    scope: dict[str, object] = {}
    exec(CODE, scope)
    return scope["build"](**arguments)  # type: ignore[operator,no-any-return]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, keras.Model]:
    folder = tmp_path_factory.mktemp("exported") / "net"
    keras.utils.set_random_seed(0)
    model = build()
    zoo.perturb(model)
    model.export(folder, verbose=False)
    return folder, model


def test_every_weight_is_found(saved: tuple[Path, keras.Model]) -> None:
    folder, model = saved
    for other in (False, True):  # by paths; and where one differs, by the order
        again = build(other=other)
        load_variables(folder, again)
        for one, two in zip(model.weights, again.weights, strict=True):
            np.testing.assert_array_equal(one, two)


def test_another_model(saved: tuple[Path, keras.Model]) -> None:
    with pytest.raises(ArtifactError, match=r"stem/kernel of shape \(3, 8\) stands where the model has stem/kernel of"):
        load_variables(saved[0], build(width=4))
    x = keras.Input((3,))
    with pytest.raises(ArtifactError, match="has 11 variables and the model 2; build the model that it was made of"):
        load_variables(saved[0], keras.Model(x, layers.Dense(2)(x)))


def test_what_is_none(saved: tuple[Path, keras.Model], tmp_path: Path) -> None:
    module = tf.Module()
    module.weight = tf.Variable([1.0])
    tf.saved_model.save(module, str(tmp_path / "plain"))
    with pytest.raises(ArtifactError, match="lists no variables of a model"):
        load_variables(tmp_path / "plain", build())
    with pytest.raises(
        ArtifactError, match=r"is not a SavedModel, whose variables would lie in variables.variables.index"
    ):
        load_variables(tmp_path, build())

    folder = tmp_path / "damaged"
    shutil.copytree(saved[0], folder)
    index = folder / "variables" / "variables.index"
    whole = index.read_bytes()
    draw = np.random.default_rng(0)
    refused = []
    for _ in range(40):
        raw = bytearray(whole)
        raw[int(draw.integers(len(raw)))] ^= 1 << int(draw.integers(8))
        index.write_bytes(bytes(raw[: int(draw.integers(1, len(raw) + 1))]))
        try:
            load_variables(folder, build())
        except ArtifactError as error:
            refused.append(str(error))
    assert len(refused) > 30
    assert not [text for text in refused if "\n" in text]


@pytest.mark.slow
def test_the_command(saved: tuple[Path, keras.Model], tmp_path: Path) -> None:
    folder, model = saved
    (tmp_path / "net.py").write_text(CODE)
    runner = CliRunner()
    alone = runner.invoke(main, ["export", str(folder), "-o", str(tmp_path)])
    assert alone.exit_code == 2
    assert f"file.py:build, which makes the layers, with --weights {folder}" in " ".join(alone.output.split())
    given = ["--weights", str(folder), "-o", str(tmp_path / "exports")]
    done = runner.invoke(main, ["export", f"{tmp_path}/net.py:build", *given])
    assert done.exit_code == 0, done.output
    x = np.random.default_rng(0).normal(size=(3, 6, 3)).astype(np.float32)
    for runtime in ("savedmodel", "onnx"):
        got = open_predictor(tmp_path / "exports" / "net" / "1", runtime)(x)["head"]
        np.testing.assert_allclose(got, np.asarray(model(x)), atol=5e-3)
