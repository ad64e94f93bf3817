"""What one connection may send, and for how long: bytes that are no request, floods, and clients that stop halfway."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serve_helpers import Counting, images, listening, make_version, tensor, until

from tfhalf.serve.settings import Limits

LIVE = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
INFER = b"POST /v2/models/net/infer HTTP/1.1\r\nhost: x\r\n"
CHUNKED = INFER + b"transfer-encoding: chunked\r\n\r\n"
HEAD = re.compile(rb"content-length: (\d+).*?\r\n\r\n", re.DOTALL)
Served = tuple[int, Any]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    exports = tmp_path_factory.mktemp("exports")
    make_version(exports, "net", 1)
    with listening(exports, Counting(), Limits(max_body=1 << 20)) as found:
        yield found


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Waits a third of a second where others wait ten or thirty."""
    exports = tmp_path_factory.mktemp("exports")
    make_version(exports, "net", 1)
    limits = Limits(header_seconds=0.3, body_seconds=0.3, keep_alive_seconds=1, max_connections=8)
    with listening(exports, Counting(), limits) as found:
        yield found


def talk(port: int, *parts: bytes, answers: int = 1) -> bytes:
    """Send ``parts``, one after the other, and read so many answers, or until the server closes."""
    got, end = b"", 0
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        sending = threading.Thread(target=send, args=(connection, parts))
        sending.start()
        while answers and (part := connection.recv(1 << 16)):
            got += part
            while answers and (head := HEAD.search(got, end)) and len(got) >= head.end() + int(head[1]):
                end, answers = head.end() + int(head[1]), answers - 1
        sending.join()
    return got


def send(connection: socket.socket, parts: Sequence[bytes]) -> None:
    with suppress(ConnectionError):  # it was answered before
        for part in parts:
            connection.sendall(part)


def statuses(got: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) [A-Z]", got)]


def logged(app: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in app.state.stream.getvalue().splitlines()]


def body_of(rows: int = 1) -> bytes:
    return json.dumps({"inputs": [tensor(images(rows))]}).encode()


def whole(body: bytes, *headers: bytes) -> bytes:
    return INFER + b"".join(header + b"\r\n" for header in headers) + b"content-length: %d\r\n\r\n" % len(body) + body


MALFORMED = {
    "101 headers": (LIVE[:-2] + b"a: b\r\n" * 100 + b"\r\n", 431),
    "large headers": (LIVE[:-2] + (b"a: " + b"b" * 4000 + b"\r\n") * 17 + b"\r\n", 431),
    "a long URL": (b"GET /" + b"v" * 9000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 414),
    "an endless URL": (b"GET /" + b"v" * (1 << 22), 414),
    "an endless header name": (b"GET / HTTP/1.1\r\n" + b"v" * (1 << 22), 431),
    "an endless header value": (b"GET / HTTP/1.1\r\nv: " + b"v" * (1 << 22), 431),
    "endless headers": (b"GET / HTTP/1.1\r\n" + b"v:\r\n" * (1 << 20), 431),
    "endless empty lines": (b"\r\n" * (1 << 17), 431),
    "endless trailers": (CHUNKED + b"0\r\n" + b"v:\r\n" * (1 << 20), 431),
    "an endless trailer": (CHUNKED + b"0\r\nv: " + b"v" * (1 << 22), 400),
    "an endless chunk extension": (CHUNKED + b"1;a=" + b"v" * (1 << 22), 400),
    "two lengths": (whole(b"{}", b"content-length: 2"), 400),
    "two other lengths": (whole(b"{}", b"content-length: 3"), 400),
    "length and chunks": (whole(b"{}", b"transfer-encoding: chunked"), 400),
    "a negative length": (INFER + b"content-length: -1\r\n\r\n", 400),
    "a signed length": (INFER + b"content-length: +1\r\n\r\n", 400),
    "a list of lengths": (INFER + b"content-length: 1, 1\r\n\r\n", 400),
    "a length beyond 64 bits": (INFER + b"content-length: 99999999999999999999999\r\n\r\n", 400),
    "a length beyond the limit": (INFER + b"content-length: 999999999999\r\n\r\n", 413),
    "a space before the colon": (INFER + b"content-length : 2\r\n\r\n{}", 400),
    "lines without CR": (whole(b"{}").replace(b"\r\n", b"\n"), 400),
    "a folded header": (INFER + b"a: b\r\n c\r\ncontent-length: 0\r\n\r\n", 400),
    "NUL in a header": (INFER + b"a: \0\r\n\r\n", 400),
    "chunked twice": (INFER + b"transfer-encoding: chunked, chunked\r\n\r\n", 400),
    "chunked before gzip": (INFER + b"transfer-encoding: chunked, gzip\r\n\r\n", 400),
    "an unknown coding": (INFER + b"transfer-encoding: xchunked\r\n\r\n", 400),
    "a negative chunk": (CHUNKED + b"-1\r\n", 400),
    "a chunk beyond 64 bits": (CHUNKED + b"fffffffffffffffff\r\n", 400),
    "a chunk that is longer": (CHUNKED + b"1\r\n{}\r\n0\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500, 400),
    "CONNECT": (b"CONNECT a:1 HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "bytes beyond ASCII in the URL": (b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n", 400),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_is_no_request_ends_the_connection(served: Served, what: str) -> None:
    port, app = served
    data, status = MALFORMED[what]
    before = len(logged(app))
    started = time.monotonic()
    got = talk(port, data)
    assert time.monotonic() - started < Limits().header_seconds  # what ended it was no timer for slow ones
    assert statuses(got) == [status], got[:300]
    head, _, body = got.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    assert b"content-type: application/json" in head
    assert json.loads(body)["error"]
    until(lambda: [row["status"] for row in logged(app)[before:]] == [status])
    assert not [row for row in logged(app) if "trace" in row]
    assert statuses(talk(port, LIVE)) == [200]


def test_heads_at_the_limits_are_read(served: Served) -> None:
    port, _ = served
    assert statuses(talk(port, LIVE[:-2] + b"a: b\r\n" * 99 + b"\r\n")) == [200]
    assert statuses(talk(port, LIVE[:-2] + (b"a: " + b"b" * 4000 + b"\r\n") * 16 + b"\r\n")) == [200]
    assert statuses(talk(port, LIVE.replace(b"live", b"live?" + b"v" * 8000))) == [200]


def test_a_request_in_any_pieces(served: Served) -> None:
    port, _ = served
    body = body_of()
    data = whole(body)
    upgrade = (b"connection: keep-alive, Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAEAAEAAAAIAAAAB")
    answers = [
        talk(port, data),
        talk(port, *(data[at : at + 97] for at in range(0, len(data), 97))),
        talk(port, CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)),
        talk(port, CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\na: b\r\n\r\n"),
        talk(port, INFER.replace(b"1.1", b"1.0") + b"content-length: %d\r\n\r\n%b" % (len(body), body)),
        talk(port, whole(body, *upgrade)),
        talk(port, *(whole(body, *upgrade)[at : at + 31] for at in range(0, len(data) + 200, 31))),
        talk(port, b"\r\n\r\n" + data),
    ]
    assert [statuses(got) for got in answers] == [[200]] * len(answers)
    got = talk(port, whole(body, *upgrade) + LIVE.replace(b"live", b"none") + whole(body, *upgrade) + LIVE, answers=4)
    assert statuses(got) == [200, 404, 200, 200]
    assert len({got.partition(b"\r\n\r\n")[2] for got in answers}) == 1


def test_pipelined_requests_are_answered_in_order(served: Served) -> None:
    """Small ones, more than are parsed at a time, and large ones whose ends and beginnings share a packet."""
    port, _ = served
    got = talk(port, (LIVE + LIVE.replace(b"live", b"none")) * 400, answers=800)
    assert statuses(got) == [200, 404] * 400
    large, small = whole(body_of(40)), whole(body_of(1))
    mixed = (large + LIVE + small + LIVE.replace(b"live", b"none")) * 20
    assert statuses(talk(port, mixed, answers=80)) == [200, 200, 200, 404] * 20


def test_a_bad_request_behind_a_good_one(served: Served) -> None:
    """The good one is answered, and the answer to the bad one is never taken for it."""
    port, _ = served
    for rest in (b"\x16\x03\x01", b"GET / HTTP/9\r\n\r\n", b"a" * (1 << 20)):
        assert statuses(talk(port, whole(body_of(20)) + rest)) == [200]


def test_trailers_are_no_headers(tmp_path: Path) -> None:
    make_version(tmp_path, "net", 1)
    with listening(tmp_path, Counting(), Limits(), token="secret") as (port, _):
        body = body_of()
        chunk = b"%x\r\n%b\r\n" % (len(body), body)
        trailer = CHUNKED + chunk + b"0\r\nauthorization: Bearer secret\r\n\r\n"
        assert statuses(talk(port, trailer)) == [401]
        assert statuses(talk(port, whole(body, b"authorization: Bearer secret"))) == [200]


@pytest.mark.parametrize(
    "data",
    [b"", b"GET /v2", b"\r\n", INFER + b"content-length: 9\r\n\r\n", whole(body_of())[:-9], CHUNKED + b"1\r\n{"],
    ids=["nothing", "a head", "an empty line", "headers", "a body", "a chunk"],
)
def test_who_stops_halfway_is_told_and_left(impatient: Served, data: bytes) -> None:
    port, app = impatient
    started = time.monotonic()
    got = talk(port, data)
    assert time.monotonic() - started < Limits().header_seconds  # what it is where nobody is impatient
    assert statuses(got)[-1] == 408, got
    assert [row for row in logged(app) if row.get("status") == 408]
    assert not [row for row in logged(app) if "trace" in row or row["event"] == "log"]


def test_empty_lines_keep_no_connection(impatient: Served) -> None:
    port, _ = impatient
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(LIVE)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        send(connection, [b"\r\n"])
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 408")


def test_idle_connections_keep_nobody_out(tmp_path: Path) -> None:
    """Not for a moment: who comes is answered long before the others' time is over."""
    make_version(tmp_path, "net", 1)
    with listening(tmp_path, Counting(), Limits(header_seconds=60, max_connections=8)) as (port, _):
        for _ in range(3):
            idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(30)]
            for connection in idle[::2]:
                connection.sendall(LIVE[:20])
            assert statuses(talk(port, LIVE.replace(b"host", b"connection: close\r\nhost"))) == [200]
            for connection in idle:
                connection.close()


def test_answers_that_nobody_reads_are_dropped(impatient: Served) -> None:
    """However many requests there are for them: the server reads no more of these, and ends the connection."""
    port, app = impatient
    ask = LIVE.replace(b"/v2/health/live", b"/openapi.json")
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(5)
        with pytest.raises(ConnectionError):  # not a time-out
            connection.sendall(ask * 200_000)
    assert not [row for row in logged(app) if "trace" in row]


def test_a_slash_in_a_name_is_no_separator(served: Served) -> None:
    port, _ = served
    for path in (b"/v2/models%2Fnet", b"/v2/models/net%2fready", b"/v2/models/net/versions%2F1"):
        assert statuses(talk(port, b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % path)) == [404], path
    assert statuses(talk(port, b"GET /v2/models/n%65t HTTP/1.1\r\nhost: x\r\n\r\n")) == [200]


def test_texts_among_numbers_take_no_memory(served: Served) -> None:
    """numpy would make 200,000 texts of 300,000 characters each: 240 GB."""
    port, _ = served
    data = '["' + "a" * 300_000 + '"' + ',""' * 200_000 + "]"
    row = '{"name": "image", "shape": [200001], "datatype": "FP32", "data": ' + data + "}"
    for body in ('{"inputs": [' + row + "]}", '{"instances": ' + data + "}"):
        path = b"/v2/models/net/infer" if "inputs" in body else b"/v1/models/net:predict"
        got = talk(port, whole(body.encode()).replace(b"/v2/models/net/infer", path))
        assert statuses(got) == [400], got[:300]


def test_numbers_of_every_kind_are_read(served: Served) -> None:
    port, _ = served
    for x in (images(2), images(2).astype(np.int64)):
        for data in (x.reshape(-1).tolist(), x.tolist()):
            body = {"inputs": [{**tensor(x), "data": data}]}
            assert statuses(talk(port, whole(json.dumps(body).encode()))) == [200]


def test_an_answer_comes_in_one_piece(served: Served) -> None:
    """A second packet would be a second wake-up of whoever waits for it."""
    body = body_of()
    with socket.create_connection(("127.0.0.1", served[0]), timeout=10) as connection:
        pieces = 0
        for _ in range(20):
            for request in (LIVE, whole(body)):
                connection.sendall(request)
                got = b""
                while not (head := HEAD.search(got)) or len(got) < head.end() + int(head[1]):
                    got += connection.recv(1 << 16)
                    pieces += 1
                assert statuses(got) == [200]
        assert pieces <= 44, "of 40 answers; the kernel may cut one"


def test_an_answer_without_a_body_comes_at_once(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served[0]), timeout=10) as connection:
        for _ in range(2):  # and the connection is kept
            connection.sendall(LIVE.replace(b"GET", b"HEAD"))
            got = b""
            while not got.endswith(b"\r\n\r\n"):
                got += connection.recv(1 << 16)
            assert statuses(got) == [200]


def test_a_client_that_waits_for_100_is_told_before_its_answer(served: Served) -> None:
    body = body_of()
    with socket.create_connection(("127.0.0.1", served[0]), timeout=10) as connection:
        connection.sendall(whole(b"", b"expect: 100-continue").replace(b"length: 0", b"length: %d" % len(body)))
        assert statuses(connection.recv(1 << 16)) == [100]
        connection.sendall(body)
        assert statuses(connection.recv(1 << 16)) == [200]
