"""Exports of any Keras model: several inputs and outputs, open sizes, integers; over HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import requests
from serve_helpers import Served, exported, server

pytestmark = pytest.mark.slow

NET = """
import keras
from keras import layers

def build():
    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, 3), name="image")
    words = keras.Input((None,), dtype="int32", name="words")
    seen = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, padding="same", activation="relu", name="conv")(image))
    read = layers.GlobalAveragePooling1D()(layers.Embedding(50, 8, name="embedding")(words))
    both = layers.Concatenate()([seen, read])
    label = layers.Dense(5, activation="softmax", name="label")(both)
    return keras.Model([image, words], {"label": label, "score": layers.Dense(1, name="score")(both)})
"""
# Rows, height, width, words: of each request.
SIZES = ((1, 20, 24, 7), (3, 33, 17, 2), (1, 20, 24, 7), (2, 20, 24, 1), (40, 8, 8, 5))


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("models"), NET, "two")


@pytest.fixture(scope="module", params=["onnx", "savedmodel"])
def served(exports: Path, request: pytest.FixtureRequest) -> Iterator[Served]:
    with server(exports, "--grpc-port", 0, "--runtime", request.param, "--max-batch", 16, "--max-queue", 500) as found:
        yield found


@pytest.fixture(scope="module")
def bare(exports: Path) -> Any:
    return onnxruntime.InferenceSession(str(exports / "two" / "1" / "model.onnx"), providers=["CPUExecutionProvider"])


def feeds(rows: int, height: int, width: int, words: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(rows * height + words)
    image = generator.uniform(-1, 1, (rows, height, width, 3)).astype(np.float32)
    return {"image": image, "words": generator.integers(0, 50, (rows, words)).astype(np.int32)}


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_each_size_gets_its_own_answer_among_others(served: Served, bare: Any, kind: str) -> None:
    module = pytest.importorskip(f"tritonclient.{kind}")
    address = served.address if kind == "http" else served.grpc

    def ask(size: tuple[int, int, int, int]) -> None:
        client = module.InferenceServerClient(address)
        given = feeds(*size)
        inputs = []
        for name, datatype in (("words", "INT32"), ("image", "FP32")):  # in another order than the model's
            inputs.append(module.InferInput(name, list(given[name].shape), datatype))
            inputs[-1].set_data_from_numpy(given[name])
        result = client.infer("two", inputs)
        for name, want in zip(("label", "score"), bare.run(["label", "score"], given), strict=True):
            got = result.as_numpy(name)
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, atol=5e-3)
        client.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, SIZES * 4))


def test_it_is_described_with_open_sizes(served: Served) -> None:
    told = requests.get(f"{served.url}/v2/models/two", timeout=10).json()
    shapes = {row["name"]: (row["datatype"], row["shape"]) for row in told["inputs"]}
    assert shapes == {"image": ("FP32", [-1, -1, -1, 3]), "words": ("INT32", [-1, -1])}
    assert {row["name"] for row in told["outputs"]} == {"label", "score"}


def test_rows_and_columns_of_tensorflow_serving(served: Served, bare: Any) -> None:
    given = feeds(2, 6, 5, 4)
    label, score = bare.run(["label", "score"], given)
    url = f"{served.url}/v1/models/two:predict"
    rows = [{name: array[k].tolist() for name, array in given.items()} for k in range(2)]
    predictions = requests.post(url, json={"instances": rows}, timeout=20).json()["predictions"]
    np.testing.assert_allclose([row["label"] for row in predictions], label, atol=5e-3)
    columns = {name: array.tolist() for name, array in given.items()}
    outputs = requests.post(url, json={"inputs": columns}, timeout=20).json()["outputs"]
    np.testing.assert_allclose(outputs["score"], score, atol=5e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((2, 4, 4, 1), np.float32)}, "accepted: [-1, -1, -1, 3]"),
        ({"image": np.zeros((2, 0, 4, 3), np.float32)}, "-1 being 1 or more"),
        ({"words": np.zeros((3, 4), np.int32)}, "they must agree"),
        ({"words": np.zeros((2, 4), np.float32) + 0.5}, "takes whole numbers"),
        ({"words": np.zeros((2, 8193), np.int32)}, "-1 being 1 or more, behind the first 8,192 at most"),
        ({"words": np.full((2, 4), 50, np.int32)}, "two/1 could not compute this: "),
    ],
)
def test_what_does_not_fit_is_told(served: Served, change: dict[str, np.ndarray], message: str) -> None:
    kinds = {"image": "FP32", "words": "INT32"}
    inputs = [
        {"name": name, "shape": list(array.shape), "datatype": kinds[name], "data": array.reshape(-1).tolist()}
        for name, array in {**feeds(2, 4, 4, 4), **change}.items()
    ]
    answer = requests.post(f"{served.url}/v2/models/two/infer", json={"inputs": inputs}, timeout=20)
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["error"]
