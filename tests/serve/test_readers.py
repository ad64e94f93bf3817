"""Large bodies and images: read in processes apart, and the room that they may take."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from orphans import assert_no_orphan
from PIL import Image
from serve_attacks import INFER, LIVE
from serve_helpers import SHAPE, Counting, images, listening, make_version, run, tensor, until

from tfhalf.errors import RequestError
from tfhalf.serve.http import body as bodies
from tfhalf.serve.http.forms import Files
from tfhalf.serve.protocols import grpc_codec
from tfhalf.serve.protocols.grpc_messages import message
from tfhalf.serve.protocols.json_codec import dumps
from tfhalf.serve.protocols.oip import Parsed, RequestedOutput
from tfhalf.serve.reading import wire
from tfhalf.serve.reading.pool import Readers
from tfhalf.serve.reading.tasks import READ
from tfhalf.serve.settings import Limits
from tfhalf.serve.signature import Signature, Tensor

MIB = 1 << 20
SIGNATURE = Signature(
    {"image": Tensor("image", np.dtype("float32"), (None, *SHAPE))},
    {"logits": Tensor("logits", np.dtype("float32"), (None, 3), None, ("other",))},
)


def body(rows: int) -> bytes:
    return json.dumps({"id": "7", "inputs": [tensor(images(rows))]}).encode()


@pytest.mark.parametrize(
    "value",
    [
        [None, True, 1.5, -(2**40), "text", (), [1, ("a",)], {"list": [], "b": {"array": 1}}],
        [SIGNATURE, Limits(max_body=3), Files((None, "a"), (b"", b"x" * 200_000))],
        Parsed(
            "7",
            2,
            {"a": np.zeros((2, 0), np.float16), "b": images(3)},
            {"c": [b"1"]},
            (RequestedOutput("d", True),),
            1,
            False,
        ),
    ],
)
def test_what_is_said_between_processes_comes_as_it_was(value: Any) -> None:
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(True)
        other.settimeout(5)
        asyncio.run(asyncio.wait_for(_both(one, other, value), 10))


async def _both(one: socket.socket, other: socket.socket, value: Any) -> None:
    sending = asyncio.to_thread(wire.send, one, value)
    _, came = await asyncio.gather(sending, asyncio.to_thread(wire.receive, other))
    assert repr(plain(came)) == repr(plain(value))


def plain(value: Any) -> Any:
    """``value`` with memoryviews as bytes."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if type(value).__name__ in wire.TYPES:
        return type(value).__name__, plain(vars(value))
    return value


@pytest.mark.parametrize("shape", [(100_000,), (3, 40, 50, 60), (70_000, 1), (2, 40_000), (0, 3), (2, 0)])
def test_large_arrays_are_written_as_small_ones(shape: tuple[int, ...]) -> None:
    draw = np.random.default_rng(0)
    for values in (draw.normal(size=shape).astype(np.float32), draw.integers(0, 9, shape), draw.normal(size=shape) > 0):
        named = {"é": [{"data": values, "none": None}, values[:1], "text"], "rows": [{"a": 1}, {"a": 2}]}
        assert dumps(named, large=True) == dumps(named)


def test_the_beginning_of_a_message() -> None:
    kind = message("ModelInferRequest")
    for parts in ({"model_name": "net", "model_version": "1", "id": "é" * 90}, {"id": "7"}, {"model_version": "2"}):
        whole = kind(**parts, raw_input_contents=[b"\x0a\x01x"]).SerializeToString()
        expected = tuple(parts.get(name, "") for name in ("model_name", "model_version", "id"))
        assert grpc_codec.head(whole) == expected
        for size in range(len(whole)):
            with suppress(RequestError):
                grpc_codec.head(whole[:size])
    assert grpc_codec.head(b"\x0a\x01a\x0a\x01b") == ("a", "", "")
    with pytest.raises(RequestError, match="texts"):
        grpc_codec.head(b"\x0a" + b"\xff" * 20)
    with pytest.raises(RequestError, match="come first"):
        READ["grpc"](b"\x0a\x01a\x0a\x01b", SIGNATURE, "a", "")
    with pytest.raises(RequestError, match="not a ModelInferRequest"):
        READ["grpc"](b"\x0a\x01a\x0a", SIGNATURE, "a", "")


@contextmanager
def readers(limits: Limits) -> Iterator[Readers]:
    made = Readers(limits)
    try:
        yield made
    finally:
        made.close()


def test_no_reader_outlives_a_server_that_is_killed() -> None:
    """It was started by a thread, and is at work."""
    code = (
        "import threading; from tfhalf.serve.reading.pool import _Reader; made = []\n"
        "thread = threading.Thread(target=lambda: made.append(_Reader(1 << 28))); thread.start(); thread.join()\n"
        "print(made[0]._child.process.pid, flush=True)"
    )
    assert_no_orphan(code, wait=1.0)


@pytest.mark.slow
def test_another_process_reads_the_same_and_may_end() -> None:
    limits, content = Limits(), body(100)
    picture = io.BytesIO()
    Image.fromarray(np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)).save(picture, "PNG")
    expected = READ["infer"](content, SIGNATURE, limits, header=None)

    async def work() -> None:
        with readers(limits) as made:
            found = await made.read("infer", bytearray(content), SIGNATURE, limits, header=None)
            assert repr(found) == repr(expected)
            assert np.array_equal(found.feeds["image"], images(100))
            (reader,) = made._all
            gone = asyncio.ensure_future(made.read_huge("infer", body(20_000), SIGNATURE, limits, header=None))
            await asyncio.sleep(0.05)
            gone.cancel()
            for _ in range(3):  # and the next ones wait for the one that nobody waits for any more
                assert await made.read_huge("file", b"x", SIGNATURE, limits, content_type="")
            assert made._all == {reader}
            os.kill(reader._child.process.pid, signal.SIGTERM)  # as a service manager does to all processes: it goes on
            row = await made.read("image", picture.getvalue(), (4, 4, 3), None, 100)
            assert np.array_equal(row, READ["image"](picture.getvalue(), (4, 4, 3), None, 100))
            for wrong, status in ((b"{", 400), (b"[]", 400)):
                with pytest.raises(RequestError) as refused:
                    await made.read("infer", wrong, SIGNATURE, limits, header=None)
                assert refused.value.status == status
            assert made._all == {reader}
            reader._child.kill()
            until(lambda: not reader.alive)
            assert repr(await made.read("infer", content, SIGNATURE, limits, header=None)) == repr(expected)
            made.close()
            with pytest.raises(RequestError) as refused:
                await made.read("file", b"")
            assert refused.value.status == 503

    run(work)


@pytest.mark.slow
def test_memory_that_a_body_takes_is_bounded() -> None:
    """Forty bytes of objects for each byte of the text."""

    async def work() -> None:
        with readers(Limits(max_body=MIB, max_pixels=1)) as made:
            with pytest.raises(RequestError, match="memory") as refused:
                await made.read("predict", b"[" + b"{}," * (6 * MIB) + b"{}]", SIGNATURE, Limits())
            assert refused.value.status == 413
            assert (await made.read("file", b"x", SIGNATURE, Limits(), content_type="")).contents == (b"x",)

    run(work)


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_large_requests_are_answered_as_small_ones(packed: bool, tmp_path: Path) -> None:
    make_version(tmp_path, "net", 1)
    content, x = body(2000), images(2000)
    assert len(content) > 1 << 19
    sent, told = (gzip.compress(content), b"content-encoding: gzip\r\n") if packed else (content, b"")
    with listening(tmp_path, Counting(), Limits(max_body=4 * MIB)) as (port, app):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(INFER + b"connection: close\r\n%bcontent-length: %d\r\n\r\n" % (told, len(sent)) + sent)
            got = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        answer = json.loads(got.partition(b"\r\n\r\n")[2])
        logits = np.array(answer["outputs"][0]["data"], np.float32).reshape(2000, 3)
        assert np.array_equal(logits[:, 0], x.reshape(2000, -1).sum(-1))
        for wrong, status in ((gzip.compress(b" " * 5 * MIB), 413), (gzip.compress(content)[:-9], 400)):
            head = b"connection: close\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(wrong)
            assert b"HTTP/1.1 %d " % status in asked(port, INFER + head + wrong)
        assert answer["id"] == "7"
        assert app.state.engine.readers._all


def test_a_slow_body_makes_way_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies that fill all the room there is, and whose rest never comes, keep nobody out."""
    make_version(tmp_path, "net", 1)
    monkeypatch.setattr(bodies, "_OWN", MIB // 16)
    limits = Limits(max_body=MIB, max_bodies=2 * MIB)
    with listening(tmp_path, Counting(), limits) as (port, app):
        held = app.state.engine.bodies
        slow = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(3)]
        for connection in slow:
            connection.sendall(INFER + b"content-length: %d\r\n\r\n" % MIB + b" " * (MIB - 500_000))
        until(lambda: held._held > MIB)
        small = INFER + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body(1)) + body(1)
        assert b" 200 OK" in asked(port, small)  # while those that fill the room are not slow yet
        until(lambda: all(other.rate < MIB for other in held._reading))
        large = b" " * 900_000 + body(1)
        assert b" 200 OK" in asked(
            port, INFER + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(large) + large
        )
        told = [line for line in app.state.stream.getvalue().splitlines() if '"status":408' in line]
        assert told
        for connection in slow:
            connection.close()
        until(lambda: not held._held and not held._beyond)
        assert asked(port, LIVE + b"connection: close\r\n\r\n").startswith(b"HTTP/1.1 200")


def asked(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)
        return connection.recv(200)
