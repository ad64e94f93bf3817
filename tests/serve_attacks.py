"""How long ``/v2/health/live`` takes while clients attack the server: ``python tests/serve_attacks.py [SECONDS]``.

Each attack is a process of its own; the one that measures connects anew for each request, a hundred a second. ``own``
is the worst without the time for which the server's thread waited for a core: on a machine that others use, what the
server is to blame for.
"""

from __future__ import annotations

import asyncio
import functools
import gzip
import io
import json
import multiprocessing
import re
import resource
import socket
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from serve_helpers import SHAPE, Served, images, make_version, tensor

POST = b"POST %b HTTP/1.1\r\nhost: x\r\n"
INFER, CLASSIFY = POST % b"/v2/models/net/infer", POST % b"/v2/models/net/classify"
LIVE = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n"
MANY = 500  # connections
_FLOODS = 4

Attack = Callable[[int], Coroutine[Any, Any, None]]


async def send(port: int, *parts: bytes, pause: float = 0.0, repeat: bool = False) -> None:
    """Connect, send ``parts`` (the last of them again and again) and read what comes, until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    reading = asyncio.ensure_future(reader.read())
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        while not reading.done():
            await asyncio.sleep(pause)
            if repeat:
                writer.write(parts[-1])
                await writer.drain()
    except ConnectionError:
        pass  # it was refused, as it should be
    finally:
        reading.cancel()
        writer.close()


async def again(count: int, attempt: Callable[[], Awaitable[None]]) -> None:
    """``count`` clients that come back as soon as they are turned away."""

    async def one() -> None:
        while True:
            try:
                await attempt()
            except OSError:
                await asyncio.sleep(0.05)

    await asyncio.gather(*(one() for _ in range(count)))


def whole(head: bytes, body: bytes, *headers: bytes) -> bytes:
    """A request."""
    lines = b"".join(header + b"\r\n" for header in headers)
    return head + lines + b"content-length: %d\r\n\r\n" % len(body) + body


def sends(count: int, *parts: bytes, pause: float = 0.0, repeat: bool = False) -> Attack:
    """``count`` clients that `send`."""
    return lambda port: again(count, lambda: send(port, *parts, pause=pause, repeat=repeat))


def asks(count: int, request: bytes) -> Attack:
    """``count`` clients that send a request, wait for the answer, and send it again."""
    closing = request.replace(b"host: x\r\n", b"host: x\r\nconnection: close\r\n", 1)
    return lambda port: again(count, lambda: send(port, closing, pause=0.01))


async def unread(port: int) -> None:
    """Requests whose answers nobody reads."""

    async def one() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        try:
            while True:
                writer.write(b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 100)
                await writer.drain()
        except ConnectionError:
            pass

    await again(10, one)


@functools.cache  # made before the attackers are forked
def attacks() -> dict[str, Attack]:
    """By name."""
    body = json.dumps({"inputs": [tensor(images(1))]}).encode()
    picture = io.BytesIO()
    Image.fromarray(np.zeros((5000, 6000, 3), np.uint8)).save(picture, "PNG")
    texts = b'{"inputs": [{"name": "image", "shape": [1], "datatype": "FP32", "data": ["' + b"a" * 300_000
    texts += b'"' + b',""' * 200_000 + b"]}]}"
    values = int(np.prod(SHAPE))
    numbers = json.dumps({"inputs": [{**tensor(images(1)), "shape": [4000, *SHAPE], "data": [1.5] * values * 4000}]})
    deep = b"[" * 500_000
    form = b'--x\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\n' + b"\r\n-" * (1 << 20)
    multipart = b"content-type: multipart/form-data; boundary=x"
    held = b" " * (60 << 20)
    chunks = INFER + b"transfer-encoding: chunked\r\n\r\n"
    return {
        "nothing": lambda _: asyncio.sleep(1e4),
        "many headers": sends(_FLOODS, LIVE, b"a: b\r\n" * 10_000, repeat=True),
        "an endless header": sends(_FLOODS, LIVE + b"a: ", b"a" * 65536, repeat=True),
        "an endless URL": sends(_FLOODS, b"GET /", b"a" * 65536, repeat=True),
        "empty lines": sends(_FLOODS, b"\r\n" * 10_000, repeat=True),
        "garbage": sends(_FLOODS, b"\x16\x03\x01" * 20_000),
        f"{MANY} idle": sends(MANY, b"", pause=1),
        f"{MANY} slow heads": sends(MANY, LIVE, b"a: b\r\n", pause=0.5, repeat=True),
        f"{MANY} slow bodies": sends(MANY, INFER + b"content-length: 9999\r\n\r\n", b" ", pause=0.5, repeat=True),
        "small chunks": sends(_FLOODS, chunks, b"1\r\n \r\n" * 10_000, repeat=True),
        "an endless chunk extension": sends(_FLOODS, chunks + b"1;a=", b"a" * 65536, repeat=True),
        "endless trailers": sends(_FLOODS, chunks + b"0\r\n", b"a: b\r\n" * 10_000, repeat=True),
        "pipelined requests": sends(_FLOODS, (LIVE + b"\r\n") * 2000, repeat=True),
        "answers that nobody reads": unread,
        "numbers in JSON": asks(_FLOODS, whole(INFER, numbers.encode())),
        "texts in JSON": asks(_FLOODS, whole(INFER, texts)),
        "deep JSON": asks(_FLOODS, whole(INFER, deep)),
        "gzip of 60 MB": asks(_FLOODS, whole(INFER, gzip.compress(b" " * 60_000_000), b"content-encoding: gzip")),
        "deflate of 60 MB": asks(_FLOODS, whole(INFER, zlib.compress(b" " * 60_000_000), b"content-encoding: deflate")),
        "forms full of line ends": asks(_FLOODS, whole(CLASSIFY, form, multipart)),
        "images of 30 MP": asks(_FLOODS, whole(CLASSIFY, picture.getvalue(), b"content-type: image/png")),
        "bodies held back": sends(12, INFER + b"content-length: %d\r\n\r\n" % (64 << 20), held, pause=1),
        "plain requests": asks(_FLOODS, whole(INFER, body)),
    }


def run_attack(name: str, port: int, begins: Event) -> None:
    """In a process of its own, until it is killed."""
    attack = attacks()[name]

    async def run() -> None:
        begins.set()
        await attack(port)

    asyncio.run(run())


def waited(pid: int) -> float:
    """Seconds for which the event loop's thread was ready to run and had no core."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9


def live(port: int, pid: int) -> tuple[float, float]:
    """Seconds until the answer is there, and those of them that are the server's own."""
    before, started = waited(pid), time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(LIVE + b"connection: close\r\n\r\n")
        got = b""
        while part := connection.recv(4096):
            got += part
    assert got.startswith(b"HTTP/1.1 200"), got
    passed = time.perf_counter() - started
    return passed, max(0.0, passed - (waited(pid) - before))


@dataclass(frozen=True)
class Measured:
    """``seconds`` that liveness took while ``attack`` went on, the worst of the server's ``own``, and its resident MiB
    then."""

    attack: str
    seconds: list[float]
    own: float
    mebibytes: int

    def line(self) -> str:
        """For people."""
        ordered = sorted(self.seconds)
        part = [ordered[int(len(ordered) * share)] for share in (0.5, 0.95, 0.99)]
        return "".join(
            [f"{self.attack:28}", *(f"{s * 1e3:8.1f}" for s in (*part, ordered[-1], self.own)), f"{self.mebibytes:8}"]
        )


def measure(served: Served, name: str, seconds: float) -> Measured:
    """Liveness while the attack goes on."""
    port, pid = int(served.address.split(":")[1]), served.process.pid
    attacks()
    context = multiprocessing.get_context("fork")  # to import all this anew takes longer than to measure
    begins = context.Event()
    attacker = context.Process(target=run_attack, args=(name, port, begins), daemon=True)
    attacker.start()
    try:
        assert begins.wait(60)
        time.sleep(1.5)  # it connects: what many connections cost at once is not looked at
        found = []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found.append(live(port, pid))
            time.sleep(0.01)
        seconds_, own = zip(*found, strict=True)
        return Measured(name, list(seconds_), max(own), resident(pid))
    finally:
        attacker.kill()
        attacker.join()


def resident(pid: int) -> int:
    """MiB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) // 1024


def half_sent(port: int, count: int) -> list[socket.socket]:
    """Connections that stopped in the middle of a head, a body or a chunk, or sent nothing."""
    parts = (b"", LIVE, INFER + b"content-length: 999\r\n\r\n{", INFER + b"transfer-encoding: chunked\r\n\r\n5\r\n{")
    found = []
    for number in range(count):
        found.append(socket.create_connection(("127.0.0.1", port)))
        found[-1].sendall(parts[number % len(parts)])
    return found


def events(served: Served) -> Counter[str]:
    """What the log tells, by kind; ``no JSON`` and ``trace`` are what must not be there."""
    found: Counter[str] = Counter()
    for line in served.log().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            found["no JSON"] += 1
            continue
        found[f"{row['event']} {row.get('status', '')}".strip()] += 1
        found["trace"] += "trace" in row
    return found


def main() -> int:
    """All of them, and SIGTERM amid half-sent requests."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 4.0
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    with tempfile.TemporaryDirectory() as folder:
        make_version(Path(folder), "net", 1)
        served = Served(folder)
        try:
            print(f"{'liveness, ms':28}{'median':>8}{'95 %':>8}{'99 %':>8}{'worst':>8}{'own':>8}{'MiB':>8}")
            worst = []
            for name in attacks():
                measured = measure(served, name, seconds)
                print(measured.line(), flush=True)
                worst.append(measured.own)
            open_ = half_sent(int(served.address.split(":")[1]), MANY)
            began = time.monotonic()
            code = served.stop()
            print(
                f"SIGTERM amid {len(open_)} half-sent requests: exit code {code} after {time.monotonic() - began:.1f} s"
            )
            print(f"log: {dict(events(served))}")
        finally:
            served.kill()
    return int(max(worst) > 0.1 or code != 0)


if __name__ == "__main__":
    sys.exit(main())
