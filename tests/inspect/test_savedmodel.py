"""SavedModels, of Keras, of tfhalf and hand-made: what is told of them without TensorFlow is what TensorFlow says."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message import DecodeError
from inspect_models import PARAMETERS, facts, flat, keras_model, one, refused, said, whys
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2, tensor_bundle_pb2

from tfhalf.data import Preprocess
from tfhalf.errors import ArtifactError
from tfhalf.export import savedmodel
from tfhalf.export.program import make_program
from tfhalf.export.rebuild.rebuild import rebuild
from tfhalf.inspect import bundle, tf_messages
from tfhalf.inspect import facts as facts_of_all

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of TensorFlow's saver
]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keras' own export under each policy, and tfhalf's."""
    folder = tmp_path_factory.mktemp("exports")
    for policy in ("mixed_float16", "float32", "float16"):
        keras_model(policy).export(folder / policy, verbose=False)
    program = make_program(
        rebuild(keras_model("mixed_float16", head=None)).model, Preprocess((0.0,), (1.0,)), (8, 8, 3)
    )
    (folder / "tfhalf").mkdir()
    savedmodel.write(program, folder / "tfhalf")
    return folder


def test_keras_export_of_a_mixed_model(exports: Path) -> None:
    found = one(exports / "mixed_float16")
    assert found.verdict.answer == "not float16"
    assert found.verdict.line.startswith(
        "not float16: the weights are stored in float32 and cast at run time (4 Casts), and stored twice: 4 times"
    )
    variables = [t for t in found.account.weights() if len(t.shape)]
    assert sum(t.count for t in variables) == PARAMETERS
    assert {t.dtype for t in variables} == {"float32"}
    copies = [t for t in found.account.tensors if t.role == "copy"]
    assert sum(t.count for t in copies) == PARAMETERS
    text = flat(said(exports / "mixed_float16"))
    assert "note 10 of 20 stored variables hold the weights once more" in text
    assert f"made by TensorFlow {tf.__version__}" in text
    assert "inputs image float32 [?, 8, 8, 3] outputs output_0 float32 [?, 10]" in text
    assert "conv/kernel" in whys(found) or "hidden/kernel" in whys(found)


def test_keras_export_of_a_float32_model(exports: Path) -> None:
    line = one(exports / "float32").verdict.line
    assert line == "not float16: weights and arithmetic are float32, and stored twice: 4 times the bytes of float16"


def test_keras_export_of_a_float16_model(exports: Path) -> None:
    found = one(exports / "float16")
    told = facts(exports / "float16")
    head = 32 * 10 + 10
    assert told["parameters"]["float16"]["count"] >= PARAMETERS - head
    assert found.looked.heavy == {"float16": 2, "float32": 1}
    assert "head/kernel" in whys(found)


def test_tfhalf_export(exports: Path) -> None:
    found = one(exports / "tfhalf")
    told = facts(exports / "tfhalf")
    assert found.verdict.answer == "float16"
    assert "among them 3 of 3 matrix products" in found.verdict.line
    assert told["beside"] == {}
    assert "copy" not in {t.role for t in found.account.tensors}
    assert [p.name for p in found.account.outputs] == ["logits", "probabilities"]
    assert told["float16_values"]["checked"] == told["float16_values"]["total"] > 0
    data = exports / "tfhalf" / "variables" / "variables.data-00000-of-00001"
    assert told["bytes"] == sum(
        p.stat().st_size for p in (exports / "tfhalf").rglob("*") if p.is_file() and p.name != "fingerprint.pb"
    )
    assert data.is_file()


@pytest.mark.parametrize("name", ["mixed_float16", "float16", "tfhalf"])
def test_the_index_is_read_as_tensorflow_reads_it(exports: Path, name: str) -> None:
    prefix = exports / name / "variables" / "variables"
    reader = tf.train.load_checkpoint(str(prefix))
    types = reader.get_variable_to_dtype_map()
    wanted = {
        key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE"): (types[key].name, tuple(shape))
        for key, shape in reader.get_variable_to_shape_map().items()
        if types[key] != tf.string
    }
    entries = bundle.read(prefix.with_suffix(".index"))
    assert {entry.tensor.name: (entry.tensor.dtype, entry.tensor.shape) for entry in entries} == wanted
    for entry in entries:
        key = next(key for key in types if key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE") == entry.tensor.name)
        data = entry.file.read_bytes()[entry.offset : entry.offset + entry.tensor.bytes]
        assert data == reader.get_tensor(key).tobytes()


def test_the_index_of_many_variables_has_many_blocks(tmp_path: Path) -> None:
    variables = {f"layer_{i}_of_a_long_name/kernel": tf.Variable(np.full(i % 7, i, np.float16)) for i in range(900)}
    tf.train.Checkpoint(**{name.replace("/", "_"): v for name, v in variables.items()}).write(str(tmp_path / "c"))
    entries = bundle.read(tmp_path / "c.index")
    assert len(entries) == 900
    assert sum(entry.tensor.count for entry in entries) == sum(i % 7 for i in range(900))


def test_the_messages_are_those_of_tensorflow(exports: Path) -> None:
    data = (exports / "mixed_float16" / "saved_model.pb").read_bytes()
    theirs = saved_model_pb2.SavedModel.FromString(data).meta_graphs[0]
    ours = tf_messages.parse("SavedModel", data).meta_graphs[0]
    assert ours.info.tensorflow_version == theirs.meta_info_def.tensorflow_version
    assert list(ours.info.tags) == list(theirs.meta_info_def.tags)
    assert set(ours.signatures) == set(theirs.signature_def)
    assert [(n.name, n.op, list(n.inputs)) for n in ours.graph.nodes] == [
        (n.name, n.op, list(n.input)) for n in theirs.graph_def.node
    ]
    functions = {f.signature.name: f for f in theirs.graph_def.library.function}
    for function in ours.graph.library.functions:
        other = functions.pop(function.signature.name)
        assert dict(function.returns) == dict(other.ret)
        for mine, node in zip(function.nodes, other.node_def, strict=True):
            assert {k: v.type for k, v in mine.attributes.items()} == {k: v.type for k, v in node.attr.items()}
    assert not functions


def test_the_dtypes_are_those_of_tensorflow() -> None:
    for number in range(1, 33):
        name = tf_messages.dtype_name(number)
        if name:
            assert name == tf.dtypes.as_dtype(number).name.replace("_", "")
    assert tf_messages.dtype_name(119) == "float16"
    assert {tf_messages.dtype_name(number) for number in (-1, 0, 26, 99, 100, 1 << 30)} == {""}


def test_arithmetic_is_counted_once_for_each_time_it_is_done(tmp_path: Path) -> None:
    weight = tf.Variable(tf.ones((4, 4), tf.float16), name="w")

    @tf.function
    def twice(x: Any) -> Any:
        return tf.nn.relu(x @ weight)

    module = tf.Module()
    module.w = weight

    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float16, name="x")])
    def serve(x: Any) -> dict[str, Any]:
        y = twice(twice(x))
        y = tf.while_loop(lambda i, _: i < 3, lambda i, v: (i + 1, tf.exp(v)), [tf.constant(0), y])[1]
        return {"y": tf.cond(tf.reduce_sum(y) > 0, lambda: y + tf.constant(1.5, tf.float16), lambda: tf.sqrt(y))}

    module.serve = serve
    tf.saved_model.save(module, str(tmp_path), signatures=serve)
    found = one(tmp_path)
    operations = {op: count for (op, dtype), count in found.looked.operations.items() if dtype == "float16"}
    assert (operations["MatMul"], operations["Relu"], operations["Exp"], operations["Sqrt"]) == (2, 2, 1, 1)
    assert found.verdict.answer == "float16"
    assert "; inputs and outputs too" in found.verdict.line
    assert not found.looked.islands


def test_default_attributes(tmp_path: Path) -> None:
    """TensorFlow does not write an attribute that has its default."""
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 3), tf.float32)])
    def serve(x: Any) -> Any:
        return {"y": tf.nn.leaky_relu(tf.nn.max_pool2d(x, 2, 2, "VALID"))}

    module.serve = serve
    tf.saved_model.save(module, str(tmp_path), signatures=serve)
    assert one(tmp_path).looked.computing == {"float32": 2}


def test_a_frozen_graph_has_its_weights_in_constants(tmp_path: Path) -> None:
    module = tf.Module()
    kernel = tf.constant(np.ones((4, 64)), tf.float16)

    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32)])
    def serve(x: Any) -> Any:
        return {"y": tf.cast(tf.cast(x, tf.float16) @ kernel, tf.float32)}

    module.serve = serve
    tf.saved_model.save(module, str(tmp_path), signatures=serve)
    found = one(tmp_path)
    assert [(t.dtype, t.shape) for t in found.account.weights()] == [("float16", (4, 64))]
    assert found.verdict.line == (
        "float16: 100 % of the parameters, the one operation computes in float16; inputs and outputs are float32 "
        "(2 Casts at the border)"
    )


def test_a_program_within_an_operation_is_not_looked_into(exports: Path, tmp_path: Path) -> None:
    model = saved_model_pb2.SavedModel.FromString((exports / "tfhalf" / "saved_model.pb").read_bytes())
    for function in model.meta_graphs[0].graph_def.library.function:
        for node in function.node_def:
            if node.op in ("MatMul", "Conv2D", "BiasAdd", "Relu", "Softmax", "MaxPool", "AddV2", "Mul"):
                node.op = "XlaCallModule"
                node.attr.clear()
    shutil.copytree(exports / "tfhalf", tmp_path / "m")
    (tmp_path / "m" / "saved_model.pb").write_bytes(model.SerializeToString())
    found = one(tmp_path / "m")
    assert found.verdict.answer == "unknown"
    assert "of no arithmetic operation is the type known" in found.verdict.line
    assert "note XlaCallModule: holds a program of its own, which is not looked into" in flat(said(tmp_path / "m"))


# --- hostile files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(exports: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exports / "tfhalf", tmp_path / "m"))


def change_index(folder: Path, change: Callable[[bytes], bytes]) -> Path:
    path = folder / "variables" / "variables.index"
    path.write_bytes(change(path.read_bytes()))
    return path


def refused_within(folder: Path, path: Path, told: str) -> None:
    with pytest.raises(ArtifactError, match=told) as caught:
        one(folder)
    assert str(caught.value).startswith(str(path))
    refused(folder, "")


def test_cut_short(copy: Path) -> None:
    path = copy / "saved_model.pb"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused_within(copy, path, "cannot be read as a SavedModel")
    path.write_bytes(b"")
    refused_within(copy, path, "holds no graph")
    path.write_bytes(whole)
    data = copy / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:100])
    refused_within(copy, data, "does not hold all of")
    data.unlink()
    refused_within(copy, data, "does not hold all of")
    index = change_index(copy, lambda d: d[:-1])
    refused_within(copy, index, "does not end in a table's mark")


def test_an_index_whose_blocks_lie_elsewhere(copy: Path) -> None:
    index = change_index(copy, lambda d: d[:-48] + b"\xff" * 9 + b"\x01" * 31 + d[-8:])
    refused_within(copy, index, "a block lies outside of it|a number does not end")
    change_index(copy, lambda d: bytes(len(d) - 48) + d[-48:])
    with pytest.raises(ArtifactError):
        one(copy)


def test_variables_of_no_possible_size(copy: Path) -> None:
    entries = bundle.read(copy / "variables" / "variables.index")
    size = max(entry.tensor.bytes for entry in entries)

    def grow(data: bytes) -> bytes:
        """The same number of bytes, and a varint that says eight times as much as there is."""
        old = _varint(size)
        assert data.count(b"\x28" + old) == 1
        return data.replace(b"\x28" + old, b"\x28" + _varint(size * 4)[: len(old)])

    index = change_index(copy, grow)
    refused_within(copy, index, "bytes, not|cannot be read")


def test_slices_of_an_odd_size() -> None:
    """An entry with slices was not held against its size: half a float16 ended in a traceback."""
    told = tensor_bundle_pb2.BundleEntryProto(dtype=types_pb2.DT_HALF, size=3)
    told.shape.dim.add(size=2)
    told.slices.add()
    for size in (3, -3, 4):
        told.size = size
        with pytest.raises(ValueError, match=f"'k' has {size} bytes, not 0"):
            bundle._entry(Path("variables.index"), "k", tf_messages.parse("Entry", told.SerializeToString()), 1)
    told.size = 0
    found = bundle._entry(Path("variables.index"), "k", tf_messages.parse("Entry", told.SerializeToString()), 1)
    assert found is not None
    assert found.tensor.bytes == 0


def test_keys_that_share_a_long_start(tmp_path: Path) -> None:
    """A small file whose keys would take any time to put together."""
    key = b"k" * (bundle.MAX_KEY + 1)
    block = b"\x00" + _varint(len(key)) + b"\x00" + key + (1).to_bytes(4, "little") * 2
    with pytest.raises(ValueError, match="a key has 16,385 bytes"):
        list(bundle._block(block + bytes(5), 0, len(block)))
    short = b"\x00\x03\x00kkk" + b"\x02\x01\x00q" + (0).to_bytes(4, "little") + (1).to_bytes(4, "little")
    assert [k for k, _ in bundle._block(short + bytes(5), 0, len(short))] == [b"kkk", b"kkq"]


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def test_functions_without_end(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copy / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for function in model.meta_graphs[0].graph_def.library.function:
        for node in function.node_def:
            if "f" in node.attr:
                node.attr["f"].func.name = function.signature.name
    path.write_bytes(model.SerializeToString())
    refused_within(copy, path, "lie more than 60 deep")
    monkeypatch.setattr(facts_of_all, "MAX_NODES", 20)
    refused_within(copy, path, "unfolds into more than 20 operations")


def test_messages_that_are_none() -> None:
    with pytest.raises(DecodeError):
        tf_messages.parse("SavedModel", b"\xff" * 20)
    assert math.isfinite(len(tf_messages.parse("SavedModel", b"").meta_graphs))
