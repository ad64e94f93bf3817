"""ONNX's Attention in place of the steps that Keras computes: the same answers, and only where it is that in full."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from keras import layers, ops

from tfhalf.artifacts.ports import Port
from tfhalf.export.onnx import to_onnx
from tfhalf.export.program import named_program
from tfhalf.runtimes.onnx_reference import TrueFloat16

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tf2onnx")

B, H, T, S, D = 3, 4, 6, 9, 16
attend = ops.dot_product_attention
Arrays = dict[str, np.ndarray]
Function = Callable[..., Any]


def drawn(**shapes: tuple[int, ...]) -> Arrays:
    draw = np.random.default_rng(0)
    return {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def heads(queries: int = T, keys: int = T, fewer: int = H) -> Arrays:
    """[B, T, H, D] each, as Keras has them."""
    return drawn(q=(B, queries, H, D), k=(B, keys, fewer, D), v=(B, keys, fewer, D))


def lets(*shape: int) -> np.ndarray:
    """A mask, in which the first row has no key at all."""
    mask = np.random.default_rng(1).random(shape) > 0.4
    mask[(0,) * (len(shape) - 1)] = False
    return mask


def converted(function: Function, arrays: Arrays, opset: int, dtype: str = "float16", free: bool = False) -> Any:
    """``free``: every size but the last two's is open; else the batch alone."""
    ports = []
    for name, array in arrays.items():
        kind = array.dtype.name if array.dtype == np.bool_ else dtype
        shape = (None, None, *array.shape[2:]) if free else (None, *array.shape[1:])
        ports.append(Port(name, kind, shape if len(array) == B else array.shape))
    function(*(tf.constant(x) for x in as_given(arrays, dtype).values()))  # layers make their weights
    given = named_program(lambda tensors: {"y": function(*tensors)}, ports, (), (), "a test")
    return to_onnx.convert(given, opset)


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def as_given(arrays: Arrays, dtype: str) -> Arrays:
    return {name: x if x.dtype == np.bool_ else x.astype(dtype) for name, x in arrays.items()}


def answers(model: onnx.ModelProto, arrays: Arrays) -> list[np.ndarray]:
    """Of true float16, and of onnxruntime."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [TrueFloat16(model)(arrays)["y"], session.run(None, arrays)[0]]


def error(got: np.ndarray, exact: np.ndarray) -> float:
    return float(np.sqrt(np.mean((got.astype(np.float64) - exact) ** 2)))


def by_hand(q: Any, k: Any, v: Any, last: Function = lambda scores: ops.softmax(scores, -1)) -> Any:
    """[B, H, T, D] each, as users write it."""
    return ops.matmul(last(ops.matmul(q, ops.swapaxes(k, -1, -2)) * D**-0.5), v)


@functools.cache
def built(kind: str, dtype: str) -> Any:
    """A layer for [B, T, 16], with the same weights whatever its dtype: those that float16 holds."""
    made = {
        "multi-head": lambda: layers.MultiHeadAttention(H, D, dtype=dtype),
        "with dropout": lambda: layers.MultiHeadAttention(H, D, dropout=0.1, dtype=dtype),
        "grouped": lambda: layers.GroupQueryAttention(D, H, 2, dtype=dtype),
        "one key": lambda: layers.GroupQueryAttention(D, H, 1, dtype=dtype),
    }[kind]()
    made.build(*[(None, None, 16)] * 2)
    draw = np.random.default_rng(2)
    made.set_weights([draw.normal(size=w.shape).astype(np.float16) * 0.3 for w in made.weights])
    return made


def layer(kind: str, masked: bool = False, **call: Any) -> Function:
    """Keras' own layer, on one sequence or on two, and last a mask where it is ``masked``."""

    def function(x: Any, *more: Any) -> Any:
        given = {"attention_mask": more[-1]} if masked else {}
        values = more[0] if len(more) > masked else x
        return built(kind, x.dtype.name)(x, values, **given, **call)

    return function


HEADS_FIRST = drawn(q=(B, H, T, D), k=(B, H, S, D), v=(B, H, S, D))
SEQUENCE = drawn(x=(B, T, 16))
TWO = drawn(x=(B, T, 16), z=(B, S, 16))
TRIANGLE = np.tril(np.ones((T, T), bool))
# What is computed, on what, and what Attention is told beside the scale.
TAKEN: dict[str, tuple[Function, Arrays, dict[str, int], bool]] = {
    "self": (attend, heads(), {"q_num_heads": H, "kv_num_heads": H}, False),
    "cross": (attend, heads(T, S), {"q_num_heads": H}, False),
    "a scale": (lambda q, k, v: attend(q, k, v, scale=0.5), heads(), {"q_num_heads": H}, False),
    "other values": (attend, {**heads(), **drawn(v=(B, T, H, 5))}, {"q_num_heads": H}, False),
    "causal": (lambda q, k, v: attend(q, k, v, is_causal=True), heads(), {"is_causal": 1}, False),
    "causal, more keys": (lambda q, k, v: attend(q, k, v, is_causal=True), heads(T, S), {"is_causal": 0}, False),
    "causal, fewer keys": (lambda q, k, v: attend(q, k, v, is_causal=True), heads(S, T), {"is_causal": 0}, False),
    "a mask": (
        lambda q, k, v, m: attend(q, k, v, mask=m),
        {**heads(T, S), "m": lets(B, 1, T, S)},
        {"q_num_heads": H},
        False,
    ),
    "a mask of keys": (
        lambda q, k, v, m: attend(q, k, v, mask=m),
        {**heads(T, S), "m": lets(B, 1, 1, S)},
        {"q_num_heads": H},
        False,
    ),
    "a mask for each head": (
        lambda q, k, v, m: attend(q, k, v, mask=m),
        {**heads(T, S), "m": lets(B, H, T, S)},
        {"q_num_heads": 0},  # on [B, H, T, D]
        False,
    ),
    "a mask and causal": (
        lambda q, k, v, m: attend(q, k, v, mask=m, is_causal=True),
        {**heads(), "m": lets(B, 1, T, T)},
        {"is_causal": 0},
        False,
    ),
    "a constant mask": (
        lambda q, k, v: attend(q, k, v, mask=TRIANGLE[None, None, ::-1]),
        heads(),
        {"is_causal": 0},
        False,
    ),
    "a bias": (lambda q, k, v, b: attend(q, k, v, bias=b), {**heads(), **drawn(b=(1, H, T, T))}, {}, False),
    "a bias and causal": (
        lambda q, k, v, b: attend(q, k, v, bias=b, is_causal=True),
        {**heads(), **drawn(b=(B, H, T, T))},
        {"is_causal": 0},
        False,
    ),
    "a bias and a mask": (
        lambda q, k, v, b, m: attend(q, k, v, bias=b, mask=m),
        {**heads(T, S), **drawn(b=(B, H, T, S)), "m": lets(B, 1, T, S)},
        {"q_num_heads": H},
        False,
    ),
    "groups": (attend, heads(T, S, 2), {"q_num_heads": H, "kv_num_heads": 2}, False),
    "by hand": (by_hand, HEADS_FIRST, {"q_num_heads": 0}, False),
    "one head": (by_hand, drawn(q=(B, T, D), k=(B, S, D), v=(B, S, D)), {"q_num_heads": 1}, False),
    "the layer": (layer("multi-head"), SEQUENCE, {"q_num_heads": H}, False),
    "the layer, causal": (layer("multi-head", use_causal_mask=True), SEQUENCE, {"is_causal": 1}, False),
    "the layer, on another": (layer("multi-head"), TWO, {"q_num_heads": H}, False),
    "the layer, masked": (
        layer("multi-head", masked=True),
        {**TWO, "m": lets(B, T, S)},
        {"q_num_heads": H},
        False,
    ),
    "with dropout": (layer("with dropout"), SEQUENCE, {"q_num_heads": H}, False),
    "with dropout, causal": (layer("with dropout", use_causal_mask=True), SEQUENCE, {"is_causal": 1}, False),
    "with dropout, masked": (
        layer("with dropout", masked=True),
        {**TWO, "m": lets(B, T, S)},
        {"q_num_heads": H},
        False,
    ),
    "grouped, causal": (
        layer("grouped", use_causal_mask=True),
        SEQUENCE,
        {"q_num_heads": H, "kv_num_heads": 2, "is_causal": 1},
        False,
    ),
    "one key": (layer("one key"), SEQUENCE, {"q_num_heads": H}, False),
    "open, the layer": (layer("multi-head"), SEQUENCE, {"q_num_heads": H}, True),
    "open, the layer, causal": (layer("multi-head", use_causal_mask=True), SEQUENCE, {"is_causal": 1}, True),
    "open, on another": (layer("multi-head"), TWO, {"q_num_heads": H}, True),
    "open, no scale": (attend, heads(T, S), {"q_num_heads": H}, True),
}


def attributes_of(model: onnx.ModelProto) -> dict[str, Any]:
    node = next(one for one in model.graph.node if one.op_type == "Attention")
    return {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}


@pytest.mark.parametrize("dtype", ["float16", pytest.param("float32", marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", TAKEN)
def test_taken(case: str, dtype: str) -> None:
    function, arrays, said, free = TAKEN[case]
    fused = converted(function, arrays, 23, dtype, free)
    assert (operators(fused)["Attention"], operators(fused)["Softmax"]) == (1, 0)
    attributes = attributes_of(fused)
    assert {name: attributes.get(name, 0) for name in said} == said
    assert attributes.get("softmax_precision", 0) == (dtype == "float16")
    given = as_given(arrays, dtype)
    exact = np.asarray(function(*(tf.constant(x.astype(np.float32) if x.dtype != bool else x) for x in given.values())))
    if dtype == "float32":
        for got in answers(fused, given):
            np.testing.assert_allclose(got, exact, atol=5e-6)
        return
    plain = converted(function, arrays, 22, dtype, free)
    assert (operators(plain)["Attention"], operators(plain)["Softmax"]) == (0, 1)
    allowed = error(TrueFloat16(plain)(given)["y"], exact)
    assert allowed < 2e-3
    true, onnxruntimes = (error(got, exact) for got in answers(fused, given))
    assert true <= 1.05 * allowed
    assert onnxruntimes <= (1.25 if "bias" in case else 1.05) * allowed  # it rounds scores before and after a bias


def gives_two(q: Any, k: Any, v: Any) -> Any:
    probabilities = ops.softmax(ops.matmul(q, ops.swapaxes(k, -1, -2)) * D**-0.5, -1)
    return ops.matmul(probabilities, v) + ops.sum(probabilities, -1, keepdims=True)


def scores_twice(q: Any, k: Any, v: Any) -> Any:
    scores = ops.matmul(q, ops.swapaxes(k, -1, -2)) * D**-0.5
    return ops.matmul(ops.softmax(scores, -1), v) + ops.max(scores, -1, keepdims=True)


def scaled_behind_the_mask(q: Any, k: Any, v: Any) -> Any:
    scores = ops.where(TRIANGLE, ops.matmul(q, ops.swapaxes(k, -1, -2)), ops.cast(-3e4, q.dtype))
    return ops.matmul(ops.softmax(scores * D**-0.5, -1), v)


def masked_by(low: float) -> Function:
    def last(scores: Any) -> Any:
        return ops.softmax(ops.where(TRIANGLE, scores, ops.cast(low, scores.dtype)), -1)

    return lambda q, k, v: by_hand(q, k, v, last)


def turned(scores: Any) -> Any:
    return ops.swapaxes(ops.softmax(scores, -1), -1, -2)


SQUARE = drawn(q=(B, H, T, D), k=(B, H, T, D), v=(B, H, T, D))
LEFT: dict[str, tuple[Function, Arrays]] = {
    "softmax over queries": (lambda q, k, v: by_hand(q, k, v, lambda scores: ops.softmax(scores, -2)), SQUARE),
    "softmax over heads": (lambda q, k, v: by_hand(q, k, v, lambda scores: ops.softmax(scores, 1)), SQUARE),
    "probabilities turned": (lambda q, k, v: by_hand(q, k, v, turned), SQUARE),
    "probabilities used": (gives_two, SQUARE),
    "scores used": (scores_twice, SQUARE),
    "scaled behind the mask": (scaled_behind_the_mask, SQUARE),
    "bias before the scale": (
        lambda q, k, v, b: ops.matmul(ops.softmax((ops.matmul(q, ops.swapaxes(k, -1, -2)) + b) * 0.3, -1), v),
        {**SQUARE, **drawn(b=(B, H, T, T))},
    ),
    "a bias for each key": (
        lambda q, k, v, b: by_hand(q, k, v, lambda scores: ops.softmax(scores + b, -1)),
        {**SQUARE, **drawn(b=(B, 1, 1, T))},
    ),
    "a negative scale": (lambda q, k, v: by_hand(-1.0 * q, k, v), SQUARE),
    "masked by little": (masked_by(-10.0), SQUARE),
    "masked by nothing": (masked_by(-np.inf), SQUARE),
    "a row without keys": (lambda q, k, v: attend(q, k, v, mask=np.triu(np.ones((T, T), bool), 1)), heads()),
    "another between": (lambda q, k, v: by_hand(q, k, v, lambda scores: ops.softmax(ops.tanh(scores), -1)), SQUARE),
    "probabilities changed": (lambda q, k, v: by_hand(q, k, v, lambda scores: ops.softmax(scores, -1) * 2), SQUARE),
    "one query for the batch": (by_hand, {**SQUARE, **drawn(q=(1, H, T, D))}),
    "one head for all": (by_hand, {**SQUARE, **drawn(k=(B, 1, T, D))}),
    "more axes": (by_hand, drawn(q=(B, 2, H, T, D), k=(B, 2, H, T, D), v=(B, 2, H, T, D))),
}


@pytest.mark.parametrize("case", LEFT)
def test_left_alone(case: str) -> None:
    function, arrays = LEFT[case]
    model = converted(function, arrays, 23, "float32")
    assert operators(model)["Attention"] == 0
    exact = np.asarray(function(*map(tf.constant, arrays.values())))
    for got in answers(model, arrays):
        np.testing.assert_allclose(got, exact, atol=2e-6)
