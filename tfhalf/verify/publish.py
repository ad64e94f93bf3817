"""A version written, compared and published: as the next number of ``exports/NAME``, or as ``failed-N``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts import triton, version
from tfhalf.artifacts.comparison import Comparison
from tfhalf.artifacts.lookups import Lookups
from tfhalf.artifacts.record import Manifest
from tfhalf.errors import ParityError
from tfhalf.progress import Progress
from tfhalf.runtimes.child import not_covered
from tfhalf.verify.html import classes, render
from tfhalf.verify.report import notes, problems, report, table_lines, uncovered


class Export(Protocol):
    """A model that is to become a version."""

    def write(self, folder: Path) -> Manifest:
        """Write the artifacts and the reference into the staged ``folder``."""

    def compare(self, folder: Path) -> list[Comparison]:
        """Compare the artifacts of ``folder``, whose manifest is written, with the float32 model."""

    def widen(self, failing: list[Comparison]) -> bool:
        """Keep more layers in float32, which `write` then does; False where none are known to help."""

    def publish(self, folder: Path, manifest: Manifest, comparisons: list[Comparison]) -> tuple[Path, Manifest]:
        """`publish` with what this model's pages show."""


def publish_compared(export: Export, base: Path, progress: Progress) -> tuple[Path, Manifest]:
    """Write a version of ``base`` (``exports/NAME``), compare it and publish it; again, as long as artifacts fall short
    and more layers in float32 help.

    Returns:
        The version directory, and its manifest.

    Raises:
        ParityError: an artifact does not answer like the float32 model; it is kept as ``failed-N``.
    """
    again = True
    while again:
        with version.staging(base) as folder:
            manifest = export.write(folder)
            manifests.write(folder, manifest)
            comparisons = export.compare(folder)
            failing = [c for c in comparisons if not c.passed]
            again = bool(failing) and export.widen(failing)
            if not again:
                published, manifest = export.publish(folder, manifest, comparisons)
    progress.line()
    for text in table_lines(comparisons):
        progress.line(text)
    for note in (*notes(manifest, comparisons), *manifest.not_covered):
        progress.line(f"           {note}")
    if failing:
        raise ParityError(f"not published, kept as {published}: {problems(comparisons)}")
    return published, manifest


def publish(
    folder: Path,
    base: Path,
    manifest: Manifest,
    comparisons: Sequence[Comparison],
    *,
    answers: classes.Answers | None = None,
    pictures: Mapping[str, Path] | None = None,
    views: Mapping[str, Path] | None = None,
) -> tuple[Path, Manifest]:
    """Write the manifest and the reports of the staged ``folder``, and rename it; the version, or where a comparison
    failed what is kept of it, and its manifest.

    Triton's description of the model, beside the versions, follows what was published.

    Args:
        folder: made by `version.staging` of ``base``.
        answers, pictures, views: for the page, as `render.write` takes them.
    """
    passed = all(c.passed for c in comparisons)
    formats = [kind.name for kind in manifest.formats]
    compared = {"comparisons": tuple(comparisons), "not_covered": (*not_covered(formats), *uncovered(comparisons))}
    with version.numbered(base) as number:
        whole = manifest.model_copy(update={"version": number, **compared})
        whole = render.write(folder, whole, comparisons, answers=answers, pictures=pictures, views=views)
        manifests.write(folder, whole)
        (folder / "report.md").write_text(report(whole, comparisons, Lookups.read(folder)), encoding="utf-8")
        if passed and any(kind.container == "onnx" for kind in whole.formats):
            version.replace_file(base / "config.pbtxt", triton.config(whole.name, whole.inputs, whole.outputs))
        return version.publish(folder, base, number, failed=not passed), whole
