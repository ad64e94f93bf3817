"""`tfhalf serve` of two checkouts, by turns, on the same model: requests a second and CPU a request, after over before.

    python benchmarks/serve_checkouts.py BEFORE AFTER exports/net --rounds 80 --seconds 0.6

Both servers run all the time; in each round each is asked for ``--seconds``, the order changing. Ratios are of one
round, and their median is printed: what else the machine does meanwhile slows both. Each client sends one image after
the other, in binary (FP32) or as JSON. One client asks for ``/v2/health/live`` as well, which takes all but the
inference: the p50 of both beside each other, in the median round, says what the inference adds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from serve_load import closed_loop, request

from tfhalf.artifacts.version import find_version

LIVE = b"GET /v2/health/live HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"


def start(checkout: Path, version: Path) -> tuple[subprocess.Popen[str], int]:
    """The server of a checkout, and its port."""
    command = [sys.executable, "-m", "tfhalf", "serve", str(version.parent), "--port", "0", "--no-access-log"]
    server = subprocess.Popen(command, cwd=checkout, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    for line in server.stdout:
        if line.startswith("ready"):
            return server, int(re.findall(r":(\d+)", line)[-1])
    raise SystemExit(f"the server of {checkout} did not start")


def json_request(url: str, name: str, x: np.ndarray) -> bytes:
    """The bytes of an inference request in JSON."""
    tensor = {"name": "image", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().round(3).tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = f"POST /v2/models/{name}/infer HTTP/1.1\r\nhost: {url}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def cpu_seconds(pid: int) -> float:
    """CPU time of a process until now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, and print a line for each kind of request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("export", type=Path)
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--seconds", type=float, default=0.6)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--kinds", default="binary,json")
    args = parser.parse_args()
    version = find_version(args.export).resolve()
    manifest = json.loads((version / "manifest.json").read_text())
    image = np.random.default_rng(1).uniform(0, 255, (1, *manifest["inputs"][0]["shape"][1:])).astype(np.float32)
    name = version.parent.name
    requests = {"binary": request("127.0.0.1", name, image, "FP32"), "json": json_request("127.0.0.1", name, image)}
    servers = [start(checkout, version) for checkout in (args.before.resolve(), args.after.resolve())]
    try:
        for kind in args.kinds.split(","):
            _compare(kind, servers, requests[kind], args)
    finally:
        for server, _ in servers:
            server.send_signal(signal.SIGTERM)
            server.wait(60)


def _compare(
    kind: str, servers: list[tuple[subprocess.Popen[str], int]], data: bytes, args: argparse.Namespace
) -> None:
    for _, port in servers:
        asyncio.run(closed_loop(port, data, args.clients, 2.0))
    ratios, cpu = [], [0.0, 0.0]
    times: list[list[float]] = [[], []]
    over_live: list[list[float]] = [[], []]
    for number in range(args.rounds):
        rates = [0.0, 0.0]
        for side in (0, 1) if number % 2 else (1, 0):
            server, port = servers[side]
            began, used = time.perf_counter(), cpu_seconds(server.pid)
            answers = asyncio.run(closed_loop(port, data, args.clients, args.seconds))
            rates[side] = len(answers) / (time.perf_counter() - began)
            cpu[side] += cpu_seconds(server.pid) - used
            times[side] += answers
            if args.clients == 1:
                live = asyncio.run(closed_loop(port, LIVE, 1, args.seconds))
                over_live[side].append(statistics.median(answers) / statistics.median(live))
        ratios.append(rates[1] / rates[0])
    low, middle, high = statistics.quantiles(ratios, n=4)
    each = [seconds / len(answers) * 1e6 for seconds, answers in zip(cpu, times, strict=True)]
    print(
        f"{kind:7} {args.clients} clients: requests/s after/before {middle:.3f} (quartiles {low:.3f} to {high:.3f}); "
        f"CPU a request {each[0]:.0f} and {each[1]:.0f} us, {each[1] / each[0]:.3f}"
    )
    for name, answers in zip(("before", "after"), times, strict=True):
        parts = statistics.quantiles(answers, n=100)
        rate = len(answers) / args.seconds / args.rounds
        print(f"        {name:6} {rate:6.0f} requests/s, p50 {parts[49] * 1e6:6.0f} us, p99 {parts[98] * 1e6:6.0f} us")
    if args.clients == 1:
        before, after = (statistics.median(side) for side in over_live)
        print(f"        p50 over that of /v2/health/live: {before:.2f} before, {after:.2f} after")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
