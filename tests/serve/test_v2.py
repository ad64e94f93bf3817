"""The Open Inference Protocol over HTTP, without sockets."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import re
import zlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from serve_helpers import Counting, client, expected, images, lines, make_version, run, tensor

from tfhalf.errors import RequestError
from tfhalf.serve.http.body import decompress
from tfhalf.serve.models.images import decode_one
from tfhalf.serve.settings import Batching, Limits, Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    make_version(tmp_path, "net", 3)
    return Settings((tmp_path,), poll_seconds=0, batching=Batching(max_batch=8))


def ask(settings: Settings, **request: Any) -> httpx.Response:
    """One POST to infer."""

    async def work() -> httpx.Response:
        async with client(settings) as c:
            return await c.post(request.pop("path", "/v2/models/net/infer"), **request)

    return run(work)


def binary(x: np.ndarray, datatype: str, **head: Any) -> tuple[bytes, dict[str, str]]:
    raw = x.tobytes()
    row = {"name": "image", "shape": list(x.shape), "datatype": datatype, "parameters": {"binary_data_size": len(raw)}}
    text = json.dumps({"inputs": [row], **head}).encode()
    return text + raw, {"inference-header-content-length": str(len(text))}


def test_json_in_and_out(settings: Settings) -> None:
    x = images(3)
    answer = ask(settings, json={"id": "a-7", "inputs": [tensor(x)]})
    assert answer.status_code == 200
    told = answer.json()
    assert (told["model_name"], told["model_version"], told["id"]) == ("net", "3", "a-7")
    assert [row["name"] for row in told["outputs"]] == ["logits", "probabilities"]
    row = told["outputs"][1]
    assert (row["datatype"], row["shape"]) == ("FP32", [3, 3])
    np.testing.assert_allclose(np.reshape(row["data"], (3, 3)), expected(x), atol=2e-3)


def test_nested_data_and_one_output(settings: Settings) -> None:
    x = images(2)
    body = {"inputs": [{**tensor(x), "data": x.tolist()}], "outputs": [{"name": "probabilities"}]}
    told = ask(settings, json=body).json()
    assert [row["name"] for row in told["outputs"]] == ["probabilities"]


@pytest.mark.parametrize(
    ("datatype", "dtype"), [("FP16", "f2"), ("FP32", "f4"), ("FP64", "f8"), ("UINT8", "u1"), ("INT64", "i8")]
)
@pytest.mark.parametrize("pad", range(4))
def test_binary_of_every_dtype(settings: Settings, datatype: str, dtype: str, pad: int) -> None:
    x = images(2)
    body, headers = binary(x.astype(dtype), datatype, id="x" * pad, parameters={"binary_data_output": True})
    answer = ask(settings, content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    size = int(answer.headers["inference-header-content-length"])
    told = json.loads(answer.content[:size])
    assert [row["parameters"]["binary_data_size"] for row in told["outputs"]] == [24, 24]
    got = np.frombuffer(answer.content[size + 24 :], np.float32).reshape(2, 3)
    np.testing.assert_allclose(got, expected(x), atol=2e-3)


def test_outputs_as_float16(settings: Settings) -> None:
    x = images(2)
    wanted = {"name": "probabilities", "parameters": {"binary_data": True, "datatype": "FP16"}}
    body, headers = binary(x.astype("f2"), "FP16", outputs=[wanted])
    answer = ask(settings, content=body, headers=headers)
    size = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.content[:size])["outputs"][0]["datatype"] == "FP16"
    np.testing.assert_allclose(np.frombuffer(answer.content[size:], np.float16).reshape(2, 3), expected(x), atol=2e-3)


def test_classification(settings: Settings) -> None:
    x = images(2)
    wanted = {"name": "probabilities", "parameters": {"classification": 2}}
    row = ask(settings, json={"inputs": [tensor(x)], "outputs": [wanted]}).json()["outputs"][0]
    assert (row["datatype"], row["shape"]) == ("BYTES", [2, 2])
    value, index, label = row["data"][0].split(":")
    assert int(index) == expected(x)[0].argmax()
    assert label == ("cat", "dog", "frog")[int(index)]
    assert float(value) == pytest.approx(expected(x)[0].max(), abs=2e-3)


@pytest.mark.parametrize("encode", [gzip.compress, zlib.compress, lambda b: zlib.compress(b)[2:-4]])
def test_compressed(settings: Settings, encode: Any) -> None:
    x = images(200)
    body = encode(json.dumps({"inputs": [tensor(x)]}).encode())
    kind = "gzip" if encode is gzip.compress else "deflate"
    answer = ask(settings, content=body, headers={"content-encoding": kind, "accept-encoding": "deflate;q=1, gzip;q=0"})
    assert answer.status_code == 200
    assert answer.headers["content-encoding"] == "deflate"
    assert len(answer.json()["outputs"][0]["data"]) == 600


BAD: dict[str, tuple[Any, str]] = {
    "no object": ([], "not a JSON object"),
    "no inputs": ({}, "inputs is missing"),
    "another name": ({"inputs": [{**tensor(images(1)), "name": "x"}]}, "no input 'x'"),
    "twice": ({"inputs": [tensor(images(1))] * 2}, "given twice"),
    "another shape": ({"inputs": [tensor(images(1, (4, 4, 1)))]}, r"accepted: \[-1, 4, 4, 3\]"),
    "no rows": ({"inputs": [{**tensor(images(1)), "shape": [0, 4, 4, 3], "data": []}]}, "shape"),
    "too few": ({"inputs": [{**tensor(images(1)), "data": [1.0]}]}, r"shape \[1\], not"),
    "ragged": ({"inputs": [{**tensor(images(2)), "data": [[1.0], [1.0, 2.0]]}]}, "ragged"),
    "texts": ({"inputs": [{**tensor(images(1)), "data": ["1"] * 48}]}, "other things than numbers"),
    "null": ({"inputs": [{**tensor(images(1)), "data": [None] * 48}]}, "other things than numbers"),
    "true": ({"inputs": [{**tensor(images(1)), "data": [True] * 48}]}, "true and false"),
    "huge shape": ({"inputs": [{**tensor(images(1)), "shape": [2**31 - 1] * 8}]}, "shape"),
    "negative": ({"inputs": [{**tensor(images(1)), "shape": [-1, 4, 4, 3]}]}, "shape"),
    "fraction": ({"inputs": [{**tensor(images(1)), "shape": [1.0, 4, 4, 3]}]}, "shape"),
    "bfloat16": ({"inputs": [{**tensor(images(1)), "datatype": "BF16"}]}, "datatype 'BF16'; accepted: BOOL"),
    "datatype": ({"inputs": [{**tensor(images(1)), "datatype": "FP8"}]}, "accepted: BOOL"),
    "no datatype": ({"inputs": [{**tensor(images(1)), "datatype": 3}]}, "datatype"),
    "out of range": ({"inputs": [tensor(images(1) - 300, "UINT8")]}, "takes whole numbers"),
    "too large for half": ({"inputs": [tensor(images(1) + 70000, "FP16")]}, "too large for float16"),
    "id": ({"id": 7, "inputs": [tensor(images(1))]}, "id is 7"),
    "output": ({"inputs": [tensor(images(1))], "outputs": [{"name": "x"}]}, "no output 'x'"),
    "timeout": ({"inputs": [tensor(images(1))], "parameters": {"timeout": "1"}}, "timeout"),
    "sequence": ({"inputs": [tensor(images(1))], "parameters": {"sequence_id": 3}}, "sequence_id"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_told(settings: Settings, case: str) -> None:
    body, message = BAD[case]
    answer = ask(settings, json=body)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    assert re.search(message, answer.json()["error"]), answer.text


@pytest.mark.parametrize("length", ["-1", "99999999", "x", "", "1e1", "\u0661"])
def test_wrong_header_lengths(settings: Settings, length: str) -> None:
    body, _ = binary(images(1), "FP32")
    answer = ask(settings, content=body, headers={"inference-header-content-length": length.encode()})
    assert answer.status_code == 400


@pytest.mark.parametrize("change", [b"", b"x", b"\0" * 400])
def test_binary_data_must_come_out_even(settings: Settings, change: bytes) -> None:
    body, headers = binary(images(1), "FP32")
    answer = ask(settings, content=body + change if change else body[:-1], headers=headers)
    assert answer.status_code == 400


def test_nan_is_refused_in_json_unless_allowed(settings: Settings) -> None:
    text = json.dumps({"inputs": [{**tensor(images(1)), "data": [float("nan")] * 48}]})
    assert "NaN" in text
    assert ask(settings, content=text).status_code == 400
    body, headers = binary(np.full((1, 4, 4, 3), np.nan, np.float32), "FP32")
    refused = ask(settings, content=body, headers=headers)
    assert refused.status_code == 422
    assert "binary" in refused.json()["error"]
    allowed = Settings(settings.exports, poll_seconds=0, limits=Limits(allow_nan=True))
    answer = ask(allowed, content=text)
    assert answer.status_code == 200
    assert np.isnan(answer.json()["outputs"][0]["data"]).all()


def test_a_gzip_may_have_members(settings: Settings) -> None:
    """RFC 1952, 2.2; as ``cat a.gz b.gz``, bgzip and some proxies write it."""
    body = json.dumps({"inputs": [tensor(images(1))]}).encode()
    most = len(body)
    for at in (0, 1, 100, len(body)):
        assert decompress(gzip.compress(body[:at]) + gzip.compress(body[at:]), "gzip", most) == body
    blocks = b"".join(gzip.compress(body[at : at + 7]) for at in range(0, len(body), 7))
    assert decompress(blocks, "gzip", most) == body
    assert ask(settings, content=blocks, headers={"content-encoding": "gzip"}).status_code == 200
    for kind, wrong in (
        ("gzip", gzip.compress(body) + b"x"),
        ("gzip", gzip.compress(body) + gzip.compress(body)[:-1]),
        ("gzip", b""),
        ("gzip", gzip.compress(b"") * 10_001),
        ("deflate", zlib.compress(body) * 2),
    ):
        with pytest.raises(RequestError, match="is not valid") as error:
            decompress(wrong, kind, most * 2)
        assert error.value.status == 400
    with pytest.raises(RequestError, match="larger than"):
        decompress(gzip.compress(body) * 2, "gzip", most)


@pytest.mark.parametrize("scans", [10, 200])
def test_scans_of_an_image_are_bounded(settings: Settings, scans: int) -> None:
    """A progressive JPEG may say again and again, in ten bytes each, that all of its pixels change."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content.rindex(b"\xff\xda")
    content = content[:last] + content[last:-2] * (scans - content.count(b"\xff\xda") + 1) + content[-2:]
    assert content.count(b"\xff\xda") == scans
    if scans > 100:
        with pytest.raises(RequestError, match="200 scans") as error:
            decode_one(content, (4, 4, 3), None, 1_000_000)
        assert error.value.status == 413
    else:
        assert decode_one(content, (4, 4, 3), None, 1_000_000).shape == (4, 4, 3)


def test_bodies_have_a_limit_after_decompression(settings: Settings) -> None:
    small = Settings(settings.exports, poll_seconds=0, limits=Limits(max_body=10_000))
    bomb = gzip.compress(b"[" * 50_000_000)
    assert len(bomb) > 10_000
    assert ask(small, content=bomb).status_code == 413
    bomb = gzip.compress(b" " * 5_000_000)
    assert len(bomb) < 10_000
    answer = ask(small, content=bomb, headers={"content-encoding": "gzip"})
    assert answer.status_code == 413
    assert ask(small, content=b"x", headers={"content-encoding": "br"}).status_code == 415
    assert ask(small, content=b"x", headers={"content-encoding": "gzip"}).status_code == 400
    assert ask(small, content=gzip.compress(b"{}")[:-3], headers={"content-encoding": "gzip"}).status_code == 400


def test_deep_json_is_refused(settings: Settings) -> None:
    assert ask(settings, content=b"[" * 100_000 + b"]" * 100_000).status_code == 400
    data = "[" * 200 + "1" + "]" * 200
    text = '{"inputs":[{"name":"image","shape":[1,4,4,3],"datatype":"FP32","data":' + data + "}]}"
    assert ask(settings, content=text).status_code == 400


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/none/infer", 404),
        ("/v2/models/net/versions/9/infer", 404),
        ("/v2/models/net/versions/stable/infer", 404),
        ("/v2/models/..%2f..%2fetc/infer", 404),
        ("/v2/models/net/versions/..%2f1/infer", 404),
        ("/v2/models/net/versions/3/infer", 200),
    ],
)
def test_names_and_versions_come_from_the_index_alone(settings: Settings, path: str, status: int) -> None:
    assert ask(settings, path=path, json={"inputs": [tensor(images(1))]}).status_code == status


def test_what_is_told_of_server_and_model(settings: Settings) -> None:
    async def work() -> None:
        async with client(settings) as c:
            told = (await c.get("/v2")).json()
            assert told["name"] == "tfhalf"
            assert "binary_tensor_data" in told["extensions"]
            for path in (
                "/v2/health/live",
                "/v2/health/ready",
                "/v2/models/net/ready",
                "/v2/models/net/versions/3/ready",
            ):
                assert (await c.get(path)).status_code == 200
            for path in ("/v2/models/none/ready", "/v2/models/net/versions/4/ready", "/v2/models/none", "/v2/nothing"):
                answer = await c.get(path)
                assert answer.status_code == 404
                assert set(answer.json()) == {"error"}
            model = (await c.get("/v2/models/net")).json()
            assert model["versions"] == ["3"]
            assert model["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 4, 4, 3]}]
            assert "brought to float32" in model["parameters"]["runtime"]
            config = (await c.get("/v2/models/net/config")).json()
            assert config["input"][0] == {
                "name": "image", "data_type": "TYPE_FP32", "format": "FORMAT_NONE", "dims": [4, 4, 3]
            }  # fmt: skip
            assert (await c.get("/v2/models/net/infer")).status_code == 405
            assert (await c.post("/v2/repository/index", json={})).json() == [
                {"name": "net", "version": "3", "state": "READY", "reason": ""}
            ]

    run(work)


def test_the_configuration_tells_the_batch_sizes_that_were_warmed_up(settings: Settings) -> None:
    class Few(Counting):
        batch_sizes = (1, 64)

    async def work() -> None:
        for runtime, sizes in ((Counting(), list(settings.batching.ladder)), (Few(), [1, 64])):
            async with client(settings, opener=runtime.open) as c:
                batching = (await c.get("/v2/models/net/config")).json()["dynamic_batching"]
                assert batching["preferred_batch_size"] == sizes
                assert runtime.batches[: len(sizes)] == sizes

    run(work)


def test_statistics_and_metrics_count(settings: Settings) -> None:
    async def work() -> None:
        async with client(settings) as c:
            for n in (1, 3):
                await c.post("/v2/models/net/infer", json={"inputs": [tensor(images(n))]})
            await c.post("/v2/models/net/infer", json={})
            row = (await c.get("/v2/models/net/versions/3/stats")).json()["model_stats"][0]
            assert (row["inference_count"], row["execution_count"]) == (4, 2)
            assert row["inference_stats"]["success"]["count"] == 2
            assert row["inference_stats"]["success"]["ns"] > row["inference_stats"]["compute_infer"]["ns"] > 0
            assert row["inference_stats"]["fail"]["count"] == 1
            assert [size["batch_size"] for size in row["batch_stats"]] == [1, 3]
            text = (await c.get("/metrics")).text
            for line in (
                'nv_inference_request_success{model="net",version="3"} 2.0',
                'nv_inference_request_failure{model="net",version="3"} 1.0',
                'nv_inference_count{model="net",version="3"} 4.0',
                'nv_inference_exec_count{model="net",version="3"} 2.0',
                'nv_inference_pending_request_count{model="net",version="3"} 0.0',
                "# TYPE nv_inference_queue_duration_us counter",
                'tfhalf_batch_rows_count{model="net",version="3"} 2.0',
                'tfhalf_http_requests_total{status="400"} 1.0',
            ):
                assert line in text.splitlines(), line
            assert "_created" not in text

    run(work)


def test_ids_traces_and_the_log(settings: Settings) -> None:
    async def work() -> None:
        async with client(settings) as c:
            trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            headers = {"x-request-id": "mine", "traceparent": trace, "tracestate": "a=b"}
            answer = await c.post("/v2/models/net/infer", json={"inputs": [tensor(images(2))]}, headers=headers)
            assert answer.headers["x-request-id"] == "mine"
            told = answer.headers["traceparent"].split("-")
            assert told[:2] == trace.split("-")[:2]
            assert told[2] != trace.split("-")[2]
            assert answer.headers["tracestate"] == "a=b"
            line = lines(c)[-1]
            assert (line["id"], line["status"], line["rows"], line["model"]) == ("mine", 200, 2, "net")
            assert line["parent_id"] == "b7ad6b7169203331"
            assert line["queue_ms"] >= 0
            bad = await c.get("/v2", headers={"x-request-id": "a b\x01", "traceparent": "00-" + "0" * 32 + "-1-01"})
            assert bad.headers["x-request-id"] != "a b\x01"
            assert "traceparent" not in bad.headers

    run(work)


def test_a_token_is_asked_for(settings: Settings) -> None:
    async def work() -> None:
        async with client(Settings(settings.exports, poll_seconds=0, token="secret")) as c:
            assert (await c.get("/v2/health/ready")).status_code == 200
            refused = await c.get("/v2/models/net")
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
            assert (await c.get("/v2", headers={"authorization": "Bearer secre"})).status_code == 401
            assert (await c.get("/v2", headers={"authorization": "bearer secret"})).status_code == 200

    run(work)


def test_models_are_loaded_and_unloaded_only_where_allowed(settings: Settings) -> None:
    async def work() -> None:
        async with client(settings) as c:
            assert (await c.post("/v2/repository/models/net/unload")).status_code == 403
        async with client(Settings(settings.exports, poll_seconds=0, repository_control=True)) as c:
            assert (await c.post("/v2/repository/models/net/unload")).status_code == 200
            assert (await c.get("/v2/models/net/ready")).status_code == 400
            assert (await c.post("/v2/models/net/infer", json={})).status_code == 503
            assert (await c.get("/v2/health/ready")).status_code == 200
            assert (await c.post("/v2/repository/index", json={"ready": True})).json() == []
            assert (await c.post("/v2/repository/models/net/load", json={})).status_code == 200
            assert (await c.post("/v2/models/net/infer", json={"inputs": [tensor(images(1))]})).status_code == 200
            foreign = {"parameters": {"config": "{}"}}
            assert (await c.post("/v2/repository/models/net/load", json=foreign)).status_code == 400
            assert (await c.post("/v2/repository/models/..%2fnet/load")).status_code == 404

    run(work)


def test_full_and_late_requests(settings: Settings) -> None:
    async def work() -> None:
        runtime = Counting()
        batching = Batching(max_batch=2, max_queue=2)
        async with client(Settings(settings.exports, poll_seconds=0, batching=batching), opener=runtime.open) as c:
            body = {"inputs": [tensor(images(1))]}
            runtime.gate.clear()
            first = asyncio.ensure_future(c.post("/v2/models/net/infer", json=body))
            await asyncio.sleep(0.05)
            late = c.post("/v2/models/net/infer", json={**body, "parameters": {"timeout": 50_000}})
            by_header = c.post("/v2/models/net/infer", json=body, headers={"x-request-timeout-ms": "50"})
            waiting = [asyncio.ensure_future(late), asyncio.ensure_future(by_header)]
            await asyncio.sleep(0.01)
            full = await c.post("/v2/models/net/infer", json=body)
            assert full.status_code == 429
            assert int(full.headers["retry-after"]) >= 1
            assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [504, 504]
            runtime.gate.set()
            assert (await first).status_code == 200
            wrong = await c.post("/v2/models/net/infer", json=body, headers={"x-request-timeout-ms": "soon"})
            assert wrong.status_code == 400

    run(work)


def test_requests_are_joined(settings: Settings) -> None:
    async def work() -> None:
        runtime = Counting()
        async with client(settings, opener=runtime.open) as c:
            runtime.gate.clear()
            bodies = [images(1, seed=k) for k in range(8)]
            asked = [
                asyncio.ensure_future(c.post("/v2/models/net/infer", json={"inputs": [tensor(x)]})) for x in bodies
            ]
            await asyncio.sleep(0.2)
            runtime.batches.clear()
            runtime.gate.set()
            answers = await asyncio.gather(*asked)
            for x, answer in zip(bodies, answers, strict=True):
                assert answer.json()["outputs"][0]["data"][0] == x.sum()
            assert len(runtime.batches) <= 3

    run(work)
