"""Inputs of an exported model with the float32 model's answers to them, which lie beside its artifacts.

So an export of any model can be judged by a process that has nothing of the model, for as long as the version is there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf.errors import ArtifactError
from tfhalf.export import manifest as manifests
from tfhalf.isolated import lacking
from tfhalf.npz import read_npz
from tfhalf.parity import Limits, SampleComparison, for_int8, judge
from tfhalf.progress import Progress, duration
from tfhalf.runtime import FORMATS, NamedPredictor, open_predictor
from tfhalf.text import one_line

SAMPLES = "samples.npz"
BATCH = 8
EXACT_SECONDS = 60.0
"""No further sample is run in true float16 after so long."""


@dataclass(frozen=True)
class Samples:
    """``inputs`` and ``outputs`` by name, each [N, ...]; outputs are the float32 model's."""

    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]

    @property
    def count(self) -> int:
        """N."""
        return len(next(iter(self.inputs.values())))

    def save(self, directory: Path) -> None:
        """Write ``samples.npz``."""
        arrays = {f"in/{name}": x for name, x in self.inputs.items()}
        arrays |= {f"out/{name}": x for name, x in self.outputs.items()}
        np.savez_compressed(directory / SAMPLES, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, directory: Path) -> Samples:
        """Read ``samples.npz``.

        Raises:
            ArtifactError: it is missing or unreadable.
        """
        path = directory / SAMPLES
        try:
            arrays = read_npz(path)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{path}: cannot be read: {one_line(error)}; export again") from None
        parts = ({name[len(p) :]: x for name, x in arrays.items() if name.startswith(p)} for p in ("in/", "out/"))
        found = cls(*parts)
        counts = {x.shape[0] if x.ndim else 0 for x in (*found.inputs.values(), *found.outputs.values())}
        if not found.inputs or not found.outputs or len(counts) != 1 or 0 in counts:
            raise ArtifactError(f"{path}: holds no samples; export again")
        return found


def run(
    predictor: NamedPredictor,
    inputs: Mapping[str, np.ndarray],
    batch: int,
    stop: threading.Event | None = None,
    seconds: float | None = None,
    told: str = "",
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """A predictor's answers in batches of ``batch``; after ``seconds``, to as many samples as it has then answered.

    Raises:
        CancelledError: ``stop`` was set; looked at before each batch.
    """
    start = time.perf_counter()
    count = len(next(iter(inputs.values())))
    parts: list[dict[str, np.ndarray]] = []
    for begin in range(0, count, batch):
        if stop is not None and stop.is_set():
            raise CancelledError
        parts.append(predictor({name: x[begin : begin + batch] for name, x in inputs.items()}))
        passed, done = time.perf_counter() - start, min(begin + batch, count)
        if progress is not None:
            progress.status(f"{told}: {done:,} of {count:,}, {duration(passed / done * (count - done))} left")
        if seconds is not None and passed > seconds:
            break
    return {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}


def verify_samples(directory: Path, progress: Progress) -> list[SampleComparison]:
    """Run every artifact of an exported model over its samples, in this process.

    ONNX is run twice: by onnxruntime over all of them, and on some in true float16 arithmetic, since CPU runtimes
    upcast and so hide overflow (left out where onnxruntime computes on a GPU); and by OpenVINO where it is installed.
    An int8 variant has limits of its own (`parity.for_int8`).

    Raises:
        IntegrityError: a file is not the published one.
        ArtifactError: the directory is damaged, or an artifact does not open or run.
    """
    manifest = manifests.read(directory, kind="model")
    manifests.check_files(directory, manifest)
    samples = Samples.load(directory)
    told = manifest["config"]["verify"]
    limits = Limits(**{field.name: told[field.name] for field in fields(Limits)})
    classes = [output["name"] for output in manifest["outputs"] if output.get("classes")]
    fixed = manifest["inputs"][0]["shape"][0]
    batch = fixed if isinstance(fixed, int) else BATCH
    stop = threading.Event()

    def judged(artifact: str, runtime: str, exact: bool) -> SampleComparison:
        start = time.perf_counter()
        predictor = open_predictor(directory, runtime)
        size = 1 if exact and batch == BATCH else batch
        n = min(samples.count, max(size, limits.true_float16_samples)) if exact else samples.count
        inputs = {name: x[:n] for name, x in samples.inputs.items()}
        try:
            got = run(predictor, inputs, size, stop, EXACT_SECONDS if exact else None, f"verify {artifact}", progress)
            n = len(next(iter(got.values()))) if exact else n
            own = for_int8(limits) if runtime == "litert-int8" else limits
            outputs = judge({name: y[:n] for name, y in samples.outputs.items()}, got, classes, own)
        except (ArtifactError, CancelledError):
            raise
        except Exception as error:  # three libraries, each with exceptions of its own
            why = one_line(error)
            raise ArtifactError(f"{artifact}: opens and does not run ({predictor.runtime}): {why}") from error
        label = f"{artifact}, first {n}" if exact else artifact
        return SampleComparison(label, predictor.runtime, n, outputs, time.perf_counter() - start)

    tasks: list[tuple[str, str, bool]] = []
    for kind in manifest["config"]["export"]["formats"]:
        if kind not in FORMATS:
            raise ArtifactError(f"{directory}: holds the format {kind[:40]!r}; known are {', '.join(FORMATS)}")
        tasks.append((kind, kind, False))
        if kind == "onnx" and not lacking("openvino"):
            tasks.append((f"{kind}, OpenVINO", "onnx-openvino", False))
        if kind == "onnx" and limits.true_float16_samples:
            tasks.append((kind, "onnx-float16", True))
    found: list[Future[SampleComparison]] = []
    with ThreadPoolExecutor(max_workers=3) as pool:
        try:
            found = [pool.submit(judged, *task) for task in tasks]
            comparisons: list[Any] = [one.result() for one in found]
        finally:
            stop.set()  # after a failure or Ctrl-C the others end with their batch
    progress.clear()
    return comparisons
