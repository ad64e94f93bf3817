"""Texts sent to a server: looked up for every runtime, in each dialect, or refused in a line."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from serve_helpers import client, hash_again, run

from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts.lookups import Lookup, Lookups
from tfhalf.artifacts.record import Manifest
from tfhalf.errors import RequestError, ShortfallError
from tfhalf.serve.models import texts
from tfhalf.serve.protocols import grpc_codec, oip, tfserving_codec
from tfhalf.serve.protocols.grpc_messages import message
from tfhalf.serve.settings import Limits, Settings
from tfhalf.serve.signature import Signature, Tensor

WORDS = ("", "[UNK]", "good", "film", "é")
LOOKUPS = Lookups({"note": Lookup("text", WORDS, 3), "city": Lookup("category", ("", "Rome"))})
SIGNATURE = Signature(
    {
        "note": Tensor("note", np.dtype("int32"), (None, 3), words=True),
        "city": Tensor("city", np.dtype("int32"), (None, 1), words=True),
        "age": Tensor("age", np.dtype("float32"), (None, 1)),
    },
    {"score": Tensor("score", np.dtype("float32"), (None, 2))},
)
ALONE = replace(SIGNATURE, inputs={"note": SIGNATURE.inputs["note"]})


def parse(*rows: dict[str, Any], signature: Signature = ALONE, binary: bytes = b"") -> oip.Parsed:
    head = json.dumps({"inputs": list(rows)}).encode()
    return oip.parse(head + binary, str(len(head)) if binary else None, signature, Limits())


def note(data: Any, shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": "note", "datatype": "BYTES", "shape": shape or [len(data)], "data": data}


def elements(*contents: bytes) -> bytes:
    return b"".join(len(content).to_bytes(4, "little") + content for content in contents)


def test_json() -> None:
    assert parse(note(["good", "Ünsäglich", ""])).encoded == {"note": [b"good", "Ünsäglich".encode(), b""]}
    assert parse(note([["good"], ["film"]], [2, 1])).encoded == {"note": [b"good", b"film"]}
    numbers = {"name": "note", "datatype": "INT32", "shape": [1, 3], "data": [2, 3, 0]}
    assert parse(numbers).feeds["note"].tolist() == [[2, 3, 0]]


def test_binary() -> None:
    row = {"name": "note", "datatype": "BYTES", "shape": [2, 1]}
    content = elements(b"good", "é".encode())
    parsed = parse({**row, "parameters": {"binary_data_size": len(content)}}, binary=content)
    assert parsed.encoded == {"note": [b"good", "é".encode()]}


def test_texts_beside_numbers() -> None:
    city = {"name": "city", "datatype": "BYTES", "shape": [1], "data": ["Rome"]}
    age = {"name": "age", "datatype": "FP32", "shape": [1, 1], "data": [3]}
    parsed = parse(note(["good"]), city, age, signature=SIGNATURE)
    assert parsed.encoded == {"note": [b"good"], "city": [b"Rome"]}
    assert parsed.feeds["age"].tolist() == [[3.0]]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (note(["a", "b"], [1]), "other things than 1 texts"),
        (note(["a", 3]), "other things than 2 texts, one a row"),
        (note(["a", "b"], [1, 2]), r"BYTES of shape \[1, 2\]; accepted: \[N\], a text each"),
        ({**note(["a"], [1, 3]), "datatype": "TEXT"}, "accepted: .*, and BYTES for texts"),
        ({**note(["a"]), "datatype": "INT32"}, r"accepted: \[-1, 3\], .*; texts are BYTES of shape \[-1\]"),
        ({"name": "note", "datatype": "INT32", "shape": [1, 3], "data": ["a", "b", "c"]}, "other things than numbers"),
    ],
)
def test_what_is_no_text(row: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said) as refusal:
        parse(row)
    assert refusal.value.status == 400
    assert "\n" not in str(refusal.value)


def test_too_many() -> None:
    with pytest.raises(RequestError, match=r"has 65,537 texts; accepted: 65,536") as refusal:
        parse(note([""] * ((1 << 16) + 1)))
    assert refusal.value.status == 413


@pytest.mark.parametrize(
    "body",
    [
        {"instances": ["good", "film"]},
        {"instances": [["good"], ["film"]]},
        {"instances": [{"note": "good"}, {"note": "film"}]},
        {"inputs": ["good", "film"]},
        {"inputs": {"note": ["good", "film"]}},
        {"instances": [{"b64": base64.b64encode(word).decode()} for word in (b"good", b"film")]},
    ],
)
def test_tensorflow_serving(body: dict[str, Any]) -> None:
    assert tfserving_codec.parse(body, ALONE).encoded == {"note": [b"good", b"film"]}
    assert tfserving_codec.parse({"instances": [[2, 3, 0]]}, ALONE).feeds["note"].tolist() == [[2, 3, 0]]


def test_tensorflow_serving_refuses_what_is_mixed() -> None:
    with pytest.raises(RequestError, match="other things than 2 texts"):
        tfserving_codec.parse({"instances": ["good", 3]}, ALONE)
    with pytest.raises(RequestError, match="'age': data holds other things than numbers"):
        tfserving_codec.parse({"instances": ["old"]}, replace(SIGNATURE, inputs={"age": SIGNATURE.inputs["age"]}))


def test_grpc() -> None:
    request = message("ModelInferRequest")(model_name="m")
    request.inputs.add(name="note", datatype="BYTES", shape=[2]).contents.bytes_contents.extend([b"good", b"\xff"])
    assert grpc_codec.parse(request, ALONE).encoded == {"note": [b"good", b"\xff"]}
    del request.inputs[0].contents.bytes_contents[:]
    request.raw_input_contents.append(elements(b"good", b"film"))
    assert grpc_codec.parse(request, ALONE).encoded == {"note": [b"good", b"film"]}


def test_numbers_of_words(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor, lookup = SIGNATURE.inputs["note"], LOOKUPS.by_input["note"]
    rows = texts.numbers([b"Good film!", memoryview("é ? x y".encode()), b""], tensor, lookup)
    assert rows.tolist() == [[2, 3, 0], [4, 1, 1], [0, 0, 0]]
    assert rows.dtype == np.int32
    with pytest.raises(RequestError, match=r"text 1 is not UTF-8 \(.*at byte 1\)") as refusal:
        texts.numbers([b"a", b"b\xff"], tensor, lookup)
    assert refusal.value.status == 400
    monkeypatch.setattr(texts, "MAX_BYTES", 3)
    with pytest.raises(RequestError, match="text 0 has 4 bytes; accepted: 3") as refusal:
        texts.numbers([b"good"], tensor, lookup)
    assert refusal.value.status == 413


def make_version(exports: Path) -> Path:
    """``exports/words/1``: the sum of the numbers of a text's words, in ONNX."""
    folder = exports / "words" / "1"
    folder.mkdir(parents=True)
    nodes = [
        helper.make_node("Cast", ["note"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["x", "axes"], ["score"], keepdims=1),
    ]
    ends = (
        [helper.make_tensor_value_info("note", TensorProto.INT32, ["batch", 3])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 1])],
    )
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(nodes, "words", *ends, [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(folder / "model.onnx"))
    Lookups({"note": LOOKUPS.by_input["note"]}).write(folder)
    comparison = {"artifact": "onnx", "runtime": "onnxruntime 1.23.0, CPU", "samples": 1, "outputs": [], "seconds": 0.1}
    facts = {
        "name": "words",
        "inputs": [{"name": "note", "dtype": "int32", "shape": ["batch", 3]}],
        "outputs": [{"name": "score", "dtype": "float32", "shape": ["batch", 1]}],
        "artifacts": [{"format": "onnx"}],
        "limits": {},
        "reference": {},
        "comparisons": [comparison],
    }
    manifests.write(folder, Manifest.read(facts))
    hash_again(folder)
    return folder


def test_a_server(tmp_path: Path) -> None:
    make_version(tmp_path)

    async def work() -> None:
        async with client(Settings((tmp_path,), poll_seconds=0)) as c:
            told = (await c.get("/v2/models/words")).json()
            assert told["inputs"] == [{"name": "note", "datatype": "BYTES", "shape": [-1, 1]}]
            (row,) = (await c.get("/v2/models/words/config")).json()["input"]
            assert (row["data_type"], row["dims"]) == ("TYPE_STRING", [1])
            told = (await c.get("/v1/models/words/metadata")).json()["metadata"]["signature_def"]["signature_def"]
            assert told["serving_default"]["inputs"]["note"]["dtype"] == "DT_STRING"
            body = {"inputs": [note(["good film", "é unseen", ""])]}
            (answer,) = (await c.post("/v2/models/words/infer", json=body)).json()["outputs"]
            assert (answer["data"], answer["shape"]) == ([5.0, 5.0, 0.0], [3, 1])
            answer = await c.post("/v1/models/words:predict", json={"instances": ["good film"]})
            assert answer.json() == {"predictions": [[5.0]]}
            answer = await c.post("/v1/models/words:predict", json={"instances": [[2, 3, 0]]})
            assert answer.json() == {"predictions": [[5.0]]}
            bad = base64.b64encode(b"\xff").decode()
            answer = await c.post("/v1/models/words:predict", json={"instances": [{"b64": bad}]})
            assert answer.status_code == 400
            assert "'note': text 0 is not UTF-8" in answer.text
            long = {"inputs": [note(["good " * 200_000])]}  # read in a process of its own
            assert (await c.post("/v2/models/words/infer", json=long)).json()["outputs"][0]["data"] == [6.0]

    run(work)


def test_words_that_do_not_fit_are_not_served(tmp_path: Path) -> None:
    folder = make_version(tmp_path)
    Lookups({"note": Lookup("text", WORDS, 4)}).write(folder)
    hash_again(folder)

    async def work() -> None:
        async with client(Settings((tmp_path,), poll_seconds=0)):
            pass

    with pytest.raises(ShortfallError, match="is damaged, export again"):
        run(work)
