"""`tfhalf serve` beside MLServer, BentoML and the KServe SDK on the same ONNX file, and beside bare onnxruntime.

    python benchmarks/serve_rivals.py exports/cifar10 --rival mlserver=VENV/bin/python --rival bentoml=VENV/bin/python

Each rival runs in an environment of its own, whose Python is given; `serve_rival_servers.py` says how it is set up. All
servers are up at once, on as many onnxruntime threads each, and are asked in turns by this process, over loopback, so
that other work on the machine meets all of them alike. Each client sends one image after the other. Before anything is
timed, each server's answer is held against bare onnxruntime's. Printed is the median of the rounds; the share is
that of bare onnxruntime in a loop in this process, with batches of as many images as there are clients. CPU ms is the
processor time of all of a server's processes for an image, which other work on the machine disturbs least.

`--widened` gives the rivals, and bare onnxruntime, the file with its float16 weights brought to float32 beforehand,
which tfhalf does for itself: what is left is the difference of the servers alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from serve_load import CLIENTS, closed_loop, request
from serve_rival_servers import OUTPUT, session

from tfhalf.artifacts.version import find_version
from tfhalf.inspect.onnx_check import read_onnx
from tfhalf.runtimes import onnx_upcast
from tfhalf.serve.protocols.grpc_messages import SERVICE, message
from tfhalf.system.device import cores

_START_SECONDS = 90
_TOLERANCE = 2e-3
_PROTOCOLS = {  # what each is asked over; binary tensors wherever its protocol has them
    "tfhalf": ("HTTP binary", "gRPC binary"),
    "mlserver": ("gRPC binary", "HTTP JSON"),  # no binary tensors over HTTP
    "kserve": ("HTTP binary", "gRPC binary"),
    "bentoml": ("HTTP JSON",),  # no binary tensors
}

Loop = Callable[[int, float], Coroutine[Any, Any, list[float]]]


@dataclass(frozen=True)
class Row:
    """A server over one protocol: ``loop`` asks it with so many clients for so many seconds and gives the latencies."""

    server: str
    protocol: str
    pid: int
    loop: Loop
    answer: Callable[[], np.ndarray]


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def http_request(path: str, body: bytes, **headers: object) -> bytes:
    """A POST."""
    fields = {"content-length": len(body), **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = [f"POST {path} HTTP/1.1", "host: x", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode() + body


async def http_once(port: int, data: bytes) -> bytes:
    """The body of the answer, whose status has to be 200."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).lower()
    if b" 200 " not in head.partition(b"\r\n")[0]:
        raise OSError(head.partition(b"\r\n")[0].decode())
    length = re.search(rb"\ncontent-length: (\d+)", head)
    body = await reader.readexactly(int(length[1])) if length else b""
    while length is None and (size := int((await reader.readline()).strip(), 16)):
        body += (await reader.readexactly(size + 2))[:-2]
    writer.close()
    return body


def grpc_request(name: str, x: np.ndarray) -> bytes:
    """A ModelInferRequest, as bytes."""
    request = message("ModelInferRequest")(model_name=name, raw_input_contents=[x.tobytes()])
    request.inputs.add(name="image", datatype="FP32", shape=x.shape)
    request.outputs.add(name=OUTPUT)
    return bytes(request.SerializeToString())


def _call(port: int) -> tuple[Any, Any]:
    # A pool of its own: otherwise all channels share one connection.
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])
    return channel, channel.unary_unary(f"/{SERVICE}/ModelInfer")


async def grpc_loop(port: int, data: bytes, clients: int, seconds: float) -> list[float]:
    """`closed_loop` over gRPC."""
    until = time.perf_counter() + seconds
    latencies: list[float] = []

    async def one() -> None:
        channel, call = _call(port)
        async with channel:
            while (start := time.perf_counter()) < until:
                await call(data)
                latencies.append(time.perf_counter() - start)

    await asyncio.gather(*(one() for _ in range(clients)))
    return latencies


async def grpc_once(port: int, data: bytes) -> np.ndarray:
    """The probabilities."""
    channel, call = _call(port)
    async with channel:
        answer = message("ModelInferResponse").FromString(await call(data, timeout=30))
    index = [output.name for output in answer.outputs].index(OUTPUT)
    if answer.raw_output_contents:
        return np.frombuffer(answer.raw_output_contents[index], np.float32)
    return np.array(answer.outputs[index].contents.fp32_contents, np.float32)


def rows_of(server: str, name: str, pid: int, http: int, grpc_port: int, x: np.ndarray) -> list[Row]:
    """A row for each protocol of ``server``, where ``name`` is the model's."""
    rows = []
    for protocol in _PROTOCOLS[server]:
        if protocol == "gRPC binary":
            data = grpc_request(name, x)
            loop: Loop = lambda n, s, d=data: grpc_loop(grpc_port, d, n, s)  # type: ignore[misc]  # noqa: E731
            answer: Callable[[], np.ndarray] = lambda d=data: asyncio.run(grpc_once(grpc_port, d))  # type: ignore[misc]  # noqa: E731
        else:
            data = _http_data(server, name, protocol, x)
            loop = lambda n, s, d=data: closed_loop(http, d, n, s)  # type: ignore[misc]  # noqa: E731
            answer = lambda d=data: _probabilities(asyncio.run(http_once(http, d)))  # type: ignore[misc]  # noqa: E731
        rows.append(Row(server, protocol, pid, loop, answer))
    return rows


def _http_data(server: str, name: str, protocol: str, x: np.ndarray) -> bytes:
    if protocol == "HTTP binary":
        if server == "tfhalf":
            return request("x", name, x, "FP32")
        raw = x.tobytes()
        tensor = {"name": "image", "shape": x.shape, "datatype": "FP32", "parameters": {"binary_data_size": len(raw)}}
        head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        kind = {"content_type": "application/octet-stream", "inference_header_content_length": len(head)}
        return http_request(f"/v2/models/{name}/infer", head + raw, **kind)
    if server == "bentoml":
        return http_request("/predict", json.dumps({"x": x.tolist()}).encode(), content_type="application/json")
    tensor = {"name": "image", "shape": x.shape, "datatype": "FP32", "data": x.reshape(-1).tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    return http_request(f"/v2/models/{name}/infer", body, content_type="application/json")


def _probabilities(body: bytes) -> np.ndarray:
    if body[:1] == b"[":
        return np.array(json.loads(body)[0], np.float32)
    head, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    output = next(output for output in head["outputs"] if output["name"] == OUTPUT)
    if "data" in output:
        return np.array(output["data"], np.float32).reshape(-1)
    return np.frombuffer(body[end:], np.float32)


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """A server in a process group of its own, so that all its processes are ended with it."""
    with log.open("wb") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)


def checked(row: Row, expected: np.ndarray, process: subprocess.Popen[bytes], log: Path) -> Row:
    """``row``, once its server answers, and answers right.

    Raises:
        SystemExit: it does not.
    """
    until = time.monotonic() + _START_SECONDS
    while True:
        try:
            answer = row.answer()
            break
        except (OSError, grpc.RpcError, asyncio.IncompleteReadError) as error:
            if time.monotonic() > until or process.poll() is not None:
                raise SystemExit(f"{row.server} ({row.protocol}): {error}\n{log.read_text()[-2000:]}") from None
            time.sleep(0.5)
    if answer.size != expected.size or not np.allclose(answer.reshape(-1), expected.reshape(-1), atol=_TOLERANCE):
        raise SystemExit(f"{row.server} ({row.protocol}): answers {answer}, bare onnxruntime {expected}")
    return row


def cpu_seconds(pid: int) -> float:
    """Processor time so far of a process and of all that descend from it."""
    stats: dict[int, list[str]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            stats[int(path.parent.name)] = path.read_text().rpartition(")")[2].split()
    family = {pid}
    while more := {child for child, fields in stats.items() if int(fields[1]) in family} - family:
        family |= more
    ticks = sum(int(stats[one][11]) + int(stats[one][12]) for one in family if one in stats)
    return ticks / os.sysconf("SC_CLK_TCK")


def bare(run: Any, x: np.ndarray, seconds: float) -> list[float]:
    """Seconds of each execution."""
    latencies: list[float] = []
    until = time.perf_counter() + seconds
    while (start := time.perf_counter()) < until:
        run(x)
        latencies.append(time.perf_counter() - start)
    return latencies


def measure(rows: list[Row], run: Any, x: np.ndarray, args: argparse.Namespace) -> None:
    """Print the table."""
    titles = f"{'images/s':>9} {'p50 ms':>8} {'p99 ms':>8} {'CPU ms':>7} {'share':>6}"
    print(f"{'clients':>7} {'server':<10} {'over':<12} {titles}")
    for clients in args.clients or CLIENTS:
        batch = np.repeat(x, clients, 0)
        rates: dict[int, list[tuple[float, list[float], float]]] = {k: [] for k in range(len(rows) + 1)}
        for row in rows:
            asyncio.run(row.loop(clients, 0.5))
        for turn in range(args.rounds):
            for k in [(k + turn) % (len(rows) + 1) for k in range(len(rows) + 1)]:
                pid = rows[k].pid if k < len(rows) else os.getpid()
                start, cpu = time.perf_counter(), cpu_seconds(pid)
                if k < len(rows):
                    latencies = asyncio.run(rows[k].loop(clients, args.seconds))
                    count = len(latencies)
                else:
                    latencies = bare(run, batch, args.seconds)
                    count = len(latencies) * clients
                rate = count / (time.perf_counter() - start)
                rates[k].append((rate, sorted(latencies), (cpu_seconds(pid) - cpu) / count * 1e3))
        alone = statistics.median(rate for rate, _, _ in rates[len(rows)])
        for k, row in enumerate([*rows, None]):
            rate, latencies, _ = sorted(rates[k], key=lambda turn: turn[0])[args.rounds // 2]
            name, over = (row.server, row.protocol) if row else ("bare", f"batch {clients}")
            p50, p99 = latencies[len(latencies) // 2] * 1e3, latencies[int(len(latencies) * 0.99)] * 1e3
            cpu = statistics.median(turn[2] for turn in rates[k])
            line = f"{clients:7} {name:<10} {over:<12} {rate:9.0f} {p50:8.2f} {p99:8.2f}"
            print(f"{line} {cpu:7.2f} {rate / alone:6.2f}", flush=True)


def main() -> None:
    """Start all, check all, measure, and end all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("--rival", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--clients", type=int, action="append", help="so many at a time; 1, 8 and 64 unless given")
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--widened", action="store_true")
    args = parser.parse_args()
    version = find_version(args.export)
    name, shape = version.parent.name, json.loads((version / "manifest.json").read_text())["inputs"][0]["shape"][1:]
    x = np.random.default_rng(1).integers(0, 256, (1, *shape)).astype(np.float32)
    servers: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as folder:
        model = version / "model.onnx"
        if args.widened:
            graph = read_onnx(model)
            onnx_upcast.upcast(graph)
            model = Path(folder, "model.onnx")
            model.write_bytes(graph.SerializeToString())
        loaded = session(str(model), args.threads)

        def run(batch: np.ndarray) -> np.ndarray:
            outputs: np.ndarray = loaded.run([OUTPUT], {"image": batch})[0]
            return outputs

        waiting: list[tuple[Row, subprocess.Popen[bytes], Path]] = []
        try:
            for server, python in [("tfhalf", sys.executable), *(rival.split("=", 1) for rival in args.rival)]:
                http, grpc_port, log = free_port(), free_port(), Path(folder, f"{server}.log")
                ports = [str(http), str(grpc_port), str(args.threads)]
                if server == "tfhalf":
                    options = ["--port", ports[0], "--grpc-port", ports[1], "--threads", ports[2], "--no-access-log"]
                    command = [python, "-m", "tfhalf", "serve", str(version.parent), *options]
                else:
                    script = Path(__file__).with_name("serve_rival_servers.py")
                    command = [python, str(script), server, str(model), *ports, "64"]
                servers.append(start(command, log))
                new = rows_of(server, name if server == "tfhalf" else "model", servers[-1].pid, http, grpc_port, x)
                waiting += [(row, servers[-1], log) for row in new]
            rows = [checked(row, run(x), process, log) for row, process, log in waiting]
            measure(rows, run, x, args)
        finally:
            for process in servers:
                os.killpg(process.pid, signal.SIGTERM)
            for process in servers:
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
