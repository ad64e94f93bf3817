"""What a comparison holds, as frozen values: a cell's result, and the table that is made of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tfhalf.progress import figure


@dataclass(frozen=True)
class Setting:
    """What a row of the table is of: a dtype policy, and one ``KEY=VALUE`` of each ``--vary``."""

    policy: str
    changes: tuple[str, ...] = ()

    def words(self) -> str:
        """``mixed_float16, train.optimizer.learning_rate=0.01``."""
        return ", ".join((self.policy, *self.changes))


@dataclass(frozen=True)
class MetricFacts:
    """A metric of the task: whether more is better, whether it is a share (0 to 1, shown in percent), its unit."""

    name: str
    higher: bool
    share: bool
    unit: str = ""

    def shown(self, value: float) -> str:
        """``93.12`` of a share, in percent; of numbers four digits, and all before the point."""
        return figure(value, self.share)

    @property
    def suffix(self) -> str:
        """The percent sign of a share, else the unit."""
        return "%" if self.share else self.unit


@dataclass(frozen=True)
class Artifact:
    """A published artifact of one format: its size, and its metrics on the test set."""

    format: str
    bytes: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Latency:
    """A runtime's answers to batches of one size, in milliseconds a batch, on ``device``."""

    runtime: str
    computed_by: str
    batch_size: int
    p50_ms: float
    p99_ms: float
    items_per_s: float
    device: str = ""


@dataclass(frozen=True)
class Result:
    """What came of one cell.

    ``metrics`` and ``classes`` (the share of each class that was found) are of the trained net on the test set;
    ``history`` are the rows of the run's ``history.jsonl``, each with ``elapsed``, seconds of training until its end.
    ``problem`` is why nothing was published, of a net that was trained all the same. ``error`` is why nothing was
    trained; all else is empty then. ``at_once``: so many trainings shared the GPU, or the machine, with this one among
    them: then seconds and rates are not of one alone.
    """

    error: str = ""
    problem: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    classes: Mapping[str, float] = field(default_factory=dict)
    facts: tuple[MetricFacts, ...] = ()
    history: tuple[Mapping[str, Any], ...] = ()
    items_per_s: float = 0.0
    noun: str = "items"
    skipped: int = 0
    loss_scale: float = 1.0
    seconds: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: int = 0
    memory_of: str = ""
    artifacts: tuple[Artifact, ...] = ()
    latency: tuple[Latency, ...] = ()
    version: str | None = None
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    at_once: int = 1

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Result:
        """The inverse of `to_dict`.

        Raises:
            TypeError, KeyError: ``facts`` are of something else.
        """
        nested = {"facts": MetricFacts, "artifacts": Artifact, "latency": Latency}
        lists = {name: tuple(kind(**one) for one in facts[name]) for name, kind in nested.items()}
        return cls(**{**facts, **lists, "history": tuple(facts["history"])})


@dataclass(frozen=True)
class Summary:
    """Values over seeds: their mean and standard deviation (of a sample, n - 1; 0 of one)."""

    mean: float
    std: float
    values: tuple[float, ...]


Verdict = Literal["no loss", "loses", "not decided"]


@dataclass(frozen=True)
class Difference:
    """How much a row's metric is worse (``loss`` above 0) or better than its reference's.

    ``half_width``: the 95 % interval is ``loss`` plus and minus it. ``margin`` is the loss that does not count, in the
    metric's own unit. ``more_seeds`` would decide it, about; None where it is decided, or where nothing can be said.
    ``paired``: the difference was taken seed by seed. ``p`` is of the one-sided test against a loss of ``margin``.
    """

    loss: float
    half_width: float
    margin: float
    verdict: Verdict
    paired: bool
    seeds: int
    p: float
    words: str
    more_seeds: int | None = None


@dataclass(frozen=True)
class TimeTo:
    """Seconds of training until a validation metric was reached, the fastest and the slowest of three runs or more left
    out; ``seconds`` is None where too many runs never reached it (``missed``)."""

    seconds: float | None
    reached: int
    missed: int


@dataclass(frozen=True)
class Row:
    """One setting over its ``seeds``, failed ones among them. ``differences`` are by metric, empty of the reference
    itself; ``against_first``: to the first combination of ``--vary`` under the same policy, where policies are compared
    besides; ``gap``: the training part's metric less the test's, by metric."""

    setting: Setting
    reference: bool
    seeds: tuple[int, ...]
    failed: Mapping[int, str]
    problems: Mapping[int, str]
    metrics: Mapping[str, Summary]
    differences: Mapping[str, Difference]
    gap: Mapping[str, float]
    time_to: TimeTo | None
    items_per_s: Summary | None
    noun: str
    memory_bytes: int
    memory_of: str
    skipped: int
    artifacts: tuple[Artifact, ...]
    latency: tuple[Latency, ...]
    results: Mapping[int, Result] = field(repr=False, default_factory=dict)
    against_first: Mapping[str, Difference] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """The validation metric whose time is taken."""

    metric: str
    value: float


@dataclass(frozen=True)
class Comparison:
    """A whole comparison: its rows in the order in which they were asked for."""

    name: str
    facts: tuple[MetricFacts, ...]
    rows: tuple[Row, ...]
    target: Target | None
    command: str
    date: str
    device: str
    versions: Mapping[str, str]
    unfinished: int = 0

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold; the cells' own results lie beside it in files of their own."""
        rows = [{name: value for name, value in asdict(row).items() if name != "results"} for row in self.rows]
        return {**asdict(self), "rows": rows}
