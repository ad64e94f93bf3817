"""``tfhalf compare exports/NAME``: the formats of one version side by side, and which of them to deploy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts.formats import FORMATS
from tfhalf.artifacts.record import Artifact, Manifest
from tfhalf.bench.runtimes import RUNTIMES
from tfhalf.compare.matrix import Bench
from tfhalf.compare.records import Latency
from tfhalf.compare.report.cells import Column, Grid
from tfhalf.compare.report.terminal import table_lines
from tfhalf.compare.shipped import latency_of, metrics_of
from tfhalf.progress import Progress, size


@dataclass(frozen=True)
class Offer:
    """A format as it was compared with the float32 model and benched here.

    ``agreement`` in percent, None without classes. ``metrics`` and ``reference_metrics``, of the float32 model, are of
    the test set, accuracies from 0 to 1; empty where no targets are known. ``largest_difference`` is relative to the
    output's largest magnitude.
    """

    format: str
    numbers: str
    bytes: int
    largest_difference: float
    agreement: float | None
    metrics: dict[str, float]
    reference_metrics: dict[str, float]
    latency: tuple[Latency, ...] = ()

    def fastest(self, batch_size: int) -> Latency | None:
        """The runtime that answers a batch of this size first."""
        return min((one for one in self.latency if one.batch_size == batch_size), key=lambda x: x.p50_ms, default=None)


@dataclass(frozen=True)
class Offers:
    """The formats of a version; ``float32_bytes`` are of its parameters, were each kept in float32."""

    version: str
    offers: tuple[Offer, ...]
    float32_bytes: int
    device: str

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold, with the advice."""
        return {**asdict(self), "advice": advice(self)}


def compare_formats(path: Path, progress: Progress, settings: Bench | None) -> Offers:
    """The formats of ``exports/NAME[/VERSION]``, whose hashes are checked; each answers in every runtime that is here.

    Args:
        settings: of the bench; None leaves it out.

    Raises:
        ArtifactError, IntegrityError: there is no version, or it was changed.
        ShortfallError: no runtime could be measured.
    """
    version = manifests.open_version(path)
    latency: tuple[Latency, ...] = ()
    if settings is not None:
        latency = latency_of(version, progress, **asdict(settings))
    offers = tuple(_offer(version.manifest, artifact, latency) for artifact in version.manifest.artifacts)
    count = sum(one.count for one in version.manifest.parameters.values())
    device = next((one.device for one in latency), "")
    return Offers(str(version.directory), offers, 4 * count, device)


def _offer(manifest: Manifest, artifact: Artifact, latency: Sequence[Latency]) -> Offer:
    name = artifact.format
    outputs = [output for one in manifest.comparisons if one.artifact == name for output in one.outputs]
    agreements = [output.agreement for output in outputs if output.agreement is not None]
    metrics, references = metrics_of(manifest, name)
    return Offer(
        name,
        FORMATS[name].numbers.name,
        artifact.bytes,
        max((output.max_difference for output in outputs), default=0.0),
        min(agreements, default=None),
        metrics,
        references,
        tuple(one for one in latency if RUNTIMES[one.runtime][1].format == name),
    )


def advice(table: Offers) -> list[str]:
    """Which format to deploy for what, a sentence each, and what it costs."""
    smallest = min(table.offers, key=lambda offer: offer.bytes)
    reasons: dict[str, list[str]] = {smallest.format: [f"the smallest ({size(smallest.bytes)})"]}
    sizes = sorted({one.batch_size for offer in table.offers for one in offer.latency})
    for batch_size in dict.fromkeys([*sizes[:1], *sizes[-1:]]):
        ranked = [(one, offer) for offer in table.offers if (one := offer.fastest(batch_size)) is not None]
        best, offer = min(ranked, key=lambda pair: pair[0].p50_ms)
        what = "one at a time" if batch_size == 1 else f"{batch_size} at a time"
        reasons.setdefault(offer.format, []).append(
            f"the fastest for {what} ({best.computed_by}: {best.p50_ms:.3g} ms)"
        )
    lines = [f"{name}: {', '.join(why)}" for name, why in reasons.items()]
    for offer in table.offers:
        lost = [
            f"{metric} {value:.4g}, float32 {offer.reference_metrics[metric]:.4g}"
            for metric, value in offer.metrics.items()
            if metric in offer.reference_metrics and value != offer.reference_metrics[metric]
        ]
        if offer.format in reasons and lost:
            lines.append(f"           {offer.format} answers otherwise than float32: {', '.join(lost)}")
    return lines


def lines(table: Offers) -> list[str]:
    """The table, and the advice, for a terminal."""
    offers = table.offers
    names = list(dict.fromkeys(name for offer in offers for name in offer.metrics))
    columns = [
        Column("format", (*(offer.format for offer in offers), "float32 model"), number=False),
        Column("numbers", (*(offer.numbers for offer in offers), "float32"), number=False),
        Column("size", (*(size(offer.bytes) for offer in offers), f"{size(table.float32_bytes)} of weights")),
        Column("of float32", (*(f"{offer.bytes / max(table.float32_bytes, 1):.2f}" for offer in offers), "1")),
        Column("agrees %", (*("-" if o.agreement is None else f"{o.agreement:.2f}" for o in offers), "")),
        Column("largest difference", (*(f"{offer.largest_difference:.1e}" for offer in offers), "")),
    ]
    reference = next((offer.reference_metrics for offer in offers if offer.reference_metrics), {})
    for name in names:
        own = [f"{offer.metrics[name]:.4g}" if name in offer.metrics else "-" for offer in offers]
        columns.append(Column(name, (*own, f"{reference[name]:.4g}" if name in reference else "-")))
    for batch_size in sorted({one.batch_size for offer in offers for one in offer.latency}):
        cells = []
        for offer in offers:
            best = offer.fastest(batch_size)
            cells.append("-" if best is None else f"{best.p50_ms:.3g} ms, {best.computed_by}")
        columns.append(Column(f"batch of {batch_size}", (*cells, "")))
    said = [f"deploy     {line}" if not line.startswith(" ") else line for line in advice(table)]
    return [*table_lines(Grid(tuple(columns))), "", *([f"on {table.device}"] if table.device else []), *said]
