"""LiteRT files: read without TensorFlow, held against what its interpreter says."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
import tensorflow as tf
from inspect_models import facts, flat, keras_model, one, refused, said
from tensorflow.lite.python import schema_py_generated as schema

from tfhalf.errors import ArtifactError
from tfhalf.inspect import litert_file, look
from tfhalf.inspect.facts import Node
from tfhalf.inspect.graph import kind
from tfhalf.inspect.litert_ops import BUILTIN

pytestmark = [pytest.mark.filterwarnings("ignore")]  # of the converter and the interpreter


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("litert")
    keras_model("float32").export(folder / "model", verbose=False)
    for name in ("float32", "float16", "int8"):
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "model"))
        if name != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if name == "float16":
            converter.target_spec.supported_types = [tf.float16]
        (folder / f"{name}.tflite").write_bytes(converter.convert())
    return folder


def test_names_of_operators() -> None:
    theirs = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    assert dict(enumerate(BUILTIN)) == theirs
    types = {n: name.lower() for name, n in vars(schema.TensorType).items() if isinstance(n, int)}
    assert dict(enumerate(litert_file._DTYPES)) == types


@pytest.mark.parametrize(
    ("name", "answer", "line"),
    [
        ("float32", "not float16", "not float16: weights and arithmetic are float32, twice the bytes of float16"),
        ("float16", "mixed", "are stored in float16 and cast to float32 at run time ("),
    ],
)
def test_verdicts(files: Path, name: str, answer: str, line: str) -> None:
    found = one(files / f"{name}.tflite")
    assert found.verdict.answer == answer
    assert line in found.verdict.line
    assert "made by MLIR Converted." in flat(said(files / f"{name}.tflite"))


@pytest.mark.parametrize("name", ["float32", "float16", "int8"])
def test_it_is_what_the_interpreter_says(files: Path, name: str) -> None:
    path = files / f"{name}.tflite"
    told = facts(path)
    interpreter = tf.lite.Interpreter(
        str(path), experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN_REF
    )
    (image,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert told["inputs"] == [{"name": image["name"], "dtype": "float32", "shape": [None, 8, 8, 3]}]
    assert told["outputs"] == [{"name": output["name"], "dtype": "float32", "shape": [None, 10]}]
    ops = Counter(op["op_name"] for op in interpreter._get_ops_details() if op["op_name"] != "DELEGATE")
    assert {op: sum(counts.values()) for op, counts in told["operations"].items()}.items() <= ops.items()
    if name == "int8":
        assert told["parameters"]["int8"]["count"] > 4000
        assert told["verdict"]["line"].startswith("not float16: 8")
        assert told["verdict"]["line"].endswith(" % of the parameters are integers")


def test_unpacking_sparse_weights_is_no_arithmetic() -> None:
    """A net with sparse float16 weights computed "in float16" by its DENSIFY alone."""
    assert [kind(Node(op, op, (), (), "float16", "float16")) for op in ("DENSIFY", "SPARSE_TO_DENSE", "ADD")] == [
        "moves",
        "moves",
        "computes",
    ]


def test_hostile_files(files: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    whole = (files / "float16.tflite").read_bytes()
    for length in (8, 30, 200, len(whole) // 2):
        path.write_bytes(whole[:length])
        refused(path, "cannot be read as LiteRT")
    draw = random.Random(0)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 3, 30))):
            data[draw.randrange(2000)] = draw.choice((0, 255, 127, 128))
        path.write_bytes(b"\x1c\0\0\0TFL3" + data[8:])
        try:
            look.inspect(path)
        except ArtifactError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_lists_that_are_used_many_times_come_to_an_end(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(litert_file, "MAX_PARTS", 10)
    refused(files / "float32.tflite", "it has more than 10 parts")
