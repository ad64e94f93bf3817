"""A whole job under the policy float16, and what is said of each policy before it starts."""

from __future__ import annotations

import json
from pathlib import Path

import fork_server
import numpy as np
import pytest

from tfhalf.config import Precision
from tfhalf.workflows.train import _policy_words

CHECKOUT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize(
    ("precision", "words"),
    [
        ({"policy": "float32"}, "float32"),
        ({"policy": "float32", "loss_scale": {"mode": "none"}}, "float32"),
        ({"policy": "mixed_bfloat16"}, "mixed_bfloat16"),
        ({}, "mixed_float16 behind a guarded loss scale"),
        ({"loss_scale": {"mode": "static", "initial": 1024.0}}, "mixed_float16 behind a static loss scale of 1,024"),
        ({"loss_scale": {"mode": "none"}}, "mixed_float16 without loss scaling"),
        ({"policy": "float16"}, "float16: no float32 copy of the weights, behind a guarded loss scale"),
        (
            {"policy": "float16", "loss_scale": {"mode": "none"}},
            "float16: no float32 copy of the weights, without loss scaling",
        ),
    ],
)
def test_what_is_said_of_a_policy(precision: dict[str, object], words: str) -> None:
    checked = Precision.model_validate(precision)
    assert _policy_words(checked) == words
    assert checked.scaled == ("loss scale" in words)


def tfhalf(where: Path, *arguments: object) -> str:
    done = fork_server.run(where, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_job_in_float16_alone(tmp_path: Path) -> None:
    """Trained, exported, verified against the same weights in float32; then checked, measured and trained further."""
    (tmp_path / "net.py").write_text(
        "import keras\nfrom keras import layers\n\n\n"
        "def build(*, input_shape, num_classes):\n"
        "    image = keras.Input(input_shape)\n"
        "    x = layers.BatchNormalization(momentum=0.9)(layers.Conv2D(8, 3, name='conv')(image))\n"
        "    x = layers.LayerNormalization()(layers.Flatten()(layers.ReLU()(x)))\n"
        "    return keras.Model(image, layers.Dense(num_classes, name='head')(x))\n"
    )
    (tmp_path / "p.yaml").write_text(
        "name: digits\nmodel: {build: 'net.py:build'}\ndata: {source: 'sklearn:digits', validation: 0.1}\n"
        "train: {epochs: 3, batch_size: 32, optimizer: {name: adam, learning_rate: 0.005}}\n"
        "precision: {policy: float16}\n"
    )
    said = tfhalf(tmp_path, "train", "p.yaml")
    assert "policy     float16: no float32 copy of the weights, behind a guarded loss scale\n" in said
    assert "note       precision.policy float16 loses each change of a weight below half" in said
    assert "note       train.optimizer.epsilon: 1e-07 counts as 0.000244" in said
    training = json.loads((tmp_path / "exports/digits/1/manifest.json").read_text())["training"]
    assert (training["policy"], training["loss_scale"]) == ("float16", 32768.0)
    assert training["test_accuracy"] > 0.9
    (run,) = (tmp_path / "runs/digits").iterdir()
    with np.load(next(run.glob("checkpoints/*/*.npz"))) as held:
        assert {"float16", "float32"} <= {held[name].dtype.name for name in held.files}

    assert "published  exports/digits/2" in tfhalf(tmp_path, "export", run.relative_to(tmp_path))
    assert "loses each change of a weight" in tfhalf(tmp_path, "check", "p.yaml")
    assert "updates    " in tfhalf(tmp_path, "numerics", "p.yaml", "--run", run.relative_to(tmp_path))
    further = (
        "--from",
        run.relative_to(tmp_path),
        "--set",
        "precision.loss_scale.mode=none",
        "--set",
        "train.epochs=1",
    )
    said = tfhalf(tmp_path, "train", "p.yaml", *further)
    assert "policy     float16: no float32 copy of the weights, without loss scaling\n" in said
    assert "note       precision.loss_scale.mode none: gradients below 2^-25 are 0" in said
    assert "loss_scale" not in json.loads((tmp_path / "exports/digits/3/manifest.json").read_text())["training"]
    bench = tfhalf(tmp_path, "bench", "p.yaml", "--policies", "float16", "--repeats", 1, "--seconds", 0.2, "--json")
    assert [row["policy"] for row in json.loads(bench)["policies"]] == ["float16"]
