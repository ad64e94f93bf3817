"""True float16 on a CPU: its own operators against onnxruntime and float64, and the overflow that others hide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from keras import layers
from onnx import TensorProto, helper, numpy_helper

from tfhalf.artifacts.comparison import Limits, OutputParity
from tfhalf.data import Preprocess
from tfhalf.export.onnx import to_onnx
from tfhalf.export.program import make_program
from tfhalf.export.rebuild.rebuild import rebuild
from tfhalf.runtimes.onnx_reference import TrueFloat16
from tfhalf.runtimes.open import open_predictor
from tfhalf.verify.compare import compare_outputs

DRAW = np.random.default_rng(0)
TYPES = {np.dtype(np.float16): TensorProto.FLOAT16, np.dtype(np.float32): TensorProto.FLOAT}


def one_node(op: str, x: np.ndarray, *others: np.ndarray, **attributes: Any) -> onnx.ModelProto:
    names = ["x", *(f"c{i}" for i in range(len(others)))]
    kind = TYPES[x.dtype]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info("x", kind, x.shape)],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(other, name) for other, name in zip(others, names[1:], strict=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def runtime(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    answer: np.ndarray = session.run(None, {"x": x})[0]
    return answer


def check(op: str, x: np.ndarray, *others: np.ndarray, **attributes: Any) -> None:
    """Float16 within one rounding of onnxruntime's float32 on the same (float16) numbers; float32 as it."""
    half = [x.astype(np.float16), *(o.astype(np.float16) for o in others)]
    wide = [h.astype(np.float32) for h in half]
    expected = runtime(one_node(op, *wide, **attributes), wide[0])
    got = TrueFloat16(one_node(op, *half, **attributes))(half[0])["y"]
    assert got.dtype == np.float16
    assert got.shape == expected.shape
    np.testing.assert_allclose(got.astype(np.float64), expected, rtol=2.0**-11 * 1.01, atol=2e-5)
    same = TrueFloat16(one_node(op, *wide, **attributes))(wide[0])["y"]
    assert same.dtype == np.float32
    np.testing.assert_allclose(same, expected, rtol=1e-5, atol=1e-5)


CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "plain": ((2, 3, 8, 7), (4, 3, 3, 3), {}),
    "1x1": ((2, 3, 8, 7), (4, 3, 1, 1), {}),
    "strides": ((2, 3, 8, 7), (4, 3, 3, 2), {"strides": [2, 3]}),
    "pads": ((2, 3, 8, 7), (4, 3, 3, 3), {"pads": [1, 0, 2, 1]}),
    "dilations": ((2, 3, 9, 9), (4, 3, 3, 2), {"dilations": [2, 3]}),
    "groups": ((2, 6, 8, 7), (4, 3, 3, 3), {"group": 2}),
    "depthwise": ((2, 3, 8, 7), (6, 1, 3, 3), {"group": 3, "pads": [1, 1, 1, 1]}),
    "SAME_UPPER": ((2, 3, 8, 7), (4, 3, 4, 2), {"auto_pad": "SAME_UPPER"}),
    "SAME_UPPER, strides": ((2, 3, 8, 7), (4, 3, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "SAME_LOWER": ((2, 3, 8, 7), (4, 3, 4, 2), {"auto_pad": "SAME_LOWER", "strides": [2, 1]}),
    "VALID": ((2, 3, 8, 7), (4, 3, 3, 3), {"auto_pad": "VALID"}),
    "all at once": (
        (2, 4, 11, 9),
        (6, 2, 3, 2),
        {"group": 2, "strides": [2, 1], "dilations": [2, 1], "pads": [1, 0, 0, 2]},
    ),
    "one dimension": ((2, 3, 9), (4, 3, 3), {"strides": [2], "pads": [1, 1]}),
    "three dimensions": ((1, 2, 5, 4, 6), (3, 2, 2, 3, 2), {"pads": [1, 0, 0, 0, 1, 1]}),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution(case: str, bias: bool) -> None:
    shape, kernel, attributes = CONVOLUTIONS[case]
    x, w = DRAW.normal(size=shape), DRAW.normal(size=kernel)
    check("Conv", x, w, *([DRAW.normal(size=kernel[0])] if bias else []), **attributes)


POOLS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "plain": ((2, 3, 8, 7), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "overlapping": ((2, 3, 8, 7), {"kernel_shape": [3, 2]}),
    "pads": ((2, 3, 8, 7), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "SAME_UPPER": ((2, 3, 8, 7), {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "SAME_LOWER": ((2, 3, 8, 7), {"kernel_shape": [2, 3], "strides": [1, 2], "auto_pad": "SAME_LOWER"}),
    "dilations": ((2, 3, 9, 9), {"kernel_shape": [2, 2], "dilations": [2, 3]}),
    "one dimension": ((2, 3, 9), {"kernel_shape": [3], "strides": [3]}),
}


@pytest.mark.parametrize("case", POOLS)
def test_max_pooling(case: str) -> None:
    shape, attributes = POOLS[case]
    check("MaxPool", DRAW.normal(size=shape) - 5, **attributes)  # all negative: padding must not win


def test_max_pooling_with_ceil_mode_is_refused() -> None:
    x = np.zeros((1, 1, 5, 5), np.float16)
    with pytest.raises(Exception, match="ceil_mode"):
        TrueFloat16(one_node("MaxPool", x, kernel_shape=[2, 2], ceil_mode=1))(x)


@pytest.mark.parametrize(("a", "b"), [((5, 7), (7, 3)), ((2, 5, 7), (7, 3)), ((4, 2, 5, 7), (2, 7, 3)), ((7,), (7, 3))])
def test_matrix_product(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    check("MatMul", DRAW.normal(size=a), DRAW.normal(size=b))


def test_sums_are_rounded_once() -> None:
    """4,096 times 1 added up in float16 stays at 2,048; summed in float32 and rounded once it is exact."""
    x, w = np.ones((1, 4096), np.float16), np.ones((4096, 1), np.float16)
    assert TrueFloat16(one_node("MatMul", x, w))(x)["y"].item() == 4096
    image, kernel = np.ones((1, 4096, 1, 1), np.float16), np.ones((1, 4096, 1, 1), np.float16)
    assert TrueFloat16(one_node("Conv", image, kernel))(image)["y"].item() == 4096


def test_overflow_shows() -> None:
    x, w = np.full((1, 2), 300, np.float16), np.full((2, 1), 300, np.float16)  # 180,000
    assert TrueFloat16(one_node("MatMul", x, w))(x)["y"].item() == np.inf
    image, kernel = x.reshape(1, 2, 1, 1), w.reshape(1, 2, 1, 1)
    assert TrueFloat16(one_node("Conv", image, kernel))(image)["y"].item() == np.inf
    assert TrueFloat16(one_node("MatMul", x, -w))(x)["y"].item() == -np.inf


def compared(reference: np.ndarray, got: np.ndarray, y: np.ndarray, limits: Limits) -> OutputParity:
    (found,) = compare_outputs({"y": reference}, {"y": got}, ["y"], limits, (), y)
    return found


def test_the_overflow_that_onnxruntime_hides(tmp_path: Path) -> None:
    """Activations near 250,000 that the next layer brings back: fine wherever float16 is computed in float32."""
    x = keras.Input((4,))
    big = layers.Dense(8, name="big", kernel_initializer=keras.initializers.Constant(250.0))(x)
    back = layers.Dense(8, name="back", kernel_initializer=keras.initializers.Constant(1e-5))(big)
    model = keras.Model(x, layers.Dense(3, name="head")(back))
    data = np.full((6, 4), 250, np.float32) + np.arange(6, dtype=np.float32)[:, None]
    logits = np.asarray(model(data)).astype(np.float64)
    e = np.exp(logits - logits.max(-1, keepdims=True))
    reference = (e / e.sum(-1, keepdims=True)).astype(np.float32)

    program = make_program(rebuild(model).model, Preprocess((0.0,), (1.0,)), (4,))
    to_onnx.write(program, tmp_path / "model.onnx", opset=17, metadata={})
    hidden = open_predictor(tmp_path, "onnx")(data)["probabilities"]
    shown = open_predictor(tmp_path, "onnx-float16")(data)["probabilities"]
    y = reference.argmax(-1)
    if np.isfinite(hidden).all():  # on a CPU; where onnxruntime computes in float16 it overflows too
        assert compared(reference, hidden, y, Limits(None, None, 0.0, 100.0)).problems == ()
    assert not np.isfinite(shown).any()
    told = compared(reference, shown, y, Limits(None, None, 99.5, 0.1))
    assert told.problems[0] == "18 of 18 values are not finite"
    assert (told.accuracy, told.agreement, told.non_finite) == (0.0, 0.0, 18)


# --- what is rounded once ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "shapes", "attributes"),
    [
        ("Gemm", [(2, 4096), (4096, 3)], {}),
        ("ReduceMean", [(2, 50000)], {"keepdims": 0}),
        ("ReduceL2", [(2, 5000)], {"keepdims": 0}),
        ("Softmax", [(2, 70000)], {"axis": -1}),
        ("Softplus", [(2, 8)], {}),
        ("LayerNormalization", [(2, 64), (64,), (64,)], {}),
        ("GlobalAveragePool", [(1, 2, 300, 300)], {}),
        ("AveragePool", [(1, 2, 6, 6)], {"kernel_shape": [3, 3]}),
        ("ConvTranspose", [(1, 300, 3, 3), (300, 2, 2, 2)], {}),
    ],
)
def test_sums_within_an_operator_do_not_overflow(op: str, shapes: list[Any], attributes: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    wide = [rng.uniform(10, 20, shape).astype(np.float16) for shape in shapes]
    if op in ("Gemm", "ConvTranspose"):
        wide = [wide[0], (wide[1] / 1000).astype(np.float16)]
    if op == "LayerNormalization":
        wide[0] = (wide[0] * 100).astype(np.float16)  # whose squares do not fit
    expected = TrueFloat16(one_node(op, *(x.astype(np.float32) for x in wide), **attributes))
    want = expected(wide[0].astype(np.float32))["y"]
    got = TrueFloat16(one_node(op, *wide, **attributes))(wide[0])["y"]
    assert got.dtype == np.float16
    np.testing.assert_array_equal(got, want.astype(np.float16))


def test_a_loop_stacks_what_it_scans() -> None:
    body = helper.make_graph(
        [
            helper.make_node("Add", ["carried", "one"], ["next"]),
            helper.make_node("Identity", ["go"], ["goes"]),
            helper.make_node("Identity", ["next"], ["scanned"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT16, [2]),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT16, [2]),
            helper.make_tensor_value_info("scanned", TensorProto.FLOAT16, [2]),
        ],
        [numpy_helper.from_array(np.ones(2, np.float16), "one")],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["count", "", "x"], ["last", "all"], body=body)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [2])],
        [
            helper.make_tensor_value_info("last", TensorProto.FLOAT16, [2]),
            helper.make_tensor_value_info("all", TensorProto.FLOAT16, [3, 2]),
        ],
        [numpy_helper.from_array(np.array(3), "count")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    got = TrueFloat16(model)(np.zeros(2, np.float16))
    np.testing.assert_array_equal(got["last"], [3, 3])
    np.testing.assert_array_equal(got["all"], [[1, 1], [2, 2], [3, 3]])


# --- recurrent operators ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "gates", "activations"),
    [
        ("LSTM", 4, ("Sigmoid", "Tanh", "Tanh")),
        ("LSTM", 4, ("HardSigmoid", "Tanh", "Relu")),
        ("LSTM", 4, ("HardSigmoid", "Softsign", "Elu")),
        ("GRU", 3, ("HardSigmoid", "Tanh")),
        ("GRU", 3, ("Sigmoid", "LeakyRelu")),
        ("RNN", 1, ("Affine",)),
        ("RNN", 1, ("Relu",)),
    ],
)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_recurrent_operators(op: str, gates: int, activations: tuple[str, ...], direction: str) -> None:
    """Activations and their numbers as the node says; ONNX's own evaluator takes sigmoid and tanh whatever it says."""
    ways = 2 if direction == "bidirectional" else 1
    draw = np.random.default_rng(3)
    x, w, r, b = (
        draw.normal(size=s) * 0.4 for s in ((5, 2, 3), (ways, gates * 4, 3), (ways, gates * 4, 4), (ways, gates * 8))
    )
    scaled = {"HardSigmoid": (0.25, 0.4), "Affine": (0.5, 0.1), "LeakyRelu": (0.3,), "Elu": (0.7,)}
    told: dict[str, Any] = {"activations": activations * ways, "direction": direction, "hidden_size": 4}
    for place, name in enumerate(("activation_alpha", "activation_beta")):
        numbers = [scaled[a][place] for a in activations * ways if len(scaled.get(a, ())) > place]
        told |= {name: numbers} if numbers else {}
    check(op, x, w, r, b, **told)
    if op == "GRU":
        check(op, x, w, r, b, **told, linear_before_reset=1)


def test_a_recurrent_operator_that_is_not_known() -> None:
    w, r = np.ones((1, 16, 3), np.float16), np.ones((1, 16, 4), np.float16)
    model = one_node("LSTM", np.ones((2, 1, 3), np.float16), w, r, hidden_size=4, clip=1.0)
    with pytest.raises(ValueError, match="LSTM with clip is not supported in true float16"):
        TrueFloat16(model)(np.ones((2, 1, 3), np.float16))


def attention(opset: int, *inputs: np.ndarray, **attributes: Any) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    kinds = {**TYPES, np.dtype(bool): TensorProto.BOOL}
    arrays = {f"i{k}": x for k, x in enumerate(inputs)}
    values = [helper.make_tensor_value_info(name, kinds[x.dtype], x.shape) for name, x in arrays.items()]
    answer = helper.make_tensor_value_info("y", TYPES[inputs[0].dtype], None)
    node = helper.make_node("Attention", list(arrays), ["y"], **attributes)
    graph = helper.make_graph([node], "g", values, [answer])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=11), arrays


@pytest.mark.parametrize("opset", [23, 24, 25])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("mask", ["none", "bool", "numbers", "causal"])
@pytest.mark.parametrize("flat", [True, False])
def test_attention_as_onnxruntime(flat: bool, mask: str, dtype: Any, opset: int) -> None:
    """Two key heads for four; float16 rounded where onnxruntime's kernel of float16 does."""
    draw = np.random.default_rng(4)
    shapes = [(2, 5, 64), (2, 7, 32), (2, 7, 24)] if flat else [(2, 4, 5, 16), (2, 2, 7, 16), (2, 2, 7, 12)]
    inputs = [draw.normal(size=shape).astype(dtype) for shape in shapes]
    allowed = draw.random((2, 1, 5, 7)) > 0.4
    allowed[..., 0] = True
    inputs += {"bool": [allowed], "numbers": [draw.normal(size=(4, 5, 7)).astype(dtype)]}.get(mask, [])
    more = {"q_num_heads": 4, "kv_num_heads": 2} if flat else {}
    model, arrays = attention(opset, *inputs, scale=0.5, is_causal=int(mask == "causal"), **more)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected, got = session.run(None, arrays)[0], TrueFloat16(model)(arrays)["y"]
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(got, expected, atol=4e-3 if dtype == np.float16 else 2e-6)


def test_scores_that_float16_cannot_hold() -> None:
    query = np.full((1, 1, 2, 16), 100, np.float16)
    model, arrays = attention(23, query, query, query, scale=1.0)
    assert np.isnan(TrueFloat16(model)(arrays)["y"]).all()
    model, arrays = attention(23, query, query, query)  # divided by 4, they fit
    np.testing.assert_array_equal(TrueFloat16(model)(arrays)["y"], query)


def test_a_row_without_keys_is_zero() -> None:
    query = np.ones((1, 1, 2, 4), np.float16)
    model, arrays = attention(23, query, query, query, np.array([[False, False], [True, False]]))
    np.testing.assert_array_equal(TrueFloat16(model)(arrays)["y"][0, 0], [[0] * 4, [1] * 4])


def test_attention_that_is_not_known() -> None:
    query = np.ones((1, 1, 2, 4), np.float16)
    model, arrays = attention(23, query, query, query, softcap=2.0)
    with pytest.raises(ValueError, match="Attention with a cache, softcap or windows is not supported in true float16"):
        TrueFloat16(model)(arrays)
