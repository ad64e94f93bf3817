"""The pipelines that are shipped: each one loads, says in its header what it is, and runs."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import fork_server
import pytest

from tfhalf import config
from tfhalf.artifacts import manifest as manifests
from tfhalf.config.refs import resolve

CHECKOUT = Path(__file__).resolve().parent.parent
PIPELINES = sorted(CHECKOUT.glob("pipelines/*.yaml"))
HEADER = ("source", "cost", "expected", "command")
# Where two steps and the export of the pipeline's own net take minutes without a GPU; the rate goes with the batch.
SMALLER = {
    "cifar10": ("model.args={widths: [16, 24, 32]}",),
    "cifar10_96": (
        *("model.args={widths: [16, 24, 32], convolutions: 3, norm_momentum: 0.9}", "train.test_views=none"),
    ),
    "cifar10_last_five": ("model.weights=null",),  # of a run that is not there
    "cifar10_resnet9": ("model.args={widths: [16, 24, 32, 48]}", "train.optimizer.learning_rate=0.0125"),
    "digits_deep": ("model.args={blocks: 12}", "precision.keep_float32=[]"),  # so few blocks need no islands
    "digits_transformer": ("model.args={patch: 2, width: 32, depth: 2, heads: 4}",),
    # Without the set: random images stand for it, of which the net learns nothing.
    "imagenet_resnet50": (
        *("data.source=synthetic:40x40x3", "data.args={classes: 10, train: 64, test: 16}", "data.test=0.2"),
        *(
            *("data.image_size=null", "data.center_crop=null", "data.augment.resized_crop=null"),
            "model.args={width: 8, blocks: [1, 1, 1, 1]}",
            "train.stages=[{epochs: 1, size: 32}]",
        ),
    ),
    "membrane_unet": ("data.image_size=[32, 32]", "data.augment.crop=4", "model.args={width: 8, depth: 2}"),
    "sst2_transformer": ("model.args={width: 16, depth: 1, heads: 2}",),
    "resnet50_synthetic": (
        *("data.source=synthetic:32x32x3", "data.args={classes: 10, train: 64, test: 16}", "train.batch_size=8"),
    ),
}
# Data that is downloaded by hand: where it lies below the folder of such sets.
BY_HAND = {
    "california_housing": "csv:housing/housing.csv",
    "membrane_unet": "masks:membrane",
    "sst2_gru": "csv:sst2",
    "sst2_transformer": "csv:sst2",
}
# Packages that a pipeline's own code needs.
NEEDS = {"sunspots": "statsmodels"}
DATASETS = Path(os.environ.get("TFHALF_DATASETS") or CHECKOUT.parent / "shared" / "datasets")


def header(path: Path) -> dict[str, str]:
    """The words of the comment at the top, by their keys; a deeper indented line continues the one above."""
    found: dict[str, str] = {}
    key = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if match := re.match(r"# ([a-z]+) {2,}(\S.*)$", line):
            key = match[1]
            found[key] = match[2]
        elif key and line.startswith("#    "):
            found[key] += " " + line[1:].strip()
    return found


def data_dir() -> Path:
    return Path(os.environ.get("TFDS_DATA_DIR") or CHECKOUT.parent / "shared" / "tensorflow_datasets")


def verb(path: Path) -> str:
    """``train``; ``bench`` for a pipeline that is there to be measured."""
    return header(path).get("command", "tfhalf train").split()[1]


def settings(path: Path) -> list[str]:
    changes = list(SMALLER.get(path.stem, ()))
    if path.stem in BY_HAND:
        scheme, _, where = BY_HAND[path.stem].partition(":")
        changes.append(f"data.source={scheme}:{DATASETS / where}")
    return [word for change in changes for word in ("--set", change)]


TRAINED = [path for path in PIPELINES if verb(path) == "train"]
MEASURED = [path for path in PIPELINES if verb(path) == "bench"]


def test_there_are_some() -> None:
    assert {"digits", "cifar10", "cifar10_resnet20", "cifar10_resnet9", "cifar10_mlp"} <= {p.stem for p in TRAINED}
    assert [path.stem for path in MEASURED] == ["resnet50_synthetic"]
    assert set(SMALLER) <= {path.stem for path in PIPELINES}


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_it_loads(path: Path) -> None:
    pipeline = config.load_pipeline(path)
    assert pipeline.name == path.stem
    assert callable(resolve(pipeline.model.build, path.parent))
    again = config.Pipeline.model_validate_json(json.dumps(pipeline.dump()))
    assert again == pipeline


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_its_header(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert re.fullmatch(r"# \S.*\.", first), "the first line says what it is, in a sentence"
    found = header(path)
    assert tuple(found) == HEADER
    for key, text in found.items():
        assert not re.fullmatch(r"[A-Z]+", text), f"{key} is still to be filled in: {text}"
    assert re.search(
        rf"(^|&& )tfhalf (train|bench) pipelines/{path.name}( --set data.source=\w+:PATH)?$", found["command"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_it_is_measured(path: Path, tmp_path: Path) -> None:
    options = ["--policies", "float32", "--repeats", "1", "--seconds", "0.1", "--json", *settings(path)]
    done = fork_server.run(tmp_path, "bench", path, *options)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["pipeline"] == path.stem
    assert [row["policy"] for row in told["policies"]] == ["float32"]
    assert told["policies"][0]["images_per_s"]["median"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("path", TRAINED, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path) -> None:
    """Two steps, and everything after them for real."""
    source = config.load_pipeline(path, settings(path)[1::2]).data.source
    where = data_dir()
    tfds = "cifar10" if "cifar10" in source else source.removeprefix("tfds:") if source.startswith("tfds:") else None
    if tfds and not (where / tfds).is_dir():
        pytest.skip(f"{source} is not in {where}; TFDS_DATA_DIR says where it is")
    by_hand = BY_HAND.get(path.stem, "").partition(":")[2]
    if not (DATASETS / by_hand).exists():
        pytest.skip(f"{DATASETS} does not hold {by_hand}; TFHALF_DATASETS says where it is")
    if path.stem in NEEDS:
        pytest.importorskip(NEEDS[path.stem], reason=f"{path.stem} needs the package {NEEDS[path.stem]}")
    # Of float16 emulated a step takes a twentieth of a second for each image.
    options = ["--smoke", "--json", "--data-dir", str(where), "--set", "train.batch_size=8", *settings(path)]
    done = fork_server.run(tmp_path, "train", path, *options)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["smoke"] is True
    assert told["version"] == f"{told['run']}/exports/{path.stem}/1"
    assert [folder.name for folder in tmp_path.iterdir()] == ["runs"]  # nothing is published
    version = tmp_path / told["version"]
    manifest = manifests.read(version)
    manifests.check_files(version, manifest)
    assert manifest.smoke
    assert "**Smoke run**" in (version / "report.md").read_text()
    assert manifest.training.to_dict()["steps"] == 2
    assert 1 <= manifest.data.sizes.test <= 256
    assert [row.runtime.split()[0] for row in manifest.comparisons][:2] == ["TensorFlow", "onnxruntime"]
    for row in manifest.comparisons:
        assert row.passed
        assert row.worst("non_finite") == 0
        assert row.worst("max_difference") < 0.05
    assert {path.name for path in version.parent.iterdir()} <= {"1", "config.pbtxt", ".lock"}
