"""What `tfhalf serve` makes of load, beside what bare onnxruntime does in a loop on the same machine.

    python benchmarks/serve_load.py exports/cifar10 --seconds 8
    python benchmarks/serve_load.py exports/cifar10 --overload 60

The server is a process of its own, the load another (this one), over loopback. Each client sends one image after the
other as binary float16 or float32. The share is the server's rate over that of `InferenceSession.run` on the same file
at the batch size that the server reached, measured right after it; the median of some rounds is printed.
``--overload SECONDS`` offers ten times the capacity and reports the answers by status, the latency
of accepted ones beside that of an unloaded full batch, and the server's memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import IO

import numpy as np
import onnxruntime

from tfhalf.artifacts.version import find_version

CLIENTS = (1, 8, 64)
_CONNECTIONS = 256  # of the overload: more would measure how long a request waits to be read


def request(url: str, name: str, x: np.ndarray, datatype: str) -> bytes:
    """The bytes of an inference request with binary data in both directions."""
    raw = x.astype({"FP16": np.float16, "FP32": np.float32}[datatype]).tobytes()
    tensor = {
        "name": "image",
        "shape": list(x.shape),
        "datatype": datatype,
        "parameters": {"binary_data_size": len(raw)},
    }
    outputs = [{"name": "probabilities", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    lines = (
        f"POST /v2/models/{name}/infer HTTP/1.1\r\nhost: {url}\r\ncontent-type: application/octet-stream\r\n"
        f"inference-header-content-length: {len(head)}\r\ncontent-length: {len(head) + len(raw)}\r\n\r\n"
    )
    return lines.encode() + head + raw


class Client(asyncio.Protocol):
    """Sends a request and resolves a future with (status, seconds) when its answer is whole."""

    def __init__(self) -> None:
        self.buffer = b""
        self.answer: asyncio.Future[tuple[int, float]] | None = None
        self.sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport

    def send(self, data: bytes) -> asyncio.Future[tuple[int, float]]:
        """Send; the answer comes in the future."""
        self.answer = asyncio.get_running_loop().create_future()
        self.sent = time.perf_counter()
        self.transport.write(data)  # type: ignore[attr-defined]
        return self.answer

    def data_received(self, data: bytes) -> None:
        """Collect until Content-Length is there."""
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = re.search(rb"\ncontent-length: (\d+)", self.buffer[:end])
        if length is None:  # it comes in chunks; another answer is never behind this one
            size = len(self.buffer) if self.buffer.endswith(b"\r\n0\r\n\r\n") else len(self.buffer) + 1
        else:
            size = end + 4 + int(length[1])
        if len(self.buffer) >= size:
            status, self.buffer = int(self.buffer[9:12]), self.buffer[size:]
            if self.answer is not None and not self.answer.done():
                self.answer.set_result((status, time.perf_counter() - self.sent))

    def connection_lost(self, exc: Exception | None) -> None:
        """A request without an answer counts as status 0."""
        if self.answer is not None and not self.answer.done():
            self.answer.set_result((0, time.perf_counter() - self.sent))


async def closed_loop(port: int, data: bytes, clients: int, seconds: float) -> list[float]:
    """Latencies of ``clients`` that each send the next request when they have the answer."""
    loop = asyncio.get_running_loop()
    until = time.perf_counter() + seconds
    latencies: list[float] = []

    async def one() -> None:
        _, client = await loop.create_connection(Client, "127.0.0.1", port)
        while time.perf_counter() < until:
            status, took = await client.send(data)
            if status != 200:
                raise SystemExit(f"status {status} under {clients} clients")
            latencies.append(took)
        client.transport.close()  # type: ignore[attr-defined]

    await asyncio.gather(*(one() for _ in range(clients)))
    return latencies


async def open_loop(port: int, data: bytes, rate: float, seconds: float) -> tuple[Counter[int], list[float], int]:
    """``rate`` requests a second, whatever the answers: answers by status, latencies of accepted ones, and the number
    of requests that never got an answer."""
    loop = asyncio.get_running_loop()
    idle: list[Client] = []
    statuses: Counter[int] = Counter()
    latencies: list[float] = []
    waiting: set[asyncio.Task[None]] = set()

    async def one() -> None:
        client = idle.pop() if idle else (await loop.create_connection(Client, "127.0.0.1", port))[1]
        status, took = await client.send(data)
        statuses[status] += 1
        if status == 200:
            latencies.append(took)
        if status:
            idle.append(client)

    start, sent = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds:
        while sent < passed * rate and len(waiting) < _CONNECTIONS:
            task = asyncio.ensure_future(one())
            waiting.add(task)
            task.add_done_callback(waiting.discard)
            sent += 1
        sent = max(sent, int(passed * rate) - _CONNECTIONS)  # what this process cannot send is not offered
        await asyncio.sleep(0.001)
    _, late = await asyncio.wait(waiting, timeout=30) if waiting else (set(), set())
    return statuses, latencies, len(late)


def bare(path: Path, x: np.ndarray, seconds: float, provider: str = "CPUExecutionProvider") -> float:
    """Images a second of onnxruntime alone, given ``x`` again and again; NaN where ``provider`` does not start."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    if session.get_providers()[0] != provider:
        return float("nan")
    session.run(None, {"image": x})
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        session.run(None, {"image": x})
        count += len(x)
    return count / passed


def start_server(version: Path, options: str, errors: IO[bytes] | None = None) -> tuple[subprocess.Popen[str], int]:
    """`tfhalf serve` of the model that ``version`` is of, and its port, once it is ready; prints what it says of it.

    Args:
        options: more options for it.
        errors: takes its stderr.

    Raises:
        SystemExit: it did not start.
    """
    command = [sys.executable, "-m", "tfhalf", "serve", str(version.parent), "--port", "0", "--no-access-log"]
    began = time.perf_counter()
    server = subprocess.Popen([*command, *shlex.split(options)], stdout=subprocess.PIPE, stderr=errors, text=True)
    assert server.stdout is not None
    for line in server.stdout:
        if line.startswith("model"):
            print(f"  {line.strip()}")
        if line.startswith("ready"):
            print(f"  ready after {time.perf_counter() - began:.1f} s", flush=True)
            return server, int(re.findall(r":(\d+)", line)[-1])
    raise SystemExit("the server did not start")


def counts(port: int) -> tuple[float, float]:
    """Rows and executions so far."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    return tuple(  # type: ignore[return-value]
        sum(map(float, re.findall(rf"^nv_inference_{name}{{.*}} (\S+)$", text, re.MULTILINE)))
        for name in ("count", "exec_count")
    )


def memory(pid: int) -> float:
    """Resident MiB."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024  # type: ignore[index]


def main() -> None:
    """Start the server, measure, stop it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--datatype", choices=["FP16", "FP32"], default="FP32")
    parser.add_argument("--overload", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--options", default="", help="more options for tfhalf serve")
    args = parser.parse_args()
    version = find_version(args.export)
    name = version.parent.name
    shape = tuple(json.loads((version / "manifest.json").read_text())["inputs"][0]["shape"][1:])
    server, port = start_server(version, args.options)
    try:
        image = np.random.default_rng(1).uniform(0, 255, (1, *shape))
        if args.overload:
            _overload(args, port, name, image, server.pid)
        else:
            _closed(args, port, name, image, version)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


def _closed(args: argparse.Namespace, port: int, name: str, image: np.ndarray, version: Path) -> None:
    data = request("127.0.0.1", name, image, args.datatype)
    print(f"{'clients':>8} {'images/s':>9} {'p50 ms':>8} {'p99 ms':>8} {'batch':>6} {'bare images/s':>14} {'share':>6}")
    for clients in CLIENTS:
        asyncio.run(closed_loop(port, data, clients, 1.0))
        rows = [_round(port, data, clients, args.seconds, version, image.shape[1:]) for _ in range(args.rounds)]
        rows.sort(key=lambda row: row[-1])  # the median round: other work on the machine slows both halves of one
        rate, p50, p99, batch, alone, share = rows[len(rows) // 2]
        print(f"{clients:8} {rate:9.0f} {p50:8.2f} {p99:8.2f} {batch:6.0f} {alone:14.0f} {share:6.2f}", flush=True)


def _round(
    port: int, data: bytes, clients: int, seconds: float, version: Path, shape: tuple[int, ...]
) -> tuple[float, ...]:
    """Rate, p50 and p99 in ms, batch, bare onnxruntime's rate at that batch just before and after, and the share."""
    before = counts(port)
    start = time.perf_counter()
    times = sorted(asyncio.run(closed_loop(port, data, clients, seconds)))
    rate = len(times) / (time.perf_counter() - start)
    after = counts(port)
    batch = max(1, round((after[0] - before[0]) / max(1, after[1] - before[1])))
    x = np.random.default_rng(0).uniform(0, 255, (batch, *shape)).astype(np.float32)
    alone = bare(version / "model.onnx", x, seconds)
    return rate, times[len(times) // 2] * 1e3, times[int(len(times) * 0.99)] * 1e3, batch, alone, rate / alone


def _overload(args: argparse.Namespace, port: int, name: str, image: np.ndarray, pid: int) -> None:
    full = request("127.0.0.1", name, np.repeat(image, 64, 0), args.datatype)
    unloaded = asyncio.run(closed_loop(port, full, 1, 5.0))
    single = request("127.0.0.1", name, image, args.datatype)
    capacity = len(asyncio.run(closed_loop(port, single, 64, 3.0))) / 3.0
    start = memory(pid)
    statuses, latencies, lost = asyncio.run(open_loop(port, single, 10 * capacity, args.overload))
    unloaded += asyncio.run(closed_loop(port, full, 1, 5.0))  # before and after, if other work comes and goes
    unloaded.sort()
    latencies.sort()
    one = unloaded[int(len(unloaded) * 0.99)] * 1e3
    p99 = latencies[int(len(latencies) * 0.99)] * 1e3
    print(
        f"capacity {capacity:.0f} images/s; offered {sum(statuses.values()) / args.overload:.0f}/s, {args.overload:g} s"
    )
    print(f"answers by status {dict(statuses)}; without an answer: {lost}")
    p50 = latencies[len(latencies) // 2] * 1e3
    print(f"accepted p50 {p50:.0f} ms, p99 {p99:.0f} ms, {p99 / one:.2f} times")
    print(f"unloaded full batch of 64, p99 {one:.0f} ms")
    print(f"memory {start:.0f} MiB before, {memory(pid):.0f} MiB after")


if __name__ == "__main__":
    main()
