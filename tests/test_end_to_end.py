"""The whole job as its users run it: each test has the command in a process of its own."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import fork_server
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from PIL import Image

from tfhalf import __version__, config
from tfhalf.data import load_splits

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parent.parent
DIGITS = CHECKOUT / "pipelines" / "digits.yaml"
MLP = CHECKOUT / "models" / "mlp.py"


def tfhalf(where: Path, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """The command in ``where``; standard output and error are no terminals, so no terminal codes may be in them."""
    done = fork_server.run(where, *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\x9b]", done.stdout + done.stderr)
    if code == 0 and "--json" not in arguments:  # which leaves standard output to the JSON
        assert done.stderr == ""
    return done


def tree(directory: Path) -> dict[str, str]:
    """Every file below ``directory`` and its hash."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def manifest(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "manifest.json").read_text())
    return found


def weights(directory: Path) -> dict[str, bytes]:
    graph = onnx.load(directory / "model.onnx").graph
    return {one.name: numpy_helper.to_array(one).tobytes() for one in graph.initializer}


def answers(directory: Path, x: np.ndarray) -> np.ndarray:
    """Probabilities by onnxruntime, without any of tfhalf."""
    session = onnxruntime.InferenceSession(str(directory / "model.onnx"), providers=["CPUExecutionProvider"])
    probabilities: np.ndarray = session.run(["probabilities"], {"image": x.astype(np.float32)})[0]
    return probabilities


@pytest.fixture(scope="module")
def test_set() -> tuple[np.ndarray, np.ndarray]:
    """The pipeline's own test images [359, 8, 8, 1] and labels."""
    pipeline = config.load_pipeline(DIGITS)
    splits = load_splits(pipeline.data, base=DIGITS.parent, seed=pipeline.seed)
    return splits.x_test, splits.y_test


class Job:
    """A folder in which the digits were trained once, and what the command said."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.said = tfhalf(where, "train", DIGITS).stdout
        self.first = tree(where / "exports/digits/1")
        (self.run,) = (where / "runs/digits").iterdir()

    def version(self, number: int) -> Path:
        return self.where / "exports/digits" / str(number)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(tmp_path_factory.mktemp("digits"))


# --- one run ----------------------------------------------------------------------------------------------------------


def test_layout(job: Job) -> None:
    visible = {name for name in os.listdir(job.where / "exports/digits") if not name.startswith(".")}
    assert "1" in visible
    assert visible - {"config.pbtxt"} == {name for name in visible if name.isdigit()}
    assert set(job.first) == {
        *("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001", "model.onnx"),
        *("manifest.json", "report.md", "report.html", "reference.npz"),
    }
    assert not [name for name in os.listdir(job.where / "exports/digits") if name.startswith(".staging")]
    assert {
        *("pipeline.yaml", "run.json", "checkpoints", "history.csv", "history.jsonl", "outcome.json", "model.keras"),
        *("classes.csv", "classes.json", "confusion.csv", "confusion.png", "curves.png", "loss_scale.png"),
    } <= set(os.listdir(job.run))


def test_what_it_said(job: Job) -> None:
    for word in ("device", "policy     mixed_float16", "xla", "data       sklearn:digits", "model", "steps", "export"):
        assert re.search(f"^{word}", job.said, re.MULTILINE), word
    assert re.search(r"^ +30/30 .* done$", job.said, re.MULTILINE)
    assert job.said.splitlines()[-2:] == ["published  exports/digits/1", f"run        runs/digits/{job.run.name}"]
    assert job.said.count(" ok\n") == 4
    (head,) = [line for line in job.said.splitlines() if line.startswith("artifact ")]
    assert head.split()[3:] == ["samples", "acc.", "%", "agree", "max", "mean", "edge", "lost", "time"]
    assert len(head) <= 112
    (row,) = [line for line in job.said.splitlines() if line.startswith("float32 model")]
    assert row.split()[3:] == ["359", "99.16"]  # accuracy is of those; edge rows are counted in the line above
    assert (job.run / "history.csv").read_text().count("\n") == 31


def test_manifest(job: Job, test_set: tuple[np.ndarray, np.ndarray]) -> None:
    found = manifest(job.version(1))
    assert (found["schema"], found["name"], found["version"], found["seed"]) == (2, "digits", 1, 0)
    assert config.Pipeline.model_validate_json(json.dumps(found["config"])) == config.load_pipeline(DIGITS)
    assert found["pipeline_file"].endswith(DIGITS.name)
    assert not Path(found["pipeline_file"]).is_absolute()
    assert found["smoke"] is False
    assert found["versions"]["tfhalf"] == __version__
    assert found["versions"]["onnx"] == onnx.__version__
    assert {"python", "tensorflow", "keras", "numpy", "onnxruntime", "tf2onnx"} <= set(found["versions"])
    assert found["labels"] == list("0123456789")
    assert found["data"]["sizes"] == {"train": 1294, "validation": 144, "test": 359}
    assert found["inputs"] == [{"name": "image", "dtype": "float32", "shape": ["batch", 8, 8, 1]}]
    assert [output["name"] for output in found["outputs"]] == ["logits", "probabilities"]
    assert found["parameters"] == {"float16": {"count": 17226, "bytes": 34452}}
    # Every file but the manifest and the report, each with its true size and hash.
    hashes = {name: row["sha256"] for name, row in found["files"].items()}
    assert hashes == {name: hash_ for name, hash_ in job.first.items() if name not in ("manifest.json", "report.md")}
    for name, row in found["files"].items():
        assert row["bytes"] == (job.version(1) / name).stat().st_size
    training = found["training"]
    assert (training["policy"], training["epochs"], training["steps"]) == ("mixed_float16", 30, 600)
    assert training["test_accuracy"] >= 0.96
    assert training["chance"]["better"] is True
    rows = {row["artifact"]: row for row in found["comparisons"]}
    assert list(rows) == ["savedmodel", "onnx", "onnx, OpenVINO", "onnx, first 256"]
    for row in rows.values():
        assert row["passed"] is True
        assert row["accuracy"] >= 96
        assert row["agreement"] >= 99.5
        assert row["non_finite"] == 0
    x, y = test_set
    right = answers(job.version(1), x).argmax(-1) == y
    assert rows["onnx"]["accuracy"] == pytest.approx(right.mean() * 100)  # what the manifest claims is so
    report = (job.version(1) / "report.md").read_text()
    assert report.startswith("# digits\n")
    assert hashes["model.onnx"][:16] in report


def test_weights_are_stored_in_float16(job: Job) -> None:
    graph = onnx.load(job.version(1) / "model.onnx").graph
    large = [one for one in graph.initializer if np.prod(one.dims) >= 10]
    assert sum(int(np.prod(one.dims)) for one in large) >= 17226
    assert {one.data_type for one in large} == {onnx.TensorProto.FLOAT16}
    assert (job.version(1) / "model.onnx").stat().st_size < 17226 * 2 * 1.15
    assert (job.version(1) / "variables/variables.data-00000-of-00001").stat().st_size < 17226 * 2 * 1.15


def test_another_run_publishes_the_next_version(job: Job) -> None:
    said = tfhalf(job.where, "train", DIGITS, "--quiet")
    assert said.stdout == "published  exports/digits/2\n"
    assert tree(job.version(1)) == job.first
    assert manifest(job.version(2))["version"] == 2
    # The same seed on the same CPU: the same weights, to the bit.
    assert weights(job.version(2)) == weights(job.version(1))
    data = "variables/variables.data-00000-of-00001"
    assert (job.version(2) / data).read_bytes() == (job.version(1) / data).read_bytes()
    other = tfhalf(job.where, "train", DIGITS, "--smoke", "--set", "seed=1", "--set", "name=other", "--json")
    told = json.loads(other.stdout)
    assert told["smoke"] is True
    assert told["version"] == f"{told['run']}/exports/other/1"
    assert not (job.where / "exports/other").exists()
    assert json.loads((job.where / told["run"] / "outcome.json").read_text())["smoke"] is True
    assert weights(job.where / told["version"]) != weights(job.version(1))


def test_verify(job: Job, tmp_path: Path) -> None:
    said = tfhalf(job.where, "verify", "exports/digits/1").stdout
    assert said.rstrip().endswith("exports/digits/1: every artifact holds")
    # From another folder, where no relative path of the first leads anywhere.
    told = json.loads(tfhalf(tmp_path, "verify", job.version(1), "--json").stdout)
    assert told["passed"] is True
    assert [row["usual"] for row in told["comparisons"]] == [359, 359, 359, 256]
    assert tree(job.version(1)) == job.first


def test_predict(job: Job, test_set: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    """Pictures in any common format, size and mode."""
    x, y = test_set
    sure = answers(job.version(1), x).max(-1)
    wanted = {}
    for digit in range(10):
        best = int(np.argmax(np.where(y == digit, sure, -1)))
        Image.fromarray(x[best, ..., 0]).save(tmp_path / f"{digit}.png")
        wanted[f"{digit}.png"] = str(digit)
    three = Image.open(tmp_path / "3.png")
    three.save(tmp_path / "three.jpg", quality=100)
    three.save(tmp_path / "three.bmp")
    three.save(tmp_path / "three.webp", lossless=True)
    three.convert("RGB").save(tmp_path / "rgb.png")
    three.convert("RGBA").save(tmp_path / "rgba.png")
    three.resize((32, 32), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    upside_down = three.transpose(Image.Transpose.ROTATE_180)
    exif = Image.Exif()
    exif[0x0112] = 3  # orientation: to be turned by 180 degrees
    upside_down.save(tmp_path / "turned.png", exif=exif)
    for name in ("three.jpg", "three.bmp", "three.webp", "rgb.png", "rgba.png", "large.png", "turned.png"):
        wanted[name] = "3"
    arguments = ("predict", job.where / "exports/digits/1", *wanted)
    for runtime in ("savedmodel", "onnx"):
        told = json.loads(tfhalf(tmp_path, *arguments, "--runtime", runtime, "--json", "--top", 2).stdout)
        assert [row["image"] for row in told] == list(wanted)
        assert [row["labels"][0]["label"] for row in told] == list(wanted.values())
        for row in told:
            first, second = (label["probability"] for label in row["labels"])
            assert 1.001 >= first >= second >= 0
    said = tfhalf(tmp_path, "predict", job.where / "exports/digits", "3.png").stdout
    assert re.fullmatch(r"3\.png: 3 \d+\.\d\d %  \d \d+\.\d\d %  \d \d+\.\d\d %\n", said)


def test_export_and_resume_of_a_finished_run(job: Job, test_set: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    """Both publish the next version with the same answers; the run's own pipeline is used, from any folder."""
    before = max(int(name) for name in os.listdir(job.where / "exports/digits") if name.isdigit())
    run, exports = job.run, job.where / "exports"
    (run / "outcome.json").unlink()  # as if it had been killed before it could write it
    told = json.loads(tfhalf(tmp_path, "export", run, "--exports", exports, "--json").stdout)
    assert json.loads((run / "outcome.json").read_text())["version"] == told["version"]  # it is unfinished no more
    assert told["version"] == str(exports / "digits" / str(before + 1))
    assert weights(job.version(before + 1)) == weights(job.version(1))
    said = tfhalf(job.where, "train", "--resume", run.relative_to(job.where)).stdout
    assert f"published  exports/digits/{before + 2}\n" in said
    assert weights(job.version(before + 2)) == weights(job.version(1))
    assert np.array_equal(answers(job.version(before + 2), test_set[0]), answers(job.version(1), test_set[0]))
    assert manifest(job.version(before + 2))["training"]["epochs"] == 30
    assert (run / "history.csv").read_text().count("\n") == 31
    assert tree(job.version(1)) == job.first
    assert not list(tmp_path.iterdir())


# --- what serves it ---------------------------------------------------------------------------------------------------

SERVING = """
import json, sys
for name in ("keras", "tfhalf", "tf_keras"):
    sys.modules[name] = None  # to import it is an error
import numpy as np
import tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
function = loaded.signatures["serving_default"]
(_, inputs), outputs = function.structured_input_signature, function.structured_outputs
with np.load(sys.argv[2]) as data:
    x = data["x"]
answers = function(image=tf.constant(x, tf.float32))
checkpoint = tf.train.load_checkpoint(sys.argv[1] + "/variables/variables")
print(json.dumps({
    "signatures": list(loaded.signatures),
    "input": {name: [spec.dtype.name, spec.shape.as_list()] for name, spec in inputs.items()},
    "output": {name: [spec.dtype.name, spec.shape.as_list()] for name, spec in outputs.items()},
    "dtypes": sorted({t.name for t in checkpoint.get_variable_to_dtype_map().values() if t != tf.string}),
    "probabilities": answers["probabilities"].numpy().tolist(),
}))
"""


def test_tensorflow_serving_reads_it(job: Job, test_set: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    """As TensorFlow Serving does: the SavedModel alone, without Keras."""
    np.savez(tmp_path / "x.npz", x=test_set[0])
    command = [sys.executable, "-c", SERVING, str(job.version(1)), str(tmp_path / "x.npz")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["signatures"] == ["serving_default"]
    assert told["input"] == {"image": ["float32", [None, 8, 8, 1]]}
    assert told["output"] == {"logits": ["float32", [None, 10]], "probabilities": ["float32", [None, 10]]}
    assert "float16" in told["dtypes"]
    assert "float32" not in told["dtypes"]
    with np.load(job.version(1) / "reference.npz") as reference:
        assert np.abs(np.asarray(told["probabilities"]) - reference["out/probabilities"]).max() < 0.02
        assert np.array_equal(reference["labels"], test_set[1])


def test_triton_reads_it(job: Job) -> None:
    """config.pbtxt says of the ONNX file what the file says of itself."""
    text = (job.where / "exports/digits/config.pbtxt").read_text()
    assert 'name: "digits"' in text
    assert 'backend: "onnxruntime"' in text
    assert re.search(r"^max_batch_size: [1-9]\d*$", text, re.MULTILINE)
    told = {}
    for kind in ("input", "output"):
        (block,) = re.findall(rf"^{kind} \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
        rows = re.findall(r'\{ name: "(\w+)" data_type: (\w+) dims: \[ ([\d, ]+) \] \}', block)
        told[kind] = [(name, dtype, [int(side) for side in dims.split(",")]) for name, dtype, dims in rows]
    graph = onnx.load(job.version(1) / "model.onnx").graph
    types = {onnx.TensorProto.FLOAT: "TYPE_FP32"}
    for kind, values in (("input", graph.input), ("output", graph.output)):
        sides = [value.type.tensor_type.shape.dim for value in values]
        assert {one[0].dim_param for one in sides} == {"batch"}  # the dimension that Triton leaves out of dims
        assert told[kind] == [
            (value.name, types[value.type.tensor_type.elem_type], [side.dim_value for side in one[1:]])
            for value, one in zip(values, sides, strict=True)
        ]
    assert len(told["output"]) == 2


# --- artifacts that do not hold ---------------------------------------------------------------------------------------

# A subclass of keras.Model is kept in float32 as a whole or not at all.
OVERFLOWS = """
import keras
from keras import layers
class Net(keras.Model):
    def __init__(self, classes, factor, **other):
        super().__init__(**other)
        self.classes, self.factor, self.flat = classes, factor, layers.Flatten()
        self.hidden = layers.Dense(32, activation="relu", name="hidden")
        self.head = layers.Dense(classes, name="logits")
    def call(self, image):
        x = self.hidden(self.flat(image))
        x = keras.ops.relu(x * self.factor)    # 90,000 times what a digit gives: beyond float16's 65,504
        x = keras.ops.relu(x * self.factor)
        x = keras.ops.relu(x / self.factor)
        return self.head(keras.ops.relu(x / self.factor))
    def get_config(self):
        return {**super().get_config(), "classes": self.classes, "factor": self.factor}
def build(*, input_shape, num_classes, factor=300.0):
    net = Net(num_classes, factor)
    net(keras.ops.zeros((1, *input_shape)))
    return net
"""


def test_a_version_that_falls_short_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(OVERFLOWS)
    (tmp_path / "p.yaml").write_text(
        "name: overflows\nmodel: {build: 'net.py:build'}\ndata: {source: 'sklearn:digits'}\n"
        "train: {epochs: 3, optimizer: {name: adam, learning_rate: 0.002}}\nprecision: {policy: float32}\n"
    )
    exports = tmp_path / "exports/overflows"
    done = tfhalf(tmp_path, "train", "p.yaml", code=1)
    assert re.fullmatch(
        r"error: not published, kept as exports/overflows/failed-1: .* values are not finite.*\n", done.stderr
    )
    assert "FAILS" in done.stdout
    assert "only with net in float32 does it hold, and no parameter is float16 then" in done.stdout
    assert "published  " not in done.stdout
    assert sorted(name for name in os.listdir(exports) if not name.startswith(".")) == ["failed-1"]
    found = manifest(exports / "failed-1")
    assert not all(row["passed"] for row in found["comparisons"])
    assert any(row["non_finite"] for row in found["comparisons"])
    assert "Falls short:" in (exports / "failed-1/report.md").read_text()
    assert "holds no exported version" in tfhalf(tmp_path, "verify", "exports/overflows", code=2).stderr
    assert "FALLS SHORT" in tfhalf(tmp_path, "verify", "exports/overflows/failed-1", code=1).stdout
    # The mended model takes the next number, so that a number means one thing.
    failed = tree(exports / "failed-1")
    said = tfhalf(tmp_path, "train", "p.yaml", "--set", "model.args.factor=2.0", "-q").stdout
    assert said == "published  exports/overflows/2\n"
    assert tree(exports / "failed-1") == failed


# --- other models, data and policies ----------------------------------------------------------------------------------

SOFTMAX = """
import keras
from keras import layers
def build(*, input_shape, num_classes):
    return keras.Sequential([
        keras.Input(input_shape), layers.Rescaling(1.0), layers.Conv2D(8, 3, use_bias=False),
        layers.BatchNormalization(), layers.ReLU(), layers.Flatten(), layers.Dense(num_classes, activation="softmax"),
    ])
"""


def test_a_model_of_ones_own_that_ends_in_softmax(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SOFTMAX)
    (tmp_path / "p.yaml").write_text(
        "name: own\nmodel: {build: 'net.py:build'}\ndata: {source: 'sklearn:digits', validation: 0}\n"
        "train: {epochs: 8, batch_size: 32, optimizer: {name: adamw, learning_rate: 0.005}}\n"
    )
    done = tfhalf(tmp_path, "train", "p.yaml", "--json")
    told = json.loads(done.stdout)
    assert told["test_accuracy"] > 0.9
    assert all(row["passed"] and row["agreement"] >= 99 for row in told["comparisons"])
    assert {"start-up", "compile", "train", "export", "verify"} <= set(told["seconds"])
    found = manifest(tmp_path / told["version"])
    assert len(found["folded_batchnorm"]) == 1
    assert found["data"]["sizes"]["validation"] == 0
    graph = onnx.load(tmp_path / told["version"] / "model.onnx").graph
    assert [node.op_type for node in graph.node].count("Softmax") == 1  # the model's own was taken off


LOAD = """
import numpy as np
def load(count=300, shift=1.0):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, count)
    x = rng.normal(y[:, None] * shift, 0.2, (count, 6)).astype(np.float32)
    return {"x": x, "y": y, "class_names": ["low", "middle", "h\\u00f6her"]}
"""


def test_data_of_ones_own_in_float32(tmp_path: Path) -> None:
    """Vectors instead of images, from a function; the policy that needs no loss scale."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/mine.py").write_text(LOAD)
    (tmp_path / "sub/p.yaml").write_text(
        f"name: own-data\nmodel: {{build: '{MLP}:build', args: {{units: [16]}}}}\n"
        "data: {source: 'mine.py:load', args: {shift: 2.0}}\n"
        "train: {epochs: 20, batch_size: 16, optimizer: {name: adam, learning_rate: 0.01}}\n"
        "precision: {policy: float32}\n"
    )
    said = tfhalf(tmp_path, "train", "sub/p.yaml").stdout
    assert "policy     float32\n" in said
    found = manifest(tmp_path / "exports/own-data/1")
    assert found["labels"] == ["low", "middle", "h\u00f6her"]
    assert found["training"]["test_accuracy"] > 0.95
    assert found["training"]["loss_scale"] == 1
    assert found["parameters"]["float16"]["count"] == 6 * 16 + 16 + 16 * 3 + 3
    # From another folder: the pipeline's folder, where mine.py is, has to be found again.
    version = tmp_path / "exports/own-data"
    assert "--pipeline FILE" in tfhalf(tmp_path / "sub", "verify", version, code=2).stderr
    command = ("verify", version, "--pipeline", tmp_path / "sub/p.yaml", "--json")
    assert json.loads(tfhalf(tmp_path / "sub", *command).stdout)["passed"] is True
    Image.new("L", (8, 8)).save(tmp_path / "image.png")
    assert "is not a table" in tfhalf(tmp_path, "predict", "exports/own-data", "image.png", code=2).stderr


def test_a_folder_of_images_in_bfloat16(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, channel in (("red", 0), ("green", 1), ("blue", 2)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(30):
            image = rng.integers(0, 60, (10, 12, 3), np.uint8)
            image[..., channel] += 150
            image[:, :3], image[:, -3:] = 255 - image[:, :3], 255 - image[:, -3:]  # which the middle leaves out
            Image.fromarray(image).save(tmp_path / f"pictures/{name}/{i:02}.png")
    (tmp_path / "p.yaml").write_text(
        f"name: colours\nmodel: {{build: '{MLP}:build'}}\n"
        "data: {source: 'folder:pictures', image_size: [8, 4], center_crop: 0.9}\n"
        "train: {epochs: 10, batch_size: 8, optimizer: {name: adam, learning_rate: 0.002}}\n"
        "precision: {policy: mixed_bfloat16}\n"
    )
    assert "policy     mixed_bfloat16\n" in tfhalf(tmp_path, "train", "p.yaml").stdout
    found = manifest(tmp_path / "exports/colours/1")
    assert found["labels"] == ["blue", "green", "red"]
    assert found["inputs"][0]["shape"] == ["batch", 8, 4, 3]
    assert set(found["parameters"]) == {"float16"}  # artifacts are float16 whichever policy trained them
    assert found["training"]["test_accuracy"] > 0.95
    images = [f"pictures/{name}/07.png" for name in ("red", "green", "blue")]
    said = tfhalf(tmp_path, "predict", "exports/colours", *images, "--top", 1).stdout
    assert [line.split()[1] for line in said.splitlines()] == ["red", "green", "blue"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs that keeps each, and whose outcome is lost."""
    where = tmp_path_factory.mktemp("kept")
    changes = ("train.epochs=3", "train.keep_checkpoints=9", "train.checkpoint_seconds=0", "export.formats=[onnx]")
    tfhalf(where, "train", DIGITS, *(word for change in changes for word in ("--set", change)))
    (run,) = (where / "runs/digits").iterdir()
    (run / "outcome.json").unlink()
    return run


def test_an_epoch_of_a_run_that_another_process_trains(kept: Path, tmp_path: Path) -> None:
    """It is published, and nothing in the run's folder is touched."""
    before = tree(kept)
    with (kept / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = tfhalf(tmp_path, "export", kept, code=1).stderr
        assert "another process works in it; wait for its end, or export it as it stands: tfhalf export" in refused
        said = tfhalf(tmp_path, "export", kept, "--epoch", "2").stdout
    assert "as it stood after epoch 2 of 3" in said
    assert "the run is not marked as published" in said
    assert tree(kept) == before
    training = manifest(tmp_path / "exports/digits/1")["training"]
    assert (training["epochs"], training["ended"]) == (2, False)


def test_exporting_an_ended_run_marks_it(kept: Path, tmp_path: Path) -> None:
    """A version of an epoch before its end is not taken for what ``--resume`` would publish."""
    refused = tfhalf(tmp_path, "export", kept, "--epoch", "7", code=1).stderr
    assert "epoch 7 is not kept; kept at their end: 1, 2, 3;" in refused.replace(" (best)", "")
    (kept / "model.keras").unlink()
    tfhalf(tmp_path, "export", kept, "--epoch", "last")
    outcome = json.loads((kept / "outcome.json").read_text())
    assert outcome["version"] == "exports/digits/1"
    assert outcome["model_sha256"] == hashlib.sha256((kept / "model.keras").read_bytes()).hexdigest()
