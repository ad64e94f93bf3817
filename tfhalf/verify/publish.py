"""A compared version, with its reports, as the next number of ``exports/NAME``, or as ``failed-N``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts import triton, version
from tfhalf.artifacts.comparison import Comparison
from tfhalf.artifacts.record import Manifest
from tfhalf.runtimes.child import not_covered
from tfhalf.verify.html import classes, render
from tfhalf.verify.report import report, uncovered


def publish(
    folder: Path,
    base: Path,
    manifest: Manifest,
    comparisons: Sequence[Comparison],
    *,
    answers: classes.Answers | None = None,
    pictures: Mapping[str, Path] | None = None,
) -> tuple[Path, Manifest]:
    """Write the manifest and the reports of the staged ``folder``, and rename it; the version, and its manifest.

    Triton's description of the model, beside the versions, follows what was published.

    Args:
        folder: made by `version.staging` of ``base``.
        answers, pictures: for the page, as `render.write` takes them.
    """
    passed = all(c.passed for c in comparisons)
    formats = [kind.name for kind in manifest.formats]
    compared = {"comparisons": tuple(comparisons), "not_covered": (*not_covered(formats), *uncovered(comparisons))}
    with version.numbered(base) as number:
        whole = manifest.model_copy(update={"version": number, **compared})
        whole = render.write(folder, whole, comparisons, answers=answers, pictures=pictures)
        manifests.write(folder, whole)
        (folder / "report.md").write_text(report(whole, comparisons), encoding="utf-8")
        if passed and any(kind.container == "onnx" for kind in whole.formats):
            version.replace_file(base / "config.pbtxt", triton.config(whole.name, whole.inputs, whole.outputs))
        return version.publish(folder, base, number, failed=not passed), whole
