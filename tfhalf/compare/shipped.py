"""What a version ships: its artifacts as their verification measured them, and how fast they answer here."""

from __future__ import annotations

from collections.abc import Mapping

from tfhalf.artifacts.manifest import Version
from tfhalf.artifacts.record import Manifest
from tfhalf.bench.run import Options, bench_side_by_side, check_measured
from tfhalf.bench.runtimes import RUNTIMES
from tfhalf.compare.records import Artifact, Latency
from tfhalf.progress import Progress


def metrics_of(manifest: Manifest, name: str) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics on the test set of the artifact of a format, and of the float32 model; accuracies from 0 to 1. Empty
    where no targets are known."""
    own: dict[str, float] = {}
    reference: dict[str, float] = {}
    for comparison in manifest.comparisons:
        for output in comparison.outputs if comparison.artifact == name else ():
            if output.accuracy is not None:
                own["accuracy"] = output.accuracy / 100
            if output.reference_accuracy is not None:
                reference["accuracy"] = output.reference_accuracy / 100
            own |= output.metrics
            reference |= output.reference_metrics
    return own, reference


def artifacts_of(manifest: Manifest) -> tuple[Artifact, ...]:
    """Each artifact with its size and its metrics."""
    return tuple(Artifact(one.format, one.bytes, metrics_of(manifest, one.format)[0]) for one in manifest.artifacts)


def latency_of(version: Version, progress: Progress, *, batch_sizes: str, seconds: float) -> tuple[Latency, ...]:
    """How fast a version, whose files are checked, answers in every runtime of this machine; of one with a fixed batch,
    at that size.

    Raises:
        ArtifactError: its inputs are not known.
        ShortfallError: no runtime could be measured.
    """
    return latencies_of({"": version}, progress, batch_sizes=batch_sizes, seconds=seconds)[""]


def latencies_of(
    versions: Mapping[str, Version], progress: Progress, *, batch_sizes: str, seconds: float
) -> dict[str, tuple[Latency, ...]]:
    """`latency_of` several versions of one model by what they are called, measured in turns; of all but the first there
    may be none.

    Raises:
        ArtifactError: their inputs are not known.
        ShortfallError: the first could not be measured in any runtime.
    """
    first = next(iter(versions.values()))
    sizes = batch_sizes if first.manifest.batch is None else None
    formats = {one.format for version in versions.values() for one in version.manifest.artifacts}
    runtimes = tuple(name for name, (_, spec) in RUNTIMES.items() if spec.format in formats)
    options = Options(batch_sizes=sizes, seconds=seconds, runtimes=runtimes)
    tables = bench_side_by_side(versions, options, progress)
    latencies = {
        name: tuple(
            Latency(
                row.runtime, row.computed_by, cell.batch_size, cell.p50_ms, cell.p99_ms, cell.images_per_s, row.device
            )
            for row in table.rows
            for cell in row.cells
        )
        for name, table in tables.items()
    }
    name, measured = next(iter(latencies.items()))
    check_measured(measured, tables[name].failed)
    return latencies
