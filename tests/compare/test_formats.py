"""The formats of a version side by side, and which of them to deploy."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import pytest
from click.testing import CliRunner
from keras import layers

from tfhalf import export_model
from tfhalf.cli import main
from tfhalf.compare.formats import Offer, Offers, advice, compare_formats, lines
from tfhalf.compare.records import Latency
from tfhalf.progress import Progress


def latency(runtime: str, *milliseconds: float) -> tuple[Latency, ...]:
    return tuple(
        Latency(runtime, f"{runtime} 1.0", size, ms, 2 * ms, 1e3 * size / ms)
        for size, ms in zip((1, 32), milliseconds, strict=True)
    )


SAVED = Offer("savedmodel", "float16", 60_000, 1e-3, 100.0, {"accuracy": 0.93}, {"accuracy": 0.93})
ONNX = Offer("onnx", "float16", 50_000, 2e-3, 99.9, {"accuracy": 0.929}, {"accuracy": 0.93}, latency("ort", 0.2, 4))
SAVED_RUN = Offer(**{**vars(SAVED), "latency": (*latency("tf", 0.5, 3), *latency("xla", 0.4, 3.5))})


def test_what_to_deploy_for_what() -> None:
    table = Offers("exports/net/1", (SAVED_RUN, ONNX), 100_000, "a CPU")
    assert advice(table) == [
        "onnx: the smallest (50.00 kB), the fastest for one at a time (ort 1.0: 0.2 ms)",
        "savedmodel: the fastest for 32 at a time (tf 1.0: 3 ms)",
        "           onnx answers otherwise than float32: accuracy 0.929, float32 0.93",
    ]
    said = "\n".join(lines(table))
    for text in ("0.50", "99.90", "0.4 ms, xla 1.0", "on a CPU", "deploy     onnx: ", "100.00 kB of weights"):
        assert text in said
    assert max(map(len, lines(table))) <= 120


def test_without_a_bench() -> None:
    table = Offers("exports/net/1", (SAVED,), 100_000, "")
    assert advice(table) == ["savedmodel: the smallest (60.00 kB)"]
    assert "batch of" not in "\n".join(lines(table))


@pytest.mark.slow
def test_of_a_version(tmp_path: Path) -> None:
    x = keras.Input((8,))
    model = keras.Model(x, layers.Dense(3)(layers.Dense(16, activation="relu")(x)), name="net")
    there = tmp_path / "exports" / "net"
    export_model(model, there, formats=["savedmodel", "onnx"])
    table = compare_formats(there, Progress(quiet=True), None)
    assert [offer.format for offer in table.offers] == ["savedmodel", "onnx"]
    assert table.float32_bytes == 4 * (8 * 16 + 16 + 16 * 3 + 3)
    done = CliRunner().invoke(main, ["compare", str(there), "--no-bench", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.output)["advice"] == advice(table)
    refused = CliRunner().invoke(main, ["compare", str(there), "--policies", "float32", "--vary", "train.epochs=1,2"])
    assert refused.exit_code == 2
    assert "is an export, which takes no --vary, --policies; leave that out" in refused.output


def test_a_model_file_is_to_be_exported_first(tmp_path: Path) -> None:
    path = tmp_path / "net.keras"
    path.touch()
    done = CliRunner().invoke(main, ["compare", str(path)])
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
    assert "is a model; export it first, tfhalf export " in done.output
