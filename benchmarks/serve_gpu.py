"""`tfhalf serve` on a GPU: accuracy over HTTP, rate and latency under load, and the memory that it takes there.

    python benchmarks/serve_gpu.py exports/cifar10 cifar10.npz --serve "--runtime onnx" --serve "--runtime savedmodel"

Each ``--serve`` is a server of its own, one after the other. The test images are sent by fifty as binary float32, then
single ones by so many clients at once, which several processes hold (one cannot send as fast as the server answers).
``bare`` is onnxruntime alone on CUDA in a loop, from and to host memory, with as many images as there are clients: what
no server can reach. The memory is what the GPU reports more than before the server was started. Whatever the server
wrote to stderr is counted, and its first lines are printed. The data file comes from `cifar10_npz.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import re
import signal
import subprocess
import tempfile
import time
import urllib.request
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from serve_load import bare, closed_loop, request, start_server

from tfhalf.artifacts.version import find_version
from tfhalf.runtimes.onnx_providers import onnx_providers

_FIFTY = 50


def gpu_memory() -> int:
    """MiB that are taken on the first GPU."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def load(port: int, data: bytes, clients: int, seconds: float) -> list[float]:
    """The latencies that one process of clients sees."""
    return asyncio.run(closed_loop(port, data, clients, seconds))


def by_fifty(port: int, name: str, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Accuracy over all images, and images a second, of one client."""
    right, began = 0, time.perf_counter()
    for at in range(0, len(x), _FIFTY):
        head, _, body = request("x", name, x[at : at + _FIFTY], "FP32").partition(b"\r\n\r\n")
        length = re.search(rb"inference-header-content-length: (\d+)", head)
        assert length is not None
        headers = {"Inference-Header-Content-Length": length[1].decode(), "Content-Type": "application/octet-stream"}
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/v2/models/{name}/infer", body, headers)
        with urllib.request.urlopen(asked, timeout=60) as answer:
            size = int(answer.headers["Inference-Header-Content-Length"])
            probabilities = np.frombuffer(answer.read()[size:], np.float32).reshape(-1, y.max() + 1)
        right += int((probabilities.argmax(1) == y[at : at + _FIFTY]).sum())
    return right / len(x), len(x) / (time.perf_counter() - began)


def measure(
    args: argparse.Namespace, version: Path, options: str, x: np.ndarray, y: np.ndarray
) -> list[dict[str, Any]]:
    """A row for each number of clients."""
    print(f"tfhalf serve {options}", flush=True)
    name, before = version.parent.name, gpu_memory()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryFile() as errors:
        server, port = start_server(version, options, errors)
        try:
            warm = gpu_memory() - before
            accuracy, rate = by_fifty(port, name, x, y)
            print(f"  {accuracy:.2%} of {len(x):,} images; by fifty {rate:,.0f} images/s", flush=True)
            data = request("127.0.0.1", name, x[:1], "FP32")
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(args.processes, mp_context=spawn) as pool:
                for clients in args.clients:
                    shares = [part for part in _shares(clients, args.processes) if part]
                    for seconds in (1.0, args.seconds):  # the first one warms up
                        began = time.perf_counter()
                        parts = list(pool.map(load, *zip(*((port, data, n, seconds) for n in shares), strict=True)))
                        took = time.perf_counter() - began
                    times = sorted(latency for part in parts for latency in part)
                    p50, p99 = times[len(times) // 2] * 1e3, times[int(len(times) * 0.99)] * 1e3
                    row = {"serve": options, "clients": clients, "images_s": len(times) / took, "p50": p50, "p99": p99}
                    row |= {"accuracy": accuracy, "by_fifty": rate, "MiB": warm, "MiB_after": gpu_memory() - before}
                    rows.append(row)
        finally:
            server.send_signal(signal.SIGTERM)
            code = server.wait(60)
        errors.seek(0)
        said = errors.read().decode(errors="replace").splitlines()
    print(f"  exit code {code}; {len(said)} lines on stderr", *(f"\n    {line[:160]}" for line in said[:5]), flush=True)
    return rows


def _shares(clients: int, processes: int) -> list[int]:
    return [clients // processes + (k < clients % processes) for k in range(processes)]


def main() -> None:
    """Measure each server, then onnxruntime alone, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--serve", action="append", default=[], metavar="OPTIONS", help="a server to measure")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 32, 64])
    parser.add_argument("--processes", type=int, default=4, help="that hold the clients")
    parser.add_argument("--seconds", type=float, default=4.0)
    args = parser.parse_args()
    version = find_version(args.export)
    with np.load(args.data) as data:
        x, y = data["x_test"], data["y_test"]
    rows = [row for options in args.serve or [""] for row in measure(args, version, options, x, y)]
    path, providers = version / "model.onnx", onnx_providers("CUDA")  # which loads CUDA's libraries
    alone = {
        n: bare(path, x[:n].astype(np.float32), 2.0, providers[0]) if providers else float("nan") for n in args.clients
    }
    print(f"\n{'tfhalf serve':<34} {'clients':>7} {'images/s':>9} {'p50 ms':>7} {'p99 ms':>7} {'bare':>8} {'MiB':>6}")
    for row in rows:
        cells = f"{row['serve']:<34} {row['clients']:7} {row['images_s']:9,.0f} {row['p50']:7.2f} {row['p99']:7.2f}"
        print(f"{cells} {alone[row['clients']]:8,.0f} {row['MiB_after']:6,}")
    print(json.dumps({"rows": rows, "bare": alone}))


if __name__ == "__main__":
    main()
