"""Any Keras model exported, judged and published: `export_model`."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts import version
from tfhalf.artifacts.comparison import Comparison
from tfhalf.artifacts.record import ReferenceFacts, Sweep
from tfhalf.artifacts.reference import Reference, basis_line
from tfhalf.errors import ConfigError
from tfhalf.export.inputs import draw, edge_rows, open_sizes
from tfhalf.export.inputs.sweep import sweep
from tfhalf.export.interface import Interface, interface_of
from tfhalf.export.islands.constants import constant_islands
from tfhalf.export.islands.find import SearchResult, matched, unfit, wide_ranges, without_kernel
from tfhalf.export.islands.open import simulator_of
from tfhalf.export.islands.search import FEW, ROUNDS, Basis, Effort, island_lines, say_shortfalls, search, widened
from tfhalf.export.load.model import Source, open_source
from tfhalf.export.publish import Exported, ModelExport, Whole
from tfhalf.export.reproducible import check_deterministic, check_independent
from tfhalf.export.request import Options, Request
from tfhalf.precision.islands import Island
from tfhalf.progress import Progress
from tfhalf.system.device import float32_exactly, grow_memory
from tfhalf.verify.process import Verifier
from tfhalf.verify.publish import publish_compared
from tfhalf.verify.report import sweep_line

_LONGER = "--bisect-seconds gives more time"


@dataclass(frozen=True)
class _Prepared:
    source: Source
    basis: Basis
    facts: ReferenceFacts
    floats: tuple[str, ...]
    other_sizes: dict[str, dict[str, np.ndarray]]


def export_model(request: Request, options: Options, progress: Progress) -> Exported:
    """Read a model, make it float16, write it in each format, compare it in a fresh process, and publish it.

    Raises:
        ArtifactError, RefError, ConfigError, DataError: the input is at fault.
        ExportError: the model cannot become float16, or cannot be written in a requested format.
        ParityError: an artifact does not answer like the float32 model; it is kept as ``failed-N``.
    """
    begun = time.perf_counter()
    grow_memory()
    progress.status(f"reading {request.model} ...")
    return export_source(open_source(request), options, progress, begun=begun)


def export_source(
    source: Source,
    options: Options,
    progress: Progress,
    *,
    begun: float | None = None,
    verifier: Verifier | None = None,
) -> Exported:
    """`export_model` of a model that is read already; it may be changed, and is of no use afterwards.

    Args:
        begun: `time.perf_counter` when the work began; None for now.
        verifier: what compares the artifacts with the model; a fresh process unless given.
    """
    begun = time.perf_counter() if begun is None else begun
    patterns = [pattern for pattern in options.keep_float32 if pattern != "auto"]
    base = options.exports / (options.name or source.name)
    version.check(base)
    with verifier or Verifier(progress) as verifier, float32_exactly():
        verifier.start()
        prepared = _prepare(source, options, progress)
        fixed = _fixed_islands(prepared.basis, patterns, auto="auto" in options.keep_float32)
        effort = Effort(options.limits, options.bisect_seconds, options.opset)
        result = search(prepared.basis, fixed, effort, progress)
        whole = _whole(prepared, (*fixed, *result.islands), result, options, progress)
        rounds = iter(range(ROUNDS))

        def wider(whole: Whole, failing: list[Comparison]) -> Whole | None:
            failing = [c for c in failing if c.format.float32_layers_help]
            if not failing or next(rounds, None) is None:
                return None
            say_shortfalls(failing, progress)
            more = widened(prepared.basis, whole.islands, failing, effort, progress, whole.reference.other_sizes)
            return _with(whole, prepared.basis, more, progress) if more is not None else None

        export = ModelExport(whole, options, verifier, progress, begun, wider)
        return Exported(*publish_compared(export, base, progress))


def _whole(
    prepared: _Prepared, islands: tuple[Island, ...], result: SearchResult, options: Options, progress: Progress
) -> Whole:
    """What is published with ``islands``; up to which sizes of inputs it holds is measured and printed too."""
    _say_islands(islands, result, progress)
    basis, kept = prepared.basis, [island.path for island in islands]
    swept = _swept(prepared, kept, options, progress)
    rows, sized = open_sizes.hold(basis.simulator, kept, prepared.other_sizes, basis.typical, options.limits, progress)
    return Whole(
        prepared.source,
        basis.simulator.interface,
        Reference.of_rows(basis.inputs, basis.reference, basis.kinds, sized),
        prepared.facts.model_copy(update={"sweep": swept, "other_sizes": rows}),
        islands,
        result,
        basis.simulator.ship(kept),
        manifests.git_revision(Path.cwd()),
        options.labels,
    )


def layer_names(request: Request, options: Options) -> tuple[str, ...]:
    """The names that ``--keep-float32`` takes: of layers and operations, in the order in which they compute.

    Raises:
        ArtifactError, RefError, ConfigError, DataError, ExportError: as `export_model`.
    """
    grow_memory()
    return _prepare(open_source(request), options, Progress(quiet=True)).basis.simulator.names


# --- the model and what it is compared on -----------------------------------------------------------------------------


def _prepare(source: Source, options: Options, progress: Progress) -> _Prepared:
    own = _own_samples(options)
    interface = interface_of(source, own.arrays if own else None)
    samples = draw.sample_inputs(source.model, interface, own, options.sizes)
    inputs = samples.arrays
    about = source.facts
    progress.line(
        f"model      {source.name}: {about['class']}, {about['layers']} layers, {', '.join(about['policies'])}"
    )
    simulator = simulator_of(source.model, interface, inputs, fold=options.fold_batchnorm)
    few = interface.few(inputs, FEW)
    answers = simulator.reference(few)
    interface = simulator.interface
    check_deterministic(simulator, few, answers)
    inputs, reference, kinds = edge_rows.answered(simulator, inputs, samples.kinds)
    facts = edge_rows.counted(samples.facts, kinds)
    check_independent(simulator, source.model, inputs, kinds)
    _check_labels(options, interface, reference)
    described = ", ".join(f"{p.name} {p.dtype} {p.dims()}" for p in interface.inputs)
    progress.line(f"inputs     {described}")
    for text in (*interface.renamed(), basis_line(facts)):
        progress.line(f"           {text}")
    basis = Basis(simulator, inputs, reference, kinds, simulator)
    return _Prepared(source, basis, facts, samples.floats, samples.other_sizes)


def _check_labels(options: Options, interface: Interface, reference: dict[str, np.ndarray]) -> None:
    """Refuse names of classes that are not one for each class that the model tells apart.

    Raises:
        ConfigError: there are more or fewer, or the model gives no classes.
    """
    counts = {name: reference[name].shape[-1] for name in interface.classes if reference[name].ndim == 2}
    if options.labels and not counts:
        names = ", ".join(interface.outputs)
        raise ConfigError(f"--labels: none of the outputs {names} are classes; leave it out")
    if options.labels and len(options.labels) not in counts.values():
        sizes = " and ".join(f"{name} has {count:,}" for name, count in counts.items())
        raise ConfigError(
            f"--labels: holds {len(options.labels):,} names, and the output {sizes} classes; give a name for each"
        )


def _own_samples(options: Options) -> draw.OwnSamples | None:
    """The caller's own samples; None where inputs are drawn."""
    if options.samples is not None:
        return draw.OwnSamples(options.samples, "samples", "the caller's arrays")
    return draw.OwnSamples.of_file(options.verify_with) if options.verify_with else None


# --- islands ----------------------------------------------------------------------------------------------------------


def _fixed_islands(basis: Basis, patterns: Iterable[str], *, auto: bool) -> tuple[Island, ...]:
    """What stays in float32 before anything is tried: asked for, the model's own, and what float16 cannot hold."""
    simulator, inputs = basis.simulator, basis.inputs
    own = [Island(name, ("float32 in the model itself",)) for name in simulator.own_islands()]
    islands = [*matched(simulator, patterns), *unfit(simulator), *own]
    if auto:
        islands += wide_ranges(simulator, simulator.interface.few(inputs, FEW))
    known = [island.path for island in islands if island.path in simulator.names]
    islands += without_kernel(simulator, inputs, known)
    known = [island.path for island in islands if island.path in simulator.names]
    islands += constant_islands(simulator, inputs, known)
    unique = {island.path: island for island in reversed(islands) if island.path in simulator.names}
    return tuple(unique[name] for name in simulator.names if name in unique)


def _swept(prepared: _Prepared, kept: list[str], options: Options, progress: Progress) -> Sweep | None:
    """Up to which size of inputs float16 holds with these islands, for the manifest; it is printed too."""
    swept = sweep(prepared.basis.simulator, kept, prepared.basis.inputs, prepared.floats, options.limits, progress)
    if swept is None:
        return None
    progress.line(f"sizes      {sweep_line(swept)}")
    return swept


def _with(whole: Whole, basis: Basis, result: SearchResult, progress: Progress) -> Whole:
    """``whole`` with the islands of ``result`` in float32 too."""
    order = basis.order
    islands = tuple(sorted((*whole.islands, *result.islands), key=lambda island: order[island.path]))
    _say_islands(islands, result, progress)
    shipped = basis.simulator.ship([island.path for island in islands])
    return replace(whole, islands=islands, search=result, shipped=shipped)


def _say_islands(islands: tuple[Island, ...], result: SearchResult, progress: Progress) -> None:
    for line in island_lines(islands, result, _LONGER):
        progress.line(line)
