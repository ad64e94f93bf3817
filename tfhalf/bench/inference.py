"""How fast an export answers in one runtime, measured in this process."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf.artifacts import manifest as manifests
from tfhalf.bench.results import Cell, Inference
from tfhalf.bench.runtimes import ALONE, RUNTIMES, missing, open_to_measure
from tfhalf.bench.watch import Stages
from tfhalf.data import memory
from tfhalf.errors import ArtifactError, UnavailableError, UnsupportedError
from tfhalf.runtimes.base import Arrays, Runtime, by_name
from tfhalf.system.device import cpu, detect, grow_memory
from tfhalf.system.tensorflow import import_tensorflow

CALLS = 30  # a cell holds at least so many, unless they take far too long
_WARM_UP_CALLS = 3
MAX_VALUES = 1 << 26  # of one image
_OVERRUN = 5.0
# Sources whose images hold 0 to 255.
_IMAGES = ("tfds:", "folder:", "sklearn:", "synthetic:")


def measure(*, directory: str, runtime: str, batch_sizes: Sequence[int], seconds: float, stages: Stages) -> Inference:
    """Time the version ``directory`` in ``runtime`` at each of ``batch_sizes`` for about ``seconds``.

    One call is made at a time, from float32 images on the host to answers on the host. A batch size that fails ends the
    row with an error; the smaller ones stay.

    Raises:
        ArtifactError, IntegrityError: the files are damaged, or do not open.
        DataError: a batch would take more memory than there is.
    """
    where = Path(directory)
    manifest = manifests.read(where)
    manifests.check_files(where, manifest)
    name = RUNTIMES[runtime][0]
    if lack := missing(where, runtime):
        return Inference(runtime, name, cpu().describe(), (), note=f"not available: {lack}")
    if runtime in ALONE:
        device = cpu()
    else:
        stages.stage("importing TensorFlow")
        import_tensorflow(without=("keras",))
        grow_memory()
        device = detect()
    stages.stage("opening the export")
    try:
        opened = open_to_measure(where, runtime)
    except ArtifactError as error:
        # A GPU is no must, nor is that OpenVINO knows every operator.
        unknown = runtime == "openvino" and isinstance(error, UnsupportedError)
        if not unknown and not isinstance(error, UnavailableError):
            raise
        return Inference(runtime, name, device.describe(), (), note=f"not available: {error}")
    cells: list[Cell] = []
    failed = ""
    stages.stage("measuring")
    for size in sorted(batch_sizes):
        stages.status(f"batch {size}")
        arrays = by_name(images(manifest, size), opened.inputs)
        try:
            cells.append(_cell(opened, arrays, seconds))
        except Exception as error:  # noqa: BLE001  # what a library says of a batch too large: the row tells it
            text = " ".join(str(error).split())[:160]
            failed = f"batch {size}: {type(error).__name__}: {text}; leave it out of --batch-sizes"
            break
    return Inference(runtime, opened.about, device.describe(), tuple(cells), note=opened.settings, error=failed)


def images(manifest: dict[str, Any], count: int) -> np.ndarray:
    """Random float32 [count, *input_shape] in the range of the training data, the same for the same arguments, none 0.

    Raises:
        ArtifactError: the manifest's shape is none.
        DataError: they would take more memory than there is.
    """
    shape = manifest["input"]["shape"][1:]
    open_ = not shape or not all(isinstance(side, int) and side > 0 for side in shape)
    if open_ or math.prod(shape) > MAX_VALUES:
        raise ArtifactError(f"manifest.json: input.shape is {manifest['input']['shape']}; it is damaged, export again")
    source, size = manifest["data"]["source"], (count, *shape)
    # Twice 8 bytes a value: numbers in float64, float32 ones, and a copy of those.
    memory.guard(16 * math.prod(size), source, "take a smaller batch (--batch-sizes)")
    random = np.random.default_rng(0)
    if source.startswith(_IMAGES):
        return random.integers(1, 256, size, np.uint8).astype(np.float32)
    low, high = _range(manifest)
    x = random.uniform(low, high, size).astype(np.float32)
    return np.where(x == 0, np.float32(high), x)


def _range(manifest: dict[str, Any]) -> tuple[float, float]:
    """One standard deviation about the mean of the training data, or above 0 where it was only scaled."""
    preprocess = manifest["data"].get("preprocess", {})
    mean, std = (float(np.mean(preprocess.get(key) or default)) for key, default in (("mean", [0.0]), ("std", [1.0])))
    return (mean - std, mean + std) if mean else (0.0, std)


def _cell(runtime: Runtime, arrays: Arrays, seconds: float) -> Cell:
    rows = len(next(iter(arrays.values())))
    start = time.perf_counter()
    for _ in range(_WARM_UP_CALLS):
        runtime(arrays)
        if time.perf_counter() - start > seconds:
            break
    warm = time.perf_counter() - start
    times: list[float] = []
    start = time.perf_counter()
    while True:
        began = time.perf_counter()
        runtime(arrays)
        now = time.perf_counter()
        times.append(now - began)
        if now - start > (seconds if len(times) >= CALLS else _OVERRUN * seconds):
            break
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    return Cell(rows, len(times), float(p50), float(p99), rows * len(times) / (now - start), warm)
