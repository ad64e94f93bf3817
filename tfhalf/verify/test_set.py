"""An artifact compared with the float32 model, by a process that has nothing of the training in it.

The float32 model's answers over the whole test set lie beside the artifacts (``reference.npz``), so a version can be
judged for as long as its test data exists.
"""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf import config
from tfhalf.artifacts import manifest as manifests
from tfhalf.errors import ArtifactError, UnsupportedError
from tfhalf.progress import Progress, duration
from tfhalf.runtimes.child import lacking
from tfhalf.runtimes.open import SECOND, Predictor, open_predictor
from tfhalf.text import printable
from tfhalf.verify.compare import INT8
from tfhalf.verify.reference import REFERENCE, Edges, Reference, Verified, basis, data_sha256
from tfhalf.verify.scores import Confusion, confusion

BATCH = 250
EXACT_BATCH = 16


EDGE_DIFFERENCE = 0.25
"""How much a probability of an edge row may differ. Nobody knows the right answer there: what counts is that no value
is lost, and that an answer is not another one altogether."""


@dataclass(frozen=True)
class Comparison:
    """A candidate's answers beside the reference's on the same ``images``.

    Accuracies are in percent, ``agreement`` is the percentage of images with the same top class, differences are of
    probabilities. ``problems`` is empty where every threshold holds. ``seconds`` passed beside other comparisons.
    All but ``problems`` are of test images; ``edge_difference`` is the largest of edge rows, and ``edge_non_finite``
    counts their values that are finite in the float32 model alone. ``not_covered``: why a second runtime compared no
    image; empty where it did.
    """

    artifact: str
    runtime: str
    images: int
    reference_accuracy: float
    accuracy: float
    agreement: float
    max_difference: float
    mean_difference: float
    non_finite: int
    per_class_accuracy: tuple[float | None, ...]
    seconds: float
    problems: tuple[str, ...]
    confusion: Confusion = ()
    edge_difference: float | None = None
    edge_non_finite: int = 0
    not_covered: str = ""

    @property
    def passed(self) -> bool:
        """Whether every threshold holds."""
        return not self.problems

    def with_edges(self, edges: Edges, got: np.ndarray, allowed: float) -> Comparison:
        """With the answers ``got`` to edge rows compared too, whose probabilities may differ by ``allowed``.

        Raises:
            ArtifactError: they have another shape.
        """
        if got.shape != edges.probabilities.shape:
            raise ArtifactError(f"{self.artifact}: gives shape {got.shape}, expected {edges.probabilities.shape}")
        there = np.isfinite(edges.probabilities)
        lost = (there & ~np.isfinite(got)).sum(-1)
        compared = there & np.isfinite(got)
        off = np.abs(np.where(compared, got, 0).astype(np.float64) - np.where(compared, edges.probabilities, 0)).max(-1)
        problems = [
            f"edge row {printable(str(kind))!r}: "
            + (f"{n} values are not finite" if n else f"probabilities differ by {d:.2g}, {allowed:g} allowed")
            for kind, n, d in zip(edges.kinds, lost, off, strict=True)
            if n or d > allowed
        ]
        return replace(
            self,
            problems=(*self.problems, *problems),
            edge_difference=float(off.max()),
            edge_non_finite=int(lost.sum()),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with ``passed``; without the confusion matrix, which may be large."""
        plain = asdict(self)
        del plain["confusion"]
        return {**plain, "passed": self.passed}


def compare(
    reference: np.ndarray,
    candidate: Predictor,
    x: np.ndarray,
    y: np.ndarray,
    thresholds: config.Verify,
    *,
    artifact: str,
    progress: Progress,
    batch_size: int = BATCH,
    stop: threading.Event | None = None,
) -> Comparison:
    """Run ``candidate`` over ``x`` (raw, [N, ...]) and compare with the ``reference`` probabilities [N, num_classes].

    Raises:
        ArtifactError: the answers are of another kind or shape.
        CancelledError: ``stop`` was set; looked at before each batch.
    """
    start = time.perf_counter()
    parts = []
    for begin in range(0, len(x), batch_size):
        if stop is not None and stop.is_set():
            raise CancelledError
        answers = candidate(x[begin : begin + batch_size].astype(np.float32))
        if set(answers) != {"logits", "probabilities"}:
            raise ArtifactError(f"{artifact}: gives {', '.join(sorted(answers))}; expected logits and probabilities")
        parts.append(answers["probabilities"])
        done = begin + len(parts[-1])
        passed = time.perf_counter() - start
        progress.status(f"verify {artifact}: {done:,} of {len(x):,}, {duration(passed / done * (len(x) - done))} left")
    got = np.concatenate(parts)
    if got.shape != reference.shape:
        raise ArtifactError(f"{artifact}: gives shape {got.shape}, expected {reference.shape}")
    return judge(reference, got, y, thresholds, artifact, candidate.about, time.perf_counter() - start)


def judge(
    reference: np.ndarray,
    got: np.ndarray,
    y: np.ndarray,
    thresholds: config.Verify,
    artifact: str,
    runtime: str,
    seconds: float = 0.0,
) -> Comparison:
    """`Comparison` of two sets of probabilities [N, num_classes] against labels ``y`` [N]."""
    n, finite = len(y), np.isfinite(got)
    top = np.where(finite.all(-1), got.argmax(-1), -1)
    right, right_before = top == y, reference.argmax(-1) == y
    differing = int((top != reference.argmax(-1)).sum())
    lost = int(right_before.sum()) - int(right.sum())
    difference = np.abs(np.where(finite, got, 0).astype(np.float64) - reference)
    problems = []
    if not finite.all():
        problems.append(f"{int((~finite).sum())} values are not finite")
    if lost > _allowed(thresholds.max_accuracy_drop, n):
        problems.append(f"accuracy is {lost / n * 100:.2f} points lower, {thresholds.max_accuracy_drop:g} allowed")
    if differing > _allowed(100 - thresholds.min_agreement, n):
        problems.append(f"{(1 - differing / n) * 100:.2f} % agree, {thresholds.min_agreement:g} % needed")
    classes = reference.shape[-1]
    return Comparison(
        artifact=artifact,
        runtime=runtime,
        images=n,
        reference_accuracy=float(right_before.mean() * 100),
        accuracy=float(right.mean() * 100),
        agreement=float((1 - differing / n) * 100),
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        non_finite=int((~finite).sum()),
        per_class_accuracy=tuple(float(right[y == k].mean() * 100) if (y == k).any() else None for k in range(classes)),
        seconds=seconds,
        problems=tuple(problems),
        confusion=confusion(y, top),
    )


def _uncovered(artifact: str, runtime: str, why: str, reference: Reference, seconds: float) -> Comparison:
    """A comparison of no image, since ``runtime`` does not open or run the artifact."""
    accuracy = float((reference.probabilities.argmax(-1) == reference.y).mean() * 100)
    classes = (None,) * reference.probabilities.shape[-1]
    return Comparison(
        artifact, runtime, 0, accuracy, 0.0, 0.0, 0.0, 0.0, 0, classes, seconds, problems=(), not_covered=why
    )


def _allowed(percent: float, n: int) -> int:
    """Images that ``percent`` of n allows; at least one, unless the threshold is 0: a share finer than one image of a
    small set cannot be held."""
    return max(1, math.floor(percent / 100 * n + 1e-9)) if percent > 0 else 0


def for_int8(thresholds: config.Verify) -> config.Verify:
    """What an int8 variant is held to: `compare.INT8` times what float16 may lose, in points and in other answers."""
    return thresholds.model_copy(
        update={
            "max_accuracy_drop": min(100.0, INT8 * thresholds.max_accuracy_drop),
            "min_agreement": max(0.0, 100 - INT8 * (100 - thresholds.min_agreement)),
        }
    )


def verify_directory(directory: Path, x: np.ndarray, y: np.ndarray, progress: Progress) -> Verified[Comparison]:
    """Compare every artifact of a version directory over the test set, in this process.

    ONNX is run twice: by onnxruntime over all of it, and on the first ``verify.true_float16_samples`` images in true
    float16 arithmetic, since CPU runtimes upcast and so hide overflow (left out where onnxruntime computes on a
    GPU); and by OpenVINO where it is installed. What these two do not open or run is not covered by them, and is told
    so. An int8 variant has limits of its own (`for_int8`).

    Raises:
        IntegrityError: a file is not the published one.
        ArtifactError: the directory is damaged, or the test data is not that of the export.
    """
    manifest = manifests.read(directory)
    manifests.check_files(directory, manifest)
    thresholds = config.Verify.model_validate(manifest["config"]["verify"])
    reference = Reference.load(directory)
    if data_sha256(x) != reference.x_sha256 or not np.array_equal(y, reference.y):
        raise ArtifactError(
            f"{directory}: was made with another test set ({len(reference.y):,} images, {manifest['data']['source']}); "
            "verify with the same data"
        )
    edges = reference.edges
    if edges is not None and edges.x.shape[1:] != x.shape[1:]:
        raise ArtifactError(f"{directory / REFERENCE}: its edge rows are of other inputs; export again")
    stop = threading.Event()

    def judged(artifact: str, opened: Predictor | str, n: int, batch_size: int) -> Comparison:
        start = time.perf_counter()
        try:
            return compared(artifact, opened, n, batch_size)
        except UnsupportedError as error:
            if opened not in SECOND:
                raise
            return _uncovered(artifact, SECOND[str(opened)], error.reason, reference, time.perf_counter() - start)

    def compared(artifact: str, opened: Predictor | str, n: int, batch_size: int) -> Comparison:
        predictor = open_predictor(directory, opened) if isinstance(opened, str) else opened
        comparison = compare(
            reference.probabilities[:n],
            predictor,
            x[:n],
            y[:n],
            for_int8(thresholds) if artifact == "litert-int8" else thresholds,
            artifact=artifact,
            progress=progress,
            batch_size=batch_size,
            stop=stop,
        )
        if edges is None:
            return comparison
        allowed = EDGE_DIFFERENCE * (INT8 if artifact == "litert-int8" else 1)
        answers = predictor(edges.x.astype(np.float32))["probabilities"]
        return comparison.with_edges(edges, answers, min(1.0, allowed))

    found: list[Future[Comparison]] = []
    # Beside each other: all compute outside of Python, TensorFlow on a GPU where there is one, the others on the CPU.
    with ThreadPoolExecutor(max_workers=3) as pool:
        try:
            for kind in manifest["config"]["export"]["formats"]:
                if kind != "onnx":
                    found.append(pool.submit(judged, kind, kind, len(x), BATCH))
                    continue
                predictor = open_predictor(directory, kind)
                found.append(pool.submit(judged, kind, predictor, len(x), BATCH))
                if not lacking("openvino"):
                    found.append(pool.submit(judged, f"{kind}, OpenVINO", "onnx-openvino", len(x), BATCH))
                sample = min(thresholds.true_float16_samples, len(x))
                if sample and "CUDA" not in predictor.about:
                    found.append(pool.submit(judged, f"onnx, first {sample}", "onnx-float16", sample, EXACT_BATCH))
            comparisons = [one.result() for one in found]
        finally:
            stop.set()  # after a failure or Ctrl-C the others end with their batch
    progress.clear()
    return Verified(comparisons, (basis(len(x), edges),))
