"""Rules that write operators out, each beside the operator itself: arrays, bits, matrices, images, tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tfhalf.errors import ExportError
from tfhalf.export.graph.decompose import import_graph
from tfhalf.export.graph.decompositions import LITERT, ONNX, rules_of
from tfhalf.export.graph.frozen import freeze

RNG = np.random.default_rng(0)


def both(function: Callable[..., Any], *given: np.ndarray, table: dict[str, Any] = LITERT) -> tuple[Any, Any, set[str]]:
    """What ``function`` answers, what it answers written out, and the operators that are gone."""
    specs = [tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in given]
    plain = tf.function(lambda *x: {"y": function(*x)}, input_signature=specs, autograph=False)
    graph = freeze(plain)
    rules = rules_of(graph.graph, table)
    assert rules is not None

    @tf.function(input_signature=specs, autograph=False)
    def written(*tensors: Any) -> Any:
        return import_graph(graph.graph, dict(zip(graph.inputs, tensors, strict=True)), graph.outputs, rules)[0]

    there = {node.op for node in written.get_concrete_function().graph.as_graph_def().node}
    gone = {node.op for node in graph.graph.node} - there
    return plain(*given)["y"].numpy(), written(*given).numpy(), gone


def same(function: Callable[..., Any], op: str, *given: np.ndarray, table: dict[str, Any] = LITERT) -> None:
    own, written, gone = both(function, *given, table=table)
    assert op in gone
    assert written.dtype == own.dtype
    np.testing.assert_allclose(written.astype(float), own.astype(float), rtol=1e-4, atol=1e-4)


WORDS = RNG.integers(-(2**31), 2**31 - 1, (2, 40, 20)).astype(np.int32)
WORDS[0, 0, :4], WORDS[1, 0, :4] = [-(2**31), 2**31 - 1, -1, 0], [-1, -(2**31), 2**31 - 1, 5]


@pytest.mark.parametrize("dtype", [np.int32, np.uint8])
def test_bits(dtype: Any) -> None:
    x, y = WORDS.astype(dtype)
    same(tf.bitwise.bitwise_and, "BitwiseAnd", x, y)
    same(tf.bitwise.bitwise_or, "BitwiseOr", x, y)
    same(tf.bitwise.invert, "Invert", x)
    same(tf.bitwise.left_shift, "LeftShift", x, (y % 8).astype(dtype))


MATRICES = RNG.normal(size=(9, 5, 5)).astype(np.float32)
MATRICES[0] = np.eye(5)[[1, 0, 2, 4, 3]]
SINGULAR = np.concatenate([MATRICES, np.zeros((1, 5, 5), np.float32)])
SINGULAR[1, 2] = 0
DEFINITE = MATRICES @ MATRICES.swapaxes(1, 2) + np.eye(5, dtype=np.float32)
RIGHT = RNG.normal(size=(9, 5, 2)).astype(np.float32)


@pytest.mark.parametrize(
    ("function", "op", "given"),
    [
        (tf.linalg.cholesky, "Cholesky", (DEFINITE,)),
        (tf.linalg.inv, "MatrixInverse", (MATRICES,)),
        (tf.linalg.det, "MatrixDeterminant", (SINGULAR,)),
        (lambda x: tf.stack(tf.linalg.slogdet(x)), "LogMatrixDeterminant", (SINGULAR,)),
        (lambda x, y: tf.linalg.solve(x, y, adjoint=True), "MatrixSolve", (MATRICES, RIGHT)),
        (lambda x, y: tf.linalg.triangular_solve(x, y), "MatrixTriangularSolve", (DEFINITE, RIGHT)),
        (lambda x, y: tf.linalg.triangular_solve(x, y, lower=False), "MatrixTriangularSolve", (DEFINITE, RIGHT)),
        (lambda x, y: tf.linalg.triangular_solve(x, y, adjoint=True), "MatrixTriangularSolve", (DEFINITE, RIGHT)),
    ],
)
def test_matrices(function: Callable[..., Any], op: str, given: tuple[np.ndarray, ...]) -> None:
    same(function, op, *given)


IMAGES = RNG.normal(size=(6, 5, 7, 3)).astype(np.float32)
BENDS = (RNG.uniform(0.5, 3, (6, 8)) * [1, 0.1, 2.3, -0.3, 1.2, -1, 0.01, 0.02]).astype(np.float32)


@pytest.mark.parametrize("mode", ["CONSTANT", "REFLECT", "WRAP", "NEAREST"])
@pytest.mark.parametrize("interpolation", ["NEAREST", "BILINEAR"])
def test_projective_transforms(mode: str, interpolation: str) -> None:
    def function(images: Any, transforms: Any) -> Any:
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=images, transforms=transforms, output_shape=[6, 9], fill_value=0.5, fill_mode=mode,
            interpolation=interpolation,
        )  # fmt: skip

    same(function, "ImageProjectiveTransformV3", IMAGES, BENDS)


ODD = RNG.normal(size=(4, 5, 7)).astype(np.float32)
ODD[0, 0, 1], ODD[1] = np.nan, np.inf
COUNTS = RNG.integers(0, 9, (6, 8)).astype(np.int32)
VOLUMES = RNG.normal(size=(3, 6, 7, 5, 2)).astype(np.float32)
STEPS = RNG.integers(0, 3, (9, 8, 4)).astype(np.float32)  # with ties


def _decoded(x: Any) -> Any:
    steps = tf.fill([tf.shape(x)[0]], 6)
    places, scores = tf.nn.ctc_greedy_decoder(tf.transpose(x, [1, 0, 2]), steps, blank_index=0)
    return tf.concat([tf.cast(tf.sparse.to_dense(places[0]), tf.float32), scores], 1)


@pytest.mark.parametrize(
    ("function", "op", "given"),
    [
        (lambda x: tf.roll(x, [2, -9, 1], [1, 2, 0]), "Roll", (IMAGES,)),
        (lambda x: tf.linalg.diag_part(x), "MatrixDiagPartV3", (ODD,)),
        (lambda x: tf.linalg.diag_part(x, k=3), "MatrixDiagPartV3", (ODD,)),
        (lambda x: tf.linalg.diag_part(x, k=-4), "MatrixDiagPartV3", (ODD,)),
        (lambda x: tf.linalg.set_diag(x, x[:, 0, :5]), "MatrixSetDiagV3", (ODD,)),
        (lambda x: tf.linalg.set_diag(x, x[:, 0, :4], k=-1), "MatrixSetDiagV3", (ODD,)),
        (lambda x: tf.linalg.set_diag(x > 0, x[:, 0, :5] > 0), "MatrixSetDiagV3", (ODD,)),
        (lambda x: tf.math.bincount(x, minlength=5, maxlength=5, axis=-1), "DenseBincount", (COUNTS,)),
        (lambda x: tf.linalg.cross(x[:, :3, :3], x[:, 1:4, 1:4]), "Cross", (MATRICES,)),
        (lambda x: tf.nn.max_pool3d(x, [2, 3, 2], [2, 1, 2], "SAME"), "MaxPool3D", (VOLUMES,)),
        (lambda x: tf.nn.avg_pool3d(x, [2, 3, 2], [1, 2, 2], "SAME"), "AvgPool3D", (VOLUMES,)),
        (lambda x: tf.nn.sparse_softmax_cross_entropy_with_logits([0, 4], x[2:4, 0]),
         "SparseSoftmaxCrossEntropyWithLogits", (MATRICES,)),
        (lambda x: tf.stack([tf.acos(x), tf.asin(x), tf.tan(9 * x)]), "Tan", (np.linspace(-1, 1, 41)[:, None],)),
        (lambda x: x // tf.constant([0, 0.3, -2, 1, 1]), "FloorDiv", (MATRICES,)),
        (lambda x: tf.math.rsqrt(tf.abs(x)), "Rsqrt", (SINGULAR,)),
        (_decoded, "CTCGreedyDecoder", (STEPS,)),
    ],
)  # fmt: skip
def test_arrays(function: Callable[..., Any], op: str, given: tuple[np.ndarray, ...]) -> None:
    same(function, op, *(x.astype(np.float32) if x.dtype == np.float64 else x for x in given))


@pytest.mark.parametrize("keys", [[3, 1, -4, 9], [3, 1, 2**40, -(2**50)]])
def test_tables_of_integers(keys: list[int]) -> None:
    pairs = tf.lookup.KeyValueTensorInitializer(tf.constant(keys, tf.int64), tf.constant([5, 6, 7, 8], tf.int64))
    table = tf.lookup.StaticHashTable(pairs, -1)
    x = np.array([[-5, -4, 0, 1], [2, 3, 9, 10], [2**40, -(2**50), 2**62, -(2**62)]], np.int64)
    for target in (LITERT, ONNX):
        same(table.lookup, "LookupTableFindV2", x, table=target)


def test_tables_that_are_refused() -> None:
    words = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["1", "2"], [1, 2]), -1)
    with pytest.raises(ExportError, match="a table of words"):
        both(lambda x: words.lookup(tf.as_string(x)), np.array([1, 2, 3]))
    many = np.arange(1100) * 2**20
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(many, many), -1)
    with pytest.raises(ExportError, match="a table of 1,100 integers from 0 to 1152385024; 1,024 and fewer can be"):
        both(table.lookup, many)


def test_sizes_in_float64_are_computed_at_once() -> None:
    def function(x: Any) -> Any:
        place = tf.cast(tf.math.ceil(tf.cast(tf.shape(x)[1], tf.float64) * 0.3), tf.int32)
        return tf.gather(x, place, axis=1)

    same(function, "Ceil", IMAGES)
    own, written, _ = both(
        lambda x: tf.cast(tf.sqrt(tf.cast(x, tf.float64)), tf.float32), COUNTS
    )  # of values, in float32
    np.testing.assert_allclose(written, own, rtol=1e-6)
