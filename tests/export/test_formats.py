"""The files: a SavedModel that plain TensorFlow opens, an ONNX file that passes every check, both of them float16."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from keras import layers, ops
from onnx import TensorProto

from tfhalf import config
from tfhalf.artifacts.ports import Port
from tfhalf.artifacts.record import Parameters
from tfhalf.data import Preprocess
from tfhalf.errors import ArtifactError, ExportError
from tfhalf.export import savedmodel
from tfhalf.export.onnx import rewrites, to_onnx
from tfhalf.export.program import make_program
from tfhalf.export.rebuild.rebuild import rebuild
from tfhalf.export.write import described, write_artifacts
from tfhalf.runtimes.open import open_predictor
from tfhalf.tasks import Classification

# tf2onnx and the protobuf messages of TensorFlow's saver are older than numpy 2 and Python's newest.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tf2onnx")

SHAPE = (8, 8, 3)
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 61.0, 62.0)
X = np.random.default_rng(0).integers(0, 256, (7, *SHAPE)).astype(np.float32)


def net() -> keras.Model:
    keras.utils.set_random_seed(0)
    x = image = keras.Input(SHAPE)
    x = layers.Conv2D(8, 3, padding="same", name="conv")(x)
    x = layers.MaxPooling2D(2)(x)
    x = ops.gelu(layers.BatchNormalization(name="folded")(x), approximate=True)
    y = layers.Conv2D(8, 3, strides=2, padding="same", name="strided")(layers.ZeroPadding2D(1)(x))
    y = layers.ReLU()(layers.BatchNormalization(name="kept_norm")(layers.ReLU()(y)))
    y = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(y))
    model = keras.Model(image, layers.Dense(4, name="head")(y))
    draw = np.random.default_rng(1)
    for v in model.weights:
        if "norm" in v.path or "folded" in v.path or "bias" in v.path:
            v.assign(draw.uniform(0.5, 1.5, v.shape))
    return model


PIPELINE = config.Pipeline.model_validate(
    {"name": "job", "model": {"build": "a.py:b"}, "data": {"source": "npz:a.npz"}, "export": {"opset": 17}}
)


LABELS = ("a", "b", "c", "ü")
TASK = Classification(LABELS)


class Made:
    def __init__(self, directory: Path) -> None:
        self.directory, self.model = directory, net()
        self.artifacts, self.rebuilt = write_artifacts(
            self.model,
            directory,
            PIPELINE,
            preprocess=Preprocess(MEAN, STD),
            inputs=SHAPE,
            task=TASK,
            labels=LABELS,
            git_revision="0123abc",
        )
        x = (X - np.float32(MEAN)) / np.float32(STD)
        self.logits = np.asarray(self.model(x, training=False)).astype(np.float64)
        e = np.exp(self.logits - self.logits.max(-1, keepdims=True))
        self.probabilities = e / e.sum(-1, keepdims=True)
        self.onnx = onnx.load(directory / "model.onnx")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("version"))


def test_artifacts_are_described(made: Made) -> None:
    kinds = {a.format: a for a in made.artifacts}
    assert list(kinds) == ["savedmodel", "onnx"]
    assert set(kinds["savedmodel"].files) == {
        "saved_model.pb",
        "variables/variables.index",
        "variables/variables.data-00000-of-00001",
    }
    assert kinds["onnx"].files == ("model.onnx",)
    for artifact in made.artifacts:
        assert artifact.bytes == sum((made.directory / name).stat().st_size for name in artifact.files)
    there = {p.relative_to(made.directory).as_posix() for p in made.directory.rglob("*") if p.is_file()}
    assert there == {name for a in made.artifacts for name in a.files}

    told = described(made.rebuilt, SHAPE, TASK)
    assert told["folded_batchnorm"] == ("folded",)
    assert told["inputs"] == (Port("image", "float32", (None, 8, 8, 3)),)
    assert [(port.name, port.classes) for port in told["outputs"]] == [("logits", True), ("probabilities", True)]
    halves = 8 * 27 + 8 + 8 * 72 + 8 + 16 + 32 + 4  # the other norm is a scale and a shift
    assert told["parameters"] == {"float16": Parameters(count=halves, bytes=2 * halves)}
    assert told["cast"].total == halves


# --- SavedModel -------------------------------------------------------------------------------------------------------

OPEN = """
import sys
sys.modules["keras"] = None  # TensorFlow imports it by itself where it can
import numpy as np, tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
function = loaded.signatures["serving_default"]
(name, spec), = function.structured_input_signature[1].items()
assert (name, spec.dtype, spec.shape.as_list()) == ("image", tf.float32, [None, 8, 8, 3]), spec
outputs = {key: (value.dtype, value.shape.as_list()) for key, value in function.structured_outputs.items()}
assert outputs == {key: (tf.float32, [None, 4]) for key in ("logits", "probabilities")}, outputs
x = np.load(sys.argv[2])
answers = {size: function(image=tf.constant(x[:size])) for size in (1, 5, 7)}
assert {len(a["logits"]) for a in answers.values()} == {1, 5, 7}
np.savez(sys.argv[3], **{key: value.numpy() for key, value in answers[7].items()})
assert sys.modules["keras"] is None
assert "tfhalf" not in sys.modules
"""


def test_savedmodel_opens_in_plain_tensorflow(made: Made, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    arguments = [str(made.directory), str(tmp_path / "x.npy"), str(tmp_path / "y.npz")]
    done = subprocess.run([sys.executable, "-c", OPEN, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "y.npz") as got:
        np.testing.assert_allclose(got["logits"], made.logits, atol=0.02)
        np.testing.assert_allclose(got["probabilities"], made.probabilities, atol=0.005)
        np.testing.assert_allclose(got["probabilities"].sum(-1), 1, atol=1e-6)  # a softmax in float32


def test_savedmodel_holds_each_weight_once_in_float16(made: Made) -> None:
    reader = tf.train.load_checkpoint(str(made.directory / "variables" / "variables"))
    types = reader.get_variable_to_dtype_map()
    sizes: dict[str, int] = {}
    for name, shape in reader.get_variable_to_shape_map().items():
        if types[name] in (tf.float16, tf.float32):
            sizes[types[name].name] = sizes.get(types[name].name, 0) + math.prod(shape)
    told = described(made.rebuilt, SHAPE, TASK)["parameters"]
    assert sizes == {dtype: told[dtype].count for dtype in told}
    data = (made.directory / "variables" / "variables.data-00000-of-00001").stat().st_size
    assert data < sum(p.bytes for p in told.values()) + 1500


# --- ONNX -------------------------------------------------------------------------------------------------------------


def test_onnx_is_valid_and_named(made: Made) -> None:
    model = made.onnx
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    (image,) = model.graph.input
    assert image.name == "image"
    assert [v.name for v in model.graph.output] == ["logits", "probabilities"]
    for value in (image, *model.graph.output):
        tensor = value.type.tensor_type
        assert tensor.elem_type == TensorProto.FLOAT
        assert tensor.shape.dim[0].dim_param == "batch"
    assert [d.dim_value for d in image.type.tensor_type.shape.dim[1:]] == [8, 8, 3]
    props = {p.key: p.value for p in model.metadata_props}
    assert props["git_revision"] == "0123abc"
    assert json.loads(props["labels"]) == ["a", "b", "c", "ü"]
    assert json.loads(props["mean"]) == list(MEAN)
    assert props["precision"] == "float16"


def test_onnx_weights_are_float16(made: Made) -> None:
    wide = {}
    halves = 0
    for tensor in made.onnx.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            wide[tensor.name] = tuple(tensor.dims)
        elif tensor.data_type == TensorProto.FLOAT16:
            halves += math.prod(tensor.dims)
    # Preprocessing, and the norm that stays: scale and shift of 8 channels.
    assert sum(math.prod(shape) for shape in wide.values()) <= 2 * 3 + 4 * 8, wide
    assert halves >= 8 * 27 + 8 + 8 * 72 + 8 + 32 + 4
    assert (made.directory / "model.onnx").stat().st_size < 2 * halves + 8000


def test_onnx_of_a_folded_net_holds_only_float16(tmp_path: Path) -> None:
    image = keras.Input(SHAPE)
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(image)))
    model = keras.Model(image, layers.Dense(4)(layers.Flatten()(x)))
    program = make_program(rebuild(model).model, Preprocess(MEAN, STD), SHAPE)
    graph = to_onnx.convert(program, 17).graph
    wide = [t for t in graph.initializer if t.data_type == TensorProto.FLOAT]
    assert {tuple(t.dims) for t in wide} <= {(3,), (1, 1, 1, 3), (1, 3, 1, 1)}  # mean and 1 / std
    assert len(wide) == 2
    plain = make_program(rebuild(model).model, Preprocess((0.0,), (1.0,)), SHAPE)
    assert [t.name for t in to_onnx.convert(plain, 17).graph.initializer if t.data_type == TensorProto.FLOAT] == []


def test_onnx_has_no_cast_pairs(made: Made) -> None:
    producers = {name: node for node in made.onnx.graph.node for name in node.output}
    for node in made.onnx.graph.node:
        if node.op_type in ("Pad", "Transpose", "Reshape", "MaxPool"):
            above = producers.get(node.input[0])
            assert above is None or above.op_type != "Cast" or above.attribute[0].i == TensorProto.FLOAT16, node.name
    assert rewrites.count(made.onnx.graph, "Cast") <= 6


@pytest.mark.parametrize("size", [1, 5])
def test_onnx_in_onnxruntime(made: Made, size: int) -> None:
    session = onnxruntime.InferenceSession(str(made.directory / "model.onnx"), providers=["CPUExecutionProvider"])
    logits, probabilities = session.run(["logits", "probabilities"], {"image": X[:size]})
    np.testing.assert_allclose(logits, made.logits[:size], atol=0.02)
    np.testing.assert_allclose(probabilities, made.probabilities[:size], atol=0.005)


@pytest.mark.parametrize("runtime", ["savedmodel", "onnx", "onnx-float16"])
def test_predictors(made: Made, runtime: str) -> None:
    predictor = open_predictor(made.directory, runtime)
    got = predictor(X)
    assert {name: (a.dtype, a.shape) for name, a in got.items()} == {
        name: (np.dtype(np.float32), (7, 4)) for name in ("logits", "probabilities")
    }
    np.testing.assert_allclose(got["probabilities"], made.probabilities, atol=0.005)
    assert predictor.about


def test_predictors_of_what_is_not_there(made: Made, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds no model.onnx; it has no artifact"):
        open_predictor(tmp_path, "onnx")
    (tmp_path / "model.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(ArtifactError, match=r"holds no saved_model.pb; it has onnx"):
        open_predictor(tmp_path, "savedmodel")
    for runtime in ("onnx", "onnx-float16"):
        with pytest.raises(ArtifactError, match=r"model.onnx: is not an ONNX file; restore it") as caught:
            open_predictor(tmp_path, runtime)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("opset", [13, 15, 18, 21, 25])
def test_opsets(made: Made, opset: int, tmp_path: Path) -> None:
    program = make_program(made.rebuilt.model, Preprocess(MEAN, STD), SHAPE)
    (path,) = to_onnx.write(program, tmp_path / "model.onnx", opset=opset, metadata={})
    assert onnx.load(path).opset_import[0].version == opset
    got = open_predictor(tmp_path, "onnx")(X)
    np.testing.assert_allclose(got["probabilities"], made.probabilities, atol=0.005)


def test_an_operator_without_a_translation_leaves_no_file(tmp_path: Path) -> None:
    image = keras.Input(SHAPE)
    x = layers.Flatten()(layers.Lambda(tf.math.lgamma)(layers.Conv2D(2, 3)(image)))
    program = make_program(keras.Model(image, layers.Dense(4)(x)), Preprocess(MEAN, STD), SHAPE)
    before = logging.getLogger().handlers[:], logging.getLogger("tf2onnx").level
    with pytest.raises(ExportError, match=r"ONNX: .*Lgamma.*leave onnx out of export.formats") as caught:
        to_onnx.write(program, tmp_path / "model.onnx", opset=17, metadata={})
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert before == (logging.getLogger().handlers[:], logging.getLogger("tf2onnx").level)
    assert savedmodel.write(program, tmp_path)  # which can hold it


def test_an_adapted_normalization_within_the_net(tmp_path: Path) -> None:
    layer = layers.Normalization()
    layer.adapt(X)
    image = keras.Input(SHAPE)
    model = keras.Model(image, layers.Dense(4)(layers.Flatten()(layer(image))))
    program = make_program(rebuild(model).model, Preprocess((0.0,), (1.0,)), SHAPE)
    to_onnx.write(program, tmp_path / "model.onnx", opset=17, metadata={})
    savedmodel.write(program, tmp_path)
    expected = np.asarray(model(X))
    for runtime in ("onnx", "savedmodel", "onnx-float16"):
        np.testing.assert_allclose(open_predictor(tmp_path, runtime)(X)["logits"], expected, atol=0.02)


def test_kept_layers_are_float32_in_the_files(tmp_path: Path) -> None:
    model = rebuild(net(), keep_float32=["^head$"]).model
    program = make_program(model, Preprocess(MEAN, STD), SHAPE)
    graph = to_onnx.convert(program, 17).graph
    wide = [math.prod(t.dims) for t in graph.initializer if t.data_type == TensorProto.FLOAT]
    assert 32 in wide  # the head's kernel, 8 x 4


def test_the_same_model_gives_the_same_file_again() -> None:
    """tf2onnx numbers names through the whole process; what is written must not depend on what was converted before."""
    model = rebuild(net()).model
    first, second = (
        to_onnx.convert(make_program(model, Preprocess(MEAN, STD), SHAPE), 18).SerializeToString(deterministic=True)
        for _ in range(2)
    )
    assert first == second
    names = [name for node in onnx.load_from_string(first).graph.node for name in node.output]
    assert len(names) == len(set(names))
