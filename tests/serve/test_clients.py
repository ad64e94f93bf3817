"""The server as a process: real clients over loopback, signals, workers, slow and hostile clients."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests
from serve_helpers import SHAPE, Served, expected, images, make_version, server, tensor

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exports")
    make_version(path, "net", 1)
    return path


@pytest.fixture(scope="module")
def served(exports: Path) -> Iterator[Served]:
    with server(exports, "--grpc-port", 0, "--allow-repository-control") as found:
        yield found


def triton(kind: str, served: Served) -> tuple[Any, Any]:
    """tritonclient's module and a client of it."""
    if kind == "http":
        module = pytest.importorskip("tritonclient.http")
        return module, module.InferenceServerClient(served.address)
    module = pytest.importorskip("tritonclient.grpc")
    return module, module.InferenceServerClient(served.grpc)


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_tritonclient_with_its_defaults(served: Served, kind: str) -> None:
    module, client = triton(kind, served)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("net")
    assert client.is_model_ready("net", "1") is not False
    plain = {"as_json": True} if kind == "grpc" else {}
    assert client.get_server_metadata(**plain)["name"] == "tfhalf"
    assert client.get_model_metadata("net", **plain)["inputs"][0]["datatype"] == "FP32"
    config = client.get_model_config("net", **plain)
    assert config.get("config", config)["input"][0]["data_type"] == "TYPE_FP32"
    index = client.get_model_repository_index(**plain)
    assert (index if kind == "http" else index["models"])[0]["state"] == "READY"
    x = images(3)
    for datatype, dtype in (("FP32", "f4"), ("FP16", "f2"), ("UINT8", "u1"), ("INT64", "i8")):
        given = module.InferInput("image", list(x.shape), datatype)
        given.set_data_from_numpy(x.astype(dtype))
        result = client.infer("net", [given], request_id="mine")
        np.testing.assert_allclose(result.as_numpy("probabilities"), expected(x), atol=2e-3)
        wanted = [module.InferRequestedOutput("probabilities", class_count=1)]
        named = client.infer("net", [given], model_version="1", outputs=wanted, timeout=10_000_000)
        best = [int(text[0].decode().split(":")[1]) for text in named.as_numpy("probabilities")]
        assert best == expected(x).argmax(-1).tolist()
    with pytest.raises(Exception, match="there is no model 'none'"):
        client.infer("none", [given])
    stats = client.get_inference_statistics("net", **plain)["model_stats"][0]
    assert int(stats["inference_count"]) >= 24
    client.unload_model("net")
    assert not client.is_model_ready("net")
    client.load_model("net")
    assert client.is_model_ready("net")


def test_tritonclient_compressed_and_asynchronous(served: Served) -> None:
    module, client = triton("http", served)
    x = images(200)
    given = module.InferInput("image", list(x.shape), "FP32")
    given.set_data_from_numpy(x)
    for algorithm in ("gzip", "deflate"):
        result = client.infer(
            "net", [given], request_compression_algorithm=algorithm, response_compression_algorithm=algorithm
        )
        np.testing.assert_allclose(result.as_numpy("probabilities"), expected(x), atol=2e-3)
    result = client.async_infer("net", [given]).get_result()
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected(x), atol=2e-3)


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_tritonclient_sends_much(served: Served, kind: str) -> None:
    """More than is read in the server's own process."""
    module, client = triton(kind, served)
    x = images(25_000)
    given = module.InferInput("image", list(x.shape), "FP32")
    plain = {"binary_data": False} if kind == "http" else {}
    given.set_data_from_numpy(x, **plain)
    result = client.infer("net", [given], model_version="1", request_id="mine")
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected(x), atol=2e-3)
    assert (result.get_response()["id"] if kind == "http" else result.get_response().id) == "mine"


def test_tritonclient_streams_over_grpc(served: Served) -> None:
    module, client = triton("grpc", served)
    x = images(2)
    given = module.InferInput("image", list(x.shape), "FP32")
    given.set_data_from_numpy(x)
    got: list[Any] = []
    arrived = threading.Semaphore(0)

    def keep(result: Any, error: Any) -> None:
        got.append((result, error))
        arrived.release()

    client.start_stream(keep)
    client.async_stream_infer("net", [given])
    client.async_stream_infer("none", [given])
    assert arrived.acquire(timeout=10)
    assert arrived.acquire(timeout=10)
    client.stop_stream()
    np.testing.assert_allclose(got[0][0].as_numpy("probabilities"), expected(x), atol=2e-3)
    assert "there is no model" in str(got[1][1])


def test_grpc_health_and_reflection(served: Served) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    with grpc.insecure_channel(served.grpc) as channel:
        for service in ("", "inference.GRPCInferenceService"):
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.GRPCInferenceService"),
        ]
        listed, file = stub.ServerReflectionInfo(iter(asked))
        names = {row.name for row in listed.list_services_response.service}
        assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= names
        assert b"ModelInferRequest" in file.file_descriptor_response.file_descriptor_proto[0]


def test_requests_of_many_threads_are_joined_and_right(served: Served) -> None:
    wrong: list[object] = []

    def work(k: int) -> None:
        with requests.Session() as session:
            for j in range(20):
                x = images(1 + (k + j) % 4, seed=100 * k + j)
                answer = session.post(f"{served.url}/v2/models/net/infer", json={"inputs": [tensor(x)]}, timeout=20)
                got = np.reshape(answer.json()["outputs"][1]["data"], (len(x), 3))
                if not np.allclose(got, expected(x), atol=2e-3):
                    wrong.append(got)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def raw(served: Served, data: bytes, seconds: float = 20) -> bytes:
    """What comes back until the connection ends."""
    host, port = served.address.split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(data)
        got = b""
        while part := connection.recv(65536):
            got += part
    return got


def test_garbage_gets_400(served: Served) -> None:
    assert raw(served, b"\x16\x03\x01 nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")


def test_a_client_that_leaves_is_dropped(served: Served) -> None:
    body = json.dumps({"inputs": [tensor(images(1))]}).encode()
    head = f"POST /v2/models/net/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body) + 10}\r\n\r\n".encode()
    host, port = served.address.split(":")
    for _ in range(20):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head + body)
    assert requests.get(f"{served.url}/v2/health/ready", timeout=10).status_code == 200


def test_a_client_that_never_finishes_its_headers_is_cut_off(served: Served) -> None:
    start = time.monotonic()
    with ThreadPoolExecutor() as threads:
        for got in threads.map(raw, [served] * 3, (b"", b"GET /v2 HTT", b"GET /v2 HTTP/1.1\r\nhost: x\r\n")):
            assert got.startswith(b"HTTP/1.1 408")
    assert 8 < time.monotonic() - start < 25


def test_sigterm_under_load_loses_nothing(exports: Path) -> None:
    served = Served(exports, "--no-access-log")
    statuses: list[int] = []
    x = images(2)

    def work() -> None:
        session = requests.Session()
        for _ in range(100_000):
            try:
                answer = session.post(f"{served.url}/v2/models/net/infer", json={"inputs": [tensor(x)]}, timeout=10)
            except requests.ConnectionError:  # it no longer listens: nothing was accepted
                return
            statuses.append(answer.status_code)
            if answer.status_code == 503:
                return
            np.testing.assert_allclose(np.reshape(answer.json()["outputs"][1]["data"], (2, 3)), expected(x), atol=2e-3)

    try:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.7)
        assert served.stop() == 0
        for thread in threads:
            thread.join()
        assert set(statuses) <= {200, 503}
        assert statuses.count(200) > 50
        assert '"finished":true' in served.log()
    finally:
        served.kill()


def test_workers_share_a_port_and_are_replaced(exports: Path) -> None:
    with server(exports, "--workers", 2, "--no-access-log") as served:
        url = f"{served.url}/v2/models/net/infer"
        for _ in range(20):
            assert requests.post(url, json={"inputs": [tensor(images(1))]}, timeout=10).status_code == 200
        metrics = requests.get(f"{served.url}/metrics", timeout=10).text
        assert 'nv_inference_request_success{model="net",version="1"} 20.0' in metrics
        children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children")
        before = set(children.read_text().split())
        assert len(before) == 2
        os.kill(int(min(before)), signal.SIGKILL)
        for _ in range(100):
            time.sleep(0.1)
            after = set(children.read_text().split())
            if len(after - before) == 1:
                break
        assert len(after) == 2
        for _ in range(20):
            assert requests.post(url, json={"inputs": [tensor(images(1))]}, timeout=10).status_code == 200


def test_a_new_version_is_served(exports: Path, tmp_path: Path) -> None:
    make_version(tmp_path, "net", 1, seed=1)
    with server(tmp_path, "--poll-seconds", 0.1) as served:
        make_version(tmp_path, "net", 2, seed=2)
        for _ in range(100):
            told = requests.post(
                f"{served.url}/v2/models/net/infer", json={"inputs": [tensor(images(1))]}, timeout=10
            ).json()
            if told["model_version"] == "2":
                break
            time.sleep(0.05)
        np.testing.assert_allclose(told["outputs"][1]["data"], expected(images(1), 2)[0], atol=2e-3)


def test_schemathesis_finds_no_break_of_the_contract(served: Served) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, settings

    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    faults: list[str] = []
    for result in schema.get_all_operations():
        operation = result.ok()
        if "repository/models" in operation.path:
            continue

        def check(case: Any) -> None:
            answer = case.call(timeout=20)
            documented = set(case.operation.definition.raw["responses"])
            if answer.status_code >= 500 and answer.status_code not in (503, 504):
                faults.append(f"{case.operation.label}: {answer.status_code}")
            if str(answer.status_code) not in documented | {"405"}:
                faults.append(f"{case.operation.label}: {answer.status_code} is not in the document")

        quick = settings(
            max_examples=12,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        from hypothesis import given

        quick(given(case=operation.as_strategy())(check))()
    assert not faults, sorted(set(faults))


def test_what_was_given_is_told_in_one_line(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from tfhalf.cli import main

    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    make_version(tmp_path, "net", 1, shape=SHAPE)
    cases = {
        (str(tmp_path / "none"),): "is not a folder",
        (str(tmp_path), "--label", "x"): "NAME:LABEL=VERSION",
        (str(tmp_path), "--workers", "2", "--allow-repository-control"): "leave --workers at 1",
        (str(tmp_path), "--tls-key", "x"): "go together",
        (str(tmp_path), "--token-file", str(tmp_path / "none")): "--token-file",
        (str(tmp_path), "--port", str(taken.getsockname()[1])): "cannot be listened on",
        (str(tmp_path), "--port", "0", "--pin", "net=7"): "has no version 7",
    }
    for arguments, message in cases.items():
        result = CliRunner().invoke(main, ["serve", *arguments])
        assert result.exit_code == 2, (arguments, result.output)
        assert message in result.output
        assert result.output.count("\n") == 1, result.output
    taken.close()


def test_the_readme_as_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its three clients, on the port that it says if that is free, against a model of that name and shape."""
    import re
    import subprocess

    from PIL import Image

    text = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    section = text[text.index("## Serving") :].partition("\n## ")[0]
    make_version(tmp_path, "cifar10", 1, shape=(32, 32, 3))
    Image.new("RGB", (40, 40), "green").save(tmp_path / "frog.png")
    programs = [code for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL) if "127.0.0.1" in code]
    command = re.search(r"```console\n(curl .*?)\n```", section, re.DOTALL)
    assert len(programs) == 2
    assert command is not None
    with server(tmp_path) as served:
        for program in programs:
            found: dict[str, Any] = {}
            exec(program.replace("127.0.0.1:8000", served.address), found)
            assert np.sum(found["probabilities"]) == pytest.approx(1, abs=1e-3)
        curl = command[1].replace("127.0.0.1:8000", served.address)
        done = subprocess.run(curl, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert len(json.loads(done.stdout)["predictions"][0]["classes"]) == 3
