"""``tfhalf compare exports/NAME``: the formats of one version side by side, beside the model in other numbers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts.formats import FORMATS
from tfhalf.artifacts.manifest import Version
from tfhalf.artifacts.record import Artifact, Manifest
from tfhalf.artifacts.reference import basis_line
from tfhalf.bench.runtimes import RUNTIMES
from tfhalf.compare.float32_model import Sources
from tfhalf.compare.matrix import Bench
from tfhalf.compare.offers import Absent, Offer, Offers
from tfhalf.compare.records import Latency
from tfhalf.compare.shipped import latencies_of, metrics_of
from tfhalf.errors import ConfigError
from tfhalf.files import check_writable
from tfhalf.progress import Progress
from tfhalf.train.record.run_folder import held_if_free

FORMATS_FOLDER = "formats"
"""Below a comparison's folder: where the report is, and the model in other numbers."""

_SHIPPED = "what ships"


@contextmanager
def alone_in(folder: Path) -> Iterator[Path]:
    """The folder of a comparison of formats, made; no other process works in it within the block.

    Raises:
        ConfigError: another does, or it cannot be written.
    """
    check_writable(folder, "--out")
    folder.mkdir(parents=True, exist_ok=True)
    with held_if_free(folder) as alone:
        if not alone:
            raise ConfigError(f"{folder}: another process compares in it; wait for its end, or give another --out")
        for left in folder.glob(".staged-*"):  # by a process that was killed
            shutil.rmtree(left)
        yield folder


def compare_formats(
    version: Version,
    folder: Path,
    sources: Sources,
    progress: Progress,
    settings: Bench | None,
    *,
    absent: Sequence[Absent] = (),
    command: str = "",
) -> Offers:
    """The formats of ``version``, and its model in other numbers; each answers in every runtime that is here.

    Args:
        version: whose files are checked.
        folder: where the model in other numbers stays, see `alone_in`.
        sources: where the float32 model comes from.
        progress: where lines go.
        settings: of the bench; None leaves it out.
        absent: formats that the version does not hold, and why.
        command: that asked for it.

    Raises:
        ShortfallError: the version answers in no runtime of this machine.
    """
    from tfhalf.compare.numbers import other_numbers

    rows, missing = other_numbers(version, folder, sources, progress)
    versions = {_SHIPPED: version, **{f"{row.numbers} {_format(row.version)}": row.version for row in rows}}
    latency: dict[str, tuple[Latency, ...]] = dict.fromkeys(versions, ())
    if settings is not None:
        latency = latencies_of(versions, progress, **asdict(settings))
    offers = _offers(version, latency[_SHIPPED])
    for row in rows:
        offers += _offers(row.version, latency[f"{row.numbers} {_format(row.version)}"], numbers=row.numbers)
    manifest = version.manifest
    count = sum(one.count for one in manifest.parameters.values())
    device = next((one.device for offer in offers for one in offer.latency), "")
    return Offers(
        str(version.directory),
        tuple(offers),
        4 * count,
        device,
        (*absent, *missing),
        basis_line(manifest.reference),
        command,
        datetime.now(timezone.utc).isoformat(timespec="seconds"),
        manifests.versions(),
    )


def _format(version: Version) -> str:
    """Of a version in other numbers its one format."""
    return version.manifest.artifacts[0].format


def _offers(version: Version, latency: Sequence[Latency], numbers: str = "") -> list[Offer]:
    return [_offer(version.manifest, artifact, latency, numbers) for artifact in version.manifest.artifacts]


def _offer(manifest: Manifest, artifact: Artifact, latency: Sequence[Latency], numbers: str) -> Offer:
    name = artifact.format
    outputs = [output for one in manifest.comparisons if one.artifact == name for output in one.outputs]
    agreements = [output.agreement for output in outputs if output.agreement is not None]
    metrics, references = metrics_of(manifest, name)
    return Offer(
        name,
        numbers or FORMATS[name].numbers.name,
        artifact.bytes,
        max((output.max_difference for output in outputs), default=0.0),
        min(agreements, default=None),
        metrics,
        references,
        tuple(one for one in latency if RUNTIMES[one.runtime][1].format == name),
        not numbers,
    )
