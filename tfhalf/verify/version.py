"""A version compared with the float32 model, by a process that has nothing of the training in it: `compare_version`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tfhalf.artifacts.comparison import Comparison, Limits, OutputParity
from tfhalf.artifacts.formats import Format
from tfhalf.artifacts.lookups import Lookups
from tfhalf.artifacts.manifest import Version
from tfhalf.artifacts.record import Manifest
from tfhalf.artifacts.reference import Arrays, Reference, basis_line, joined
from tfhalf.errors import ArtifactError, UnsupportedError
from tfhalf.progress import Progress, duration
from tfhalf.runtimes.child import lacking
from tfhalf.runtimes.open import SECOND, Predictor, open_predictor
from tfhalf.text import one_line
from tfhalf.verify.compare import compare_outputs
from tfhalf.verify.other_sizes import run_sizes, sizes_line
from tfhalf.verify.quality import measured, short_of
from tfhalf.verify.texts import compare_texts

BATCH = 8
"""Of a few samples; a test set goes in larger batches."""
_LARGEST_BATCH = 250
EXACT_SECONDS = 60.0
"""No further sample that lies in a version is run in true float16 after so long. A pipeline says itself how many."""


@dataclass(frozen=True)
class TestSet:
    """The inputs ``x`` [N, ...] of a version's one input, or by name, and targets ``y`` [N, ...], or by output."""

    __test__ = False  # it is not one of pytest's

    x: np.ndarray | Arrays
    y: np.ndarray | Arrays


@dataclass(frozen=True)
class Verified:
    """What verifying a version gives: the comparisons, and in ``lines`` what they rest on, for people."""

    comparisons: list[Comparison]
    lines: tuple[str, ...]


def batches_of(count: int) -> int:
    """How many of ``count`` samples are run together: of a few little, so that a large net's activations fit."""
    return min(_LARGEST_BATCH, max(BATCH, count // BATCH))


def compare_version(version: Version, progress: Progress, test_set: TestSet | None = None) -> Verified:
    """Compare every artifact of ``version`` with the float32 model's answers beside it, in this process.

    ONNX is run twice: by onnxruntime over all samples, and on the first ``limits.true_float16_samples`` and the edge
    rows in true float16 arithmetic, since CPU runtimes upcast and so hide overflow (left out where onnxruntime computes
    on a GPU); and by OpenVINO where it is installed. What these two do not open or run is not covered by them, and is
    reported so. An int8 variant has limits of its own (`Limits.for_format`). Where sizes are open, a few samples of
    others follow. Where callers may send texts, a SavedModel's answers to some are compared with its answers to the
    numbers of their words.

    Args:
        test_set: the inputs, where the version has a digest of them instead.

    Raises:
        ArtifactError: the reference is damaged, an artifact does not open or run in its own runtime, or the test set is
            not that of the export.
    """
    directory, manifest = version.directory, version.manifest
    reference = _with_inputs(directory, manifest, Reference.load(directory), test_set)
    lookups = Lookups.read(directory)
    lookups.check(manifest.inputs, directory)
    work = _Work(directory, manifest, reference, progress)
    # Beside each other: all compute outside of Python, TensorFlow on a GPU where there is one, the others on the CPU.
    with ThreadPoolExecutor(max_workers=3) as pool:
        try:
            futures: list[Future[Comparison]] = [pool.submit(work.compare, task) for task in work.tasks()]
            comparisons = [one.result() for one in futures]
        finally:
            work.stop.set()  # after a failure or Ctrl-C the others end with their batch
    if lookups.by_input and any(kind.container == "savedmodel" for kind in manifest.formats):
        comparisons.append(compare_texts(directory, manifest, lookups, reference))
    progress.clear()
    shapes = {
        size: {name: x.shape[1:] for name, x in one.inputs.items()} for size, one in reference.other_sizes.items()
    }
    return Verified(comparisons, (basis_line(reference.basis(manifest.reference)), *sizes_line(shapes, comparisons)))


def _with_inputs(directory: Path, manifest: Manifest, reference: Reference, test_set: TestSet | None) -> Reference:
    """The reference with its inputs, and such as the manifest's ports are.

    Raises:
        ArtifactError: they are not to be had, or do not go together.
    """
    if reference.digest:
        if test_set is None:
            raise ArtifactError(f"{directory}: the inputs that it is compared on do not lie in it; give its test set")
        x = test_set.x if isinstance(test_set.x, dict) else {manifest.inputs[0].name: test_set.x}
        known = reference.with_test_set(x, test_set.y)
        if known is None:
            source = manifest.data.source if manifest.data else "a test set"
            raise ArtifactError(
                f"{directory}: was made with another test set ({reference.usual.count:,} samples, {source}); verify "
                "with the same data"
            )
        reference = known
    inputs, outputs = ({port.name for port in ports} for ports in (manifest.inputs, manifest.outputs))
    parts = [reference.usual, *([reference.edges] if reference.edge_kinds else [])]
    for samples in parts:
        if set(samples.inputs) != inputs or not set(samples.outputs) <= outputs:
            names = ", ".join(sorted(samples.inputs))
            raise ArtifactError(f"{directory}: its reference has the inputs {names}; its manifest has others")
    return reference


@dataclass(frozen=True)
class _Task:
    """An artifact of the format ``kind`` to compare: its ``label``, the ``runtime`` that opens it, or what is
    ``opened``; ``exact``: in true float16 arithmetic, so on a part of the samples."""

    kind: Format
    label: str
    runtime: str
    exact: bool = False
    opened: Predictor | None = None


@dataclass(frozen=True)
class _Work:
    """The comparisons of one version."""

    directory: Path
    manifest: Manifest
    reference: Reference
    progress: Progress
    stop: threading.Event = field(default_factory=threading.Event)

    def tasks(self) -> Iterator[_Task]:
        """Each format in each runtime that it is compared in, as far as that is here."""
        for kind in self.manifest.formats:
            first = open_predictor(self.directory, kind.name) if kind.container == "onnx" else None
            for runtime in kind.runtimes:
                if runtime == "onnx-openvino" and not lacking("openvino"):
                    yield _Task(kind, f"{kind.name}, OpenVINO", runtime)
                elif runtime == "onnx-float16":
                    on_gpu = first is not None and first.engine.device == "CUDA"
                    if self.manifest.limits.true_float16_samples and not on_gpu:
                        yield _Task(kind, kind.name, runtime, exact=True)
                elif runtime == kind.runtimes[0]:
                    yield _Task(kind, kind.name, runtime, opened=first)

    def compare(self, task: _Task) -> Comparison:
        """The comparison; of a second runtime also that it does not cover the artifact."""
        start = time.perf_counter()
        try:
            return self._compared(task, start)
        except UnsupportedError as error:
            if task.runtime not in SECOND:
                raise
            seconds = time.perf_counter() - start
            return Comparison(task.label, SECOND[task.runtime], 0, (), seconds, not_covered=error.reason)

    def _compared(self, task: _Task, start: float) -> Comparison:
        predictor = task.opened or open_predictor(self.directory, task.runtime)
        limits = self.manifest.limits.for_format(task.kind)
        try:
            got, usual, edges = self._answers(predictor, task)
            outputs = compare_rows(self.manifest, self.reference, got, usual, edges, limits)
        except (ArtifactError, CancelledError):
            raise
        except Exception as error:  # three libraries, each with exceptions of its own
            why = one_line(error)
            raise ArtifactError(f"{task.label}: opens and does not run ({predictor.about}): {why}") from error
        late = task.exact and time.perf_counter() - start > EXACT_SECONDS
        sizes = () if late else run_sizes(predictor, task.kind, task.runtime, self.reference, limits)
        label = f"{task.label}, first {usual}" if task.exact else task.label
        seconds = time.perf_counter() - start
        return Comparison(label, predictor.about, usual + edges, outputs, seconds, edges, other_sizes=sizes)

    def _answers(self, predictor: Predictor, task: _Task) -> tuple[Arrays, int, int]:
        """An artifact's answers, and to how many usual samples and edge rows; in true float16 while there is time."""
        reference, fixed, count = self.reference, self.manifest.batch, self.reference.usual.count
        size, until = fixed or batches_of(count), None
        if task.exact:
            few = self.manifest.limits.true_float16_samples
            count = min(count, -(-few // fixed) * fixed if fixed else few)
            size = fixed or max(1, size // BATCH)
            until = time.perf_counter() + EXACT_SECONDS if reference.labels is None else None
        dtypes = self.manifest.input_dtypes
        whole = predictor.engine.device != "CPU"
        batches = Batches(predictor, size, dtypes, whole, self.stop, until, f"verify {task.label}", self.progress)
        usual = {name: x[:count] for name, x in reference.usual.inputs.items()}
        got, done = batches.run(usual)
        late = until is not None and time.perf_counter() > until
        edges, rows = batches.run({} if late else reference.edges.inputs)
        return joined(got, edges), done, rows


def compare_rows(
    manifest: Manifest, reference: Reference, got: Arrays, usual: int, edges: int, limits: Limits
) -> tuple[OutputParity, ...]:
    """The answers ``got`` to the first ``usual`` samples, and behind them to the first ``edges`` edge rows, beside the
    float32 model's; all of its answers to usual samples set the scale.

    Raises:
        ArtifactError: the outputs have other names or shapes.
    """
    parts = ((reference.usual, usual), (reference.edges, edges))
    expected = joined(*({name: y[:rows] for name, y in part.outputs.items()} for part, rows in parts if rows))
    if set(got) == {port.name for port in manifest.outputs}:  # else `compare_outputs` says what is wrong
        got = {name: got[name] for name in expected}
    classes = [port.name for port in manifest.outputs if port.classes]
    kinds = (*["given"] * usual, *reference.edge_kinds[:edges])
    labels = None if reference.labels is None else reference.labels[:usual]
    outputs = compare_outputs(expected, got, classes, limits, kinds, labels, reference.usual.outputs)
    measured_ = (_of_task(one, manifest, reference, expected, got, usual, limits) for one in outputs)
    return tuple(short_of(one, manifest.tasks.get(one.name, {}), limits) for one in measured_)


def _of_task(
    output: OutputParity,
    manifest: Manifest,
    reference: Reference,
    expected: Arrays,
    got: Arrays,
    usual: int,
    limits: Limits,
) -> OutputParity:
    """``output`` with its task's metrics, where its targets are known."""
    name = output.name
    known = reference.targets.get(name, reference.labels)
    if known is None or name not in manifest.tasks or not usual:
        return output
    targets = known[:usual]
    return measured(output, manifest.tasks[name], targets, expected[name][:usual], got[name][:usual], limits)


@dataclass(frozen=True)
class Batches:
    """Inputs through a predictor in batches of ``size``, each cast to ``dtypes`` by input (text is not cast); until
    ``stop`` is set, or `time.perf_counter` is ``until``. ``whole``: the last one is filled up with its last row, as it
    should be on a GPU, where each size costs a choice of kernels."""

    predictor: Callable[[Arrays], Arrays]
    size: int
    dtypes: Mapping[str, str] = field(default_factory=dict)
    whole: bool = False
    stop: threading.Event | None = None
    until: float | None = None
    what: str = ""
    progress: Progress | None = None

    def run(self, inputs: Mapping[str, np.ndarray]) -> tuple[Arrays, int]:
        """The answers to ``inputs``, by name, each [N, ...], and how many of them were run; without inputs none.

        Raises:
            CancelledError: ``stop`` was set; looked at before each batch.
        """
        start = time.perf_counter()
        count, done = len(next(iter(inputs.values()), ())), 0
        parts: list[Arrays] = []
        while done < count and not (parts and self._late()):
            if self.stop is not None and self.stop.is_set():
                raise CancelledError
            here = min(self.size, count - done)
            rows: slice | np.ndarray = slice(done, done + here)
            if self.whole and here < self.size:
                rows = np.minimum(np.arange(done, done + self.size), count - 1)
            answer = self.predictor({name: self._cast(name, x[rows]) for name, x in inputs.items()})
            parts.append({name: np.asarray(y)[:here] for name, y in answer.items()})
            done += here
            if self.progress is not None:
                left = duration((time.perf_counter() - start) / done * (count - done))
                self.progress.status(f"{self.what}: {done:,} of {count:,}, {left} left")
        return joined(*parts), done

    def _late(self) -> bool:
        return self.until is not None and time.perf_counter() > self.until

    def _cast(self, name: str, x: np.ndarray) -> np.ndarray:
        dtype = self.dtypes.get(name, "string")
        return x if dtype == "string" else x.astype(dtype, copy=False)


def run(predictor: Callable[[Arrays], Arrays], inputs: Mapping[str, np.ndarray], size: int) -> Arrays:
    """A predictor's answers to ``inputs``, by name, each [N, ...], in batches of ``size``."""
    return Batches(predictor, size).run(inputs)[0]
