"""Weights beside the ONNX graph, as of models beyond 2 GiB, here at a low threshold: read by everything that reads an
export, and no other file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fork_server
import keras
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from keras import layers

from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts.ports import Port
from tfhalf.bench import runtimes as bench_runtimes
from tfhalf.cli import main
from tfhalf.errors import ArtifactError, IntegrityError
from tfhalf.export.onnx import to_onnx
from tfhalf.export.program import named_program, variables_of
from tfhalf.runtimes.open import open_predictor
from tfhalf.serve.models.open import Source, open_version
from tfhalf.serve.settings import Settings
from tfhalf.serve.signature import from_manifest

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:tf2onnx")]

WORDS = np.random.default_rng(0).integers(0, 300, (5, 7)).astype(np.int32)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with 19 kB of weights, exported with 4 kB as the most that lie in the graph."""
    folder = tmp_path_factory.mktemp("apart")
    keras.utils.set_random_seed(0)
    words = keras.Input((7,), dtype="int32", name="words")
    x = layers.LSTM(8, name="read")(layers.Embedding(300, 32, name="rows")(words))
    keras.Model(words, layers.Dense(5, activation="softmax", name="kind")(x)).save(folder / "net.keras")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(to_onnx, "LARGEST", 4_000)
        done = CliRunner().invoke(main, ["export", str(folder / "net.keras"), "-o", str(folder / "exports")])
    assert done.exit_code == 0, done.output
    return folder / "exports" / "net" / "1"


def test_the_files(exported: Path) -> None:
    manifest = manifests.read(exported)
    (artifact,) = [a for a in manifest.artifacts if a.format == "onnx"]
    assert artifact.files == ("model.onnx", "model.onnx.data")
    assert artifact.bytes == sum((exported / name).stat().st_size for name in artifact.files)
    assert set(artifact.files) <= set(manifest.files)
    graph = onnx.load(exported / "model.onnx", load_external_data=False).graph
    (rows,) = [t for t in graph.initializer if list(t.dims) == [300, 32]]
    assert {e.key: e.value for e in rows.external_data}["location"] == "model.onnx.data"
    assert not rows.raw_data
    assert [node.op_type for node in graph.node].count("LSTM") == 1


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_a_fresh_process_reads_it(exported: Path, command: str) -> None:
    done = fork_server.run(exported, command, exported, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    json.loads(done.stdout)
    assert "model.onnx.data" not in done.stderr


def serve(folder: Path) -> dict[str, np.ndarray]:
    manifest = manifests.read(folder)
    settings = Settings((folder,), runtime="onnx")
    runtime = open_version(Source(folder, manifest, from_manifest(manifest)), settings).runtime
    assert "weights in model.onnx.data" in runtime.about
    return runtime({"words": WORDS})


def test_served_as_verified(exported: Path) -> None:
    expected = open_predictor(exported, "savedmodel")(WORDS)["kind"]
    for got in (
        serve(exported)["kind"],
        open_predictor(exported, "onnx")(WORDS)["kind"],
        open_predictor(exported, "onnx-float16")(WORDS)["kind"],
    ):
        np.testing.assert_allclose(got, expected, atol=2e-3)
    assert "CPU" in bench_runtimes.open_to_measure(exported, "onnx-cpu").about


def _hashed_again(folder: Path) -> None:
    manifest = manifests.read(folder)
    manifests.write(folder, manifest.model_copy(update={"files": manifests.file_hashes(folder)}))


def _damaged(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"\xff" * 100)
    _hashed_again(folder)


def _named(where: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                entry.value = where if entry.key == "location" else entry.value
        onnx.save(model, str(folder / "model.onnx"))
        _hashed_again(folder)

    return change


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_named("../secret"), "keeps weights in '../secret'; only model.onnx.data beside it"),
        (_named("/etc/passwd"), "keeps weights in '/etc/passwd'"),
        (_named("manifest.json"), "keeps weights in 'manifest.json'"),
        (_named(""), "keeps weights in ''"),
        (lambda folder: (folder / "model.onnx.data").unlink(), "model.onnx.data: is missing"),
        (_damaged, "is not an ONNX file|Error parsing message"),
    ],
)
def test_other_files_are_not_opened(exported: Path, tmp_path: Path, change: Callable[[Path], None], why: str) -> None:
    folder = tmp_path / "net" / "1"
    shutil.copytree(exported, folder)
    shutil.copy(exported / "model.onnx.data", tmp_path / "net" / "secret")
    change(folder)
    for use in (
        lambda: open_predictor(folder, "onnx"),
        lambda: open_predictor(folder, "onnx-float16"),
        lambda: open_predictor(folder, "onnx-openvino"),
        lambda: bench_runtimes.open_to_measure(folder, "onnx-cpu"),
        lambda: serve(folder),
    ):
        with pytest.raises(ArtifactError, match=why):
            use()


def test_changed_weights_are_not_served(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "net" / "1"
    shutil.copytree(exported, folder)
    data = bytearray((folder / "model.onnx.data").read_bytes())
    data[100] ^= 1
    (folder / "model.onnx.data").write_bytes(data)
    with pytest.raises(IntegrityError, match=r"model.onnx.data: changed while it was opened"):
        serve(folder)


READ = """
import sys
from pathlib import Path
import numpy as np
from tfhalf.inspect.look import inspect
from tfhalf.runtimes.open import open_predictor
folder, runtime = Path(sys.argv[1]), sys.argv[2]
words, rows = np.load(folder / "words.npy"), np.load(folder / "rows.npy")
if runtime == "inspect":
    (found,) = inspect(folder / "model.onnx")
    assert found.account.bytes > 2**31, found.account.bytes
else:
    np.testing.assert_array_equal(open_predictor(folder, runtime)(words)["rows"], rows)
"""


@pytest.mark.skipif("TFHALF_LARGE" not in os.environ, reason="7 GB of memory and 5 GB of disk: TFHALF_LARGE=1 runs it")
def test_beyond_2_gib(tmp_path: Path) -> None:
    size, width = 1_100_000, 1_000
    layer = layers.Embedding(size, width, dtype="float16", embeddings_initializer="zeros")
    layer.build(None)
    layer.embeddings.value[7].assign(np.linspace(-1, 1, width).astype(np.float16))
    layer.embeddings.value[size - 1].assign(np.linspace(-60000, 60000, width).astype(np.float16))
    ports = (Port("words", "int32", (None, 2)),)
    program = named_program(lambda given: {"rows": layer(given[0])}, ports, *variables_of(layer), "a test")
    files = to_onnx.write(program, tmp_path / "model.onnx", opset=18, metadata={})
    assert files == [tmp_path / "model.onnx", tmp_path / "model.onnx.data"]
    assert files[1].stat().st_size == 2 * size * width > 2**31
    assert files[0].stat().st_size < 10_000

    words = np.array([[7, size - 1], [0, 7]], np.int32)
    np.save(tmp_path / "words.npy", words)
    np.save(tmp_path / "rows.npy", np.asarray(layer(words), np.float32))
    for runtime in ("onnx", "onnx-float16", "inspect"):
        done = subprocess.run(
            [sys.executable, "-c", READ, str(tmp_path), runtime], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
