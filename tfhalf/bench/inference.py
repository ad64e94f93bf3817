"""How fast an export answers in one runtime, measured in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfhalf.artifacts.manifest import open_version
from tfhalf.bench import inputs
from tfhalf.bench.results import Cell, Inference
from tfhalf.bench.runtimes import ALONE, RUNTIMES, Timed, missing, open_runtime
from tfhalf.bench.watch import Stages
from tfhalf.errors import ArtifactError, UnsupportedError
from tfhalf.system.device import cpu, detect, grow_memory
from tfhalf.system.tensorflow import import_tensorflow

CALLS = 30  # a cell holds at least so many, unless they take far too long
_WARM_UP_CALLS = 3
_OVERRUN = 5.0


def measure(*, directory: str, runtime: str, batch_sizes: Sequence[int], seconds: float, stages: Stages) -> Inference:
    """Time the version ``directory`` in ``runtime`` at each of ``batch_sizes`` for about ``seconds``.

    One call is made at a time, from arrays on the host to answers on the host. A batch size that fails ends the
    row with an error; the smaller ones stay.

    Raises:
        ArtifactError, IntegrityError: the files are damaged, or do not open.
        DataError: a batch would take more memory than there is.
    """
    version = open_version(Path(directory))
    where = version.directory
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
        predictor = open_runtime(where, runtime)
    except ArtifactError as error:
        # A GPU is no must, nor is that OpenVINO knows every operator.
        if runtime != "onnx-cuda" and not (runtime == "openvino" and isinstance(error, UnsupportedError)):
            raise
        return Inference(runtime, name, device.describe(), (), note=f"not available: {error}")
    cells: list[Cell] = []
    failed = ""
    stages.stage("measuring")
    for size in sorted(batch_sizes):
        stages.status(f"batch {size}")
        x = inputs.batch(version, size)
        try:
            cells.append(_cell(predictor, x, seconds))
        except Exception as error:  # noqa: BLE001  # what a library says of a batch too large: the row tells it
            text = " ".join(str(error).split())[:160]
            failed = f"batch {size}: {type(error).__name__}: {text}; leave it out of --batch-sizes"
            break
    settings = getattr(predictor, "settings", "")  # of the runtimes that have some
    return Inference(runtime, predictor.runtime, device.describe(), tuple(cells), note=settings, error=failed)


def _cell(predictor: Timed, x: dict[str, np.ndarray], seconds: float) -> Cell:
    start = time.perf_counter()
    for _ in range(_WARM_UP_CALLS):
        predictor(x)
        if time.perf_counter() - start > seconds:
            break
    warm = time.perf_counter() - start
    times: list[float] = []
    start = time.perf_counter()
    while True:
        began = time.perf_counter()
        predictor(x)
        now = time.perf_counter()
        times.append(now - began)
        if now - start > (seconds if len(times) >= CALLS else _OVERRUN * seconds):
            break
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    rows = len(next(iter(x.values())))
    return Cell(rows, len(times), float(p50), float(p99), rows * len(times) / (now - start), warm)
