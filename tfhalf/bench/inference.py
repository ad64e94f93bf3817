"""How fast an export answers in one runtime, measured in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfhalf.artifacts.manifest import Version, read
from tfhalf.bench import inputs
from tfhalf.bench.results import Cell, Inference
from tfhalf.bench.runtimes import ALONE, RUNTIMES, missing, open_to_measure
from tfhalf.bench.watch import Stages
from tfhalf.errors import ArtifactError, UnavailableError, UnsupportedError
from tfhalf.runtimes.base import Arrays, Runtime
from tfhalf.system.device import cpu, detect, grow_memory
from tfhalf.system.tensorflow import import_tensorflow
from tfhalf.text import one_line

CALLS = 30  # a cell holds at least so many, unless they take far too long
_WARM_UP_CALLS = 3
_OVERRUN = 5.0


def measure(*, directory: str, runtime: str, batch_sizes: Sequence[int], seconds: float, stages: Stages) -> Inference:
    """Time the version ``directory``, whose files were checked, in ``runtime`` at each of ``batch_sizes`` for about
    ``seconds``.

    Calls run one at a time, from arrays on the host to answers on the host. A batch size that fails ends the
    row with an error; the smaller ones stay.

    Raises:
        ArtifactError: the files are damaged, or do not open.
        DataError: a batch would take more memory than there is.
    """
    where = Path(directory)
    version = Version(where, read(where))
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
        # Neither a GPU is needed, nor that OpenVINO knows every operator.
        unknown = runtime == "openvino" and isinstance(error, UnsupportedError)
        if not unknown and not isinstance(error, UnavailableError):
            raise
        return Inference(runtime, name, device.describe(), (), note=f"not available: {error}")
    cells: list[Cell] = []
    failed = ""
    stages.stage("measuring")
    for size in sorted(batch_sizes):
        stages.status(f"batch {size}")
        arrays = inputs.batch(version, size)
        try:
            cells.append(_cell(opened, arrays, seconds))
        except Exception as error:  # noqa: BLE001  # what a library says of a batch too large: the row tells it
            why = one_line(error, 160)
            failed = f"batch {size}: {type(error).__name__}: {why}; leave it out of --batch-sizes"
            break
    return Inference(runtime, opened.about, device.describe(), tuple(cells), note=opened.settings, error=failed)


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
