"""`tfhalf compare` as it is called: real trainings, stopped at any instant and gone on with, and what is malformed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tfhalf.cli import main

MODELS = Path(__file__).resolve().parent.parent / "models"
PIPELINE = f"""
name: small
model: {{build: "{MODELS}/mlp.py:build"}}
data: {{source: "sklearn:digits", validation: 0.1}}
train: {{epochs: 12, batch_size: 16, checkpoint_seconds: 0}}
"""
OPTIONS = ["--policies", "float32,mixed_float16", "--formats", "onnx", "--no-bench"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(PIPELINE)
    return path


def compare(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tfhalf", "compare", *map(str, arguments)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def figures(table: dict[str, Any]) -> list[Any]:
    """What does not depend on how fast the machine is."""
    timeless = ("setting", "seeds", "failed", "problems", "metrics", "gap", "skipped", "artifacts", "differences")
    return [{name: row[name] for name in timeless} for row in table["rows"]]


@pytest.mark.slow
def test_killed_and_gone_on_with(file: Path, tmp_path: Path) -> None:
    """The same table to the last bit as of a comparison that nobody stopped; trainings go on from their checkpoints."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = [file, *OPTIONS, "--seeds", "1", "--json", "--out"]
    process = compare(*arguments, whole)
    expected, said = process.communicate()
    assert process.returncode == 0, said
    draw = random.Random(1)
    for _ in range(2):
        process = compare(*arguments, killed)
        cells = killed / "cells"
        while not list(cells.glob("*/runs/small/*/history.jsonl")) and process.poll() is None:
            time.sleep(0.05)
        time.sleep(draw.uniform(0, 6))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = compare(*arguments, killed)
    got, said = process.communicate()
    assert process.returncode == 0, said
    assert figures(json.loads(got)) == figures(json.loads(expected))
    assert len(list(cells.glob("*/runs/small/*"))) == 2  # one run each, gone on with
    for name in ("report.html", "report.md", "table.json"):
        assert (killed / name).stat().st_size > 1000
    before = {path: path.stat().st_mtime_ns for path in cells.rglob("*") if path.is_file()}
    process = compare(file, *OPTIONS, "--seeds", "1", "--out", killed)
    got, said = process.communicate()
    assert process.returncode == 0, said
    assert "2 of them have ended before, and are not run again" in got
    assert "mixed_float16" in got
    assert {path: path.stat().st_mtime_ns for path in cells.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_training_that_diverges_is_a_row(file: Path, tmp_path: Path) -> None:
    process = compare(
        file, *OPTIONS, "--seeds", "1", "--set", "train.optimizer.learning_rate=1e30", "--out", tmp_path / "out"
    )
    got, said = process.communicate()
    assert process.returncode == 0, said
    assert "failed: step " in got
    assert "the loss is nan" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--policies", "float8"], "--policies: 'float8' is not one of "),
        (["--seeds", "0"], "--seeds: received 0; accepted: 1 to 1000"),
        (["--vary", "train.epochs"], "--vary: received 'train.epochs'; accepted: KEY=A,B"),
        (["--vary", "train.epoch=1,2"], "--vary train.epoch"),
        (["--set", "seed=3"], "--set seed: is what --seeds chooses; give --seeds instead"),
        (["--margin", "-1"], "--margin"),
        (["--ray", "nowhere"], "--ray"),
    ],
)
def test_what_is_malformed(file: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(main, ["compare", str(file), *arguments, "--out", str(out)])
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output
    assert not list(out.glob("cells/*"))


def test_a_pipeline_that_is_not_there(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["compare", str(tmp_path / "none.yaml")])
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
    assert os.listdir(tmp_path) == []
