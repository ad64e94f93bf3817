"""Artifacts that mean harm: nothing that they name is run, read or written, and each ends in one clear line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tensorflow as tf
from onnx import TensorProto, helper
from tensorflow.python.framework import op_def_registry

from tfhalf.errors import ArtifactError
from tfhalf.inspect import tf_allowed
from tfhalf.inspect.onnx_check import weights_beside
from tfhalf.inspect.tf_check import check_saved_model
from tfhalf.runtimes.open import open_predictor

X = np.ones((2, 3), np.float32)


def saved(folder: Path, compute: Callable[[tf.Tensor], tf.Tensor], **parts: Any) -> Path:
    """A SavedModel whose signature computes ``compute``, with more ``parts`` beside it."""
    module = tf.Module()
    module.scale = tf.Variable(2.0)
    for name, part in parts.items():
        setattr(module, name, part)
    spec = tf.TensorSpec([None, 3], tf.float32, name="x")
    signature = tf.function(lambda x: {"y": compute(x) * module.scale}, input_signature=[spec])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": signature})
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        open_predictor(folder, "savedmodel")
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(folder))
    return text


def test_what_only_computes_is_opened_and_run(tmp_path: Path) -> None:
    def compute(x: tf.Tensor) -> tf.Tensor:
        table = tf.range(4.0)
        for _ in tf.range(2):
            x = tf.where(x > 0, tf.nn.softmax(x), tf.gather(table, [0, 1, 2]))
        return x

    folder = saved(tmp_path, compute)
    check_saved_model(folder)
    assert open_predictor(folder, "savedmodel")({"x": X})["y"].shape == (2, 3)
    library = (folder / "saved_model.pb").read_bytes()
    assert b"SaveV2" in library  # the functions that save and restore may, since nothing calls them


def harm(kind: str, canary: str) -> Callable[[tf.Tensor], tf.Tensor]:
    def compute(x: tf.Tensor) -> tf.Tensor:
        raw = tf.raw_ops
        done = {
            "WriteFile": lambda: raw.WriteFile(filename=canary, contents="harm"),
            "ReadFile": lambda: tf.debugging.assert_equal(raw.ReadFile(filename="/etc/passwd"), ""),
            "MatchingFiles": lambda: tf.debugging.assert_equal(tf.size(raw.MatchingFiles(pattern="/*")), 0),
            "PrintV2": lambda: raw.PrintV2(input="harm", output_stream=f"file://{canary}"),
            "SaveV2": lambda: raw.SaveV2(prefix=canary, tensor_names=["a"], shape_and_slices=[""], tensors=[x]),
            "RestoreV2": lambda: raw.RestoreV2(
                prefix=canary, tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.float32]
            ),
            "PyFunc": lambda: raw.PyFunc(input=[x], token="pyfunc_0", Tout=[tf.float32]),
            "DebugIdentityV3": lambda: raw.DebugIdentityV3(input=x, debug_urls=[f"file://{canary}"]),
            "TextLineDataset": lambda: tf.data.TextLineDataset("/etc/passwd").reduce(0, lambda n, _: n + 1),
        }[kind]
        with tf.control_dependencies([operation for operation in [done()] if isinstance(operation, tf.Operation)]):
            return tf.identity(x)

    return compute


@pytest.mark.parametrize(
    "kind",
    [
        *("WriteFile", "ReadFile", "MatchingFiles", "PrintV2", "SaveV2", "RestoreV2", "PyFunc", "DebugIdentityV3"),
        "TextLineDataset",
    ],
)
def test_operations_that_do_more_than_compute(tmp_path: Path, kind: str) -> None:
    canary = tmp_path / "canary"
    text = refused(saved(tmp_path / "model", harm(kind, str(canary))))
    # A data set is several operations, of which any may come first.
    named = r"\w*Dataset" if "Dataset" in kind else kind
    assert re.search(f"has the operation {named} in ", text)
    assert not list(tmp_path.glob("canary*"))


def test_in_a_branch_of_a_function_that_is_called(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    @tf.function
    def inner(x: tf.Tensor) -> tf.Tensor:
        return tf.cond(tf.reduce_sum(x) > 0, lambda: harm("WriteFile", str(canary))(x), lambda: x)

    assert "has the operation WriteFile" in refused(saved(tmp_path / "model", inner))
    assert not canary.exists()


@pytest.mark.slow
def test_a_loop_without_end_is_ended(tmp_path: Path) -> None:
    folder = saved(tmp_path, lambda x: tf.while_loop(lambda y: tf.reduce_sum(y) >= 0, lambda y: [y * 1.0], [x])[0])
    predictor = open_predictor(folder, "savedmodel", patience=0.5)
    for _ in range(2):
        with pytest.raises(ArtifactError, match=r"saved_model.pb: took more than 0 s for one batch, and was ended"):
            predictor({"x": X})
    assert open_predictor(folder, "savedmodel")({"x": -X})["y"].shape == (2, 3)


@pytest.mark.slow
def test_a_loop_without_end_in_onnx(tmp_path: Path) -> None:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y", "a", "b")]
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Relu", ["a"], ["b"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            ports[2],
        ],
        [helper.make_tensor_value_info("d", TensorProto.BOOL, []), ports[3]],
    )
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    loop = helper.make_node("Loop", ["", "true", "x"], ["y"], body=body)
    graph = helper.make_graph([loop], "g", ports[:1], ports[1:2], [true])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match=r"model.onnx: took more than 0 s for one batch, and was ended"):
        open_predictor(tmp_path, "onnx", patience=0.3)({"x": X})


def test_in_a_function_that_nothing_calls(tmp_path: Path) -> None:
    spec = [tf.TensorSpec([None, 3], tf.float32)]
    other = tf.function(harm("WriteFile", str(tmp_path / "canary")), input_signature=spec)
    assert "has the operation WriteFile" in refused(saved(tmp_path / "model", lambda x: x, other=other))


def test_files_that_a_table_is_read_from(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("a\nb\n")
    start = tf.lookup.TextFileInitializer(
        str(tmp_path / "words.txt"), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, -1
    )
    table = tf.lookup.StaticHashTable(start, -1)

    def compute(x: tf.Tensor) -> tf.Tensor:
        return x + tf.cast(table.lookup(tf.constant("a")), tf.float32)

    assert "asset files" in refused(saved(tmp_path / "model", compute, table=table))


def changed(folder: Path, change: Callable[[Any], None]) -> Path:
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    change(model)
    path.write_bytes(model.SerializeToString())
    return folder


def _constant(model: Any) -> Any:
    for function in model.meta_graphs[0].graph_def.library.function:
        for node in function.node_def:
            if node.op == "Const" and node.attr["dtype"].type == 1:
                return node.attr["value"].tensor
    raise AssertionError


@pytest.mark.slow
def test_claims_and_shapes_of_the_file_itself(tmp_path: Path) -> None:
    def huge(model: Any) -> None:
        tensor = _constant(model)
        del tensor.tensor_shape.dim[:]
        tensor.tensor_shape.dim.add(size=1 << 40)

    def itself(model: Any) -> None:
        library = model.meta_graphs[0].graph_def.library.function
        node = library[0].node_def.add(name="again", op="PartitionedCall")
        node.attr["f"].func.name = library[0].signature.name

    def not_held(model: Any) -> None:
        node = model.meta_graphs[0].graph_def.library.function[0].node_def.add(name="other", op="PartitionedCall")
        node.attr["f"].func.name = "elsewhere"

    def doubling(model: Any) -> None:
        library = model.meta_graphs[0].graph_def.library.function
        for level in range(60):
            function = library.add()
            function.signature.name = f"f{level}"
            for copy in range(2):
                node = function.node_def.add(name=f"c{copy}", op="PartitionedCall" if level else "NoOp")
                if level:
                    node.attr["f"].func.name = f"f{level - 1}"

    def filled(model: Any) -> None:
        nodes = model.meta_graphs[0].graph_def.library.function[0].node_def
        sides = nodes.add(name="sides", op="Const")
        tensor = tf.make_tensor_proto([1 << 31, 1 << 31])
        sides.attr["dtype"].type = tensor.dtype
        sides.attr["value"].tensor.CopyFrom(tensor)
        nodes.add(name="filled", op="Fill").input.extend(["sides:output:0", "sides:output:0"])

    def old(model: Any) -> None:
        model.meta_graphs[0].ClearField("object_graph_def")

    for number, (change, words) in enumerate(
        [
            (huge, "constants claim more than"),
            (filled, "makes 4,611,686,018,427,387,904 values"),
            (itself, "calls itself"),
            (not_held, "calls 'elsewhere', which it does not hold"),
            (doubling, "unfolds into more than"),
            (old, "as TensorFlow 2 writes it"),
        ]
    ):
        folder = changed(saved(tmp_path / str(number), lambda x: x + 0.5), change)
        assert words in refused(folder)


def test_the_list_names_operations_that_there_are() -> None:
    for name in tf_allowed.COMPUTES | tf_allowed.SAVER:
        assert op_def_registry.get(name) is not None, name
    harmful = ("File", "Dataset", "Debug", "Print", "Summary", "PyFunc", "Restore", "Save", "Recv", "Send", "Xla")
    named = [name for name in tf_allowed.COMPUTES if any(part in name for part in harmful)]
    assert sorted(named) == ["XlaDynamicSlice", "XlaDynamicUpdateSlice"]


# --- ONNX -------------------------------------------------------------------------------------------------------------


def _onnx(folder: Path, *, domain: str = "", initializers: Any = (), functions: Any = ()) -> Path:
    node = helper.make_node("Relu", ["x"], ["y"], domain=domain)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y")]
    graph = helper.make_graph([node], "g", ports[:1], ports[1:], list(initializers))
    opsets = [helper.make_opsetid(name, version) for name, version in (("", 18), *(((domain, 1),) if domain else ()))]
    model = helper.make_model(graph, opset_imports=opsets, functions=list(functions))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder


def test_operators_beyond_the_standard(tmp_path: Path) -> None:
    for runtime in ("onnx", "onnx-float16", "onnx-openvino"):
        with pytest.raises(ArtifactError, match=r"the operator com.microsoft.Relu, which is not in the ONNX standard"):
            open_predictor(_onnx(tmp_path, domain="com.microsoft"), runtime)
    assert open_predictor(_onnx(tmp_path), "onnx")({"x": X})["y"].shape == (2, 3)


@pytest.mark.parametrize("location", ["/etc/passwd", "../model.onnx.data", "other.bin"])
def test_weights_elsewhere(tmp_path: Path, location: str) -> None:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.append(onnx.StringStringEntryProto(key="location", value=location))
    path = _onnx(tmp_path, initializers=[tensor]) / "model.onnx"
    with pytest.raises(ArtifactError, match=r"only model.onnx.data beside it is opened"):
        weights_beside(path)


def test_an_opset_that_there_will_never_be(tmp_path: Path) -> None:
    folder = _onnx(tmp_path)
    model = onnx.load(folder / "model.onnx")
    model.opset_import[0].version = (1 << 63) - 1
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    for runtime in ("onnx", "onnx-float16"):
        with pytest.raises(ArtifactError, match="it has an opset above 1000"):
            open_predictor(folder, runtime)


def test_weights_that_are_not_whole(tmp_path: Path) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 40], data_location=TensorProto.EXTERNAL)
    tensor.external_data.append(onnx.StringStringEntryProto(key="location", value="model.onnx.data"))
    (tmp_path / "model.onnx.data").write_bytes(bytes(64))
    with pytest.raises(ArtifactError, match=r"'w' is not whole in model.onnx.data"):
        weights_beside(_onnx(tmp_path, initializers=[tensor]) / "model.onnx")


def test_an_onnx_file_that_fails_when_it_runs(tmp_path: Path) -> None:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "n"]) for name in ("x", "y")]
    weights = helper.make_tensor("w", TensorProto.FLOAT, [5, 5], [0.5] * 25)
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ports[:1], ports[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    for runtime in ("onnx", "onnx-float16"):
        with pytest.raises(ArtifactError, match=r"model.onnx: opens and does not run") as caught:
            open_predictor(tmp_path, runtime)({"x": X})
        assert "\n" not in str(caught.value)
