"""A model that was made float16, as it is written in each format, compared in a fresh process, and published."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts import record
from tfhalf.artifacts.comparison import Comparison
from tfhalf.artifacts.formats import FORMATS, Format
from tfhalf.artifacts.record import Artifact, Manifest, ReferenceFacts
from tfhalf.artifacts.reference import Reference, joined
from tfhalf.artifacts.share import check_some_float16, float32_share, share_lines
from tfhalf.errors import ArtifactError, ExportError
from tfhalf.export import savedmodel
from tfhalf.export.interface import Interface
from tfhalf.export.islands.find import SearchResult
from tfhalf.export.islands.simulator import Shipped
from tfhalf.export.litert import to_litert
from tfhalf.export.load.model import Source
from tfhalf.export.onnx import to_onnx
from tfhalf.export.program import Program, named_program
from tfhalf.export.rebuild import grouped_conv
from tfhalf.export.request import Options
from tfhalf.export.write import litert_artifact, parameters
from tfhalf.precision.islands import Island
from tfhalf.precision.keras_graph import reason
from tfhalf.progress import Progress
from tfhalf.runtimes.open import open_predictor
from tfhalf.verify.compare import compare_outputs
from tfhalf.verify.other_sizes import run_sizes
from tfhalf.verify.process import Verifier
from tfhalf.verify.publish import publish
from tfhalf.verify.report import export_lines
from tfhalf.verify.version import BATCH, run


@dataclass(frozen=True)
class Whole:
    """What is published: the model, what it is compared with and what is known of that, which layers stay in float32,
    what ships, the revision of the working directory, and names of classes."""

    source: Source
    interface: Interface
    reference: Reference
    compared_on: ReferenceFacts
    islands: tuple[Island, ...]
    search: SearchResult
    shipped: Shipped
    git_revision: str | None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exported:
    """What was published, and how it compared."""

    version: Path
    manifest: Manifest

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Of each artifact with the float32 model, in each runtime."""
        return self.manifest.comparisons


@dataclass
class ModelExport:
    """``whole`` as `verify.publish.publish_compared` takes it.

    ``begun`` is `time.perf_counter` when the command began. ``widened`` gives of what was written, and what falls short
    of it, the same with more layers in float32, which is then written in its place; or None.
    """

    whole: Whole
    options: Options
    verifier: Verifier
    progress: Progress
    begun: float
    widened: Callable[[Whole, list[Comparison]], Whole | None]

    def write(self, folder: Path) -> Manifest:
        """Write each format.

        Raises:
            ExportError: one that was asked for cannot be written, or none can.
        """
        whole, options, progress = self.whole, self.options, self.progress
        if not options.allow_float32:
            check_some_float16(parameters(whole.shipped.weights))
        program = _program(whole)
        artifacts, refused = _write(whole, program, folder, options, progress)
        _say_export(whole.shipped, artifacts, refused, progress)
        whole.reference.save(folder)
        return _manifest(whole, options, program, artifacts, refused, manifests.file_hashes(folder))

    def compare(self, folder: Path) -> list[Comparison]:
        """In a fresh process, over the samples beside the artifacts."""
        usual, edges = self.whole.reference.usual.count, len(self.whole.reference.edge_kinds)
        rows = f"{usual} samples" + (f" and {edges} edge rows" if edges else "")
        self.progress.line(f"verify     a fresh process runs each artifact over {rows}")
        return self.verifier(folder)

    def widen(self, failing: list[Comparison]) -> bool:
        """With what ``widened`` gives."""
        whole = self.widened(self.whole, failing)
        self.whole = whole or self.whole
        return whole is not None

    def publish(self, folder: Path, manifest: Manifest, comparisons: list[Comparison]) -> tuple[Path, Manifest]:
        """With the seconds that all of it took."""
        manifest = manifest.model_copy(update={"seconds": time.perf_counter() - self.begun})
        return publish(folder, folder.parent, manifest, comparisons)


def _program(whole: Whole) -> Program:
    interface, shipped = whole.interface, whole.shipped

    about = f"{whole.source.name}: float16 within; half-precision inputs and outputs are float32 for callers."
    try:
        return named_program(
            partial(interface.answer, shipped.call), interface.inputs, shipped.weights, shipped.state, about
        )
    except Exception as error:  # whatever a layer's code raises when it is traced
        raise ExportError(f"the model cannot be traced into a graph: {reason(error)}") from error


def _write(
    whole: Whole, program: Program, folder: Path, options: Options, progress: Progress
) -> tuple[list[Artifact], dict[str, str]]:
    """Each format's files; and why a format that was not asked for by name is missing.

    Raises:
        ExportError: one that was asked for cannot be written, or none can.
    """
    metadata: dict[str, Any] = {"precision": "float16"}
    metadata |= {"git_revision": whole.git_revision} if whole.git_revision else {}
    metadata |= {"labels": list(whole.labels)} if whole.labels else {}
    kinds = options.formats or options.tried
    litert: dict[str, Any] = {}

    def write(kind: Format) -> Artifact:
        if kind.is_litert:
            if not litert:  # all of them come from one conversion
                litert.update(to_litert.write(program, folder, kinds, metadata=metadata))
            artifact = litert_artifact(kind.name, litert[kind.name])
            if not options.formats:
                _check_answers(kind, whole, folder, options)
            return artifact
        onnx = kind.container == "onnx"
        files = _write_onnx(whole, program, folder, options, metadata) if onnx else savedmodel.write(program, folder)
        names = tuple(path.relative_to(folder).as_posix() for path in files)
        return Artifact(format=kind.name, files=names, bytes=sum(path.stat().st_size for path in files))

    artifacts, refused = [], {}
    for kind in kinds:
        progress.status(f"writing {kind} ...")
        try:
            artifacts.append(write(FORMATS[kind]))
        except ExportError as error:
            if options.formats:
                raise
            refused[kind] = str(error)
    progress.clear()
    if not artifacts:
        raise ExportError("; ".join(refused.values()))
    return artifacts, refused


def _check_answers(kind: Format, whole: Whole, folder: Path, options: Options) -> None:
    """Run a file that nobody asked for by name before the fresh process does: if it falls short, the others come.

    Raises:
        ExportError: it does not run, or not answer like the float32 model; it is removed.
    """
    limits, reference = options.limits.for_format(kind), whole.reference
    try:
        predictor = open_predictor(folder, kind.name)
        batch = whole.interface.inputs[0].shape[0] or BATCH
        got = joined(*(run(predictor, samples.inputs, batch) for samples in (reference.usual, reference.edges)))
        expected = joined(reference.usual.outputs, reference.edges.outputs)
        kinds = (*["given"] * reference.usual.count, *reference.edge_kinds)
        outputs = compare_outputs(expected, got, whole.interface.classes, limits, kinds)
        sizes = run_sizes(predictor, kind, kind.name, reference, limits)
        short = "; ".join(Comparison(kind.name, "", len(kinds), outputs, 0.0, other_sizes=sizes).problems)
        why = f"it does not answer like the float32 model: {short}" if short else ""
    except ArtifactError as error:
        why = str(error).replace(f"{folder}/", "")
    if why:
        (folder / kind.file).unlink()
        raise ExportError(f"LiteRT: {why}; leave {kind.name} out")


def _write_onnx(whole: Whole, program: Program, folder: Path, options: Options, metadata: dict[str, Any]) -> list[Path]:
    strings = [port.name for port in (*program.inputs, *program.outputs) if port.dtype == "string"]
    if strings:
        raise ExportError(
            f"ONNX: {', '.join(strings)} is text, which ONNX runtimes do not look up in vocabularies; give numbers "
            "(the layers after the vocabulary), or leave onnx out of --format"
        )
    with grouped_conv.for_onnx():
        plain = _program(whole) if whole.shipped.grouped else program
        return to_onnx.write(plain, folder / "model.onnx", opset=options.opset, metadata=metadata)


def _say_export(shipped: Shipped, artifacts: list[Artifact], refused: dict[str, str], progress: Progress) -> None:
    first, *rest = export_lines(shipped.counts, shipped.folded, artifacts)
    progress.line(f"export     {first}")
    for text in [*rest, *share_lines(parameters(shipped.weights))]:
        progress.line(f"           {text}")
    for kind, why in refused.items():
        progress.line(f"           {kind}: not written. {why}", always=True)


def _manifest(
    whole: Whole,
    options: Options,
    program: Program,
    artifacts: list[Artifact],
    refused: dict[str, str],
    files: dict[str, record.File],
) -> Manifest:
    shipped, search, interface = whole.shipped, whole.search, whole.interface
    settings = {"formats": [one.format for one in artifacts], "opset": options.opset}
    asked = {
        "export": {**settings, "fold_batchnorm": options.fold_batchnorm},
        "keep_float32": list(options.keep_float32),
    }
    return Manifest(
        name=options.name or whole.source.name,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        inputs=tuple(program.inputs),
        outputs=tuple(
            replace(port, aliases=interface.aliases.get(port.name, ()), classes=port.name in interface.classes)
            for port in program.outputs
        ),
        labels=whole.labels,
        artifacts=tuple(artifacts),
        refused=refused,
        limits=options.limits,
        reference=whole.compared_on,
        parameters=parameters(shipped.weights),
        float32_share=round(float32_share(parameters(shipped.weights)), 4),
        cast=record.Cast(**asdict(shipped.counts)),
        kept_float32=tuple(island.path for island in whole.islands),
        islands=tuple(record.Island(path=island.path, reason=island.reason) for island in whole.islands),
        search={"tests": search.tests, "complete": search.complete, "seconds": search.seconds},
        folded_batchnorm=tuple(shipped.folded),
        source=whole.source.facts,
        config=record.Config.read(asked),
        versions=manifests.versions(),
        git_revision=whole.git_revision,
        files=files,
    )
