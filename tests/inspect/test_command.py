"""``tfhalf inspect``: kinds by content, version directories, what is refused, and what it costs."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import fork_server
import keras
import numpy as np
import pytest
from inspect_models import DRAW, call, facts, flat, matmul, refused, said, save, tensor

from tfhalf import config
from tfhalf.data import Preprocess
from tfhalf.export.write import write_artifacts
from tfhalf.inspect import look

CHECKOUT = Path(__file__).resolve().parents[2]
PIPELINE = config.Pipeline.model_validate(
    {"name": "job", "model": {"build": "a.py:b"}, "data": {"source": "npz:a.npz"}}
)


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``exports/NAME`` with the versions 1, which is empty, and 2."""
    base = tmp_path_factory.mktemp("exports") / "job"
    (base / "1").mkdir(parents=True)
    (base / "2").mkdir()
    image = keras.Input((8, 8, 3))
    x = keras.layers.ReLU()(keras.layers.Conv2D(16, 3)(image))
    model = keras.Model(image, keras.layers.Dense(4)(keras.layers.Flatten()(x)))
    for variable in model.weights:  # tf2onnx leaves out a bias of zeros
        variable.assign(DRAW.uniform(0.1, 1, variable.shape))
    write_artifacts(
        model,
        base / "2",
        PIPELINE,
        preprocess=Preprocess((1.0,), (2.0,)),
        inputs=(8, 8, 3),
        labels=("a", "b", "c", "d"),
    )
    (base / "2" / "manifest.json").write_text("{}")
    return base


def test_a_version_directory(exports: Path) -> None:
    text = said(exports)
    assert text == said(exports / "2")
    assert text.count("artifact    ") == 2
    assert text.count("verdict     float16: 99.9 % of the parameters, ") == 2
    count = 27 * 16 + 16 + 576 * 4 + 4 + 2
    line = flat(text[text.index("together") :])
    assert line.startswith(f"together all are float16; SavedModel {count:,} weights, 0.0")
    assert f"; ONNX {count:,} weights, 0.0" in line


def test_json_of_a_version(exports: Path) -> None:
    told = json.loads(call(exports, "--json").stdout)
    assert [one["kind"] for one in told["artifacts"]] == ["SavedModel", "ONNX"]
    assert told["comparison"].startswith("all are float16; ")
    for one in told["artifacts"]:
        assert one["verdict"]["answer"] == "float16"
        assert one["inputs"][0]["name"] == "image"
        assert [port["name"] for port in one["outputs"]] == ["logits", "probabilities"]
        assert one["islands"]
        assert {reason["why"] for reason in one["verdict"]["reasons"]}
    saved_model, onnx = told["artifacts"]
    assert saved_model["inputs"][0]["shape"] == [None, 8, 8, 3]
    assert onnx["inputs"][0]["shape"] == ["batch", 8, 8, 3]
    assert onnx["metadata"]["precision"] == "float16"
    assert saved_model["parameters"]["float16"] == onnx["parameters"]["float16"]


def test_a_kind_is_told_by_its_content(exports: Path, tmp_path: Path) -> None:
    model = (exports / "2" / "model.onnx").read_bytes()
    for name in ("model.bin", "model", "weights.pb"):
        (tmp_path / name).write_bytes(model)
        assert facts(tmp_path / name)["kind"] == "ONNX"
    assert facts(exports / "2" / "saved_model.pb")["kind"] == "SavedModel"
    (tmp_path / "model.keras").write_bytes(model)
    refused(tmp_path / "model.keras", "is not what its name says")


def test_a_folder_with_an_onnx_file(tmp_path: Path) -> None:
    save(tmp_path / "m.onnx", [matmul("x", "w", "y")], [tensor("w", 8, 4)])
    assert facts(tmp_path)["kind"] == "ONNX"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"hello, world", "starts with b'hello, w', which no artifact does"),
        (pickle.dumps([1]), "is a pickle, which runs code when it is read"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "cannot be read as an HDF5 file"),
        (b"\x1f\x8b\x08", "is gzip-compressed"),
        (b"GGUF", "is a GGUF file"),
        (b"PK\x03\x04" + bytes(30), "cannot be read as a zip archive"),
        (b"PK\x05\x06" + bytes(18), "it lacks config.json"),
        (b"\0\0\0\0TFL3", "cannot be read as LiteRT"),
        (b"\x08", "cannot be read as ONNX"),
        (
            np.float16(1).tobytes() * 9,
            "which no artifact does; give a SavedModel folder, an ONNX file, a .keras or .h5 file",
        ),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "file").write_bytes(content)
    refused(tmp_path / "file", told)


def test_other_paths(exports: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "does not exist; give a SavedModel folder, an ONNX file")
    refused(tmp_path, "is an empty folder; give")
    for name in "abcdefg":
        (tmp_path / name).touch()
    refused(tmp_path, "holds a, b, c, d, e, ...; give")
    refused(exports.parent, "holds job; give")
    refused(Path("/dev/null"), "is neither a file nor a folder")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "is neither a file nor a folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch(mode=0)
    refused(tmp_path / "m.onnx", "cannot be read: Permission denied")


def test_an_odd_error_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\x08")

    def fail(path: Path) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(look, "_reader", fail)
    refused(tmp_path / "m.onnx", "cannot be read: Input/output error")


def test_neither_tensorflow_nor_keras_is_imported(exports: Path) -> None:
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from tfhalf.cli import main\n"
        f"result = CliRunner().invoke(main, ['inspect', {str(exports)!r}])\n"
        "assert result.exit_code == 0, result.output\n"
        "print(' '.join(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"tensorflow", "keras", "onnxruntime", "h5py"} & set(done.stdout.split())


@pytest.mark.slow
def test_what_a_job_publishes(tmp_path: Path) -> None:
    done = fork_server.run(tmp_path, "train", CHECKOUT / "pipelines" / "digits.yaml", "--smoke", "-q")
    assert done.returncode == 0, done.stderr
    base = next((tmp_path / "runs" / "digits").iterdir()) / "exports" / "digits"
    text = flat(said(base))
    assert text.count("float16: 99.9 % of the parameters, 8 of 11 arithmetic operations compute in float16") == 2
    assert "among them 3 of 3 matrix products; inputs and outputs are float32 (2 Casts at the border)" in text
    manifest = json.loads((base / "1" / "manifest.json").read_text())
    for one in json.loads(call(base, "--json").stdout)["artifacts"]:
        assert one["parameters"]["float16"] == {
            "tensors": 6,
            **manifest["parameters"]["float16"],
        }
