"""Inputs of an exported model with the float32 model's answers to them, which lie beside its artifacts.

So an export of any model can be judged by a process that has nothing of the model, for as long as the version is there.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts.formats import FILES
from tfhalf.errors import ArtifactError, UnsupportedError
from tfhalf.progress import Progress, duration
from tfhalf.runtimes.base import Arrays
from tfhalf.runtimes.child import lacking
from tfhalf.runtimes.open import SECOND, open_predictor
from tfhalf.system.npz import read_npz
from tfhalf.text import one_line
from tfhalf.verify.compare import TYPICAL, Limits, SampleComparison, edge_mask, for_int8, judge
from tfhalf.verify.other_sizes import Sized, from_arrays, run_sizes, sizes_line, to_arrays
from tfhalf.verify.reference import Verified

SAMPLES = "samples.npz"
_KINDS = "kinds"
BATCH = 8
EXACT_SECONDS = 60.0
"""No further sample is run in true float16 after so long."""


@dataclass(frozen=True)
class Samples:
    """``inputs`` and ``outputs`` by name, each [N, ...]; outputs are the float32 model's.

    ``kinds``: of each row, ``drawn`` or ``given``, or the name of an edge; usual rows come first. Empty in versions
    that were published without edge rows. ``other_sizes``: a few more, by what their size is called.
    """

    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    kinds: tuple[str, ...] = ()
    other_sizes: Mapping[str, Sized] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """N."""
        return len(next(iter(self.inputs.values())))

    def save(self, directory: Path) -> None:
        """Write ``samples.npz``."""
        arrays = {f"in/{name}": x for name, x in self.inputs.items()}
        arrays |= {f"out/{name}": x for name, x in self.outputs.items()}
        arrays |= {_KINDS: np.array(self.kinds)} if self.kinds else {}
        arrays |= to_arrays(self.other_sizes)
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
        taken, answers = (
            {name[len(p) :]: x for name, x in arrays.items() if name.startswith(p)} for p in ("in/", "out/")
        )
        kinds = arrays.get(_KINDS, np.array([], str))
        found = cls(taken, answers, tuple(map(str, kinds.reshape(-1))))
        counts = {x.shape[0] if x.ndim else 0 for x in (*found.inputs.values(), *found.outputs.values())}
        counts |= {len(found.kinds)} if found.kinds else set()
        if not found.inputs or not found.outputs or len(counts) != 1 or 0 in counts or kinds.dtype.kind != "U":
            raise ArtifactError(f"{path}: holds no samples; export again")
        try:
            return replace(found, other_sizes=from_arrays(arrays, Sized(taken, answers)))
        except ValueError as error:
            raise ArtifactError(f"{path}: {error}; it is damaged, export again") from None


def true_float16_rows(kinds: Sequence[str], count: int, limits: Limits, batch: int = 1) -> np.ndarray:
    """The rows that ONNX is compared on in true float16 arithmetic, which is slow: the first few usual ones, and every
    edge row. In whole batches; int64."""
    edge = edge_mask(kinds) if kinds else np.zeros(count, bool)
    usual = np.flatnonzero(~edge)[: max(batch, limits.true_float16_samples)]
    return np.concatenate([usual, np.flatnonzero(edge)])


def basis(facts: Mapping[str, Any]) -> str:
    """In one line, what a comparison rests on; ``facts`` are the manifest's ``samples``."""
    edges: Mapping[str, int] = facts.get("edges") or {}
    count, edge = facts["count"], sum(edges.values())
    rows = f"{edge} edge row{'s' * (edge != 1)} ({', '.join(edges)})"
    if facts.get("origin") == "given":
        return f"given: {count - edge:,} of {facts.get('file')}" + (f" and {rows}, judged apart" if edge else "")
    return f"drawn: {count:,} samples" + (f", of which {rows} are judged apart" if edge else "")


def _lines(samples: Samples, manifest: Mapping[str, Any], comparisons: Sequence[SampleComparison]) -> tuple[str, ...]:
    """What the comparisons of a published version rest on: the samples that lie in it, and those of other sizes."""
    edges = Counter(kind for kind in samples.kinds if kind not in TYPICAL)
    facts = {key: str(manifest["samples"].get(key))[:100] for key in ("origin", "file")}
    shapes = {size: {name: x.shape[1:] for name, x in one.inputs.items()} for size, one in samples.other_sizes.items()}
    return (basis({**facts, "count": samples.count, "edges": edges}), *sizes_line(shapes, comparisons))


def run(
    predictor: Callable[[Arrays], Arrays],
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


def verify_samples(directory: Path, progress: Progress) -> Verified[SampleComparison]:
    """Run every artifact of an exported model over its samples, in this process.

    ONNX is run twice: by onnxruntime over all of them, and on some in true float16 arithmetic, since CPU runtimes
    upcast and so hide overflow (left out where onnxruntime computes on a GPU); and by OpenVINO where it is installed.
    What these two do not open or run is not covered by them, and is told so. An int8 variant has limits of its own
    (`compare.for_int8`). Where sizes are open, a few samples of others follow.

    Raises:
        IntegrityError: a file is not the published one.
        ArtifactError: the directory is damaged, or an artifact does not open or run in its own runtime.
    """
    manifest = manifests.read(directory, kind="model")
    manifests.check_files(directory, manifest)
    samples = Samples.load(directory)
    told = manifest["config"]["verify"]
    limits = Limits(**{one.name: told[one.name] for one in fields(Limits)})
    classes = [output["name"] for output in manifest["outputs"] if output.get("classes")]
    fixed = manifest["inputs"][0]["shape"][0]
    batch = fixed if isinstance(fixed, int) else BATCH
    stop = threading.Event()

    def judged(artifact: str, runtime: str, exact: bool) -> SampleComparison:
        start = time.perf_counter()
        try:
            return compared(artifact, runtime, exact, start)
        except UnsupportedError as error:
            if runtime not in SECOND:
                raise
            seconds = time.perf_counter() - start
            return SampleComparison(artifact, SECOND[runtime], 0, (), seconds, not_covered=error.reason)

    def compared(artifact: str, runtime: str, exact: bool, start: float) -> SampleComparison:
        predictor = open_predictor(directory, runtime)
        size = 1 if exact and batch == BATCH else batch
        rows = np.arange(samples.count)
        if exact:
            rows = true_float16_rows(samples.kinds, samples.count, limits, size)
        inputs = {name: x[rows] for name, x in samples.inputs.items()}
        try:
            got = run(predictor, inputs, size, stop, EXACT_SECONDS if exact else None, f"verify {artifact}", progress)
            rows = rows[: len(next(iter(got.values())))] if exact else rows
            kinds = [samples.kinds[row] for row in rows] if samples.kinds else []
            own = for_int8(limits) if runtime == "litert-int8" else limits
            outputs = judge({name: y[rows] for name, y in samples.outputs.items()}, got, classes, own, kinds)
        except (ArtifactError, CancelledError):
            raise
        except Exception as error:  # three libraries, each with exceptions of its own
            why = one_line(error)
            raise ArtifactError(f"{artifact}: opens and does not run ({predictor.about}): {why}") from error
        edges = int(edge_mask(kinds).sum())
        label = f"{artifact}, first {len(rows) - edges}" if exact else artifact
        late = exact and time.perf_counter() - start > EXACT_SECONDS
        sizes = () if late else run_sizes(predictor, runtime, samples.other_sizes, own)
        seconds = time.perf_counter() - start
        return SampleComparison(label, predictor.about, len(rows), outputs, seconds, edges, other_sizes=sizes)

    tasks: list[tuple[str, str, bool]] = []
    for kind in manifest["config"]["export"]["formats"]:
        if kind not in FILES:
            raise ArtifactError(f"{directory}: holds the format {kind[:40]!r}; known are {', '.join(FILES)}")
        tasks.append((kind, kind, False))
        if kind == "onnx" and not lacking("openvino"):
            tasks.append((f"{kind}, OpenVINO", "onnx-openvino", False))
        if kind == "onnx" and limits.true_float16_samples:
            tasks.append((kind, "onnx-float16", True))
    found: list[Future[SampleComparison]] = []
    with ThreadPoolExecutor(max_workers=3) as pool:
        try:
            found = [pool.submit(judged, *task) for task in tasks]
            comparisons = [one.result() for one in found]
        finally:
            stop.set()  # after a failure or Ctrl-C the others end with their batch
    progress.clear()
    return Verified(comparisons, _lines(samples, manifest, comparisons))
