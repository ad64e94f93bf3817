"""Versions that were published with manifests of schema 1, of a pipeline and of a model, which today's code reads.

They lie in ``tests/schema1`` as the code before schema 2 wrote them, but for their reports.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serve_helpers import client

from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts.comparison import Limits
from tfhalf.artifacts.manifest import open_version
from tfhalf.artifacts.reference import Reference
from tfhalf.bench import inputs
from tfhalf.errors import ArtifactError
from tfhalf.progress import Progress
from tfhalf.serve.settings import Settings
from tfhalf.verify.html import render
from tfhalf.verify.report import report
from tfhalf.workflows.predict import Request, predict
from tfhalf.workflows.verify import verify_version

OLD = Path(__file__).resolve().parents[1] / "schema1"
NAMES = ["digits", "small"]


def test_a_pipelines_manifest() -> None:
    manifest = open_version(OLD / "digits").manifest
    assert [port.name for port in manifest.inputs] == ["image"]
    assert [(port.name, port.shape, port.classes) for port in manifest.outputs] == [
        ("logits", (None, 10), True),
        ("probabilities", (None, 10), True),
    ]
    assert manifest.limits == Limits(None, None, 99.5, 0.1, 256)
    assert (manifest.reference.origin, manifest.reference.count) == ("test set", 359)
    assert manifest.labels == tuple("0123456789")
    assert manifest.data is not None
    assert manifest.data.source == "sklearn:digits"
    assert manifest.training is not None
    assert manifest.training.epochs == 2
    assert next((c.artifact, c.passed, c.samples) for c in manifest.comparisons) == ("onnx", True, 359)
    assert manifest.comparisons[0].worst("accuracy") == pytest.approx(100 * manifest.training.test_accuracy)


def test_a_models_manifest() -> None:
    manifest = open_version(OLD / "small").manifest
    assert [(port.name, port.shape, port.classes) for port in manifest.outputs] == [("kind", (None, 3), True)]
    assert manifest.limits == Limits()
    assert manifest.reference.origin == "drawn"
    assert manifest.source is not None
    assert [c.passed for c in manifest.comparisons] == [True] * len(manifest.comparisons)


@pytest.mark.parametrize("name", NAMES)
def test_they_are_verified(name: str) -> None:
    directory, comparisons = verify_version(OLD / name, None, Progress(quiet=True))
    assert directory == OLD / name / "1"
    assert all(c.passed for c in comparisons)
    reference = Reference.load(directory)
    assert {c.samples for c in comparisons if c.artifact == "onnx"} == {
        reference.usual.count + len(reference.edge_kinds)
    }
    assert (comparisons[0].worst("accuracy") is not None) == (name == "digits")  # where the labels are known


@pytest.mark.parametrize("name", NAMES)
def test_they_answer(name: str, tmp_path: Path) -> None:
    Image.new("L", (8, 8), 128).save(tmp_path / "grey.png")
    (answer,) = predict(OLD / name, Request([tmp_path / "grey.png"], top=2), lambda line: None)
    assert len({row["label"] for row in answer["labels"]} & set("0123456789")) == 2
    assert 0 <= answer["labels"][0]["probability"] <= 1


@pytest.mark.parametrize("name", NAMES)
def test_they_are_timed_and_reported(name: str) -> None:
    version = open_version(OLD / name)
    (x,) = inputs.batch(version, 50).values()
    assert x.shape == (50, *version.manifest.inputs[0].shape[1:])
    comparisons = version.manifest.comparisons
    assert "every artifact answers like the float32 model" in render.render(version.manifest, comparisons)
    assert f"# {name}" in report(version.manifest, comparisons)


def test_they_are_served(tmp_path: Path) -> None:
    async def work() -> None:
        async with client(Settings((OLD,), poll_seconds=0)) as c:
            for name in NAMES:
                metadata = (await c.get(f"/v2/models/{name}")).json()
                (port,) = metadata["inputs"]
                data = np.zeros((1, *port["shape"][1:]), np.float32)
                row = {
                    "name": port["name"],
                    "shape": list(data.shape),
                    "datatype": "FP32",
                    "data": data.ravel().tolist(),
                }
                answer = await c.post(f"/v2/models/{name}/infer", json={"inputs": [row]})
                assert answer.status_code == 200, answer.text
                image = tmp_path / "a.png"
                Image.new("L", (8, 8), 128).save(image)
                classified = await c.post(f"/v2/models/{name}/classify", content=image.read_bytes())
                assert len(classified.json()["predictions"][0]["classes"]) == (5 if name == "digits" else 3)

    asyncio.run(work())


@pytest.mark.parametrize(
    ("name", "keys", "value", "words"),
    [
        ("digits", "input.shape", ["batch", 1 << 40], "inputs.0.shape.1 is not valid"),
        ("digits", "input", 3, "inputs.0 is not valid"),
        ("digits", "outputs", 3, "outputs.0 is not valid"),
        ("digits", "config.verify", 3, "limits is not valid"),
        ("digits", "config.export.formats", ["exe"], "artifacts.0.format is not valid"),
        ("digits", "config.export", None, "artifacts.0"),
        ("digits", "data.sizes.test", "many", "reference.count is not valid"),
        ("digits", "verification", [3], "comparisons.0 is not valid"),
        ("digits", "verification", [{"problems": 3}], "comparisons.0"),
        ("digits", "artifacts", 3, ""),
        ("small", "config", None, "artifacts.0.format is not valid"),
        ("small", "samples", [1], "reference is not valid"),
        ("small", "inputs", [], "inputs is not valid"),
        ("small", "verification", {"a": 1}, "comparisons"),
        ("small", "kind", ["model"], "lacks"),
    ],
)
def test_hostile_ones_are_refused_in_a_line(tmp_path: Path, name: str, keys: str, value: Any, words: str) -> None:
    version = tmp_path / "1"
    shutil.copytree(OLD / name / "1", version)
    facts = inner = json.loads((version / "manifest.json").read_text())
    *steps, last = keys.split(".")
    for step in steps:
        inner = inner[step]
    inner[last] = value
    (version / "manifest.json").write_text(json.dumps(facts))
    if not words:  # what the version does not need
        manifests.read(version)
        return
    with pytest.raises(ArtifactError, match=words) as caught:
        manifests.read(version)
    assert str(caught.value).isprintable()
    assert str(caught.value).endswith("it is damaged, export again")
