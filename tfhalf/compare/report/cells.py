"""The tables of a comparison as text, the same in every report: names of columns, a row a setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tfhalf.compare.records import Comparison, Difference, Latency, MetricFacts, Row, Summary
from tfhalf.progress import duration, size

NOTHING = "-"
SETTING = "setting"


@dataclass(frozen=True)
class Column:
    """A heading, and a cell of each row; ``number``: aligned at the right; ``differences``: those that cells tell."""

    name: str
    cells: tuple[str, ...]
    number: bool = True
    differences: tuple[Difference | None, ...] = ()


@dataclass(frozen=True)
class Grid:
    """A table: its first column names what the rows are of."""

    columns: tuple[Column, ...]

    def rows(self) -> list[tuple[str, ...]]:
        """The cells row by row."""
        return list(zip(*(column.cells for column in self.columns), strict=True))


def reference(comparison: Comparison, row: Row) -> Row | None:
    """What ``row`` is compared with: of several references the one with its changes, else the first."""
    references = [one for one in comparison.rows if one.reference]
    alike = [one for one in references if one.setting.changes == row.setting.changes]
    return next(iter(alike or references), None)


def base_name(comparison: Comparison) -> str:
    """What the reference is called; of several with one policy, the policy."""
    pairs = zip(names(comparison), comparison.rows, strict=True)
    references = [(name, row.setting.policy) for name, row in pairs if row.reference]
    if len(references) == 1:
        return references[0][0]
    policies = {policy for _, policy in references}
    return policies.pop() if len(policies) == 1 else "the reference"


def first_name(comparison: Comparison) -> str:
    """What the first combination of ``--vary`` is called, whichever the policy."""
    return names(comparison)[0].removeprefix(f"{comparison.rows[0].setting.policy}, ")


def names(comparison: Comparison) -> list[str]:
    """The rows' settings: of a key only what follows its last point, where no other key ends so."""
    ends: dict[str, set[str]] = {}
    for row in comparison.rows:
        for change in row.setting.changes:
            key = change.partition("=")[0]
            ends.setdefault(key.rpartition(".")[2], set()).add(key)

    def short(change: str) -> str:
        key, equals, value = change.partition("=")
        end = key.rpartition(".")[2]
        return f"{end if len(ends[end]) == 1 else key}{equals}{value}"

    return [", ".join((row.setting.policy, *map(short, row.setting.changes))) for row in comparison.rows]


def shortened(comparison: Comparison) -> list[str]:
    """The whole keys that `names` shortens, in their order."""
    keys = dict.fromkeys(change.partition("=")[0] for row in comparison.rows for change in row.setting.changes)
    shown = ", ".join(names(comparison))
    return [key for key in keys if f"{key}=" not in shown]


def heading(fact: MetricFacts) -> str:
    """``accuracy %``, ``rmse m``."""
    return f"{fact.name} {fact.suffix}".rstrip()


def amount(fact: MetricFacts, value: float) -> str:
    """A difference of a metric: of shares in percentage points."""
    unit = "points" if fact.share else fact.unit
    return f"{fact.shown(value)} {unit}".rstrip()


def spread(summary: Summary | None, shown: Callable[[float], str]) -> str:
    """``93.12 ± 0.15``; of one seed the value alone."""
    if summary is None:
        return NOTHING
    return shown(summary.mean) + (f" ± {shown(summary.std)}" if len(summary.values) > 1 else "")


def grid(comparison: Comparison, *, sizes: bool = True) -> Grid:
    """The main table: the first metric, and what a setting costs; with artifacts' ``sizes``."""
    rows = comparison.rows
    columns = [
        Column(SETTING, tuple(names(comparison)), number=False),
        Column("seeds", tuple(_seeds(row) for row in rows)),
    ]
    if comparison.facts:
        columns += _metric(comparison, comparison.facts[0])
        columns += _against_first(comparison, comparison.facts[0])
    noun = next((row.noun for row in rows if row.items_per_s), "items")
    columns += [
        Column(f"{noun}/s", tuple(_rate(row) for row in rows)),
        Column("x reference", tuple(_ratio(row, reference(comparison, row)) for row in rows)),
        Column("peak memory", tuple(size(row.memory_bytes) if row.memory_bytes else NOTHING for row in rows)),
        Column("skipped steps", tuple(f"{row.skipped:,}" if row.metrics else NOTHING for row in rows)),
    ]
    if comparison.target:
        columns.append(Column(f"time to {target_words(comparison)}", tuple(_time(row) for row in rows)))
    formats = dict.fromkeys(one.format for row in rows for one in row.artifacts)
    if sizes:
        columns += [Column(f"{name} size", tuple(_bytes(row, name) for row in rows)) for name in formats]
    silent = {"x reference", "peak memory"}
    return Grid(tuple(one for one in columns if one.name not in silent or {*one.cells} != {NOTHING}))


def others(comparison: Comparison) -> Grid | None:
    """The metrics behind the first; None where there is one."""
    more = [column for fact in comparison.facts[1:] for column in _metric(comparison, fact)]
    return Grid((Column(SETTING, tuple(names(comparison)), number=False), *more)) if more else None


def artifacts(comparison: Comparison) -> Grid | None:
    """Published artifacts with their metrics on the test set; None where nothing was published."""
    lines = [(name, one) for name, row in zip(names(comparison), comparison.rows, strict=True) for one in row.artifacts]
    if not lines:
        return None
    columns = [
        Column(SETTING, tuple(name for name, _ in lines), number=False),
        Column("format", tuple(one.format for _, one in lines), number=False),
        Column("size", tuple(size(one.bytes) for _, one in lines)),
    ]
    for fact in comparison.facts:
        if any(fact.name in one.metrics for _, one in lines):
            values = (one.metrics.get(fact.name) for _, one in lines)
            cells = tuple(NOTHING if value is None else fact.shown(value) for value in values)
            columns.append(Column(heading(fact), cells))
    return Grid(tuple(columns))


def latencies(comparison: Comparison) -> Grid | None:
    """How fast artifacts answer; None where that was not measured."""
    lines = [(name, one) for name, row in zip(names(comparison), comparison.rows, strict=True) for one in row.latency]
    if not lines:
        return None
    return latency_grid(SETTING, lines, next((row.noun for row in comparison.rows if row.latency), "items"))


def latency_grid(head: str, lines: Sequence[tuple[str, Latency]], noun: str) -> Grid:
    """A row for each answer, with what it is of below ``head``; ``noun``: what is answered."""
    return Grid(
        (
            Column(head, tuple(name for name, _ in lines), number=False),
            Column("runtime", tuple(one.runtime for _, one in lines), number=False),
            Column("computed by", tuple(one.computed_by for _, one in lines), number=False),
            Column("batch", tuple(f"{one.batch_size:,}" for _, one in lines)),
            Column("median ms", tuple(number(one.p50_ms) for _, one in lines)),
            Column("99 % ms", tuple(number(one.p99_ms) for _, one in lines)),
            Column(f"{noun}/s", tuple(number(one.items_per_s) for _, one in lines)),
        )
    )


def target_words(comparison: Comparison) -> str:
    """``accuracy 90.00 %``, of the target."""
    target = comparison.target
    assert target is not None
    name = target.metric.removeprefix("val_")
    fact = next((one for one in comparison.facts if one.name == name), None)
    if fact is None:
        return f"{name} {target.value:.4g}"
    return f"{name} {fact.shown(target.value)} {fact.suffix}".rstrip()


def failures(comparison: Comparison) -> list[tuple[str, int, str]]:
    """Setting, seed and reason of each cell that failed."""
    pairs = zip(names(comparison), comparison.rows, strict=True)
    return [(name, seed, why) for name, row in pairs for seed, why in row.failed.items()]


def problems(comparison: Comparison) -> list[tuple[str, int, str]]:
    """Setting, seed and reason of each cell that was trained and published nothing."""
    pairs = zip(names(comparison), comparison.rows, strict=True)
    return [(name, seed, why) for name, row in pairs for seed, why in row.problems.items()]


def unfinished(comparison: Comparison) -> str:
    """``2 cells are not finished``; empty where all are."""
    count = comparison.unfinished
    return f"{count:,} cell{'s are' if count != 1 else ' is'} not finished" if count else ""


def _metric(comparison: Comparison, fact: MetricFacts) -> list[Column]:
    rows = comparison.rows
    return [
        Column(heading(fact), tuple(spread(row.metrics.get(fact.name), fact.shown) for row in rows)),
        Column(
            f"difference to {base_name(comparison)}",
            tuple(_difference(row, fact) for row in rows),
            number=False,
            differences=tuple(row.differences.get(fact.name) for row in rows),
        ),
    ]


def _against_first(comparison: Comparison, fact: MetricFacts) -> list[Column]:
    """How each combination of ``--vary`` does beside the first one under the same policy, where there are several of
    both; `_metric` compares policies."""
    rows = comparison.rows
    differences = tuple(row.against_first.get(fact.name) for row in rows)
    if not any(differences):
        return []
    cells = tuple("reference" if one is None else one.words for one in differences)
    return [Column(f"difference to {first_name(comparison)}", cells, number=False, differences=differences)]


def _difference(row: Row, fact: MetricFacts) -> str:
    if row.reference:
        return "reference"
    difference = row.differences.get(fact.name)
    return difference.words if difference else NOTHING


def _seeds(row: Row) -> str:
    done = max((len(summary.values) for summary in row.metrics.values()), default=0)
    return f"{done}" if done == len(row.seeds) else f"{done} of {len(row.seeds)}"


def _rate(row: Row) -> str:
    return NOTHING if row.items_per_s is None else number(row.items_per_s.mean)


def _ratio(row: Row, first: Row | None) -> str:
    if row.items_per_s is None or first is None or first.items_per_s is None or not first.items_per_s.mean:
        return NOTHING
    return f"{row.items_per_s.mean / first.items_per_s.mean:.2f}"


def _time(row: Row) -> str:
    time = row.time_to
    if time is None:
        return NOTHING
    if time.seconds is None:
        return f"not reached by {time.missed} of {time.missed + time.reached}"
    return duration(time.seconds) + (f", {time.missed} missed" if time.missed else "")


def _bytes(row: Row, name: str) -> str:
    return next((size(one.bytes) for one in row.artifacts if one.format == name), NOTHING)


def number(value: float) -> str:
    """``1,234``, ``12.3``, ``0.0123``."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
