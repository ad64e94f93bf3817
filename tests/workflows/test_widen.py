"""A trained net whose artifacts fall short at first: the layers that they need in float32 are found and told."""

from __future__ import annotations

import json
from pathlib import Path

import fork_server
import pytest

NET = """
import keras
from keras import layers

@keras.saving.register_keras_serializable()
class Times(layers.Layer):
    def __init__(self, by, **other):
        super().__init__(**other)
        self.by = by

    def call(self, x):
        return x * self.by

    def get_config(self):
        return {**super().get_config(), "by": self.by}

def build(*, input_shape, num_classes):
    x = keras.Input(input_shape)
    y = layers.Dense(32, activation="relu")(layers.Flatten()(x))
    y = Times(1 / 30000, name="quiet")(Times(30000.0, name="loud")(y))
    return keras.Model(x, layers.Dense(num_classes)(y))
"""

PIPELINE = """
name: loud
model: {build: net.py:build}
data: {source: "sklearn:digits"}
train: {epochs: 2, batch_size: 64, optimizer: {name: adam, learning_rate: 0.01}}
precision: {policy: float32}
"""


def tfhalf(where: Path, *arguments: str) -> str:
    done = fork_server.run(where, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_layers_that_the_artifacts_need_are_found(tmp_path: Path) -> None:
    """Trained in float32, it overflows in float16: it was refused."""
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "loud.yaml").write_text(PIPELINE)
    said = tfhalf(tmp_path, "train", "loud.yaml")
    assert "float32    2 layers are kept in float32" in said
    (line,) = [line for line in said.splitlines() if "keep_float32: [" in line]
    patterns = json.loads(line.partition("keep_float32: ")[2])
    assert patterns == ["^loud$", "^quiet$"]
    first = json.loads((tmp_path / "exports/loud/1/manifest.json").read_text())
    assert first["kept_float32"] == ["loud", "quiet"]
    assert [island["path"] for island in first["islands"]] == ["loud", "quiet"]
    assert all(row["passed"] for row in first["comparisons"])
    assert first["config"]["precision"]["keep_float32"] == []
    assert "- `loud`: gives up to" in (tmp_path / "exports/loud/1/report.md").read_text()
    # What it says to write into the pipeline needs no search.
    (tmp_path / "loud.yaml").write_text(
        PIPELINE.replace("float32}", f"float32, keep_float32: {json.dumps(patterns)}}}")
    )
    said = tfhalf(tmp_path, "train", "loud.yaml")
    second = json.loads((tmp_path / "exports/loud/2/manifest.json").read_text())
    assert second["kept_float32"] == ["loud", "quiet"]
    assert second["islands"] == []
