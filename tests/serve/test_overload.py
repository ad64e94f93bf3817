"""More than can be computed: what is refused and when, what it costs, and that what is accepted stays in time."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from serve_helpers import Counting, client, images, lines, listening, make_version, run, tensor, until

from tfhalf.serve.batching.admission import Admission
from tfhalf.serve.settings import Batching, Limits, Settings

ROW_SECONDS = 0.001


def filled(admission: Admission) -> int:
    """How many requests of a row it takes."""
    count = 0
    while admission.admits(1):
        admission.enter(1, 1)
        count += 1
    return count


def test_one_and_a_half_full_batches_of_a_machine_at_rest() -> None:
    assert filled(Admission(Batching(max_batch=8), ROW_SECONDS)) == 12


def test_rows_that_run_count_too() -> None:
    admission = Admission(Batching(max_batch=8), ROW_SECONDS)
    admission.running = 8
    assert filled(admission) == 4


def test_a_slower_machine_takes_fewer_but_never_less_than_a_batch() -> None:
    admission = Admission(Batching(max_batch=60), ROW_SECONDS)
    for slower, most in ((1.2, 75), (4.0, 60), (0.5, 90)):
        for _ in range(50):
            admission.ran(60, 60 * ROW_SECONDS * slower)
        assert admission.bound == pytest.approx(most, abs=1)
    admission.ran(1, 5.0)  # a small batch says nothing of the pace
    assert admission.bound == pytest.approx(90, abs=1)


def test_a_given_queue_is_what_was_given() -> None:
    admission = Admission(Batching(max_batch=8, max_queue=5), ROW_SECONDS)
    admission.running = 8
    assert filled(admission) == 5


def test_requests_that_come_together_are_counted_before_they_are_read() -> None:
    admission = Admission(Batching(max_batch=4, max_queue=3), None)
    for _ in range(3):
        assert admission.admits(1)
        admission.expected += 1
    assert not admission.admits(1)
    admission.clear_expected()
    assert admission.admits(1)


def test_a_request_is_refused_before_its_body_is_read(tmp_path: Path) -> None:
    make_version(tmp_path, "net", 1)
    runtime = Counting()
    batching = Batching(max_batch=2, max_queue=1)

    async def work() -> None:
        async with client(Settings((tmp_path,), poll_seconds=0, batching=batching), opener=runtime.open) as c:
            read = 0

            async def body() -> Any:
                nonlocal read
                read += 1
                yield b"no JSON at all"

            runtime.gate.clear()
            ask = {"json": {"inputs": [tensor(images(1))]}}
            batcher = c.app.state.engine.repository.model("net").newest().batcher
            waiting = [asyncio.ensure_future(c.post("/v2/models/net/infer", **ask))]
            while not batcher._admission.running:
                await asyncio.sleep(0.001)
            waiting.append(asyncio.ensure_future(c.post("/v2/models/net/infer", **ask)))
            while not batcher.pending:
                await asyncio.sleep(0.001)
            for path in ("/v2/models/net/infer", "/v2/models/net/versions/1/infer", "/v1/models/net:predict"):
                answer = await c.post(path, content=body(), headers={"x-request-id": "mine"})
                assert answer.status_code == 429, path
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.headers["x-request-id"] == "mine"
            assert read == 0
            assert (await c.get("/v2/models/net")).status_code == 200
            assert (await c.post("/v2/models/none/infer", **ask)).status_code == 404
            runtime.gate.set()
            assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}
            metrics = (await c.get("/metrics")).text
            assert 'nv_inference_request_failure{model="net",version="1"} 3.0' in metrics
            assert [line["id"] for line in lines(c) if line.get("status") == 429] == ["mine"] * 3

    run(work)


def test_a_client_that_leaves_the_queue_is_never_computed(tmp_path: Path) -> None:
    make_version(tmp_path, "net", 1)
    runtime = Counting()
    with served(tmp_path, runtime, 6) as (port, app):
        runtime.gate.clear()
        sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        batcher = fill(app, sockets, post({"inputs": [tensor(images(3))]}))
        sockets[1].close()  # the first is being computed, the others wait
        until(lambda: batcher.pending == 1)
        runtime.batches.clear()
        runtime.gate.set()
        assert sockets[2].recv(100).startswith(b"HTTP/1.1 200")
        assert runtime.batches == [3, 3]
        for connection in sockets:
            connection.close()


def test_a_client_that_leaves_is_learnt_of_under_any_asgi_server(tmp_path: Path) -> None:
    make_version(tmp_path, "net", 1)
    runtime = Counting()
    body = json.dumps({"inputs": [tensor(images(1))]}).encode()
    sent = []

    async def work() -> None:
        async with client(Settings((tmp_path,), poll_seconds=0), opener=runtime.open) as c:
            batcher = c.app.state.engine.repository.model("net").newest().batcher
            messages = iter(({"type": "http.request", "body": body}, {"type": "http.disconnect"}))

            async def receive() -> Any:
                message = next(messages)
                while message["type"] == "http.disconnect" and not batcher._admission.running:
                    await asyncio.sleep(0.001)
                return message

            async def send(message: Any) -> None:
                sent.append(message)

            runtime.gate.clear()
            scope = {
                "type": "http",
                "method": "POST",
                "path": "/v2/models/net/infer",
                "headers": [],
                "query_string": b"",
            }
            await c.app(scope, receive, send)
            runtime.gate.set()
            assert [line["status"] for line in lines(c) if "status" in line] == [499]

    run(work)
    assert sent[0]["status"] == 499


def test_a_connection_lives_on_after_a_refusal(tmp_path: Path) -> None:
    make_version(tmp_path, "net", 1)
    runtime = Counting()
    body = {"inputs": [tensor(images(1))]}
    with served(tmp_path, runtime, 1, token="secret") as (port, app):
        runtime.gate.clear()
        accepted = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
        fill(app, accepted, post(body))
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.settimeout(10)
            whole = post(body)
            connection.sendall(whole[:-200])  # answered before the rest has come
            assert answer_of(connection)[0].startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
            connection.sendall(whole[-200:] + post(body, b""))
            head, text = answer_of(connection)
            assert head.startswith(b"HTTP/1.1 401")
            assert b"www-authenticate" in head
            assert b"token" in text
            runtime.gate.set()
            assert all(other.recv(100).startswith(b"HTTP/1.1 200") for other in accepted)
            connection.sendall(whole)
            assert answer_of(connection)[0].startswith(b"HTTP/1.1 200")
        for other in accepted:
            other.close()


def post(body: Any, token: bytes = b"Bearer secret") -> bytes:
    text = json.dumps(body).encode()
    return b"POST /v2/models/net/infer HTTP/1.1\r\nhost: x\r\nauthorization: %b\r\ncontent-length: %d\r\n\r\n%b" % (
        token,
        len(text),
        text,
    )


def answer_of(connection: socket.socket) -> tuple[bytes, bytes]:
    got = b""
    while b"\r\n\r\n" not in got:
        got += connection.recv(65536)
    head, _, text = got.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0])
    while len(text) < length:
        text += connection.recv(65536)
    return head, text


def fill(app: Any, connections: list[socket.socket], request: bytes) -> Any:
    """Have the first request computed, which the closed gate holds back, and the others wait; the batcher."""
    batcher = app.state.engine.repository.model("net").newest().batcher
    for place, connection in enumerate(connections):
        connection.sendall(request)
        until(lambda place=place: batcher._admission.running and batcher.pending == place)  # type: ignore[misc]
    return batcher


@contextmanager
def served(exports: Path, runtime: Counting, max_queue: int, **more: Any) -> Iterator[tuple[int, Any]]:
    """`listening` with batches of three, and ``max_queue`` requests that may wait."""
    batching = Batching(max_batch=3, max_queue=max_queue)
    with listening(exports, runtime, Limits(), batching=batching, access_log=False, **more) as there:
        yield there
