"""An engine compared with the float32 model on the machine where it is to serve, which may have other engines than the
one that published the version had.

A manifest's comparisons say in which engines its artifacts were compared and passed. For any other engine
`compare_at_load` does it, on the samples and edge rows that lie in the version. Where the usual samples are a test set,
which does not lie in it, these are drawn instead, and what they are compared with are the answers of an engine that has
passed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfhalf.artifacts.comparison import Limits
from tfhalf.artifacts.formats import FORMATS
from tfhalf.artifacts.record import Manifest
from tfhalf.artifacts.reference import Reference, joined
from tfhalf.errors import ParityError
from tfhalf.runtimes.base import Arrays, Engine, Runtime, engine_of
from tfhalf.verify.compare import compare_outputs
from tfhalf.verify.other_sizes import run_sizes
from tfhalf.verify.version import BATCH, Batches, compare_rows

DRAWN = 32
"""Rows that are drawn between the edge rows, where no usual ones lie in the version."""


def passed_before(manifest: Manifest, kind: str, engine: Engine) -> str:
    """How the manifest records the comparison that the format ``kind`` has passed in ``engine``, whatever the library's
    version was; empty where it holds none.

    On a CPU onnxruntime computes float16 in float32, so a graph that says float32 from the start counts as compared
    with it.

    Manifests have named library, device and XLA in each comparison's ``runtime`` from the first on, so old ones count
    as new ones do.
    """
    return next((record for record in _passed(manifest, kind) if engine_of(record) == engine), "")


def passed_elsewhere(manifest: Manifest, kind: str, engine: Engine) -> str:
    """`passed_before`, of the same library on whatever device."""
    records = ((record, engine_of(record)) for record in _passed(manifest, kind))
    return next((record for record, other in records if other and other.library == engine.library), "")


def _passed(manifest: Manifest, kind: str) -> list[str]:
    return [
        row.runtime
        for row in manifest.comparisons
        if row.passed and not row.not_covered and row.artifact.partition(",")[0] == kind
    ]


@dataclass(frozen=True)
class Candidate:
    """An engine that no comparison is recorded for.

    Attributes:
        directory: the version; ``manifest`` is its, and says the limits.
        kind: the format that ``runtime`` has opened.
        seconds: no further batch is begun after so long.
        passed: opens an engine that has passed; None where this machine has none. It is closed again.
    """

    directory: Path
    manifest: Manifest
    kind: str
    runtime: Runtime
    seconds: float
    passed: Callable[[], Runtime] | None = None


def compare_at_load(candidate: Candidate) -> str:
    """Compare an engine's answers with the float32 model's.

    Returns:
        What it was compared on, for people: ``12 samples and 4 edge rows``; empty where the version, of a release
        before edge rows, holds no inputs at all.

    Raises:
        ParityError: it does not answer like the float32 model.
        ArtifactError: the version is damaged.
    """
    reference = Reference.load(candidate.directory)
    usual = reference.usual.inputs
    if not usual and not reference.edge_kinds:
        return ""
    start = time.perf_counter()
    rows, edges = _on_reference(candidate, reference)
    late = time.perf_counter() - start > candidate.seconds
    if reference.other_sizes and not late:
        kind = FORMATS[candidate.kind]
        limits = candidate.manifest.limits.for_format(kind)
        sizes = run_sizes(candidate.runtime, kind, candidate.kind, reference, limits)
        _check(tuple(f"size {row.size!r}: {problem}" for row in sizes for problem in row.problems))
    if usual:
        return f"{rows - edges} samples" + (f" and {edges} edge rows" if edges else "")
    return f"{edges} edge rows" + (_on_drawn(candidate, reference.edges.inputs) if candidate.passed else "")


def _on_reference(candidate: Candidate, reference: Reference) -> tuple[int, int]:
    """Compare on what lies in the version; how many rows there was time for, and how many of them are edge rows."""
    manifest = candidate.manifest
    inputs = joined(reference.usual.inputs, reference.edges.inputs)
    got = _answers(candidate.runtime, inputs, manifest, candidate.seconds)
    rows = len(next(iter(got.values())))
    usual = min(rows, reference.usual.count) if reference.usual.inputs else 0
    limits = manifest.limits.for_format(FORMATS[candidate.kind])
    outputs = compare_rows(manifest, reference, got, usual, rows - usual, limits)
    _check(tuple(f"{output.name}: {problem}" for output in outputs for problem in output.problems))
    return rows, rows - usual


def _on_drawn(candidate: Candidate, edges: Arrays) -> str:
    """Compare on drawn rows with an engine that has passed; on how many, and with which."""
    assert candidate.passed is not None
    manifest, inputs = candidate.manifest, {name: drawn_between(x, DRAWN) for name, x in edges.items()}
    passed = candidate.passed()
    expected, about = _answers(passed, inputs, manifest, candidate.seconds), passed.about
    passed.close()
    got = _answers(candidate.runtime, inputs, manifest, candidate.seconds)
    rows = min(len(next(iter(answers.values()))) for answers in (got, expected))
    names = ["logits"] if "logits" in expected else list(expected)  # of which probabilities are another form
    outputs = compare_outputs(
        {name: expected[name][:rows] for name in names},
        {name: got[name][:rows] for name in names},
        [port.name for port in manifest.outputs if port.classes and port.name in names],
        Limits(),
    )
    _check(tuple(f"beside {about}: {problem}" for output in outputs for problem in output.problems))
    return f", and on {rows} drawn ones beside {about}"


def _check(problems: tuple[str, ...]) -> None:
    if problems:
        raise ParityError("; ".join(problems[:3]))


def drawn_between(x: np.ndarray, count: int) -> np.ndarray:
    """Random rows between the smallest and the largest value that ``x`` [N, ...] has at each position, the same for the
    same arguments; whole numbers where those are. Float32 [count, ...]."""
    low, high = x.min(0).astype(np.float64), x.max(0).astype(np.float64)
    rows = np.random.default_rng(0).uniform(low, high, (count, *x.shape[1:]))
    return (rows if x.dtype.kind == "f" else rows.round()).astype(np.float32)


def _answers(runtime: Runtime, inputs: Arrays, manifest: Manifest, seconds: float) -> Arrays:
    """The answers to as many rows of ``inputs`` as come within ``seconds``, in batches of one size."""
    count = len(next(iter(inputs.values())))
    sizes = runtime.batch_sizes or (BATCH,)
    size = manifest.batch or max([one for one in sizes if one <= count], default=sizes[0])
    until = time.perf_counter() + seconds
    return Batches(runtime, size, manifest.input_dtypes, whole=True, until=until).run(inputs)[0]
