"""Any Keras model exported, judged and published: `export_model`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf.convert import draw, open_sizes
from tfhalf.convert.constants import constant_islands
from tfhalf.convert.interface import interface_of
from tfhalf.convert.islands import Found, Island, Search, asked, unfit, wide_ranges, without_kernel
from tfhalf.convert.options import Options, Request
from tfhalf.convert.publish import Exported, Whole, publish
from tfhalf.convert.runtime_subject import RuntimeSubject
from tfhalf.convert.source import Source, open_source
from tfhalf.convert.subject import Arrays, Seen, Simulated, Subject
from tfhalf.convert.subjects import subject_of
from tfhalf.convert.sweep import sweep, sweep_line
from tfhalf.device import float32_exactly, grow_memory
from tfhalf.errors import ArtifactError, ExportError, ParityError
from tfhalf.export import manifest as manifests
from tfhalf.export import version
from tfhalf.fresh import Verifier
from tfhalf.parity import SampleComparison, badness, edge_mask
from tfhalf.progress import Progress, duration
from tfhalf.runtime import TRUE_FLOAT16
from tfhalf.samples import basis, true_float16_rows

FEW = 8  # samples that islands are found on
ROUNDS = 4
"""How often the artifacts are written again with more layers in float32, where one still falls short."""


@dataclass(frozen=True)
class _Prepared:
    source: Source
    subject: Subject
    inputs: dict[str, np.ndarray]
    reference: dict[str, np.ndarray]
    drawn: dict[str, Any]
    kinds: tuple[str, ...]
    floats: tuple[str, ...]
    other_sizes: dict[str, dict[str, np.ndarray]]
    simulated: Simulated


def export_model(request: Request, options: Options, progress: Progress) -> Exported:
    """Read a model, make it float16, write it in each format, judge it in a fresh process, and publish it.

    Raises:
        ArtifactError, RefError, ConfigError, DataError: what was given is at fault.
        ExportError: the model cannot be made float16, or not be written in a format that was asked for.
        ParityError: an artifact does not answer like the float32 model; it is kept as ``failed-N``.
    """
    begun = time.perf_counter()
    grow_memory()
    patterns = [pattern for pattern in options.keep_float32 if pattern != "auto"]
    progress.status(f"reading {request.model} ...")
    source = open_source(request)
    version.check(options.exports / (options.name or source.name))
    with Verifier(progress) as verifier, float32_exactly():
        verifier.start()
        made = _prepare(source, options, progress)
        fixed = _fixed_islands(made, patterns, auto="auto" in options.keep_float32)
        found = _search(made, fixed, options, progress)
        islands = (*fixed, *found.islands)
        _say_islands(islands, found, progress)
        made.drawn["sweep"] = _swept(made, islands, options, progress)
        kept = [island.path for island in islands]
        made.drawn["other_sizes"] = open_sizes.hold(made.subject, kept, made.other_sizes, options.limits, progress)
        shipped = made.subject.ship([island.path for island in islands])
        revision = manifests.git_revision(Path.cwd())
        whole = Whole(
            source,
            made.subject.interface,
            made.inputs,
            made.reference,
            made.drawn,
            islands,
            found,
            shipped,
            revision,
            made.kinds,
        )

        rounds = iter(range(ROUNDS))

        def mend(whole: Whole, comparisons: list[SampleComparison]) -> Whole | None:
            # What int8 rounds away, no float32 in the others brings back.
            failing = [c for c in comparisons if not c.passed and c.artifact != "litert-int8"]
            again = failing and next(rounds, None) is not None
            return _widened(whole, made, failing, options, progress) if again else None

        return publish(whole, options, verifier, progress, begun, mend)


def layer_names(request: Request, options: Options) -> tuple[str, ...]:
    """The names that ``--keep-float32`` takes: of layers and operations, in the order in which they compute.

    Raises:
        ArtifactError, RefError, ConfigError, DataError, ExportError: as `export_model`.
    """
    grow_memory()
    return _prepare(open_source(request), options, Progress(quiet=True)).subject.names


# --- the model and what it is judged on -------------------------------------------------------------------------------


def _prepare(source: Source, options: Options, progress: Progress) -> _Prepared:
    arrays = draw.read_arrays(options.verify_with) if options.verify_with else None
    interface = interface_of(source, arrays)
    samples = draw.sample_inputs(source.model, interface, arrays, options.verify_with, options.sizes)
    inputs = samples.arrays
    facts = source.facts
    progress.line(
        f"model      {source.name}: {facts['class']}, {facts['layers']} layers, {', '.join(facts['policies'])}"
    )
    subject = subject_of(source.model, interface, inputs, fold=options.fold_batchnorm)
    few = interface.few(inputs, FEW)
    reference = subject.reference(few)
    interface = subject.interface
    _check_deterministic(subject, few, reference)
    told = ", ".join(f"{p.name} {p.dtype} {p.dims()}" for p in interface.inputs)
    progress.line(f"inputs     {told}")
    for text in (*interface.renamed(), basis(samples.facts)):
        progress.line(f"           {text}")
    return _Prepared(
        source,
        subject,
        inputs,
        subject.reference(inputs),
        samples.facts,
        samples.kinds,
        samples.floats,
        samples.other_sizes,
        subject,
    )


def _check_deterministic(subject: Subject, few: Arrays, before: Arrays) -> None:
    """Refuse a model that answers the same inputs differently: there is nothing to compare with.

    Raises:
        ExportError: it names the layer that draws random numbers.
    """
    again = subject.reference(few)
    if all(np.array_equal(before[name], again[name], equal_nan=True) for name in before):
        return
    runs = [Seen(), Seen()]
    for seen in runs:
        subject.reference(few, seen)
    first = next((n for n, v in runs[0].digests.items() if v != runs[1].digests.get(n)), "a layer")
    scale = max(float(np.abs(np.nan_to_num(x)).max(initial=0.0)) for x in before.values() if x.dtype.kind == "f")
    most = max(float(np.abs(before[n] - again[n]).max(initial=0.0)) for n in before if before[n].dtype.kind == "f")
    if most > 1e-4 * scale:
        raise ExportError(
            f"the model answers the same input differently each time: {first!r} draws random numbers in inference, so "
            "no artifact can be compared with it; export the part without sampling, or have it draw in training alone"
        )


def _first(arrays: Arrays) -> np.ndarray:
    return next(iter(arrays.values()))


# --- islands ----------------------------------------------------------------------------------------------------------


def _fixed_islands(made: _Prepared, patterns: Iterable[str], *, auto: bool) -> tuple[Island, ...]:
    """What stays in float32 before anything is tried: asked for, the model's own, and what float16 cannot hold."""
    own = [Island(name, "float32 in the model itself") for name in made.subject.own_islands()]
    found = [*asked(made.subject, patterns), *unfit(made.subject), *own]
    if auto:
        found += wide_ranges(made.subject, made.subject.interface.few(made.inputs, FEW))
    known = [island.path for island in found if island.path in made.subject.names]
    found += without_kernel(made.subject, made.inputs, known)
    known = [island.path for island in found if island.path in made.subject.names]
    found += constant_islands(made.subject, made.inputs, known)
    unique = {island.path: island for island in reversed(found) if island.path in made.subject.names}
    return tuple(unique[name] for name in made.subject.names if name in unique)


def _search(made: _Prepared, fixed: tuple[Island, ...], options: Options, progress: Progress) -> Found:
    """The islands that the hardest samples need; and then those that all of them need beside, if these do not do."""
    islands: tuple[Island, ...] = ()
    complete, tests, seconds = True, 0, 0.0
    for inputs, reference, kinds in (_hardest(made, fixed), (made.inputs, made.reference, made.kinds)):
        start = tuple(island.path for island in (*fixed, *islands))
        classes, left = made.subject.interface.classes, max(0.0, options.bisect_seconds - seconds)
        search = Search(made.simulated, inputs, reference, classes, options.limits, left, progress, start, kinds)
        found = search.run()
        progress.clear()
        if not found.restored:
            raise ParityError(
                "no set of layers in float32 restores the answers, not even all of them: "
                f"{'; '.join(found.problems)}; nothing was published"
            )
        islands, complete = (*islands, *found.islands), complete and found.complete
        tests, seconds = tests + found.tests, seconds + found.seconds
    order = {name: place for place, name in enumerate(made.subject.names)}
    return Found(tuple(sorted(islands, key=lambda island: order[island.path])), True, complete, tests, seconds)


def _swept(made: _Prepared, islands: tuple[Island, ...], options: Options, progress: Progress) -> dict[str, Any] | None:
    """Up to which size of inputs float16 holds with these islands, for the manifest; it is printed too."""
    kept = [island.path for island in islands]
    swept = sweep(made.subject, kept, made.inputs, made.floats, options.limits, progress)
    if swept is None:
        return None
    progress.line(f"sizes      {sweep_line(swept.to_dict())}")
    return swept.to_dict()


def _hardest(made: _Prepared, fixed: tuple[Island, ...]) -> tuple[Arrays, dict[str, np.ndarray], tuple[str, ...]]:
    """The few samples that float16 answers worst, the float32 answers to them, and their kinds: what holds there holds
    elsewhere. Usual ones, and edge rows that lose values."""
    if len(_first(made.inputs)) <= FEW or made.subject.interface.inputs[0].shape[0]:
        chosen = np.arange(len(_first(made.subject.interface.few(made.inputs, FEW))))
    else:
        got = made.simulated.simulate([island.path for island in fixed], made.inputs)
        worst, edge = badness(made.reference, got, made.kinds), edge_mask(made.kinds)
        usual = np.flatnonzero(~edge)
        usual = usual[np.argsort(-worst[usual], kind="stable")[:FEW]]
        chosen = np.sort(np.concatenate([usual, np.flatnonzero(edge & np.isinf(worst))]))
    inputs = {name: x[chosen] for name, x in made.inputs.items()}
    reference = {name: y[chosen] for name, y in made.reference.items()}
    return inputs, reference, tuple(made.kinds[row] for row in chosen)


def _widened(
    whole: Whole, made: _Prepared, failing: Sequence[SampleComparison], options: Options, progress: Progress
) -> Whole | None:
    """``whole`` with more layers in float32, so that what falls short no longer does; None where none does that.

    A runtime that only rounds otherwise than what the islands were found with may need no more than stricter limits
    there. Else the search goes on through the runtime's own answers.
    """
    for comparison in failing:
        progress.line(f"           {comparison.artifact}, {comparison.runtime}: {'; '.join(comparison.problems)}")
        runtime = _runtime_of(comparison)
        attempts = [(_through_runtime(whole, made, runtime, comparison.samples, options), options)]
        lost = comparison.worst("non_finite") or comparison.worst("edge_non_finite")
        if runtime != "onnx-float16" and not lost:
            half = {name: getattr(options.limits, name) / 2 for name in ("max_difference", "mean_difference")}
            attempts.insert(0, (made, replace(options, limits=replace(options.limits, **half))))
        for prepared, chosen in attempts:
            try:
                found = _search(prepared, whole.islands, chosen, progress)
            except (ParityError, ExportError, ArtifactError) as error:
                progress.line(f"           the search through {runtime} ended: {error}")
                continue
            if found.islands:
                return _with(whole, made.subject, found, progress)
    return None


def _runtime_of(comparison: SampleComparison) -> str:
    """The runtime of `runtime.RUNTIMES` that a comparison is of."""
    kind = comparison.artifact.partition(",")[0]
    if comparison.runtime == TRUE_FLOAT16:
        return "onnx-float16"
    return "onnx-openvino" if "OpenVINO" in comparison.artifact else kind


def _through_runtime(whole: Whole, made: _Prepared, runtime: str, count: int, options: Options) -> _Prepared:
    """What is searched where answers are a runtime's, on those samples that it was compared on."""
    rows = np.arange(len(whole.kinds))
    if runtime == "onnx-float16":
        rows = true_float16_rows(whole.kinds, len(rows), options.limits, made.subject.interface.inputs[0].shape[0] or 1)
    rows = rows[:count]
    inputs = {name: x[rows] for name, x in whole.inputs.items()}
    reference = {name: y[rows] for name, y in whole.reference.items()}
    simulated, kinds = RuntimeSubject(made.subject, runtime, options.opset), tuple(whole.kinds[row] for row in rows)
    return replace(made, simulated=simulated, inputs=inputs, reference=reference, kinds=kinds)


def _with(whole: Whole, subject: Subject, found: Found, progress: Progress) -> Whole:
    """``whole`` with what was ``found`` in float32 too."""
    order = {name: place for place, name in enumerate(subject.names)}
    islands = tuple(sorted((*whole.islands, *found.islands), key=lambda island: order[island.path]))
    _say_islands(islands, found, progress)
    return replace(whole, islands=islands, found=found, shipped=subject.ship([island.path for island in islands]))


def _say_islands(islands: tuple[Island, ...], found: Found, progress: Progress) -> None:
    if not islands:
        return
    progress.line(f"float32    {len(islands)} layers are kept in float32")
    for island in islands[:12]:
        progress.line(f"           {island.path}: {island.reason}")
    if len(islands) > 12:
        progress.line(f"           and {len(islands) - 12} more, in the manifest")
    if found.islands:
        whole = "the smallest set" if found.complete else "not the smallest set: --bisect-seconds gives more time"
        progress.line(f"           {whole}, after {found.tests} trials in {duration(found.seconds)}")
