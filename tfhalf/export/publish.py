"""A model that was made float16 written in each format, judged in a fresh process, and published."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts import triton, version
from tfhalf.artifacts.artifact import Artifact
from tfhalf.artifacts.formats import FILES, LITERT
from tfhalf.artifacts.share import check_some_float16, float32_share, share_lines
from tfhalf.errors import ArtifactError, ExportError, ParityError
from tfhalf.export import savedmodel
from tfhalf.export.interface import Interface
from tfhalf.export.islands.find import Found, Island
from tfhalf.export.islands.simulator import Shipped
from tfhalf.export.litert import to_litert
from tfhalf.export.load.model import Source
from tfhalf.export.onnx import to_onnx
from tfhalf.export.program import Program, named_program
from tfhalf.export.rebuild import grouped_conv
from tfhalf.export.request import Options
from tfhalf.export.write import litert_artifact
from tfhalf.precision.keras_graph import reason
from tfhalf.progress import Progress
from tfhalf.runtimes.child import not_covered
from tfhalf.runtimes.open import open_predictor
from tfhalf.verify.compare import SampleComparison, for_int8, judge
from tfhalf.verify.html import render
from tfhalf.verify.other_sizes import Sized, run_sizes
from tfhalf.verify.process import Verifier
from tfhalf.verify.report import export_lines, problems, table_lines, uncovered
from tfhalf.verify.sample_report import notes, report
from tfhalf.verify.samples import BATCH, Samples, run


@dataclass(frozen=True)
class Whole:
    """What is published: the model, what it is judged on, which layers stay in float32, what ships, the revision of the
    working directory, of each sample its kind (`draw.SampleInputs`), and samples of other sizes."""

    source: Source
    interface: Interface
    inputs: dict[str, np.ndarray]
    reference: dict[str, np.ndarray]
    drawn: dict[str, Any]
    islands: tuple[Island, ...]
    found: Found
    shipped: Shipped
    git_revision: str | None
    kinds: tuple[str, ...]
    other_sizes: dict[str, Sized] = field(default_factory=dict)


@dataclass(frozen=True)
class Exported:
    """What was published, and how it compared."""

    version: Path
    manifest: dict[str, Any]
    comparisons: tuple[SampleComparison, ...]


def publish(
    made: Whole,
    options: Options,
    verifier: Verifier,
    progress: Progress,
    begun: float,
    mend: Callable[[Whole, list[SampleComparison]], Whole | None] | None = None,
) -> Exported:
    """Write every format into a staged version, compare each with the float32 model, and publish it.

    Args:
        begun: `time.perf_counter` when the command began.
        mend: given what was written and what falls short of it, the same with more layers in float32, which is then
            written in its place; or None.

    Raises:
        ExportError: a format that was asked for cannot be written, or none can.
        ParityError: an artifact does not answer like the float32 model; it is kept as ``failed-N``.
    """
    while True:
        attempt = _attempt(made, options, verifier, progress, begun, mend)
        if isinstance(attempt, Exported):
            break
        made = attempt
    manifest, comparisons = attempt.manifest, attempt.comparisons
    progress.line()
    for text in table_lines(comparisons):
        progress.line(text)
    for note in (*notes(manifest, comparisons), *manifest["not_covered"]):
        progress.line(f"           {note}")
    if not all(c.passed for c in comparisons):
        raise ParityError(f"not published, kept as {attempt.version}: {problems(comparisons)}")
    return attempt


def _attempt(
    made: Whole,
    options: Options,
    verifier: Verifier,
    progress: Progress,
    begun: float,
    mend: Callable[[Whole, list[SampleComparison]], Whole | None] | None,
) -> Exported | Whole:
    """What was published, or kept as ``failed-N``; or what is to be written in its place."""
    base = options.exports / (options.name or made.source.name)
    if not options.allow_float32:
        check_some_float16(_parameters(made.shipped))
    with version.staging(base) as folder:
        program = _program(made)
        artifacts, refused = _write(made, program, folder, options, progress)
        _say_export(made.shipped, artifacts, refused, progress)
        samples = Samples(made.inputs, made.reference, made.kinds, made.other_sizes)
        samples.save(folder)
        manifest = _manifest(made, options, program, artifacts, refused)
        manifest["files"] = manifests.file_hashes(folder)
        manifests.write(folder, manifest)
        progress.line(f"verify     a fresh process runs each artifact over {samples.count} samples")
        comparisons = verifier.samples(folder)
        mended = mend(made, comparisons) if mend is not None and not all(c.passed for c in comparisons) else None
        if mended is not None:
            return mended
        lacking = not_covered(manifest["config"]["export"]["formats"])
        manifest["not_covered"] = [*lacking, *uncovered(comparisons)]
        manifest["seconds"] = time.perf_counter() - begun
        published = _rename(folder, base, manifest, program, comparisons)
        return Exported(published, manifest, tuple(comparisons))


def _program(made: Whole) -> Program:
    interface, shipped = made.interface, made.shipped

    about = f"{made.source.name}: float16 within; half-precision inputs and outputs are float32 for callers."
    try:
        return named_program(
            partial(interface.answer, shipped.call), interface.inputs, shipped.weights, shipped.state, about
        )
    except Exception as error:  # whatever a layer's code raises when it is traced
        raise ExportError(f"the model cannot be traced into a graph: {reason(error)}") from error


def _write(
    made: Whole, program: Program, folder: Path, options: Options, progress: Progress
) -> tuple[list[Artifact], dict[str, str]]:
    """Each format's files; and why a format that was not asked for by name is missing.

    Raises:
        ExportError: one that was asked for cannot be written, or none can.
    """
    metadata = {"precision": "float16", **({"git_revision": made.git_revision} if made.git_revision else {})}
    kinds = options.formats or options.tried
    litert: dict[str, Any] = {}

    def write(kind: str) -> Artifact:
        if kind in LITERT:
            if not litert:  # all of them come from one conversion
                litert.update(to_litert.write(program, folder, kinds, metadata=metadata))
            artifact = litert_artifact(kind, litert[kind])
            if not options.formats:
                _check_answers(kind, made, folder, options)
            return artifact
        onnx = kind == "onnx"
        files = _write_onnx(made, program, folder, options, metadata) if onnx else savedmodel.write(program, folder)
        names = tuple(path.relative_to(folder).as_posix() for path in files)
        return Artifact(kind, names, sum(path.stat().st_size for path in files))

    artifacts, refused = [], {}
    for kind in kinds:
        progress.status(f"writing {kind} ...")
        try:
            artifacts.append(write(kind))
        except ExportError as error:
            if options.formats:
                raise
            refused[kind] = str(error)
    progress.clear()
    if not artifacts:
        raise ExportError("; ".join(refused.values()))
    return artifacts, refused


def _check_answers(kind: str, made: Whole, folder: Path, options: Options) -> None:
    """Run a file that nobody asked for by name before the fresh process does: if it falls short, the others come.

    Raises:
        ExportError: it does not run, or not answer like the float32 model; it is removed.
    """
    limits = for_int8(options.limits) if kind == "litert-int8" else options.limits
    try:
        predictor = open_predictor(folder, kind)
        got = run(predictor, made.inputs, made.interface.inputs[0].shape[0] or BATCH)
        outputs = judge(made.reference, got, made.interface.classes, limits, made.kinds)
        sizes = run_sizes(predictor, kind, made.other_sizes, limits)
        short = "; ".join(SampleComparison(kind, "", len(made.kinds), outputs, 0.0, other_sizes=sizes).problems)
        told = f"it does not answer like the float32 model: {short}" if short else ""
    except ArtifactError as error:
        told = str(error).replace(f"{folder}/", "")
    if told:
        (folder / FILES[kind]).unlink()
        raise ExportError(f"LiteRT: {told}; leave {kind} out")


def _write_onnx(made: Whole, program: Program, folder: Path, options: Options, metadata: dict[str, str]) -> list[Path]:
    strings = [port.name for port in (*program.inputs, *program.outputs) if port.dtype == "string"]
    if strings:
        raise ExportError(
            f"ONNX: {', '.join(strings)} is text, which ONNX runtimes do not look up in vocabularies; give numbers "
            "(the layers after the vocabulary), or leave onnx out of --format"
        )
    with grouped_conv.for_onnx():
        plain = _program(made) if made.shipped.grouped else program
        return to_onnx.write(plain, folder / "model.onnx", opset=options.opset, metadata=metadata)


def _say_export(shipped: Shipped, artifacts: list[Artifact], refused: dict[str, str], progress: Progress) -> None:
    first, *rest = export_lines(shipped.counts, shipped.folded, artifacts)
    progress.line(f"export     {first}")
    for text in [*rest, *share_lines(_parameters(shipped))]:
        progress.line(f"           {text}")
    for kind, why in refused.items():
        progress.line(f"           {kind}: not written. {why}", always=True)


def _manifest(
    made: Whole, options: Options, program: Program, artifacts: list[Artifact], refused: dict[str, str]
) -> dict[str, Any]:
    shipped, found = made.shipped, made.found
    inputs = [port.to_dict() for port in program.inputs]
    classes = made.interface.classes
    kinds = [artifact.format for artifact in artifacts]
    return {
        "schema": manifests.SCHEMA,
        "kind": "model",
        "name": options.name or made.source.name,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "source": made.source.facts,
        "config": {
            "export": {"formats": kinds, "opset": options.opset, "fold_batchnorm": options.fold_batchnorm},
            "verify": asdict(options.limits),
            "keep_float32": list(options.keep_float32),
        },
        "versions": manifests.versions(),
        "git_revision": made.git_revision,
        "labels": [],
        **({"input": inputs[0]} if len(inputs) == 1 else {}),
        "inputs": inputs,
        "outputs": [
            {
                **replace(port, aliases=made.interface.aliases.get(port.name, ())).to_dict(),
                "classes": port.name in classes,
            }
            for port in program.outputs
        ],
        "parameters": _parameters(shipped),
        "float32_share": round(float32_share(_parameters(shipped)), 4),
        "cast": asdict(shipped.counts),
        "kept_float32": [island.path for island in made.islands],
        "islands": [asdict(island) for island in made.islands],
        "search": {"tests": found.tests, "complete": found.complete, "seconds": found.seconds},
        "folded_batchnorm": list(shipped.folded),
        "samples": made.drawn,
        "artifacts": [asdict(artifact) for artifact in artifacts],
        "refused": refused,
    }


def _parameters(shipped: Shipped) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for variable in (weight.value for weight in shipped.weights):
        row = found.setdefault(variable.dtype.name, {"count": 0, "bytes": 0})
        count = int(np.prod(variable.shape))
        row["count"] += count
        row["bytes"] += count * variable.dtype.size
    return dict(sorted(found.items()))


def _rename(
    folder: Path, base: Path, manifest: dict[str, Any], program: Program, comparisons: list[SampleComparison]
) -> Path:
    passed = all(c.passed for c in comparisons)
    with version.numbered(base) as number:
        manifest |= {"version": number, "verification": [c.to_dict() for c in comparisons]}
        render.write(folder, manifest, comparisons)
        manifests.write(folder, manifest)
        (folder / "report.md").write_text(report(manifest, comparisons), encoding="utf-8")
        if passed and "onnx" in manifest["config"]["export"]["formats"]:
            text = triton.config_of(manifest["name"], program.inputs, program.outputs)
            version.replace_file(base / "config.pbtxt", text)
        return version.publish(folder, base, number, failed=not passed)
