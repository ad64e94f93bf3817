"""The layers that what is exported needs in float32, searched on samples: by the model itself, and by its artifacts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tfhalf.artifacts.comparison import Comparison, Limits
from tfhalf.artifacts.edges import edge_mask
from tfhalf.artifacts.reference import Samples
from tfhalf.errors import ArtifactError, ExportError, ParityError
from tfhalf.export.islands.find import Search, SearchResult
from tfhalf.export.islands.runtime_simulator import RuntimeSimulator
from tfhalf.export.islands.simulator import Arrays, Simulated, Simulator
from tfhalf.precision.islands import Island
from tfhalf.progress import Progress, duration
from tfhalf.runtimes.base import TRUE_FLOAT16
from tfhalf.verify.compare import badness, true_float16_rows

FEW = 8  # samples that islands are found on
ROUNDS = 4
"""How often the artifacts are written again with more layers in float32, where one still falls short."""
_SHOWN = 12  # layers that are printed


@dataclass(frozen=True)
class Basis:
    """What is searched on: a model, ``inputs`` with the float32 answers to them, of each row its kind
    (`draw.SampleInputs`), what gives the answers of float16, and what sets their scale where it is not the usual rows:
    the ``scale`` of another basis, of which this one is a part."""

    simulator: Simulator
    inputs: dict[str, np.ndarray]
    reference: dict[str, np.ndarray]
    kinds: tuple[str, ...]
    simulated: Simulated
    scale: Mapping[str, np.ndarray] | None = None

    @property
    def typical(self) -> Mapping[str, np.ndarray]:
        """The float32 answers that set the scale of the outputs."""
        usual = ~edge_mask(self.kinds)
        return {name: y[usual] for name, y in self.reference.items()} if self.scale is None else self.scale

    @property
    def order(self) -> dict[str, int]:
        """The index of each name, in the order of computing."""
        return {name: index for index, name in enumerate(self.simulator.names)}


@dataclass(frozen=True)
class Effort:
    """What an answer is held to, how many seconds a search may take, and the opset of ONNX files that it writes."""

    limits: Limits
    seconds: float = 120.0
    opset: int = 18

    def stricter(self, by: float = 2.0) -> Effort:
        """With differences that are ``by`` times smaller."""
        return replace(self, limits=self.limits.scaled(1 / by))


def search(basis: Basis, fixed: Sequence[Island], effort: Effort, progress: Progress) -> SearchResult:
    """The islands that the hardest samples need; and then those that all of them need beside, if these do not do.

    Args:
        fixed: what is in float32 already.

    Raises:
        ParityError: not even float32 throughout restores the answers.
    """
    islands: tuple[Island, ...] = ()
    complete, tests, seconds = True, 0, 0.0
    for inputs, reference, kinds in (_hardest(basis, fixed), (basis.inputs, basis.reference, basis.kinds)):
        start = tuple(island.path for island in (*fixed, *islands))
        classes, left = basis.simulator.interface.classes, max(0.0, effort.seconds - seconds)
        result = Search(
            basis.simulated, inputs, reference, classes, effort.limits, left, progress, start, kinds, basis.typical
        ).run()
        progress.clear()
        if not result.restored:
            raise ParityError(
                "no set of layers in float32 restores the answers, not even all of them: "
                f"{'; '.join(result.problems)}; nothing was published"
            )
        islands, complete = (*islands, *result.islands), complete and result.complete
        tests, seconds = tests + result.tests, seconds + result.seconds
    order = basis.order
    return SearchResult(tuple(sorted(islands, key=lambda island: order[island.path])), True, complete, tests, seconds)


def widened(
    basis: Basis,
    islands: Sequence[Island],
    failing: Sequence[Comparison],
    effort: Effort,
    progress: Progress,
    sized: Mapping[str, Samples] | None = None,
) -> SearchResult | None:
    """What has to be float32 beside ``islands``, so that what falls short no longer does; None where nothing does that.

    A runtime that only rounds otherwise than what the islands were found with may need no more than stricter limits
    there. Else the search goes on through the runtime's own answers.

    Args:
        sized: samples of the other sizes that artifacts were run at.
    """
    for comparison in failing:
        runtime = _runtime_of(comparison)
        attempts = []
        if any(output.problems for output in comparison.outputs):
            if runtime != "onnx-float16" and not _lost(comparison):
                attempts.append((basis, effort.stricter()))
            attempts.append((_through_runtime(basis, runtime, comparison, effort), effort))
        attempts += [(one, effort) for one in _at_other_sizes(basis, runtime, comparison, effort, sized or {})]
        for where, chosen in attempts:
            try:
                result = search(where, islands, chosen, progress)
            except (ParityError, ExportError, ArtifactError) as error:
                progress.line(f"           the search through {runtime} ended: {error}")
                continue
            if result.islands:
                return result
    return None


def say_shortfalls(failing: Sequence[Comparison], progress: Progress) -> None:
    """A line for each artifact that falls short, of what."""
    for one in failing:
        progress.line(f"           {one.artifact}, {one.runtime}: {'; '.join(one.problems)}")


def island_lines(islands: Sequence[Island], result: SearchResult, longer: str) -> Iterator[str]:
    """Which layers stay in float32 and why, those of ``result`` among them; ``longer``, what gives a search that time
    ended more of it."""
    if not islands:
        return
    count = "1 layer is" if len(islands) == 1 else f"{len(islands)} layers are"
    yield f"float32    {count} kept in float32"
    yield from (f"           {island.path}: {island.reason}" for island in islands[:_SHOWN])
    if len(islands) > _SHOWN:
        yield f"           and {len(islands) - _SHOWN} more, in the manifest"
    if result.islands:
        whole = "the smallest set" if result.complete else f"not the smallest set: {longer}"
        yield f"           {whole}, after {result.tests} trials in {duration(result.seconds)}"


def _hardest(basis: Basis, fixed: Sequence[Island]) -> tuple[Arrays, dict[str, np.ndarray], tuple[str, ...]]:
    """The few samples that float16 answers worst, the float32 answers to them, and their kinds: what holds there holds
    elsewhere. Usual ones, and edge rows that lose values."""
    count = len(basis.kinds)
    if count <= FEW or basis.simulator.interface.inputs[0].shape[0]:
        chosen = np.arange(min(count, basis.simulator.interface.inputs[0].shape[0] or FEW))
    else:
        got = basis.simulated.simulate([island.path for island in fixed], basis.inputs)
        worst, edge = badness(basis.reference, got, basis.kinds), edge_mask(basis.kinds)
        usual = np.flatnonzero(~edge)
        usual = usual[np.argsort(-worst[usual], kind="stable")[:FEW]]
        chosen = np.sort(np.concatenate([usual, np.flatnonzero(edge & np.isinf(worst))]))
    return _rows(basis, chosen)


def _rows(basis: Basis, chosen: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], tuple[str, ...]]:
    """Inputs, answers and kinds of some rows."""
    inputs = {name: x[chosen] for name, x in basis.inputs.items()}
    reference = {name: y[chosen] for name, y in basis.reference.items()}
    return inputs, reference, tuple(basis.kinds[row] for row in chosen)


def _lost(comparison: Comparison) -> bool:
    """Whether it lost values that float32 gives."""
    return bool(comparison.worst("non_finite") or comparison.worst("edge_non_finite"))


def _runtime_of(comparison: Comparison) -> str:
    """The runtime of `runtimes.open.BY_NAME` that a comparison is of."""
    if comparison.runtime == TRUE_FLOAT16:
        return "onnx-float16"
    return "onnx-openvino" if "OpenVINO" in comparison.artifact else comparison.format.name


def _at_other_sizes(
    basis: Basis, runtime: str, comparison: Comparison, effort: Effort, sized: Mapping[str, Samples]
) -> Iterator[Basis]:
    """What is searched where an artifact runs and falls short at another size."""
    simulated = RuntimeSimulator(basis.simulator, runtime, effort.opset)
    for row in comparison.other_sizes:
        if row.taken and row.problems and row.size in sized:
            one = sized[row.size]
            kinds = (row.size,) * one.count
            yield Basis(basis.simulator, one.inputs, one.outputs, kinds, simulated, basis.typical)


def _through_runtime(basis: Basis, runtime: str, comparison: Comparison, effort: Effort) -> Basis:
    """What is searched where answers are a runtime's, on those samples that it was compared on."""
    rows = np.arange(len(basis.kinds))
    if runtime == "onnx-float16":
        batch = basis.simulator.interface.inputs[0].shape[0] or 1
        rows = true_float16_rows(basis.kinds, effort.limits, batch)
    inputs, reference, kinds = _rows(basis, rows[: comparison.samples])
    simulated = RuntimeSimulator(basis.simulator, runtime, effort.opset)
    return Basis(basis.simulator, inputs, reference, kinds, simulated, basis.typical)
