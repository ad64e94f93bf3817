"""Constants that float16 does not hold, shown of every kind of file that has a graph; nothing of it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tensorflow as tf
from inspect_models import HALF, SINGLE, facts, flat, one, said
from onnx import helper, numpy_helper

from tfhalf.inspect import values


def notes(path: Path) -> str:
    return "\n".join(one(path).account.notes)


def network(path: Path, dtype: int, constants: dict[str, Any], nodes: list[onnx.NodeProto]) -> Path:
    """An ONNX file of ``x`` [N, 4] to ``y``."""
    kind = np.float16 if dtype == HALF else np.float32
    ports = [helper.make_tensor_value_info(name, dtype, ["N", 4]) for name in "xy"]
    stored = [numpy_helper.from_array(np.asarray(value, kind), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


@pytest.mark.filterwarnings("ignore")
def test_a_saved_model_and_what_is_made_of_it(tmp_path: Path) -> None:
    class Net(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((1, 4), tf.float32, name="x")])
        def net(self, x: Any) -> Any:
            guard = tf.maximum(tf.reduce_sum(x * x, -1, keepdims=True), 1e-12)
            kept = tf.minimum(x, 1e30)  # a bound that binds no number of float16
            return {"y": tf.where(x > 0.5, kept / guard, -1e9)}

    net = Net()
    tf.saved_model.save(net, tmp_path / "m", signatures=net.net)
    told = notes(tmp_path / "m")
    assert "(Maximum): constant" in told
    assert "1e-12 is 0 in float16" in told
    assert "(SelectV2): constant" in told
    assert "-1e+09 is infinite in float16" in told
    assert "1e+30" not in told
    assert flat(told.splitlines()[-1]) in flat(said(tmp_path / "m"))
    shown = facts(tmp_path / "m")["constants"]
    assert {(row["class_name"], row["becomes"]) for row in shown} == {("Maximum", "0"), ("SelectV2", "infinite")}

    made = tf.lite.TFLiteConverter.from_concrete_functions([net.net.get_concrete_function()], net).convert()
    (tmp_path / "m.tflite").write_bytes(made)
    told = notes(tmp_path / "m.tflite")
    assert "1e-12 is 0 in float16" in told
    assert "-1e+09 is infinite in float16" in told


def test_onnx(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "e"], ["a"], "add"), helper.make_node("Clip", ["a", "", "m"], ["y"], "clip")]
    told = notes(network(tmp_path / "m.onnx", SINGLE, {"e": 1e-10, "m": 3e38}, nodes))
    assert told == "add (Add): constant e 1e-10 is 0 in float16"


def test_what_float16_holds_already(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Max", ["x", "zero"], ["a"], "guard"),
        helper.make_node("Sqrt", ["a"], ["b"]),
        helper.make_node("Div", ["x", "b"], ["c"]),
        helper.make_node("Add", ["c", "mask"], ["d"], "masked"),
        helper.make_node("Add", ["d", "tiny"], ["e"], "tiny"),
        helper.make_node("Max", ["e", "none"], ["f"], "relu"),
        helper.make_node("Mul", ["f", "nan"], ["y"], "nan"),
    ]
    constants = {"zero": 0.0, "mask": -np.inf, "tiny": 1e-7, "none": 0.0, "nan": np.nan}
    path = network(tmp_path / "m.onnx", HALF, constants, nodes)
    assert notes(path).splitlines() == [
        "guard (Max): constant zero is 0, where an epsilon keeps a divisor, root or logarithm from it",
        "masked (Add): constant mask is infinite already",
        "tiny (Add): constant tiny 1.192e-07 is subnormal: float16 keeps 2 of 11 bits there",
        "nan (Mul): constant nan is NaN already",
    ]
    assert [row["value"] for row in facts(path)["constants"]] == [0.0, "-inf", 2.0**-23, "nan"]


def test_an_island_in_float32_loses_nothing(tmp_path: Path) -> None:
    """A float32 constant counts where a Cast makes it float16."""
    nodes = [
        helper.make_node("Cast", ["x"], ["w"], to=SINGLE),
        helper.make_node("Add", ["w", "kept"], ["v"], "island"),
        helper.make_node("Cast", ["v"], ["u"], to=HALF),
        helper.make_node("Cast", ["cast"], ["k"], to=HALF),
        helper.make_node("Add", ["u", "k"], ["y"], "half"),
    ]
    stored = [numpy_helper.from_array(np.float32(1e-12), name) for name in ("kept", "cast")]
    ports = [helper.make_tensor_value_info(name, HALF, ["N", 4]) for name in "xy"]
    model = helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:], stored))
    onnx.save(model, tmp_path / "m.onnx")
    assert notes(tmp_path / "m.onnx") == "half (Add): constant cast 1e-12 is 0 in float16"


def test_few_values_are_read() -> None:
    few = np.full(values.FEW, 1e-9, np.float32)
    found = values.extreme("float32", few.tobytes())
    assert found is not None
    assert found.becomes == "0"
    assert values.extreme("float32", np.append(few, few).tobytes()) is None
    assert values.extreme("float32", np.append(few[:9], 1).astype("<f4").tobytes()) is None
    assert values.extreme("int32", b"abcd") is None
