"""What ships: sizes of artifacts, and how long their answers take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from xml.etree.ElementTree import Element

from tfhalf.compare.records import Comparison
from tfhalf.compare.report.cells import number
from tfhalf.compare.report.pictures import axes
from tfhalf.compare.report.pictures.styles import Series, Style, series
from tfhalf.compare.report.pictures.svg import Lines, figure
from tfhalf.progress import size

_ALIKE = 0.005  # sizes that differ by less of themselves are drawn as one
_STEP, _END = 19.0, 92.0
_ALL = "all settings"

Bar = tuple[str, Style, float, float | None]  # name, looks, length, end of the whisker


def sizes(comparison: Comparison) -> Element | None:
    """Bytes of the artifacts, by format."""
    shown = series(comparison)
    groups: dict[str, list[Bar]] = {}
    for one in shown:
        for artifact in one.row.artifacts:
            groups.setdefault(artifact.format, []).append((one.name, one.style, artifact.bytes, None))
    if not groups:
        return None
    groups = {name: _joined(bars) for name, bars in groups.items()}
    divisor, unit = unit_of(max(bar[2] for bars in groups.values() for bar in bars))
    groups = {
        name: [(who, look, value / divisor, None) for who, look, value, _ in bars] for name, bars in groups.items()
    }
    sized = panel(f"Size ({unit}), by format", f"size of the artifact ({unit})", groups, lambda v: size(v * divisor))
    caption = "Bars begin at 0. Settings whose artifacts are equally large share a bar."
    return figure("How large the artifacts are: shorter is smaller", [sized], caption)


def unit_of(most: float) -> tuple[float, str]:
    """What sizes up to ``most`` bytes are divided by, and what that is called."""
    units = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
    return next(((by, unit) for by, unit in units if most >= by), (1.0, "bytes"))


def _joined(bars: list[Bar]) -> list[Bar]:
    values = [value for _, _, value, _ in bars]
    alike = len(bars) > 1 and max(values) - min(values) <= _ALIKE * max(values)
    return [(_ALL, Style(0, 0, "circle"), max(values), None)] if alike else bars


def latency(comparison: Comparison) -> Element | None:
    """Milliseconds of an answer by runtime, a panel for each batch size."""
    shown = [one for one in series(comparison) if one.row.latency]
    batches = sorted({answer.batch_size for one in shown for answer in one.row.latency})
    if not batches:
        return None
    return latency_figure({f"{batch:,} {_noun(shown, batch)} at a time": _of_batch(shown, batch) for batch in batches})


def latency_figure(panels: Mapping[str, dict[str, list[Bar]]]) -> Element:
    """Milliseconds of answers: by their titles the panels, each with its groups of bars."""
    drawn = [
        panel(title, "milliseconds of an answer", groups, lambda v: f"{number(v)} ms")
        for title, groups in panels.items()
    ]
    caption = (
        "Bars and numbers: the median answer; whiskers: up to the 99th percentile. "
        "A panel for each batch size, with its own axis."
    )
    return figure("How long an answer takes: shorter is faster", drawn, caption)


def _noun(shown: Sequence[Series], batch: int) -> str:
    noun = shown[0].row.noun
    return noun.removesuffix("s") if batch == 1 else noun


def _of_batch(shown: Sequence[Series], batch: int) -> dict[str, list[Bar]]:
    groups: dict[str, list[Bar]] = {}
    for one in shown:
        for answer in one.row.latency:
            if answer.batch_size == batch:
                head = f"{answer.runtime}: {answer.computed_by}" if answer.computed_by else answer.runtime
                groups.setdefault(head, []).append((one.name, one.style, answer.p50_ms, answer.p99_ms))
    return groups


def panel(title: str, label: str, groups: dict[str, list[Bar]], words: Callable[[float], str]) -> Lines:
    """Bars in groups, each below its head, with ``words`` of their lengths at their ends."""
    names: list[str] = []
    heads: dict[int, str] = {}
    bars: list[Bar] = []
    for head, group in groups.items():
        heads[len(names)] = head if len(head) <= 60 else f"{head[:59]}…"
        names += [bar[0] for bar in group]
        bars += group
    x = axes.linear(label, [max(bar[2], bar[3] or 0) for bar in bars], zero=True, margin=0.02, count=4)
    lines = Lines(title, names, x, heads=heads, step=_STEP, end=_END)
    for i, (name, style, value, upto) in enumerate(bars):
        text = words(value)
        lines.bar(i, value, style, text, f"{name}: {text}", upto=upto)
    return lines
