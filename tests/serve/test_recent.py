"""What is kept of requests: heads that many share, and counts; answers and numbers are as without."""

from __future__ import annotations

import json
import re
import socket
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tfhalf.errors import RequestError
from tfhalf.serve.metrics import Metrics
from tfhalf.serve.protocols import oip, oip_answer
from tfhalf.serve.reading import wire
from tfhalf.serve.settings import Limits
from tfhalf.serve.signature import Recent, Signature, Tensor

FLOAT = np.dtype("float32")


@pytest.fixture
def signature() -> Signature:
    tensors = [Tensor("x", FLOAT, (None, 2)), Tensor("y", FLOAT, (None, 2))]
    return Signature({"x": tensors[0]}, {"y": tensors[1]})


def body(x: np.ndarray, **more: Any) -> tuple[bytes, str]:
    """A request with binary data both ways, and the length of its JSON."""
    tensor = {"name": "x", "shape": x.shape, "datatype": "FP32", "parameters": {"binary_data_size": x.nbytes}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}, **more}).encode()
    return head + x.tobytes(), str(len(head))


def answered(parsed: oip.Parsed, signature: Signature, version: int = 1) -> dict[str, Any]:
    """What the answer's JSON says, held against its bytes."""
    loaded: Any = SimpleNamespace(model="net", version=version, labels=(), signature=signature)
    outputs = {"y": parsed.feeds["x"] * 2}
    text, size = oip_answer.answer(parsed, outputs, loaded, nan=False)
    assert size is not None
    np.testing.assert_array_equal(np.frombuffer(text[size:], FLOAT).reshape(-1, 2), outputs["y"])
    answer: dict[str, Any] = json.loads(text[:size])
    (row,) = answer["outputs"]
    assert row["shape"] == list(outputs["y"].shape)
    assert row["parameters"] == {"binary_data_size": outputs["y"].nbytes}
    return answer


def test_requests_with_one_head_have_values_of_their_own(signature: Signature) -> None:
    for value in range(5):
        for rows in (1, 3):
            x = np.full((rows, 2), value, FLOAT)
            parsed = oip.parse(*body(x), signature, Limits())
            np.testing.assert_array_equal(parsed.feeds["x"], x)
            assert parsed.rows == rows
            for version in (1, 2):
                assert answered(parsed, signature, version)["model_version"] == str(version)
    assert len(signature.heads) == 2


def test_one_with_an_id_or_with_values_in_it_is_not_kept(signature: Signature) -> None:
    x = np.ones((1, 2), FLOAT)
    for name in ("a", "b"):
        parsed = oip.parse(*body(x, id=name), signature, Limits())
        assert answered(parsed, signature)["id"] == name
    plain = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
    oip.parse(json.dumps(plain).encode(), None, signature, Limits())
    assert not signature.heads


def test_a_kept_head_is_held_against_the_bytes_behind_it(signature: Signature) -> None:
    data, size = body(np.ones((1, 2), FLOAT))
    oip.parse(data, size, signature, Limits())
    for wrong in (data[:-1], data + b"x"):
        with pytest.raises(RequestError) as error:
            oip.parse(wrong, size, signature, Limits())
        assert error.value.status == 400


def test_what_is_refused_is_not_kept(signature: Signature) -> None:
    data, size = body(np.ones((1, 3), FLOAT))
    for _ in range(2):
        with pytest.raises(RequestError, match="shape"):
            oip.parse(data, size, signature, Limits())
    assert not signature.heads


def test_there_are_only_so_many_and_small_ones(signature: Signature) -> None:
    x = np.ones((1, 2), FLOAT)
    for number in range(200):
        oip.parse(*body(x, other=number), signature, Limits())
    assert 0 < len(signature.heads) <= 32
    signature.heads.clear()
    oip.parse(*body(x, other="x" * 2000), signature, Limits())
    assert not signature.heads


def test_another_process_is_sent_none_of_it(signature: Signature) -> None:
    parsed = oip.parse(*body(np.ones((1, 2), FLOAT)), signature, Limits())
    answered(parsed, signature)
    one, other = socket.socketpair()
    with one, other:
        wire.send(one, [signature, parsed])
        there, came = wire.receive(other)
    assert there == signature
    assert there.heads == Recent()
    assert came.heads is None
    assert answered(came, there)


def numbers(text: str, name: str) -> float:
    match = re.search(rf"^{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE)
    assert match, name
    return float(match[1])


@pytest.mark.parametrize("count", [1, 255, 256, 257, 1000])
def test_counts_are_there_when_somebody_looks(count: int) -> None:
    metrics = Metrics()
    version = metrics.of("net", 1)
    assert metrics.of("net", 1) is version, "the same counters when it is loaded again"
    for _ in range(count):
        version.batch(2)
        version.request(0.002, 1000, 2000, 3000, 4000)
    text = metrics.text().decode()
    assert numbers(text, "nv_inference_request_success") == count
    assert numbers(text, "nv_inference_count") == 2 * count
    assert numbers(text, "nv_inference_exec_count") == count
    assert numbers(text, "nv_inference_request_duration_us") == pytest.approx(2000 * count)
    assert numbers(text, "nv_inference_compute_infer_duration_us") == pytest.approx(3 * count)
    assert numbers(text, "tfhalf_request_duration_seconds_count") == count
    assert numbers(text, "tfhalf_batch_rows_sum") == 2 * count
    assert metrics.totals()["net", "1"]["nv_inference_request_success"] == count
    assert len(version._requests) == len(version._batches) == 0


def test_nothing_is_kept_back_where_other_processes_are_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    version = Metrics().of("net", 1)
    version.batch(1)
    version.request(0.002, 1000, 2000, 3000, 4000)
    assert len(version._requests) == len(version._batches) == 0
