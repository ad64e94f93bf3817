"""What the tests of `tfhalf bench` share: calling it, a clock that is set, and results to tell of."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import fork_server
from click.testing import CliRunner, Result

from tfhalf.artifacts.manifest import Version
from tfhalf.artifacts.record import Manifest
from tfhalf.bench.results import Cell, Inference, InferenceBench, Training, TrainingBench
from tfhalf.bench.watch import Stages, Watch
from tfhalf.cli import main
from tfhalf.progress import Progress

CHECKOUT = Path(__file__).resolve().parent.parent
DIGITS = CHECKOUT / "pipelines" / "digits.yaml"


def call(*arguments: object) -> Result:
    """`tfhalf bench` in this process."""
    return CliRunner().invoke(main, ["bench", *map(str, arguments)], catch_exceptions=False)


def tfhalf(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`tfhalf bench` in a process of its own."""
    return fork_server.run(Path.cwd(), "bench", *arguments)


def refused(result: Result, code: int = 2) -> str:
    """One line on standard error and nothing on standard output; returns the message."""
    assert result.exit_code == code, (result.stdout, result.stderr)
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("error: ")
    return result.stderr.removeprefix("error: ").rstrip("\n")


def unheard() -> Stages:
    """Stages that nobody listens to."""
    return Stages(lambda line: None)


def unseen(name: str) -> Watch:
    """A watch over one row that says nothing."""
    watch = Watch(Progress(quiet=True), [name])
    watch.begin(name)
    return watch


class Clock:
    """Time that passes when it is told to; stands for the module ``time``."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter


FACTS: dict[str, Any] = {
    "name": "net",
    "inputs": [{"name": "image", "dtype": "float32", "shape": ["batch", 4, 4, 3]}],
    "outputs": [{"name": "probabilities", "dtype": "float32", "shape": ["batch", 10], "classes": True}],
    "artifacts": [{"format": "onnx"}],
    "limits": {},
    "reference": {"origin": "test set"},
    "data": {
        "source": "tfds:cifar10",
        "sizes": {"test": 100},
        "preprocess": {"mean": [100.0], "std": [50.0]},
    },
}


def version_of(**more: Any) -> Version:
    """A version of which only the manifest is there."""
    return Version(Path("exports/net/1"), Manifest.read({**FACTS, **more}))


ROW = Training(
    policy="float32",
    samples=(90.0, 100.0, 120.0),
    batch_size=20,
    steps=300,
    skipped=0,
    compile_seconds=12.3,
    memory_bytes=5_000_000,
    memory_of="GPU",
    flops_forward=4 * 10**11,
    flops_step=10**12,
    uncounted=(),
    matrix="float32 8192x8192, TF32",
    matrix_flops=25e12,
    device="NVIDIA H200, compute capability 9.0, 139.8 GiB, float16 Tensor Cores, 16 CPU cores",
    device_kind="GPU",
    emulated=False,
    model="../models/net.py:build",
    parameters=1_234_567,
    input_shape=(224, 224, 3),
    feed="resident: 1 MB",
    xla="XLA is on",
    source="synthetic:224x224x3",
    images=5120,
    image_bytes=770_703_360,
    normalised_by=1000,
)
HALF = replace(
    ROW, policy="mixed_float16", samples=(200.0, 250.0, 260.0), matrix="float16 8192x8192", matrix_flops=5e13
)
TRAINED = TrainingBench("net", {"repeats": 3, "seconds": 2.0}, {"python": "3.12"}, (HALF, ROW), ())
CELLS = (Cell(1, 100, 1.5, 2.5, 600.0, 0.4), Cell(8, 50, 3.0, 5.0, 2500.0, 0.1))
SERVED = InferenceBench(
    "exports/net/3",
    {"image": (8, 8, 1)},
    {"batch_sizes": [1, 8], "seconds": 2.0},
    {"python": "3.12"},
    (
        Inference("savedmodel", "TensorFlow", "AMD EPYC, 23.5 GiB, float16 emulated, 2 CPU cores", CELLS),
        Inference("onnx-cuda", "ONNX Runtime, CUDA", "AMD EPYC", (), note="not available: no CUDA here"),
    ),
    (),
)
