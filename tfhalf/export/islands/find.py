"""Which layers have to stay in float32: those whose weights float16 cannot hold, and those found on inputs."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tfhalf.artifacts.comparison import Limits, OutputParity
from tfhalf.errors import ArtifactError, ConfigError, ExportError
from tfhalf.export.islands.simulator import Arrays, Seen, Simulated, Simulator
from tfhalf.export.request import LIST
from tfhalf.precision import cast
from tfhalf.precision.islands import Island
from tfhalf.precision.keras_graph import LayerError
from tfhalf.precision.policy import near_names
from tfhalf.progress import Progress, duration
from tfhalf.verify.compare import compare_outputs

MARGIN = 8.0
"""With ``auto``, numbers beyond 65504 / 8 count as too large: other inputs give larger ones."""
STRICT = 0.7
"""Of the limits, what a set of islands has to keep to: runtimes round otherwise than the simulator."""


@dataclass(frozen=True)
class SearchResult:
    """The outcome of a search. ``complete``: no smaller set exists that is this one without one layer or a run of them.
    ``restored`` is False where not even float32 throughout keeps to the limits, or time was up before a set did."""

    islands: tuple[Island, ...]
    restored: bool
    complete: bool
    tests: int
    seconds: float
    problems: tuple[str, ...] = ()


def matched(simulator: Simulator, patterns: Iterable[str]) -> list[Island]:
    """The layers that a user's patterns match.

    Raises:
        ConfigError: a pattern is not a regular expression, or matches no layer.
    """
    islands: dict[str, Island] = {}
    for pattern in patterns:
        try:
            hits = [name for name in simulator.names if re.search(pattern, name)]
        except re.error as error:
            raise ConfigError(f"--keep-float32 {pattern!r}: is not a regular expression: {error}") from None
        if not hits:
            names = near_names(pattern, simulator.names)
            raise ConfigError(
                f"--keep-float32 {pattern!r}: matches no layer; the model has {names}; --keep-float32 {LIST} prints all"
            )
        islands.update((name, Island(name, (f"asked for by {pattern!r}",))) for name in hits)
    return list(islands.values())


def unfit(simulator: Simulator) -> list[Island]:
    """The layers with weights that float16 cannot hold: beyond 65504, or a variance that would be zero."""
    islands: dict[str, Island] = {}
    for name, path, value in simulator.weights():
        if value.dtype.kind != "f" or name in islands or not value.size:
            continue
        wide = value.astype(np.float64)
        largest = float(np.abs(wide).max())
        if np.isfinite(largest) and largest >= cast.OVERFLOWS_FROM:
            islands[name] = Island(name, (f"{path.rpartition('/')[2]} reaches {largest:.4g}, beyond 65504",))
        elif "variance" in path:
            smallest = float(wide[wide > 0].min(initial=np.inf))
            if np.float16(smallest) == 0:
                islands[name] = Island(name, (f"{path.rpartition('/')[2]} falls to {smallest:.2g}, which would be 0",))
    return list(islands.values())


def without_kernel(simulator: Simulator, inputs: Arrays, kept: Sequence[str]) -> list[Island]:
    """The layers that fail in float16, with ``kept`` in float32 already: TensorFlow has no float16 kernel for them, or
    their code mixes float16 with float32.

    Raises:
        LayerError: one fails with that in float32 as well.
    """
    islands: list[Island] = []
    few = simulator.interface.few(inputs, 1)
    while True:
        known = [*kept, *(island.path for island in islands)]
        try:
            simulator.simulate(known, few)
            simulator.trace(known)  # in a graph TensorFlow knows fewer dtypes of some operations
        except LayerError as error:
            if error.name not in simulator.names or error.name in known:
                raise
            islands.append(Island(error.name, (error.why,)))
        else:
            return islands


def wide_ranges(simulator: Simulator, inputs: Arrays) -> list[Island]:
    """The layers that take or give numbers near float16's end, on ``inputs``, in float32."""
    seen = Seen()
    simulator.reference(inputs, seen)
    return list(_beyond(seen, cast.MAX / MARGIN))


def _beyond(seen: Seen, limit: float) -> Iterable[Island]:
    for name, returned in seen.returned.items():
        taken = seen.taken[name]
        if max(returned, taken) > limit:
            yield Island(name, (f"gives up to {returned:.4g}" if returned > limit else f"takes up to {taken:.4g}",))


@dataclass
class Search:
    """A search for the smallest set of islands on top of ``start``, which keeps to the limits on ``inputs``.

    After Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", TSE 2002, with layers in the order
    in which they compute, so that what is kept is made of runs of them:

        guess    what goes beyond 65504 in float32, and what float16 breaks first, again and again
        interval else the shortest run [i, j] that will do: j by bisection over prefixes, then i over suffixes of it
        shrink   take out runs of half, a quarter, ... one of what is kept, as long as the rest will do
    """

    simulator: Simulated
    inputs: Arrays
    reference: dict[str, np.ndarray]
    classes: Sequence[str]
    limits: Limits
    seconds: float
    progress: Progress
    start: tuple[str, ...] = ()
    kinds: Sequence[str] = ()  # of each row of ``inputs``, as `verify.compare.compare_outputs` takes them
    typical: Mapping[str, np.ndarray] | None = None  # as it takes them, too
    tests: int = 0
    _known: dict[frozenset[str], tuple[str, ...]] = field(default_factory=dict)
    _begun: float = 0.0

    def run(self) -> SearchResult:
        """The smallest set within ``seconds``; at least a first set is looked for whatever it takes."""
        self._begun = time.perf_counter()
        names = [name for name in self.simulator.names if name not in self.start]
        problems = self._problems(())
        if not problems:
            return self._result((), True, True, ())
        whole = self._problems(names)
        if whole:
            return self._result((), False, True, whole)
        reasons, kept = self._guess(names)
        if self._problems(kept):
            kept = self._interval(names)
        kept, complete = self._shrink(list(kept))
        self.progress.clear()
        islands = tuple(
            Island(name, (reasons.get(name, f"without it {problems[0]}"),)) for name in names if name in set(kept)
        )
        return self._result(islands, True, complete, ())

    def _result(
        self, islands: tuple[Island, ...], restored: bool, complete: bool, problems: tuple[str, ...]
    ) -> SearchResult:
        return SearchResult(islands, restored, complete, self.tests, time.perf_counter() - self._begun, problems)

    def _left(self) -> float:
        return self.seconds - (time.perf_counter() - self._begun)

    def _problems(self, kept: Iterable[str], seen: Seen | None = None) -> tuple[str, ...]:
        """What is wrong with the answers when ``kept`` and ``start`` are float32; empty where nothing is."""
        chosen = frozenset(kept) | frozenset(self.start)
        if chosen not in self._known or seen is not None:
            self.tests += 1
            try:
                got = self.simulator.simulate(chosen, self.inputs, seen)
                limits = strict(self.limits)
                self._known[chosen] = problems_of(
                    compare_outputs(self.reference, got, self.classes, limits, self.kinds, typical=self.typical)
                )
            except (ExportError, ArtifactError) as error:  # this set cannot be written, or not be run
                self._known[chosen] = (str(error),)
            self.progress.status(
                f"islands: {self.tests} sets tried, {len(chosen)} of {len(self.simulator.names)} layers in float32, "
                f"{duration(max(0.0, self._left()))} left"
            )
        return self._known[chosen]

    def _guess(self, names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        """Layers that overflow, by the numbers of float32 and by what float16 breaks; with the reasons."""
        seen = Seen()
        self.simulator.reference(self.inputs, seen)
        reasons = {island.path: island.reason for island in _beyond(seen, cast.MAX) if island.path in names}
        kept = [name for name in names if name in reasons]
        while self._left() > 0:
            now = Seen()
            self._problems(kept, now)
            new = next((name for name in now.broken if name in names and name not in kept), None)
            if new is None:
                break
            reasons.setdefault(new, "overflows within")
            kept.append(new)
        return reasons, kept

    def _interval(self, names: Sequence[str]) -> list[str]:
        low, high = 0, len(names)  # names[:high] will do
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if not self._problems(names[:middle]) else (middle, high)
        first, last = 0, high  # names[first:last] will do
        low, top = 0, last
        while top - low > 1:
            middle = (low + top) // 2
            low, top = (middle, top) if not self._problems(names[middle:last]) else (low, middle)
            first = low
        return list(names[first:last])

    def _shrink(self, kept: list[str]) -> tuple[list[str], bool]:
        size = max(1, len(kept) // 2)
        while True:
            taken_out = False
            start = 0
            while start < len(kept):
                if self._left() <= 0:
                    return kept, False
                fewer = kept[:start] + kept[start + size :]
                if not self._problems(fewer):
                    kept, taken_out = fewer, True
                else:
                    start += size
            if size == 1 and not taken_out:
                return kept, True
            size = max(1, size // 2)


def strict(limits: Limits) -> Limits:
    """``limits`` with room for the differences between runtimes."""
    return limits.scaled(STRICT)


def problems_of(outputs: Iterable[OutputParity]) -> tuple[str, ...]:
    """Every problem with its output's name."""
    return tuple(f"{output.name}: {problem}" for output in outputs for problem in output.problems)
