"""Graphs of a few bytes that ask for more memory than there is: refused in a line, with the process left as it was."""

from __future__ import annotations

import resource
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
import serve_helpers
from onnx import TensorProto, helper, numpy_helper
from serve_helpers import SHAPE, images, make_version, onnx_model, server, tensor

from tfhalf.errors import ArtifactError, InputError
from tfhalf.runtimes.open import open_predictor
from tfhalf.system import memory

MANY = 4_000_000_000  # values: 16 GB
X = np.ones((2, 3), np.float32)


def limit() -> int:
    return resource.getrlimit(resource.RLIMIT_DATA)[0]


def whole(name: str, *values: int) -> Any:
    return numpy_helper.from_array(np.array(values, np.int64), name)


# How "s", the sum of the inputs, becomes "big" of as many values as "count" says, which folding cannot know.
GROWS: dict[str, Sequence[tuple[str, list[str], str]]] = {
    "Expand": [("Expand", ["s", "count"], "big")],
    "Tile": [("Reshape", ["s", "one"], "row"), ("Tile", ["row", "count"], "big")],
    "ConstantOfShape": [("ConstantOfShape", ["count"], "big")],
    "Range": [("Squeeze", ["count"], "end"), ("Sub", ["end", "end"], "start"), ("Squeeze", ["one"], "step")],
}
GROWS["Range"] = [*GROWS["Range"], ("Range", ["start", "end", "step"], "whole")]


def graph(how: str) -> onnx.ModelProto:
    """``x`` and the largest of the values that ``how`` makes."""
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Cast", ["s"], ["sum"], to=TensorProto.INT64),
        helper.make_node("Sub", ["sum", "sum"], ["nothing"]),
        helper.make_node("Add", ["many", "nothing"], ["count"]),
    ]
    nodes += [helper.make_node(kind, given, [made]) for kind, given, made in GROWS[how]]
    if how == "Range":
        nodes.append(helper.make_node("Cast", ["whole"], ["big"], to=TensorProto.FLOAT))
    nodes += [helper.make_node("ReduceMax", ["big"], ["top"], keepdims=0), helper.make_node("Add", ["x", "top"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy"]
    made = helper.make_graph(nodes, "grows", ends[:1], ends[1:], [whole("many", MANY), whole("one", 1)])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(autouse=True)
def one_gibibyte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory.SETTING, "1")


@pytest.mark.parametrize("how", GROWS)
def test_onnx_that_grows(how: str, tmp_path: Path) -> None:
    onnx.save(graph(how), tmp_path / "model.onnx")
    before = limit()
    for runtime in ("onnx", "onnx-float16"):
        predictor = open_predictor(tmp_path, runtime)
        with pytest.raises(ArtifactError, match=r"takes more memory than the 1\.0 GiB|more than 4294967296 bytes"):
            predictor(X)
    assert limit() == before


@pytest.mark.slow
def test_onnx_that_grows_in_openvino(tmp_path: Path) -> None:
    onnx.save(graph("Expand"), tmp_path / "model.onnx")
    with pytest.raises(ArtifactError, match="takes more memory"):
        open_predictor(tmp_path, "onnx-openvino")(X)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fill", "tile", "broadcast_to", "range"])
def test_a_savedmodel_that_grows(how: str, tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def serve(x: Any) -> dict[str, Any]:
        total = tf.reduce_sum(x)
        count = tf.constant(MANY, tf.int64) + tf.cast(total - total, tf.int64)
        made = {
            "fill": lambda: tf.fill([count], total),
            "tile": lambda: tf.tile([total], [count]),
            "broadcast_to": lambda: tf.broadcast_to(total, [count]),
            "range": lambda: tf.cast(tf.range(count), tf.float32),
        }[how]()
        return {"y": x + tf.reduce_max(made)}

    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": serve})
    before = limit()
    with pytest.raises(ArtifactError, match=r"takes more memory than the 1\.0 GiB"):
        open_predictor(tmp_path, "savedmodel")(X)
    assert limit() == before


def test_blocks_in_threads_leave_the_limit_as_it_was() -> None:
    before, inside = limit(), []
    first, second = threading.Event(), threading.Event()

    def other() -> None:
        with memory.bounded():
            first.set()
            second.wait(10)
            inside.append(limit())

    with memory.bounded():
        thread = threading.Thread(target=other)
        thread.start()
        assert first.wait(10)
        inside.append(limit())
    second.set()
    thread.join(10)
    assert limit() == before
    assert len(set(inside)) == 1
    assert inside[0] < 1 << 40


@pytest.mark.parametrize("told", ["0", "-1", "much", "nan", "inf"])
def test_the_setting_is_a_number(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory.SETTING, told)
    before = limit()
    with pytest.raises(InputError, match="accepted: GiB"), memory.bounded():
        pass
    assert limit() == before


def test_without_a_setting_most_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(memory.SETTING)
    with memory.bounded():
        assert 1 << 29 < limit() < 1 << 46


def grows_with_its_input(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> onnx.ModelProto:
    """The usual classifier, and beside it as many values as `MANY` where the inputs' sum is above 0."""
    model = onnx_model(seed, shape)
    nodes = list(model.graph.node)
    place = next(k for k, node in enumerate(nodes) if "logits" in node.output)
    nodes[place].output[0] = "narrower"
    more = [
        helper.make_node("ReduceSum", ["image"], ["s"], keepdims=0),
        helper.make_node("Constant", [], ["zero"], value_float=0.0),
        helper.make_node("Greater", ["s", "zero"], ["above"]),
        helper.make_node("Cast", ["above"], ["times"], to=TensorProto.INT64),
        helper.make_node("Mul", ["times", "many"], ["most"]),
        helper.make_node("Add", ["most", "one"], ["count"]),
        helper.make_node("Expand", ["zero", "count"], ["big"]),
        helper.make_node("ReduceMax", ["big"], ["top"], keepdims=0),
        helper.make_node("Add", ["narrower", "top"], ["logits"]),
    ]
    del model.graph.node[:]
    model.graph.node.extend([*nodes[: place + 1], *more, *nodes[place + 1 :]])
    model.graph.initializer.extend([whole("many", MANY), whole("one", 1)])
    return model


@pytest.mark.slow
def test_a_request_that_grows_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_version(tmp_path, "good", 1)
    monkeypatch.setattr(serve_helpers, "onnx_model", grows_with_its_input)
    make_version(tmp_path, "grows", 1)
    with server(tmp_path, **{memory.SETTING: "1"}) as served:
        found = []
        for name, x in (("grows", images(1) * 0), ("grows", images(1)), ("good", images(1)), ("grows", images(1) * 0)):
            url = f"{served.url}/v2/models/{name}/infer"
            found.append(httpx.post(url, json={"inputs": [tensor(x)]}, timeout=30).status_code)
    assert found == [200, 500, 200, 200]
