"""Sentences of the reports: what a comparison comes to, and by which method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tfhalf.compare.records import Comparison, MetricFacts, Row
from tfhalf.compare.report.cells import amount, base_name, first_name, names, reference, shortened, target_words

_PACKAGES = ("tfhalf", "tensorflow", "keras", "numpy", "onnxruntime", "ai-edge-litert", "openvino", "python")
_MANY = 4  # settings, beyond which they are counted and not named


def headline(comparison: Comparison) -> list[str]:
    """What the comparison comes to, in sentences: verdicts by the first metric, those of others that lose, and what the
    fastest setting without a loss brings."""
    if not comparison.facts or not any(row.reference for row in comparison.rows):
        return [f"{len(comparison.rows):,} settings; none of them is the reference of the others."]
    shown = dict(zip(map(id, comparison.rows), names(comparison), strict=True))
    base = base_name(comparison)
    others = [row for row in comparison.rows if not row.reference]
    sentences = _verdicts(comparison.facts[0], base, others, shown)
    for fact in comparison.facts[1:]:
        if worse := [shown[id(row)] for row in others if _verdict(row, fact) == "loses"]:
            sentences.append(f"In {fact.name}, {listed(worse)} {'are' if len(worse) > 1 else 'is'} worse.")
    sentences += _against_first(comparison, shown)
    good = [row for row in others if _verdict(row, comparison.facts[0]) == "no loss" and _speed(row)]
    if good:
        best = max(good, key=_speed)
        first = reference(comparison, best)
        if first is not None and _speed(first):
            sentences.append(f"{_bought(best, first, shown[id(best)], base, len(good))}.")
    return sentences


def _against_first(comparison: Comparison, shown: dict[int, str]) -> list[str]:
    """Which values of ``--vary`` lose against the first one under the same policy, and which do not."""
    by: dict[str, list[Row]] = {}
    for row in comparison.rows:
        if difference := row.against_first.get(comparison.facts[0].name):
            by.setdefault(difference.verdict, []).append(row)
    first = first_name(comparison)
    return [
        f"{_named(rows, shown)} {'are' if len(rows) > 1 else 'is'} {words} than {first} under the same policy."
        for verdict, words in (("loses", "worse"), ("no loss", "no worse"))
        if (rows := by.get(verdict))
    ]


def _verdicts(fact: MetricFacts, base: str, rows: Sequence[Row], shown: dict[int, str]) -> list[str]:
    by: dict[str, list[Row]] = {}
    for row in rows:
        by.setdefault(_verdict(row, fact) or "", []).append(row)
    sentences = []
    if good := by.get("no loss"):
        margins = list(dict.fromkeys(amount(fact, row.differences[fact.name].margin) for row in good))
        margin = f", within a margin of {margins[0]}" if len(margins) == 1 else ""
        verb = "are" if len(good) > 1 else "is"
        sentences.append(f"{_named(good, shown)} {verb} no worse than {base} in {fact.name}{margin}.")
    if bad := by.get("loses"):
        losses = [f"{shown[id(row)]} (by {amount(fact, row.differences[fact.name].loss)})" for row in bad]
        which = listed(losses) if len(bad) <= _MANY else f"{len(bad):,} settings"
        sentences.append(f"{which} {'are' if len(bad) > 1 else 'is'} worse than {base} in {fact.name}.")
    if unsure := by.get("not decided"):
        which = listed([_unsure(row, fact, shown[id(row)]) for row in unsure])
        sentences.append(
            f"Not decided in {fact.name}: {which if len(unsure) <= _MANY else f'{len(unsure):,} settings'}."
        )
    if nothing := by.get(""):
        sentences.append(f"Not compared: {_named(nothing, shown)}.")
    return sentences


def _unsure(row: Row, fact: MetricFacts, name: str) -> str:
    more = row.differences[fact.name].more_seeds
    return f"{name} (about {more:,} more seed{'s' * (more != 1)} would decide)" if more else name


def _verdict(row: Row, fact: MetricFacts) -> str | None:
    difference = row.differences.get(fact.name)
    return difference.verdict if difference else None


def _speed(row: Row) -> float:
    return row.items_per_s.mean if row.items_per_s else 0.0


def _bought(best: Row, first: Row, name: str, base: str, count: int) -> str:
    times = _speed(best) / _speed(first)
    rate = f"{times:.2f} times the {best.noun} per second of {base}"
    slower = "None of them trains faster than it; the least slow" if times < 1 else "The fastest without a loss"
    text = f"{slower} is {name}: {rate}" if count > 1 else f"{name} trains {rate}"
    if best.memory_bytes and first.memory_bytes:
        text += f", with {best.memory_bytes / first.memory_bytes:.2f} times its peak memory"
    return text


def _named(rows: Sequence[Row], shown: dict[int, str]) -> str:
    return f"{len(rows):,} settings" if len(rows) > _MANY else listed([shown[id(row)] for row in rows])


def listed(texts: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``; with semicolons where the texts themselves have commas."""
    comma = "; " if any("," in text for text in texts) else ", "
    return texts[0] if len(texts) == 1 else f"{comma.join(texts[:-1])} and {texts[-1]}"


def method(comparison: Comparison) -> str:
    """How the figures came about, in one paragraph."""
    base = base_name(comparison)
    seeds = max((len(row.seeds) for row in comparison.rows), default=0)
    pairs = [(fact, row.differences.get(fact.name)) for fact in comparison.facts for row in comparison.rows]
    differences = [(fact, one) for fact, one in pairs if one]
    sentences = [
        f"Each setting was trained with {seeds:,} seed{'s' * (seeds != 1)}, all else alike, and evaluated on the test "
        "set. Figures are means over seeds, ± their standard deviation where there are several."
    ]
    if differences:
        paired = all(one.paired for _, one in differences)
        how = "seed by seed" if paired else "seed by seed where both have the seed, else between the means"
        alike = " with the same changes" if sum(row.reference for row in comparison.rows) > 1 else ""
        margins = listed(list(dict.fromkeys(f"{amount(fact, one.margin)} of {fact.name}" for fact, one in differences)))
        sentences.append(
            f"Differences to {base}{alike} are taken {how}; their range is the 95 % interval of the mean difference by "
            "Student's t. “No loss” is the result of a one-sided non-inferiority test at alpha 5 %: a loss as large as "
            f"the margin ({margins}) is ruled out. “Loses” says that the seeds show a loss, “not decided” that they "
            "are too few, or differ too much, for either."
        )
    if comparison.target:
        sentences.append(
            f"Time to {target_words(comparison)} counts seconds of training until the validation part first reached it "
            "at the end of an epoch; the fastest and the slowest of three runs or more are dropped and the others "
            "averaged, as in MLPerf's training rules."
        )
    return " ".join(sentences)


def notes(comparison: Comparison) -> list[str]:
    """What a reader of the table has to know beside it."""
    lines = []
    if kinds := list(dict.fromkeys(row.memory_of for row in comparison.rows if row.memory_bytes and row.memory_of)):
        lines.append(f"peak memory: {', '.join(kinds)}")
    if (most := max((one.at_once for row in comparison.rows for one in row.results.values()), default=1)) > 1:
        lines.append(f"up to {most} trainings shared a GPU or the machine: seconds and rates are not of one alone")
    if keys := shortened(comparison):
        lines.append(f"settings: {', '.join(keys)}")
    return lines


def versions(known: Mapping[str, str]) -> str:
    """``tfhalf 1.0, tensorflow 2.21.0``: those that matter first, then the others."""
    order = [name for name in _PACKAGES if name in known] + [name for name in known if name not in _PACKAGES]
    return ", ".join(f"{name} {known[name]}" for name in order)
