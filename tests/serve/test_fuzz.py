"""Thousands of mutated requests over raw sockets: every one is answered, none with a fault of the server's, and the
process does not grow."""

from __future__ import annotations

import gzip
import json
import random
import re
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from serve_helpers import SHAPE, make_version, server

pytestmark = pytest.mark.slow

REQUESTS = 10_000
ALLOWED = 32  # MiB of growth from the first quarter on
PATHS = (
    "/v2/models/net/infer",
    "/v2/models/net/versions/1/infer",
    "/v1/models/net:predict",
    "/v2/models/net/classify",
    "/v2/models/%2e%2e/infer",
    "/v2/models/net%00/infer",
    "/v2/models/net/versions/999999999999999999999999/infer",
    "/v2/repository/index",
    "/v1/models/net/labels/x:predict",
    "//v2",
    "/v2/models/net/versions/1/../../../etc/passwd",
    "/v2/models/stats?x=%ff",
)
HEADERS = (
    "x-request-timeout-ms: nan",
    "accept-encoding: gzip;q=x",
    "content-type: multipart/form-data; boundary=",
    "traceparent: 00-zz",
    "x-request-id: " + "a" * 500,
    "authorization: \xff",
    "content-encoding: zip",
    "transfer-encoding: chunked",
)
SHAPES = (
    b"[1000000000,4,4,3]",
    b"[-1,4,4,3]",
    b"[]",
    b"[1,4,4,3,1,1,1]",
    b"{}",
    b'"x"',
    b"[1e9]",
    b"[18446744073709551616]",
)
WEDGES = (b"[", b"{", b"-1", b"1e400", b"NaN", b'"', b"\0", b"9" * 40, b"null", b"[[[[", b"true")
RAW = np.ones((2, *SHAPE), np.float32).tobytes()


def infer(shape: list[int], **more: object) -> bytes:
    return json.dumps({"inputs": [{"name": "image", "shape": shape, "datatype": "FP32", **more}]}).encode()


BINARY = infer([2, *SHAPE], parameters={"binary_data_size": len(RAW)})
PLAIN = infer([1, *SHAPE], data=[1.5] * int(np.prod(SHAPE)))
ROWS = json.dumps({"instances": np.ones((1, *SHAPE)).tolist()}).encode()


def mutated(draw: random.Random, text: bytes) -> bytes:
    """Up to three bytes or runs of it changed, cut out, put in or repeated."""
    body = bytearray(text)
    for _ in range(draw.randint(0, 3)):
        if not body:
            break
        place, kind = draw.randrange(len(body)), draw.randrange(5)
        if kind == 0:
            body[place] = draw.randrange(256)
        elif kind == 1:
            del body[place : place + draw.randint(1, 20)]
        elif kind == 2:
            body[place:place] = draw.choice(WEDGES)
        elif kind == 3:
            del body[place:]
        else:
            body[place:place] = body[max(0, place - 30) : place] * draw.randint(1, 5)
    return bytes(body)


def body_and_headers(draw: random.Random) -> tuple[bytes, list[str]]:
    kind = draw.randrange(6)
    if kind == 0:
        length = draw.choice([len(BINARY), len(BINARY) - 1, 0, -1, 10**9, len(BINARY) + 4])
        return BINARY + RAW, [f"inference-header-content-length: {length}"]
    if kind == 1:
        return mutated(draw, PLAIN), []
    if kind == 2:
        return mutated(draw, ROWS), []
    if kind == 3:  # one of them 3 MB out of 3 kB
        return mutated(draw, gzip.compress(draw.choice([PLAIN, b" " * 3_000_000]))), ["content-encoding: gzip"]
    if kind == 4:
        return mutated(draw, BINARY) + mutated(draw, RAW), [f"inference-header-content-length: {len(BINARY)}"]
    return PLAIN.replace(b"[1, 4, 4, 3]", draw.choice(SHAPES)), []


def drawn(seed: int) -> Iterator[bytes]:
    draw = random.Random(seed)
    while True:
        body, headers = body_and_headers(draw)
        if draw.random() < 0.2:
            headers.append(draw.choice(HEADERS))
        length = len(body) if draw.random() > 0.03 else 0
        first = [f"POST {draw.choice(PATHS)} HTTP/1.1", "host: x", "connection: close", f"content-length: {length}"]
        yield "\r\n".join([*first, *headers, "", ""]).encode("latin1") + body


def answer(address: str, request: bytes) -> bytes:
    """The status, three digits; ``gone`` where the server closed the connection without one."""
    host, port = address.split(":")
    got = b""
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        try:
            connection.sendall(request)
            while part := connection.recv(65536):
                got += part
        except ConnectionError:
            pass
    return got[9:12] or b"gone"


def resident(pid: int) -> int:
    """MiB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) // 1024


def test_mutated_requests(tmp_path: Path) -> None:
    make_version(tmp_path, "net", 1)
    seen: Counter[bytes] = Counter()
    with server(tmp_path) as served:
        before = 0
        for number, request in zip(range(REQUESTS), drawn(1), strict=False):
            status = answer(served.address, request)
            seen[status] += 1
            assert not status.startswith(b"5"), (status, request[:500])
            if number == REQUESTS // 4:
                before = resident(served.process.pid)
        growth = resident(served.process.pid) - before
        assert answer(served.address, next(drawn(2)))  # it answers still
    assert growth < ALLOWED, growth
    assert seen[b"200"] > REQUESTS // 50, seen
    assert seen[b"400"] + seen[b"404"] > REQUESTS // 3, seen
    assert seen[b"gone"] < REQUESTS // 20, seen
