"""One version of a model, loaded: checked, opened, warmed up, and ready to answer."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts.lookups import Lookups
from tfhalf.artifacts.record import Manifest
from tfhalf.errors import ArtifactError
from tfhalf.runtimes.base import Runtime
from tfhalf.serve.batching.batcher import BatchDone, Batcher
from tfhalf.serve.metrics import Metrics, VersionMetrics
from tfhalf.serve.models.open import Opened, OpenVersion, Source
from tfhalf.serve.settings import Settings
from tfhalf.serve.signature import Signature, from_manifest
from tfhalf.tasks.facts import quality_words
from tfhalf.text import one_line

_TIMES = 3  # batches of the largest size that are timed once all are warm


@dataclass(frozen=True)
class SizeRow:
    """Executions of one batch size, by this process."""

    size: int
    count: int
    join_ns: int
    run_ns: int

    def to_dict(self) -> dict[str, Any]:
        """As Triton's batch statistics."""
        empty = {"count": self.count, "ns": 0}
        durations = {"compute_input": {"count": self.count, "ns": self.join_ns}}
        durations |= {"compute_infer": {"count": self.count, "ns": self.run_ns}, "compute_output": empty}
        return {"batch_size": self.size, **durations}


class Sizes:
    """Executions by batch size. Its batcher writes it, one execution at a time."""

    def __init__(self) -> None:
        self._sums: dict[int, tuple[int, int, int]] = {}  # by size: count, nanoseconds of joining and of running

    def add(self, done: BatchDone) -> None:
        """Count one execution."""
        count, join_ns, run_ns = self._sums.get(done.rows, (0, 0, 0))
        self._sums[done.rows] = count + 1, join_ns + done.join_ns, run_ns + done.run_ns

    def rows(self) -> list[SizeRow]:
        """By rising size."""
        return [SizeRow(size, *sums) for size, sums in sorted(self._sums.copy().items())]


@dataclass(frozen=True)
class Loaded:
    """A version that answers. ``opened`` is what computes, and what was refused; ``ladder`` has the batch sizes that
    were warmed up; ``seconds`` is what opening and warming up took; ``lookups`` are words of inputs that may be sent as
    texts."""

    model: str
    version: int
    directory: Path
    manifest: Manifest
    signature: Signature
    opened: Opened
    ladder: tuple[int, ...]
    batcher: Batcher
    metrics: VersionMetrics
    sizes: Sizes
    seconds: float
    lookups: Lookups

    @property
    def runtime(self) -> Runtime:
        """What computes."""
        return self.opened.runtime

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, in order; empty where there are none."""
        return self.manifest.labels

    @cached_property
    def quality(self) -> tuple[str, ...]:
        """How good it is on the test part, for people; nothing of a version that does not say, or whose task is not
        known here."""
        training = self.manifest.training
        try:
            return tuple(quality_words(self.manifest.tasks, training.test_metrics)) if training else ()
        except ArtifactError:
            return ()


def read(directory: Path) -> Manifest:
    """The manifest of ``directory``, against which every file was checked.

    Raises:
        ArtifactError, IntegrityError: it cannot be served; the message says why.
    """
    _check_kinds(directory)
    manifest = manifests.read(directory)
    manifests.check_files(directory, manifest)
    return manifest


def _check_kinds(directory: Path) -> None:
    """Refuse what is neither a file nor a folder before anything is opened: a pipe would never end.

    Raises:
        ArtifactError: names the first.
    """
    for folder, folders, names in os.walk(directory):
        for path in (Path(folder, name) for name in (*folders, *names)):
            try:
                mode = path.stat().st_mode
            except OSError as error:
                raise ArtifactError(f"{path}: cannot be read: {error.strerror}; restore it, or export again") from None
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise ArtifactError(f"{path}: is neither a file nor a folder; restore it, or export again")


def load(
    model: str,
    version: int,
    directory: Path,
    manifest: Manifest,
    settings: Settings,
    metrics: Metrics,
    opener: OpenVersion,
) -> Loaded:
    """Open ``directory``, whose files `read` checked, and have it compute each size of the ladder.

    Raises:
        ArtifactError, IntegrityError: it cannot be served; the message says why.
    """
    start = time.perf_counter()
    lookups = Lookups.read(directory)
    lookups.check(manifest.inputs, directory)
    signature = from_manifest(manifest, settings.limits.max_size, lookups.by_input)
    opened = opener(Source(directory, manifest, signature), settings)
    runtime = opened.runtime
    ladder = runtime.batch_sizes or settings.batching.ladder
    row_seconds = _warm_up(directory, runtime, signature, ladder)
    own = metrics.of(model, version)

    sizes = Sizes()

    def counted(done: BatchDone) -> None:
        own.batch(done.rows)
        sizes.add(done)

    batcher = Batcher(
        runtime,
        settings.batching,
        ladder=runtime.batch_sizes,
        row_seconds=row_seconds,
        fixed=signature.fixed,
        blame=400 if signature.may_not_compute else 500,
        on_batch=counted,
        name=f"{model}/{version}",
    )
    seconds = time.perf_counter() - start
    return Loaded(model, version, directory, manifest, signature, opened, ladder, batcher, own, sizes, seconds, lookups)


def _warm_up(directory: Path, runtime: Runtime, signature: Signature, ladder: tuple[int, ...]) -> float:
    """Have each size of the ladder computed; the seconds that a row of the largest takes."""
    for rows in ladder:
        _compute(directory, runtime, signature, rows)
    largest = ladder[-1]
    # The fastest: a slower one had other things to wait for.
    return min(_compute(directory, runtime, signature, largest) for _ in range(_TIMES)) / largest


def _compute(directory: Path, runtime: Runtime, signature: Signature, rows: int) -> float:
    """Have a batch of zeros computed, and hold the answer against the manifest; the seconds that it took."""
    feeds = {name: tensor.zeros(rows) for name, tensor in signature.inputs.items()}
    try:
        start = time.perf_counter()
        outputs = runtime(feeds)
        seconds = time.perf_counter() - start
    except Exception as error:  # whatever a runtime raises: this version cannot serve
        raise ArtifactError(f"{directory}: does not compute a batch of {rows}: {one_line(error)}") from error
    for name, tensor in signature.outputs.items():
        answer = outputs.get(name)
        if not isinstance(answer, np.ndarray) or len(answer) != rows or answer.dtype != tensor.dtype:
            received = "nothing" if answer is None else f"{answer.dtype} {answer.shape}"
            raise ArtifactError(
                f"{directory}: gives {received} for {name!r} of {rows} rows; its manifest says {tensor.dtype} "
                f"{tensor.open_shape}"
            )
    return seconds
