"""What the tests of ``tfhalf inspect`` look at: small Keras models under each policy, and hand-made ONNX graphs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
from cli_helpers import neat
from click.testing import CliRunner, Result
from keras import layers
from onnx import TensorProto, helper, numpy_helper

from tfhalf.cli import main
from tfhalf.inspect import look
from tfhalf.inspect.look import Inspected

HALF, SINGLE, INT64 = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.INT64
DRAW = np.random.default_rng(0)
PARAMETERS = 3 * 3 * 3 * 8 + 8 + 4 * 8 + 128 * 32 + 32 + 32 * 10 + 10


def call(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["inspect", *map(str, arguments)], catch_exceptions=False)


def said(*arguments: Any) -> str:
    return neat(call(*arguments))


def flat(text: str) -> str:
    return " ".join(text.split())


def facts(path: Path) -> Any:
    """The JSON of one artifact, which has no NaN and no Infinity."""
    told = json.loads(call(path, "--json").stdout, parse_constant=lambda word: AssertionError(word))
    return told["artifacts"][0]


def refused(path: Path, told: str) -> str:
    result = call(path)
    assert result.exit_code == 2, result.stdout
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"error: {path}")
    assert told in result.stderr
    return str(result.stderr)


def one(path: Path) -> Inspected:
    (found,) = look.inspect(path)
    return found


def whys(found: Inspected) -> str:
    return "\n".join(f"{r.what}: {r.dtype}: {r.count}: {r.why}" for r in found.verdict.reasons)


def keras_model(policy: str, head: str | None = "float32") -> keras.Model:
    """A trained-looking model whose layers follow ``policy``, its head ``head``; None: as the others."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        x = image = keras.Input((8, 8, 3), name="image")
        x = layers.ReLU()(layers.BatchNormalization(name="norm")(layers.Conv2D(8, 3, padding="same", name="conv")(x)))
        x = layers.Flatten()(layers.MaxPooling2D(2)(x))
        x = layers.Dense(32, activation="relu", name="hidden")(x)
        model = keras.Model(image, layers.Dense(10, activation="softmax", dtype=head, name="head")(x))
    finally:
        keras.config.set_dtype_policy(before)
    for variable in model.weights:
        variable.assign(DRAW.uniform(0.1, 1, variable.shape))
    return model


def tensor(name: str, *shape: int, dtype: Any = np.float16) -> onnx.TensorProto:
    return numpy_helper.from_array(DRAW.uniform(0.1, 1, shape).astype(dtype), name)


def cast(name: str, source: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [name], name=name, to=to)


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    tensors: list[onnx.TensorProto],
    *,
    given: int = HALF,
    outputs: dict[str, int] | None = None,
    opset: int = 18,
    domains: tuple[str, ...] = (),
    functions: tuple[Any, ...] = (),
    shape: tuple[Any, ...] = ("batch", 8),
) -> Path:
    """Write a graph with the input ``x``; ``outputs`` are ``{"y": HALF}`` unless given."""
    inputs = [helper.make_tensor_value_info("x", given, list(shape))]
    values = [helper.make_tensor_value_info(k, dtype, None) for k, dtype in (outputs or {"y": HALF}).items()]
    graph = helper.make_graph(nodes, "g", inputs, values, tensors)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(
        graph, opset_imports=opsets, ir_version=9, producer_name="hand", producer_version="1.2", functions=functions
    )
    path.write_bytes(model.SerializeToString())
    return path


def matmul(a: str, b: str, y: str) -> onnx.NodeProto:
    return helper.make_node("MatMul", [a, b], [y], name=f"product_{y}")
