"""An engine compared with the float32 model on the machine where it is to serve, which may have other engines than the
one that published the version had.

A manifest's ``verification`` rows say in which engines its artifacts were compared and passed. For any other engine
`compare_at_load` does it, with what lies in the version: of a model's export its samples. Of a pipeline's export the
test set does not lie in it; there it is the edge rows, with the float32 model's answers, and drawn rows, with the
answers of an engine that has passed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf.artifacts import manifest as manifests
from tfhalf.errors import ArtifactError, ParityError
from tfhalf.runtimes.base import Arrays, Engine, Runtime, engine_of
from tfhalf.verify.compare import Limits, SampleComparison, edge_mask, judge
from tfhalf.verify.other_sizes import run_sizes
from tfhalf.verify.reference import Edges, Reference
from tfhalf.verify.samples import BATCH, Samples
from tfhalf.verify.test_set import EDGE_DIFFERENCE, Comparison

DRAWN = 32
"""Rows that are drawn between the edge rows of a pipeline's export."""


def passed_before(manifest: Mapping[str, Any], kind: str, engine: Engine) -> str:
    """How the manifest records the comparison that the format ``kind`` has passed in ``engine``, whatever the library's
    version was; empty where it holds none.

    On a CPU onnxruntime computes float16 in float32, so a graph that says float32 from the start counts as compared
    with it.

    Manifests have named library, device and XLA in each row's ``runtime`` from the first on, so old ones count as new
    ones do.
    """
    rows = manifest.get("verification")
    for row in rows if isinstance(rows, list) else ():
        if not isinstance(row, dict) or row.get("passed") is not True or row.get("not_covered"):
            continue
        record = str(row.get("runtime"))
        if str(row.get("artifact")).partition(",")[0] == kind and engine_of(record) == engine:
            return record
    return ""


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
    manifest: Mapping[str, Any]
    kind: str
    runtime: Runtime
    seconds: float
    passed: Callable[[], Runtime] | None = None


def compare_at_load(candidate: Candidate) -> str:
    """Compare an engine's answers with the float32 model's.

    Returns:
        What it was compared on, for people: ``16 samples, 4 of them edge rows``.

    Raises:
        ParityError: it does not answer like the float32 model.
        ArtifactError: the version holds nothing to compare it on, or is damaged.
    """
    pipeline = manifests.kind_of(dict(candidate.manifest)) == "pipeline"
    return _on_edge_rows(candidate) if pipeline else _on_samples(candidate)


def _on_samples(candidate: Candidate) -> str:
    manifest, runtime = candidate.manifest, candidate.runtime
    samples = Samples.load(candidate.directory)
    limits = Limits(**{one.name: manifest["config"]["verify"][one.name] for one in fields(Limits)})
    classes = [output["name"] for output in manifest["outputs"] if output.get("classes")]
    fixed = manifest["inputs"][0]["shape"][0]
    start = time.perf_counter()
    got = _answers(runtime, samples.inputs, candidate.seconds, fixed if isinstance(fixed, int) else None)
    rows = len(next(iter(got.values())))
    kinds = samples.kinds[:rows]
    outputs = judge({name: y[:rows] for name, y in samples.outputs.items()}, got, classes, limits, kinds)
    late = time.perf_counter() - start > candidate.seconds
    others = () if late else run_sizes(runtime, candidate.kind, samples.other_sizes, limits)
    edges = int(edge_mask(kinds).sum())
    passed = time.perf_counter() - start
    compared = SampleComparison(candidate.kind, runtime.about, rows, outputs, passed, edges, other_sizes=others)
    _check(compared.problems)
    return f"{rows} samples" + (f", {edges} of them edge rows" if edges else "")


def _on_edge_rows(candidate: Candidate) -> str:
    edges = Reference.load(candidate.directory).edges
    if edges is None:
        raise ArtifactError("the version holds no inputs to compare it on: export again")
    name = candidate.manifest["input"].get("name", "image")
    got = _answers(candidate.runtime, {name: edges.x.astype(np.float32)}, candidate.seconds)["probabilities"]
    rows = len(got)
    of_no_image = Comparison(candidate.kind, candidate.runtime.about, 0, 0.0, 0.0, 100.0, 0.0, 0.0, 0, (), 0.0, ())
    answered = Edges(edges.x[:rows], edges.kinds[:rows], edges.probabilities[:rows])
    _check(of_no_image.with_edges(answered, got, EDGE_DIFFERENCE).problems)
    if candidate.passed is None:
        return f"{rows} edge rows"
    drawn = {name: drawn_between(edges.x, DRAWN)}
    passed = candidate.passed()
    expected, about = _answers(passed, drawn, candidate.seconds), passed.about
    passed.close()
    got = _answers(candidate.runtime, drawn, candidate.seconds)["logits"]
    rows = min(len(got), len(expected["logits"]))
    outputs = judge({"logits": expected["logits"][:rows]}, {"logits": got[:rows]}, ["logits"], Limits())
    _check(tuple(f"beside {about}: {problem}" for output in outputs for problem in output.problems))
    return f"{len(edges.x)} edge rows, and on {rows} drawn ones beside {about}"


def _check(problems: tuple[str, ...]) -> None:
    if problems:
        raise ParityError("; ".join(problems[:3]))


def drawn_between(x: np.ndarray, count: int) -> np.ndarray:
    """Random rows between the smallest and the largest value that ``x`` [N, ...] has at each position, the same for the
    same arguments; whole numbers where those are. Float32 [count, ...]."""
    low, high = x.min(0).astype(np.float64), x.max(0).astype(np.float64)
    rows = np.random.default_rng(0).uniform(low, high, (count, *x.shape[1:]))
    return (rows if x.dtype.kind == "f" else rows.round()).astype(np.float32)


def _answers(runtime: Runtime, inputs: Mapping[str, np.ndarray], seconds: float, batch: int | None = None) -> Arrays:
    """The answers to as many rows of ``inputs`` as come within ``seconds``, in batches of one size, the last filled up
    with its last row: another size may cost a compilation."""
    count = len(next(iter(inputs.values())))
    sizes = runtime.batch_sizes or (BATCH,)
    size = batch or max([one for one in sizes if one <= count], default=sizes[0])
    start = time.perf_counter()
    parts: list[Arrays] = []
    for begin in range(0, count, size):
        chosen = np.minimum(np.arange(begin, begin + size), count - 1)
        parts.append(runtime({name: np.ascontiguousarray(x[chosen]) for name, x in inputs.items()}))
        if time.perf_counter() - start > seconds:
            break
    return {name: np.concatenate([np.asarray(part[name]) for part in parts])[:count] for name in parts[0]}
