"""Rewrites of ONNX graphs: hand-made ones, bit for bit; and nets, which must come out as one would write them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import tensorflow as tf
from keras import layers, ops
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tfhalf.artifacts.ports import Port
from tfhalf.data import Preprocess
from tfhalf.errors import ExportError
from tfhalf.export.onnx import casts as onnx_casts
from tfhalf.export.onnx import external_weights, norms, shapes, to_onnx, transposes
from tfhalf.export.onnx.graph import Rewrite, sweep, tidy
from tfhalf.export.onnx.names import canonical
from tfhalf.export.program import Program, make_program, variables_of
from tfhalf.export.rebuild.rebuild import rebuild
from tfhalf.runtimes.onnx_reference import TrueFloat16

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tf2onnx")

HALF, SINGLE = TensorProto.FLOAT16, TensorProto.FLOAT
CASTS = (
    onnx_casts.cast_constant,
    onnx_casts.cast_of_nothing,
    onnx_casts.cast_before_moving,
    onnx_casts.cast_before_concat,
)
MOVES = (transposes.cancel, transposes.sink)

# --- hand-made graphs -------------------------------------------------------------------------------------------------


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=output, **attributes)


def graph(
    nodes: Sequence[onnx.NodeProto], outputs: dict[str, int], constants: dict[str, Any] | None = None, kind: int = HALF
) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", kind, ["n", 2, 4, 4])
    values = [helper.make_tensor_value_info(name, dtype, None) for name, dtype in outputs.items()]
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()]
    made = helper.make_graph(list(nodes), "g", [x], values, weights)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)  # also fills in the shapes of the outputs


def evaluate(model: onnx.ModelProto) -> list[np.ndarray]:
    dtype = np.float16 if model.graph.input[0].type.tensor_type.elem_type == HALF else np.float32
    x = np.random.default_rng(0).normal(size=(2, 2, 4, 4)).astype(dtype)
    return ReferenceEvaluator(model).run(None, {"x": x})


def rewritten(model: onnx.ModelProto, rewrites: Sequence[Rewrite]) -> Counter[str]:
    """How many of each operator are left; and holds that the answers stay, bit for bit."""
    before = evaluate(model)
    inner = ir.from_proto(model)
    tidy(inner)
    sweep(inner, rewrites)
    tidy(inner)
    after = ir.to_proto(inner)
    onnx.checker.check_model(after, full_check=True)
    assert [value.name for value in after.graph.output] == [value.name for value in model.graph.output]
    for old, new in zip(before, evaluate(after), strict=True):
        assert old.dtype == new.dtype
        np.testing.assert_array_equal(old, new)
    return Counter(item.op_type for item in after.graph.node)


PADS = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "fill": np.float32(0.1)}


@pytest.mark.parametrize(
    "op",
    [
        node("Pad", "a pads", "b"),
        node("Pad", "a pads fill", "b"),
        node("Pad", "a pads", "b", mode="reflect"),
        node("Transpose", "a", "b", perm=[0, 2, 3, 1]),
        node("Flatten", "a", "b"),
        node("MaxPool", "a", "b", kernel_shape=[2, 2]),
        node("Relu", "a", "b"),
        node("Concat", "a a", "b", axis=1),
    ],
    ids=lambda op: f"{op.op_type}{len(op.input)}{''.join(a.name for a in op.attribute)}",
)
def test_a_cast_pair_goes(op: onnx.NodeProto) -> None:
    nodes = [node("Cast", "x", "a", to=SINGLE), op, node("Cast", "b", "y", to=HALF)]
    assert rewritten(graph(nodes, {"y": HALF}, PADS), CASTS) == {op.op_type: 1}


KEEPING: dict[str, tuple[list[onnx.NodeProto], dict[str, int]]] = {
    "an operator that computes": ([node("Exp", "a", "b")], {"y": HALF}),
    "the result is an output": ([node("Relu", "a", "b")], {"y": HALF, "b": SINGLE}),
    "the result has another reader": ([node("Relu", "a", "b"), node("Exp", "b", "z")], {"y": HALF, "z": SINGLE}),
    "a fill value that is computed": (
        [node("Exp", "fill", "other"), node("Pad", "a pads other", "b")],
        {"y": HALF},
    ),
}


@pytest.mark.parametrize("case", KEEPING)
def test_casts_that_stay(case: str) -> None:
    nodes, outputs = KEEPING[case]
    nodes = [node("Cast", "x", "a", to=SINGLE), *nodes, node("Cast", "b", "y", to=HALF)]
    assert rewritten(graph(nodes, outputs, PADS), CASTS)["Cast"] == 2


def test_a_cast_that_loses_is_not_taken_for_one_that_undoes() -> None:
    nodes = [node("Cast", "x", "a", to=HALF), node("Cast", "a", "y", to=SINGLE)]
    assert rewritten(graph(nodes, {"y": SINGLE}, kind=SINGLE), CASTS) == {"Cast": 2}


def test_casting_a_float32_input_comes_before_moving_it() -> None:
    nodes = [node("Pad", "x pads", "a"), node("Cast", "a", "y", to=HALF)]
    model = graph(nodes, {"y": HALF}, PADS, kind=SINGLE)
    assert rewritten(model, CASTS) == {"Cast": 1, "Pad": 1}


THERE, BACK = {"perm": [0, 2, 3, 1]}, {"perm": [0, 3, 1, 2]}
CHANNELS = np.arange(2, dtype=np.float16)  # of the last axis, between the Transposes
BETWEEN: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
    "unary": ([node("Tanh", "a", "b")], {}),
    "a constant a channel": ([node("Mul", "a c", "b")], {"c": CHANNELS}),
    "a constant on the left": ([node("Sub", "c a", "b")], {"c": CHANNELS}),
    "a number": ([node("Add", "a c", "b")], {"c": np.float16(3)}),
    "both sides": ([node("Tanh", "a", "t"), node("Mul", "a t", "b")], {}),
    "a pad": ([node("Pad", "a c", "b")], {"c": np.array([0, 1, 2, 0, 0, 3, 0, 0])}),
    "a concatenation": ([node("Tanh", "a", "t"), node("Concat", "a t", "b", axis=3)], {}),
    "a concatenation from the end": ([node("Concat", "a a", "b", axis=-1)], {}),
    "a mean": ([node("ReduceMean", "a c", "b", keepdims=1)], {"c": np.array([1, 2])}),
    "a slice": ([node("Slice", "a s e c", "b")], {"s": np.array([1]), "e": np.array([3]), "c": np.array([2])}),
    "a softmax": ([node("Softmax", "a", "b", axis=-1)], {}),
    "a resize": (
        [helper.make_node("Resize", ["a", "", "c"], ["b"], mode="nearest")],
        {"c": np.array([1, 2, 3, 1], np.float32)},
    ),
    "a condition": ([node("Less", "a c", "t"), node("Where", "t a c", "b")], {"c": CHANNELS}),
}


@pytest.mark.parametrize("case", BETWEEN)
def test_transposes_meet_through(case: str) -> None:
    nodes, constants = BETWEEN[case]
    nodes = [node("Transpose", "x", "a", **THERE), *nodes, node("Transpose", "b", "y", **BACK)]
    assert rewritten(graph(nodes, {"y": HALF}, constants), MOVES)["Transpose"] == 0


@pytest.mark.parametrize("axes", [[1, 2], [3], [1], [0, 3]])
def test_a_reduction_that_drops_its_axes(axes: list[int]) -> None:
    nodes = [node("Transpose", "x", "a", **THERE), node("ReduceMax", "a axes", "y", keepdims=0)]
    left = rewritten(graph(nodes, {"y": HALF}, {"axes": np.array(axes)}), MOVES)
    assert left["Transpose"] == (0 if axes == [1, 2] or axes == [3] else left["Transpose"])


def test_a_transpose_beside_another_stays() -> None:
    nodes = [node("Transpose", "x", "a", **THERE), node("Transpose", "x", "b", **BACK), node("Add", "a b", "y")]
    x = helper.make_tensor_value_info("x", HALF, [2, 4, 4, 4])
    made = helper.make_graph(nodes, "g", [x], [helper.make_tensor_value_info("y", HALF, [2, 4, 4, 4])])
    inner = ir.from_proto(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))
    assert sweep(inner, MOVES) == 0


def test_sizes_that_are_known_are_constants() -> None:
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s first", "n"),
        node("Gather", "s rest", "r"),
        node("ReduceProd", "r", "p", keepdims=1),
        node("Concat", "n p", "t", axis=0),
        node("Reshape", "x t", "y"),
    ]
    constants = {"first": np.array([0]), "rest": np.array([1, 2, 3])}
    assert rewritten(graph(nodes, {"y": HALF}, constants), (shapes.fixed_target,)) == {"Reshape": 1}


def test_names_are_numbered_by_place() -> None:
    nodes = [
        helper.make_node("Relu", ["Add__15"], ["y"], name="Relu"),
        helper.make_node("Add", ["Add__12", "w__9"], ["Add__15"], name="Add__15"),
        helper.make_node("Add", ["x", "w__7"], ["Add__12"], name="Add__12"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    weights = [numpy_helper.from_array(np.ones(2, np.float32) * k, f"w__{k}") for k in (9, 7)]
    model = ir.from_proto(helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], weights)))
    canonical(model)
    made = ir.to_proto(model).graph
    assert [(list(item.input), list(item.output), item.name) for item in made.node] == [
        (["x", "w"], ["Add"], "Add"),
        (["Add", "w__1"], ["Add__1"], "Add__1"),
        (["Add__1"], ["y"], "Relu"),
    ]
    assert [tensor.name for tensor in made.initializer] == ["w", "w__1"]


# --- nets -------------------------------------------------------------------------------------------------------------

Layers = Callable[[Any], Any]


def program(shape: tuple[int, ...], body: Layers) -> tuple[keras.Model, Program]:
    keras.utils.set_random_seed(0)
    x = keras.Input(shape)
    y = body(x)
    y = layers.Flatten()(y) if len(y.shape) > 2 else y
    model = keras.Model(x, layers.Dense(4)(y))
    draw = np.random.default_rng(1)
    for v in model.weights:
        if v.path.endswith(("moving_variance", "gamma")):
            v.assign(draw.uniform(0.5, 1.5, v.shape))
        elif v.path.endswith(("moving_mean", "beta", "bias")):
            v.assign(draw.normal(size=v.shape) * 0.1)
    return model, make_program(rebuild(model, fold_batchnorm=False).model, Preprocess((0.0,), (1.0,)), shape)


@pytest.mark.parametrize("gamma_first", [True, False])
def test_a_root_mean_square_norm_in_either_order(gamma_first: bool) -> None:
    """TensorFlow's optimizer puts gamma with whichever factor it likes."""
    gamma = np.linspace(0.5, 1.5, 4).astype(np.float32)
    last = node("Mul", "x g", "y") if gamma_first else node("Mul", "n gamma", "y")
    nodes = [
        node("Mul", "x x", "s"),
        node("ReduceMean", "s axes", "m", keepdims=1),
        node("Add", "m epsilon", "a"),
        node("Sqrt", "a", "r"),
        node("Reciprocal", "r", "i"),
        node("Mul", "i gamma", "g") if gamma_first else node("Mul", "x i", "n"),
        last,
    ]
    model = graph(nodes, {"y": SINGLE}, {"axes": np.array([-1]), "epsilon": np.float32(1e-6), "gamma": gamma}, SINGLE)
    model.opset_import[0].version, model.ir_version = 23, 11
    inner = ir.from_proto(model)
    tidy(inner)
    assert sweep(inner, (norms.rms_normalization,)) == 1
    tidy(inner)
    after = ir.to_proto(inner)
    assert [item.op_type for item in after.graph.node] == ["RMSNormalization"]
    for old, new in zip(evaluate(model), evaluate(after), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5)


def norm(x: Any) -> Any:
    return layers.ReLU()(layers.BatchNormalization()(x))


def attention(x: Any) -> Any:
    x = layers.LayerNormalization()(layers.Dense(16)(x))
    return x + layers.MultiHeadAttention(2, 8)(x, x, use_causal_mask=True)


def excited(x: Any) -> Any:
    x = layers.Conv2D(8, 3, padding="same")(x)
    s = layers.Conv2D(8, 1, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    return layers.GlobalAveragePooling2D()(layers.multiply([x, s]))


IMAGE, TOKENS = (8, 8, 4), (6, 16)
# Shape, layers, opset, operators that must be there, how many Casts and Transposes may be.
NETS: dict[str, tuple[tuple[int, ...], Layers, int, dict[str, int], int, int]] = {
    "norm behind a convolution": (IMAGE, lambda x: norm(layers.Conv2D(8, 3)(x)), 18, {"Conv": 1, "Mul": 0}, 2, 1),
    "depthwise": (IMAGE, lambda x: norm(layers.DepthwiseConv2D(3)(x)), 18, {"Conv": 1, "Mul": 0}, 2, 1),
    "transposed": (
        IMAGE,
        lambda x: norm(layers.Conv2DTranspose(6, 3, strides=2)(x)),
        18,
        {"ConvTranspose": 1, "Mul": 0},
        2,
        1,
    ),
    "dilated": (IMAGE, lambda x: norm(layers.Conv2D(6, 3, dilation_rate=2, padding="same")(x)), 18, {"Conv": 1}, 2, 1),
    "causal, one dimension": (
        TOKENS,
        lambda x: norm(layers.Conv1D(8, 3, dilation_rate=2, padding="causal")(x)),
        18,
        {"Conv": 1, "Pad": 0, "Unsqueeze": 0, "Squeeze": 0, "Mul": 0},
        2,
        1,
    ),
    "tanh GELU between convolutions": (
        IMAGE,
        lambda x: layers.Conv2D(4, 3)(ops.gelu(layers.Conv2D(4, 3)(x), approximate=True)),
        18,
        {"Conv": 2, "Tanh": 1},
        2,
        1,
    ),
    "exact GELU": (IMAGE, lambda x: ops.gelu(layers.Conv2D(4, 3)(x), approximate=False), 18, {"Erf": 1}, 2, 1),
    "Gelu": (IMAGE, lambda x: ops.gelu(layers.Conv2D(4, 3)(x), approximate=False), 20, {"Gelu": 1, "Mul": 0}, 2, 1),
    "upsampling": (
        IMAGE,
        lambda x: layers.Conv2D(4, 3)(layers.UpSampling2D(2)(layers.Conv2D(4, 3)(x))),
        18,
        {"Resize": 1, "Tile": 0},
        2,
        1,
    ),
    "bilinear upsampling": (
        IMAGE,
        lambda x: layers.UpSampling2D(2, interpolation="bilinear")(layers.Conv2D(4, 3)(x)),
        18,
        {"Resize": 1, "Min": 0, "Max": 0},
        4,  # Keras gives float32 in between
        1,
    ),
    "squeeze and excitation": (IMAGE, excited, 18, {"Reshape": 0, "ReduceMean": 2}, 2, 1),
    "LayerNormalization": (
        TOKENS,
        lambda x: layers.LayerNormalization()(layers.Dense(16)(x)),
        18,
        {"LayerNormalization": 1, "Shape": 0, "Reshape": 1},
        2,
        0,
    ),
    "GroupNormalization": (
        IMAGE,
        lambda x: layers.GroupNormalization(4)(layers.Conv2D(8, 3)(x)),
        21,
        {"GroupNormalization": 1, "Sqrt": 0},
        2,
        2,
    ),
    "RMSNormalization": (
        TOKENS,
        lambda x: layers.RMSNormalization()(layers.Dense(16)(x)),
        23,
        {"RMSNormalization": 1, "Sqrt": 0},
        2,
        0,
    ),
    "causal attention": (
        TOKENS,
        attention,
        18,
        {"LayerNormalization": 1, "Shape": 0, "Einsum": 0, "Where": 1, "Softmax": 2},
        4,  # its softmax is computed in float32
        4,
    ),
    "LSTM": (TOKENS, lambda x: layers.LSTM(8)(x), 18, {"LSTM": 1, "Slice": 0, "Expand": 0}, 2, 1),
    "LSTM both ways": (
        TOKENS,
        lambda x: layers.Bidirectional(layers.LSTM(8, return_sequences=True))(x),
        18,
        {"LSTM": 1, "Expand": 0},
        2,
        2,
    ),
    "GRU": (TOKENS, lambda x: layers.GRU(8)(x), 18, {"GRU": 1, "Loop": 0, "Slice": 0}, 2, 1),
    "GRU, square": (TOKENS, lambda x: layers.GRU(16, return_sequences=True)(x), 18, {"GRU": 1, "Loop": 0}, 2, 2),
    "GRU, reset before": (TOKENS, lambda x: layers.GRU(8, reset_after=False)(x), 18, {"GRU": 1, "Loop": 0}, 2, 1),
    "RNN": (TOKENS, lambda x: layers.SimpleRNN(8)(x), 18, {"RNN": 1, "Loop": 0}, 2, 1),
    "another RNN stays a loop": (
        TOKENS,
        lambda x: layers.SimpleRNN(8, activation="relu")(x),
        18,
        {"RNN": 0, "Loop": 1},
        20,
        1,
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_a_net(name: str) -> None:
    shape, body, opset, operators, casts, moves = NETS[name]
    model, made = program(shape, body)
    graph = to_onnx.convert(made, opset)
    counts = Counter(item.op_type for item in graph.graph.node)
    assert {op: counts[op] for op in operators} == operators
    assert counts["Cast"] <= casts
    assert counts["Transpose"] <= moves
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    expected = np.asarray(model(x, training=False)).astype(np.float64)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    tolerance = 4e-3 * max(1, np.abs(expected).max())
    np.testing.assert_allclose(session.run(["logits"], {"image": x})[0], expected, atol=tolerance)
    np.testing.assert_allclose(TrueFloat16(graph)(x)["logits"], expected, atol=tolerance)


@keras.saving.register_keras_serializable("tests")
class Written(keras.Model):
    """A subclassed net, which Keras' side cannot fold."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conv, self.norm = layers.Conv2D(8, 3, padding="same"), layers.BatchNormalization()
        self.pool, self.head = layers.GlobalAveragePooling2D(), layers.Dense(4)

    def call(self, x: Any, training: bool = False) -> Any:
        return self.head(self.pool(ops.relu(self.norm(self.conv(x), training=training))))

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}


def test_the_norm_of_a_subclassed_net_is_folded() -> None:
    model = Written()
    model(np.zeros((1, *IMAGE), np.float32))
    for v in model.weights:
        v.assign(np.random.default_rng(len(v.path)).uniform(0.5, 1.5, v.shape))
    rebuilt = rebuild(model).model
    rebuilt(np.zeros((1, *IMAGE), np.float16))

    @tf.function(input_signature=[tf.TensorSpec((None, *IMAGE), tf.float32, name="image")])
    def serve(image: Any) -> dict[str, Any]:
        return {"logits": tf.identity(tf.cast(rebuilt(image, training=False), tf.float32), "logits")}

    ports = (Port("image", "float32", (None, *IMAGE)),), (Port("logits", "float32", (None, 4)),)
    graph = to_onnx.convert(Program(serve, *ports, *variables_of(rebuilt), "a test"), 18).graph
    counts = Counter(item.op_type for item in graph.node)
    assert (counts["Conv"], counts["Mul"], counts["Cast"]) == (1, 0, 2)
    assert not [tensor.name for tensor in graph.initializer if tensor.data_type == SINGLE]


def test_open_sizes_have_names() -> None:
    _, made = program(TOKENS, lambda x: layers.Dense(8)(x))
    graph = to_onnx.convert(made, 18)
    assert graph.ir_version == 8
    inferred = onnx.shape_inference.infer_shapes(graph, strict_mode=True, data_prop=True).graph.value_info
    first = {value.type.tensor_type.shape.dim[0].dim_param for value in inferred if value.type.tensor_type.shape.dim}
    assert first == {"batch"}


@pytest.mark.parametrize("opset", [12, 26])
def test_an_opset_that_cannot_be_had(opset: int) -> None:
    _, made = program(TOKENS, lambda x: layers.Dense(8)(x))
    with pytest.raises(ExportError, match=rf"received opset {opset}, accepted: 13 to 25"):
        to_onnx.convert(made, opset)


@pytest.mark.parametrize(
    "name",
    [
        "depthwise",
        "GroupNormalization",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("causal attention", "LSTM", "GRU")),
    ],
)
def test_weights_beside_the_graph(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same nodes, weights and answers as of a graph that holds its weights."""
    shape, body, opset, *_ = NETS[name]
    _, made = program(shape, body)
    whole = to_onnx.convert(made, opset)
    monkeypatch.setattr(to_onnx, "LARGEST", 100)
    monkeypatch.setattr(external_weights, "SMALL", 100)
    path, data = tmp_path / "model.onnx", tmp_path / "model.onnx.data"
    assert to_onnx.write(made, path, opset=opset, metadata={"precision": "float16"}) == [path, data]
    assert sorted(tmp_path.iterdir()) == [path, data]
    onnx.checker.check_model(str(path), full_check=True)
    apart = onnx.load(path, load_external_data=False)
    outside = [t for t in apart.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    assert {e.value for t in outside for e in t.external_data if e.key == "location"} == {"model.onnx.data"}
    assert sum(numpy_helper.to_array(t, str(tmp_path)).nbytes for t in outside) == data.stat().st_size
    assert max(len(t.raw_data) for t in apart.graph.initializer) <= 100
    assert {prop.key: prop.value for prop in apart.metadata_props} == {"precision": "float16"}

    whole_nodes, nodes = (Counter(node.op_type for node in model.graph.node) for model in (whole, apart))
    assert nodes == whole_nodes
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    answers = [
        onnxruntime.InferenceSession(given, providers=["CPUExecutionProvider"]).run(None, {"image": x})
        for given in (whole.SerializeToString(), str(path))
    ]
    for expected, got in zip(*answers, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-3)
    assert set(TrueFloat16(onnx.load(path))(x)) == {"logits", "probabilities"}


def test_the_largest_weights_go_apart_first() -> None:
    small, middle, large = (keras.Variable(np.zeros(n, np.float16)) for n in ((1, 10), (1, 100), (1, 1_000)))
    weights = [small, large, middle]
    assert external_weights.held(weights) == 2_220
    assert external_weights.largest_weights(weights, 2_220) == []
    assert external_weights.largest_weights(weights, 2_219) == [large]
    assert external_weights.largest_weights(weights, 200) == [large, middle]
    assert external_weights.largest_weights(weights, 10) == [large, middle, small]
    assert external_weights.largest_weights([keras.Variable(np.zeros(9, np.float16))], 10) == []


def digests() -> list[str]:
    """Of each net's ONNX file."""
    keras.utils.clear_session()
    hashes = []
    for name in ("causal attention", "LSTM both ways", "GRU", "another RNN stays a loop"):
        shape, body, opset, *_ = NETS[name]
        content = to_onnx.convert(program(shape, body)[1], opset).SerializeToString(deterministic=True)
        hashes.append(hashlib.sha256(content).hexdigest())
    return hashes


@pytest.mark.slow
def test_two_processes_write_the_same_bytes() -> None:
    """This one and another, in which Python's hashes are others too."""
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    done = subprocess.run(
        [sys.executable, "-c", "import test_onnx_rewrites as tests; print(*tests.digests())"],
        cwd=Path(__file__).resolve().parent,
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == digests()
