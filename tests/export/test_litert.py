"""LiteRT files: the float32 twin that they are made of, the weights in float16, refusals; and OpenVINO."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import fork_server
import numpy as np
import pytest
import tensorflow as tf
import zoo
from keras import layers
from orphans import assert_no_orphan
from tensorflow.lite.python import schema_py_generated as schema
from zoo_helpers import export_here

from tfhalf.artifacts.comparison import Limits
from tfhalf.artifacts.formats import FORMATS
from tfhalf.artifacts.ports import Port
from tfhalf.errors import ArtifactError, ConfigError, ExportError
from tfhalf.export.litert import graph as litert_graph
from tfhalf.export.litert import store, to_litert, worker
from tfhalf.export.program import named_program
from tfhalf.export.request import Options, Request, read_options
from tfhalf.inspect.litert_file import inspect_litert
from tfhalf.runtimes import child
from tfhalf.runtimes.child import Isolated, lacking

CHECKOUT = Path(__file__).resolve().parents[2]
DIGITS = CHECKOUT / "pipelines" / "digits.yaml"
DRAW = np.random.default_rng(0)
HALF = DRAW.normal(size=(12, 40)).astype(np.float16)
WIDE = np.concatenate([DRAW.normal(size=39), [1e5]]).astype(np.float32)  # what an island may hold
X = DRAW.normal(size=(3, 12)).astype(np.float32)


def expected(x: np.ndarray) -> np.ndarray:
    product: np.ndarray = np.tanh(x.astype(np.float64) @ HALF.astype(np.float64)) * WIDE
    return product


def program() -> Any:
    """A product with float16 weights in float16, and then one with float32 weights in float32."""
    weights = (tf.Variable(HALF), tf.Variable(WIDE))

    def call(given: Any) -> Any:
        y = tf.cast(given[0], tf.float16) @ weights[0]
        return {"b": tf.tanh(tf.cast(y, tf.float32)) * weights[1], "a": given[0] * 2.0}

    return named_program(call, [Port("x", "float32", (None, 12))], weights, (), "about it")


# --- the twin ---------------------------------------------------------------------------------------------------------


def twin(graph: Any, outputs: list[str], x: np.ndarray, name: str) -> list[np.ndarray]:
    with tf.Graph().as_default() as made:
        tf.graph_util.import_graph_def(graph, name="")
        with tf.compat.v1.Session(graph=made) as session:
            found: list[np.ndarray] = session.run(outputs, {name: x})
    return found


def test_the_twin_computes_with_the_same_numbers_in_float32() -> None:
    frozen = litert_graph.frozen(program())
    assert frozen.names == ("a", "b")
    assert [
        tf.make_ndarray(x).tolist() for x in litert_graph.float32_constants(frozen.graph) if litert_graph.count(x) > 1
    ] == [WIDE.tolist()]
    litert_graph.widen(frozen.graph)
    assert "DT_HALF" not in str(frozen.graph)
    a, b = twin(frozen.graph, list(frozen.outputs), X, frozen.inputs[0])
    np.testing.assert_allclose(a, 2 * X)
    np.testing.assert_allclose(b, expected(X), rtol=1e-5)  # float16 arithmetic would be 1e-3 away


def test_loops_are_widened_too() -> None:
    weight = tf.Variable(np.float16([0.1, 0.7]))

    def call(given: Any) -> Any:
        y = tf.cast(given[0], tf.float16)
        _, y = tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, y * weight), (0, y))
        return {"y": y}

    frozen = litert_graph.frozen(named_program(call, [Port("x", "float32", (None, 2))], (weight,), (), ""))
    litert_graph.widen(frozen.graph)
    assert "DT_HALF" not in str([*frozen.graph.node])


def test_slices_that_add_axes() -> None:
    def call(given: Any) -> Any:
        return {"a": given[0][None, :, None], "b": given[0][:, 1:, None]}

    frozen = litert_graph.frozen(named_program(call, [Port("x", "float32", (None, 12))], (), (), ""))
    litert_graph.expand_slices(frozen.graph)
    ops = [node.op for node in frozen.graph.node]
    assert (ops.count("ExpandDims"), ops.count("StridedSlice")) == (2, 1)
    a, b = twin(frozen.graph, list(frozen.outputs), X, frozen.inputs[0])
    np.testing.assert_array_equal(a, X[None, :, None])
    np.testing.assert_array_equal(b, X[:, 1:, None])


def test_seeds_are_no_state_of_an_artifact() -> None:
    layer = layers.RandomHue(0.2, seed=1)
    layer(np.zeros((1, 4, 4, 3)))
    weights = [v.value for v in layer.variables]
    call = named_program(
        lambda given: {"y": layer(given[0], training=False)}, [Port("x", "float32", (None, 4, 4, 3))], (), weights, ""
    )
    assert "Assign" not in str(litert_graph.frozen(call).graph)


@pytest.mark.slow
def test_infinity_stays_what_it_is(tmp_path: Path) -> None:
    def call(given: Any) -> Any:
        x = given[0]
        return {"a": tf.where(x > 0, np.float32(np.inf), x), "b": tf.math.rsqrt(x * np.abs(X[:1]))}

    made = named_program(call, [Port("x", "float32", (None, 12))], (), (), "")
    to_litert.write(made, tmp_path, ("litert",), metadata={})
    x = np.abs(X)
    x[0] = 0
    answers = Isolated("litert", tmp_path / FORMATS["litert"].file)({"x": x})
    np.testing.assert_array_equal(answers["a"], np.where(x > 0, np.inf, x))
    assert np.isinf(answers["b"][0]).all()


def test_text_and_size_are_told_before_anything_is_done() -> None:
    words = named_program(lambda given: {"n": tf.strings.length(given[0])}, [Port("w", "string", (None,))], (), (), "")
    with pytest.raises(ExportError, match="LiteRT: w is text"):
        litert_graph.frozen(words)

    class Large:
        shape = (2**15, 2**15)

    large = program()
    object.__setattr__(large, "weights", (Large(),))
    with pytest.raises(ExportError, match=r"4\.0 GiB in float32"):
        litert_graph.frozen(large)


# --- what is stored ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The float32 file of `program`, made in this process."""
    frozen = litert_graph.frozen(program())
    litert_graph.widen(frozen.graph)
    request = {
        "inputs": [{"name": "x", "dtype": "float32", "shape": [None, 12]}],
        "outputs": list(frozen.names),
        "tensors": {"inputs": list(frozen.inputs), "outputs": list(frozen.outputs)},
    }
    saved, batch = worker._plain(frozen.graph, request, folder := tmp_path_factory.mktemp("plain"))
    assert batch is None
    assert Path(saved).is_dir()
    return (folder / "plain.tflite").read_bytes()


def constants(content: bytes) -> dict[int, list[np.ndarray]]:
    """Stored values by type."""
    model = schema.ModelT.InitFromPackedBuf(bytearray(content), 0)
    found: dict[int, list[np.ndarray]] = {}
    kinds = {schema.TensorType.FLOAT16: np.float16, schema.TensorType.FLOAT32: np.float32}
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if data is not None and len(data) and tensor.type in kinds:
            found.setdefault(tensor.type, []).append(np.frombuffer(bytes(data), kinds[tensor.type]))
    return found


def test_no_number_changes(plain: bytes, tmp_path: Path) -> None:
    content = store.store_float16(plain, [WIDE.size], "tfhalf", {"labels": ["ü"]})
    found = constants(content)
    assert [np.sort(x).tolist() for x in found[schema.TensorType.FLOAT16]] == [np.sort(HALF.ravel()).tolist()]
    assert WIDE.tolist() in [x.tolist() for x in found[schema.TensorType.FLOAT32]]
    assert store.stored(content) == store.Stored(float16=HALF.size, float32=WIDE.size + 1)
    path = tmp_path / "m.tflite"
    path.write_bytes(content)
    told = inspect_litert(path)
    assert [(port.name, port.dtype) for port in told.inputs] == [("x", "float32")]
    assert {port.name for port in told.outputs} == {"a", "b"}
    assert told.facts["made by"] == "tfhalf"
    model = schema.ModelT.InitFromPackedBuf(bytearray(content), 0)
    metadata = {entry.name: bytes(model.buffers[entry.buffer].data) for entry in model.metadata}
    assert json.loads(metadata[b"tfhalf"]) == {"labels": ["ü"]}
    assert len(content) < len(plain)
    opened = Isolated("litert", path)
    assert (opened.inputs, opened.about.split()[0]) == (("x",), "LiteRT")
    for x in (X, X[:1], np.concatenate([X, X])):
        got = opened({"x": x})
        np.testing.assert_allclose(got["a"], 2 * x)
        np.testing.assert_allclose(got["b"], expected(x), rtol=1e-5)


def test_values_begin_where_kernels_may_rely_on_it(plain: bytes) -> None:
    content = store.store_float16(plain, [], "tfhalf", {})
    at = content.index(np.ascontiguousarray(HALF.T).tobytes())
    assert at % 16 == 0


@pytest.mark.parametrize(
    ("values", "wide", "kind"),
    [
        (np.float16(DRAW.normal(size=5)), [], "float16"),
        (DRAW.normal(size=300), [], "float16"),  # a product of what was float16: rounded once more
        (DRAW.normal(size=30), [], "float32"),  # too small to be worth it
        (DRAW.normal(size=300), [np.arange(200) / 7], "float16"),  # a norm's weights say nothing of the others
        (DRAW.normal(size=300), [np.arange(300) / 7], "float32"),  # there is an island: nothing is rounded
        (np.float16(DRAW.normal(size=300)), [np.arange(300) / 7], "float16"),  # what float16 holds is stored in it
        (np.full(300, 1e5), [], "float32"),
        (np.full(300, 1e-9), [], "float32"),
        (np.array([np.nan] + [1.0] * 300), [], "float32"),
    ],
)
def test_which_weights_become_float16(values: np.ndarray, wide: list[np.ndarray], kind: str) -> None:
    model, graph, tensor, buffer = schema.ModelT(), schema.SubGraphT(), schema.TensorT(), schema.BufferT()
    values = np.asarray(values, np.float32)
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    tensor.name, tensor.shape, tensor.type, tensor.buffer = b"w", [values.size], schema.TensorType.FLOAT32, 1
    graph.tensors, graph.inputs, graph.outputs, graph.operators = [tensor], [], [], []
    model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], [schema.BufferT(), buffer], []
    content = store.described(store._written(model, "", {}), "", {})
    made = store.store_float16(content, [w.size for w in wide], "", {})
    assert getattr(store.stored(made), kind) == values.size
    if kind == "float32":
        assert constants(made).keys() == {schema.TensorType.FLOAT32}


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("a\nTF Select ops: Conv3D, MaxPool3D\nDetails:\n", "it has no operator for Conv3D, MaxPool3D; write"),
        ("x: error: 'tf.TensorListReserve' op requires element_shape to be static", "a loop over steps"),
        ('loc("a" b): error: something odd\nmore', "does not take the model: error: something odd; leave litert out"),
        ("only this\nand that", "does not take the model: only this; leave litert out"),
    ],
)
def test_reasons(said: str, told: str) -> None:
    reason = worker.reason(said)
    assert told in reason
    assert "\n" not in reason


def test_a_file_that_lost_its_weights() -> None:
    Stored = store.Stored
    with pytest.raises(ExportError, match="kept 400 of 1,000 weights"):
        worker._check("litert", Stored(float16=400), 1000)
    with pytest.raises(ExportError, match="no weight is stored in int8"):
        worker._check("litert-int8", Stored(float32=1000), 1000)
    worker._check("litert-int8", Stored(int8=1000), 1000)


def test_a_converter_that_dies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text("import os\n\ndef main(channel, folder):\n    os.kill(os.getpid(), 11)\n")
    (tmp_path / "out").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(to_litert, "_WORKER", "dying")
    made = to_litert.write(program(), tmp_path / "out", ("savedmodel", "litert", "litert-int8"), metadata={})
    died = "LiteRT: the process that converts ended by signal 11 (Segmentation fault); leave litert out"
    assert {kind: str(error) for kind, error in made.items()} == dict.fromkeys(("litert", "litert-int8"), died)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("wait", [0.5, 4.0])
def test_a_converter_ends_with_the_export_that_is_killed(tmp_path: Path, wait: float) -> None:
    """While it imports TensorFlow, and at work: it hangs on what is not a graph, a pipe that nobody writes to."""
    os.mkfifo(tmp_path / "request.json")
    code = (
        "import sys; from tfhalf.export.litert import to_litert\n"
        "child = to_litert.Child(to_litert._WORKER, sys.argv[1]); print(child.process.pid, flush=True)"
    )
    assert_no_orphan(code, str(tmp_path), wait=wait)


def options(formats: str | None, tmp_path: Path) -> Options:
    given: dict[str, Any] = dict.fromkeys(("name", "verify_with", "max_difference", "mean_difference"))
    return read_options(tmp_path, **given, formats=formats, keep_float32=(), opset=18, bisect_seconds=1.0)


def test_formats_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = options(None, tmp_path)
    assert (usual.formats, usual.tried) == (None, ("savedmodel", "onnx"))
    assert options("litert, onnx,litert", tmp_path).formats == ("litert", "onnx")
    everything = options("all", tmp_path)
    assert (everything.formats, everything.tried) == (None, tuple(FORMATS))
    with pytest.raises(ConfigError, match=r"savedmodel, onnx, litert, litert-int8 are accepted, .* or all"):
        options("tflite", tmp_path)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ai_edge_litert" else real(name))
    for formats in ("litert-int8", "all"):
        with pytest.raises(ConfigError, match=r"LiteRT is not installed: pip install 'tfhalf\[litert\]'"):
            options(formats, tmp_path)
    options("onnx", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else real(name))
    for some in ("onnx", "all", None):
        with pytest.raises(ConfigError, match=r"onnxruntime is not installed: pip install 'tfhalf\[cpu\]', or 'tfhalf"):
            options(some, tmp_path)
    assert options("savedmodel,litert", tmp_path).formats == ("savedmodel", "litert")


def test_runtimes_that_are_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert child.not_covered(["onnx", "litert"]) == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert child.not_covered(["savedmodel", "litert"]) == []
    assert child.not_covered(["onnx"]) == [
        "onnx was not run in OpenVINO: OpenVINO is not installed: pip install 'tfhalf[openvino]'"
    ]
    with pytest.raises(ArtifactError, match=r"m\.tflite: LiteRT is not installed: pip install"):
        Isolated("litert", tmp_path / "m.tflite")


def test_int8_has_limits_of_its_own() -> None:
    int8, float16 = FORMATS["litert-int8"], FORMATS["litert"]
    limits = Limits().for_format(int8)
    assert (limits.max_difference, limits.mean_difference, limits.min_agreement) == (0.4, 0.08, 92.0)
    limits = Limits(None, None, 99.5, 0.1).for_format(int8)
    assert (limits.max_accuracy_drop, limits.min_agreement, limits.max_difference) == (0.8, 96.0, None)
    assert limits.edge_probability == 1.0
    assert Limits().for_format(float16) == Limits()


# --- files that nobody can trust --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_damaged_files_are_told_in_one_line(plain: bytes, tmp_path: Path) -> None:
    whole = store.store_float16(plain, [], "tfhalf", {})
    draw, path, told = random.Random(0), tmp_path / "m.tflite", []
    cut = [whole[:length] for length in (0, 8, 100, len(whole) // 2)]
    spoilt = []
    for _ in range(16):
        damaged = bytearray(whole)
        for _ in range(30):
            damaged[draw.randrange(len(damaged))] = draw.choice((0, 127, 128, 255))
        spoilt.append(bytes(damaged))
    for content in [*cut, b"no model at all" * 50, *spoilt]:
        path.write_bytes(content)
        try:
            Isolated("litert", path)({"x": X})
        except ArtifactError as error:
            told.append(str(error))
    assert len(told) >= 15
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in told)


def test_a_crash_is_told(plain: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(plain)
    opened = Isolated("litert", path)
    with pytest.raises(ArtifactError, match="opens and does not run: "):
        opened({"x": X[:, :5]})
    assert set(opened({"x": X})) == {"a", "b"}  # and goes on after that
    os.kill(opened._child.process.pid, signal.SIGSEGV)
    with pytest.raises(ArtifactError, match=r"ended the process that runs it by signal 11 \(Segmentation fault\)"):
        opened({"x": X})


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("unet", {}),
        ("vit", {}),
        ("gpt", {}),
        ("gru", {}),
        ("beyond", {"litert-int8": "no weight is stored in int8"}),
        ("preprocessing", {"litert-int8": "no weight"}),
        ("volumes", {"litert-int8": "no weight"}),
        ("words", dict.fromkeys(("onnx", "litert", "litert-int8"), "text")),
    ],
)
def test_a_model(name: str, refused: dict[str, str], tmp_path: Path) -> None:
    """Every format that the model allows, each judged; the others refused with the reason."""
    entry = next(entry for entry in zoo.ENTRIES if entry.name == name)
    path = zoo.make(entry, tmp_path)
    chosen = Options(exports=tmp_path / "exports", tried=tuple(FORMATS))
    made = export_here(Request(str(path), custom=zoo.CUSTOM), chosen)
    told = made.manifest.refused
    assert set(told) == set(refused)
    assert all(refused[kind] in told[kind] for kind in refused)
    assert all(c.passed for c in made.comparisons)
    kinds = [kind for kind in FORMATS if kind not in refused]
    assert [
        c.artifact for c in made.comparisons if c.runtime.split()[0] in ("TensorFlow", "onnxruntime", "LiteRT")
    ] == kinds
    assert any(c.runtime.startswith("OpenVINO") for c in made.comparisons) == ("onnx" in kinds)
    details = {a.format: a.details for a in made.manifest.artifacts}
    assert {kind for kind in FORMATS if (made.version / FORMATS[kind].file).is_file()} == set(kinds)
    if "litert" in kinds:
        assert details["litert"]["batch"] == (1 if name == "gru" else "open")
        by_format = {c.artifact: c for c in made.comparisons if c.runtime.startswith("LiteRT")}
        assert (by_format["litert"].worst("max_difference") or 0) < 0.02


@pytest.mark.slow
def test_a_refusal_where_the_format_was_asked_for(tmp_path: Path) -> None:
    entry = next(entry for entry in zoo.ENTRIES if entry.name == "words")
    path = zoo.make(entry, tmp_path)
    chosen = Options(exports=tmp_path / "exports", formats=("savedmodel", "litert"))
    with pytest.raises(ExportError, match="LiteRT: text is text"):
        export_here(Request(str(path), custom=zoo.CUSTOM), chosen)
    assert not list(tmp_path.glob("exports/*/[0-9]*"))


# --- from end to end, each step in a process of its own ---------------------------------------------------------------


def tfhalf(where: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return fork_server.run(where, *arguments)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a smoke run, with ``exports/digits`` in every format."""
    where = tmp_path_factory.mktemp("exported")
    formats = f"export.formats=[{','.join(FORMATS)}]"
    done = tfhalf(where, "train", DIGITS, "--smoke", "--quiet", "--set", formats)
    assert done.returncode == 0, done.stderr
    return next((where / "runs" / "digits").iterdir())


@pytest.mark.slow
def test_digits_in_every_format(exported: Path) -> None:
    done = tfhalf(exported, "verify", "exports/digits", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["comparisons"]
    by = [(row["artifact"], row["runtime"].split()[0]) for row in rows]
    assert by[0] == ("savedmodel", "TensorFlow")
    assert ("onnx, OpenVINO", "OpenVINO") in by
    assert by[-2:] == [("litert", "LiteRT"), ("litert-int8", "LiteRT")]
    assert all(row["passed"] and row["samples"] == rows[0]["samples"] for row in rows[-3:])
    half, whole = rows[-2], rows[-1]
    assert half["max_difference"] < 1e-2
    assert half["max_difference"] < whole["max_difference"]
    version = exported / "exports" / "digits" / "1"
    manifest = json.loads((version / "manifest.json").read_text())
    weights = {a["format"]: a["details"].get("weights") for a in manifest["artifacts"]}
    assert weights["litert"] == {"float16": manifest["parameters"]["float16"]["count"], "float32": 2}
    assert weights["litert-int8"]["int8"] == 64 * 128 + 128 * 64
    assert {"model.tflite", "model-int8.tflite"} <= set(manifest["files"])
    assert manifest["not_covered"] == []
    said = tfhalf(exported, "inspect", version / "model.tflite").stdout
    assert "99.9 % of the parameters are stored in float16 and cast to float32" in " ".join(said.split())
    said = tfhalf(exported, "inspect", version / "model-int8.tflite").stdout
    assert "not float16: 95.1 % of the parameters are integers" in " ".join(said.split())


@pytest.mark.slow
def test_the_speed_of_every_format(exported: Path) -> None:
    done = tfhalf(exported, "bench", "exports/digits", "--batch-sizes", "1,8", "--seconds", 0.05, "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["runtime"]: row for row in json.loads(done.stdout)["runtimes"]}
    threads = len(os.sched_getaffinity(0))
    for name, library, setting in (
        ("openvino", "OpenVINO", "float32"),
        ("litert", "LiteRT", "XNNPACK"),
        ("litert-int8", "LiteRT", "XNNPACK"),
    ):
        row = rows[name]
        assert [cell["batch_size"] for cell in row["cells"]] == [1, 8]
        assert row["computed_by"].startswith(library)
        assert row["note"].startswith(f"{setting}, {threads} thread")


@pytest.mark.slow
def test_a_damaged_file_with_a_fitting_manifest(exported: Path, tmp_path: Path) -> None:
    import hashlib
    import shutil

    shutil.copytree(exported / "exports", tmp_path / "exports")
    version = tmp_path / "exports" / "digits" / "1"
    content = (version / "model.tflite").read_bytes()[:20_000]
    (version / "model.tflite").write_bytes(content)
    done = tfhalf(tmp_path, "verify", "exports/digits")
    assert done.returncode == 1
    assert "is not the file that was published" in done.stderr
    manifest = json.loads((version / "manifest.json").read_text())
    manifest["files"]["model.tflite"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (version / "manifest.json").write_text(json.dumps(manifest))
    done = tfhalf(tmp_path, "verify", "exports/digits")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: exports/digits/1/model.tflite: cannot be read as LiteRT: ")


@pytest.mark.slow
def test_openvino_answers_as_onnxruntime_does(exported: Path) -> None:
    from tfhalf.runtimes.open import open_predictor

    assert lacking("openvino") == ""
    version = exported / "exports" / "digits" / "1"
    x = np.random.default_rng(0).integers(0, 17, (5, 8, 8, 1)).astype(np.float32)
    one, other = (open_predictor(version, name)(x) for name in ("onnx", "onnx-openvino"))
    assert set(one) == set(other) == {"logits", "probabilities"}
    np.testing.assert_allclose(one["logits"], other["logits"], atol=2e-3)  # bfloat16 would be 1e-2 away
