"""Small exports made without training, and the server in this process or as a process of its own."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import fork_server
import httpx
import numpy as np
import onnx
import uvicorn
from onnx import TensorProto, helper, numpy_helper

from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts.record import Manifest
from tfhalf.runtimes.base import Engine
from tfhalf.serve import create_app
from tfhalf.serve.http.uvicorn_protocol import protocol_class
from tfhalf.serve.log import Log
from tfhalf.serve.models.open import Opened, Source
from tfhalf.serve.settings import Limits, Settings

SHAPE = (4, 4, 3)
LABELS = ("cat", "dog", "frog")


def weights(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Float16 [values of an image, classes]."""
    return np.random.default_rng(seed).normal(0, 0.01, (int(np.prod(shape)), len(LABELS))).astype(np.float16)


def expected(x: np.ndarray, seed: int = 0) -> np.ndarray:
    """Probabilities of the model for x [N, H, W, C], computed in float32."""
    logits = x.reshape(len(x), -1).astype(np.float32) @ weights(seed, x.shape[1:]).astype(np.float32)
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def onnx_model(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> onnx.ModelProto:
    """A linear classifier with float16 weights and casts, float32 at its ends."""
    float32, half = TensorProto.FLOAT, TensorProto.FLOAT16
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["narrow"], to=half),
        helper.make_node("MatMul", ["narrow", "kernel"], ["product"]),
        helper.make_node("Cast", ["product"], ["logits"], to=float32),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, float32, ["batch", len(LABELS)]) for name in ("logits", "probabilities")
    ]
    start = [helper.make_tensor_value_info("image", float32, ["batch", *shape])]
    kernel = numpy_helper.from_array(weights(seed, shape), "kernel")
    graph = helper.make_graph(nodes, "test", start, ends, [kernel])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def hash_again(folder: Path) -> None:
    """Have the manifest of ``folder`` record the files as they are now."""
    manifests.write(folder, manifests.read(folder).model_copy(update={"files": manifests.file_hashes(folder)}))


def make_version(exports: Path, name: str, number: int, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Path:
    """``exports/name/number`` with a manifest; it appears whole."""
    folder = exports / name / f".staging-{number}"
    folder.mkdir(parents=True)
    onnx.save(onnx_model(seed, shape), str(folder / "model.onnx"))
    tensor = {"dtype": "float32", "shape": ["batch", len(LABELS)], "classes": True}
    record = "onnxruntime 1.23.0, CPU"
    comparison = {"artifact": "onnx", "runtime": record, "samples": 1, "outputs": [], "seconds": 0.1}
    facts = {
        "name": name,
        "created": "2026-01-01T00:00:00+00:00",
        "inputs": [{"name": "image", "dtype": "float32", "shape": ["batch", *shape]}],
        "outputs": [{"name": output, **tensor} for output in ("logits", "probabilities")],
        "labels": list(LABELS),
        "artifacts": [{"format": "onnx"}],
        "limits": {},
        "reference": {},
        "training": {"test_accuracy": 0.93, "policy": "mixed_float16"},
        "comparisons": [comparison],
    }
    manifests.write(folder, Manifest.read(facts))
    hash_again(folder)
    return folder.rename(exports / name / str(number))


IMAGE_NET = """
import keras
from keras import layers


def build():
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 5, 3), name="image")
    x = layers.Flatten()(layers.Conv2D(4, 3, activation="relu")(image))
    return keras.Model(image, layers.Dense(3, name="score")(x))
"""


def exported(folder: Path, net: str, name: str) -> Path:
    """``exports`` with version 1 of what ``build()`` in the source ``net`` gives, by the command."""
    (folder / "net.py").write_text(net)
    fork_server.run(folder, "export", "net.py:build", "--name", name, "-o", "exports", "-q").check_returncode()
    return folder / "exports"


class Counting:
    """A runtime for tests: sums its rows, after ``seconds`` a batch; keeps the sizes of its batches."""

    engine, about, settings = Engine("test", "CPU"), "test", ""
    inputs, outputs = ("image",), ("logits", "probabilities")
    batch_sizes: tuple[int, ...] | None = None

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.batches = seconds, list[int]()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs as the test model's, ``logits`` being sums of the row."""
        self.gate.wait(10)
        time.sleep(self.seconds)
        rows = feeds["image"].reshape(len(feeds["image"]), -1).sum(-1, dtype=np.float32)
        self.batches.append(len(rows))
        logits = np.repeat(rows[:, None], len(LABELS), 1)
        return {"logits": logits, "probabilities": logits}

    def open(self, source: Source, settings: Settings) -> Opened:
        """For `create_app(opener=...)`."""
        return Opened(self)

    def stop(self) -> None:
        """Nothing runs long."""

    def close(self) -> None:
        """It holds nothing."""


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine function to its end."""
    return asyncio.run(work())


@asynccontextmanager
async def client(settings: Settings, **parts: Any) -> AsyncIterator[httpx.AsyncClient]:
    """The app without sockets; ``client.app`` is the app, ``client.lines`` what it logged."""
    stream = io.StringIO()
    app = create_app(settings, log=Log(stream), **parts)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as found,
    ):
        found.app = app  # type: ignore[attr-defined]
        found.stream = stream  # type: ignore[attr-defined]
        yield found


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until ``true`` gives True."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


@contextmanager
def listening(exports: Path, runtime: Counting, limits: Limits, **more: Any) -> Iterator[tuple[int, Any]]:
    """Port and app: the app behind the server's own protocol, on a thread; ``app.state.stream`` is its log."""
    stream = io.StringIO()
    app = create_app(Settings((exports,), poll_seconds=0, limits=limits, **more), opener=runtime.open, log=Log(stream))
    app.state.stream = stream
    protocol = protocol_class(limits, app.state.access.refusal, app.state.access.rejection)
    server = uvicorn.Server(uvicorn.Config(app, http=protocol, port=0, ws="none", log_config=None, lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield server.servers[0].sockets[0].getsockname()[1], app
    finally:
        runtime.gate.set()
        server.should_exit = True
        thread.join(20)


def lines(found: httpx.AsyncClient) -> list[dict[str, Any]]:
    """What the server logged so far."""
    return [json.loads(line) for line in found.stream.getvalue().splitlines()]  # type: ignore[attr-defined]


def images(rows: int, shape: tuple[int, ...] = SHAPE, seed: int = 1) -> np.ndarray:
    """Float32 [rows, H, W, C], whole numbers 0 to 255, so that float16 and uint8 hold them exactly."""
    return np.random.default_rng(seed).integers(0, 256, (rows, *shape)).astype(np.float32)


def tensor(x: np.ndarray, datatype: str = "FP32") -> dict[str, Any]:
    """An input in JSON."""
    return {"name": "image", "shape": list(x.shape), "datatype": datatype, "data": x.reshape(-1).tolist()}


@contextmanager
def server(*arguments: object, **environment: str) -> Iterator[Served]:
    """`tfhalf serve` as a process of its own, on a free port; ended with SIGTERM, and its exit code held to be 0."""
    served = Served(*arguments, **environment)
    try:
        yield served
        assert served.stop() == 0, served.log()
    finally:
        served.kill()


class Served:
    """A running server."""

    def __init__(self, *arguments: object, **environment: str) -> None:
        command = [sys.executable, "-m", "tfhalf", "serve", *map(str, arguments)]
        if "--port" not in command:
            command += ["--port", "0"]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by kill
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._errors, text=True, env={**os.environ, **environment}
        )
        self.lines: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if line.startswith("ready"):
                break
        else:
            raise AssertionError(self.log())
        self.url = self.lines[-1].split()[1]
        self.address = self.url.partition("://")[2]

    @property
    def grpc(self) -> str:
        """Address of gRPC."""
        told = next(line for line in self.lines if line.startswith("grpc"))
        return f"127.0.0.1:{re.findall('[0-9]+', told)[-1]}"

    def stop(self, number: int = signal.SIGTERM, seconds: float = 30) -> int:
        """Signal the process and wait; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """Have no process left."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()

    def log(self) -> str:
        """What it wrote to standard error so far."""
        self._errors.flush()
        self._errors.seek(0)
        return self._errors.read()
