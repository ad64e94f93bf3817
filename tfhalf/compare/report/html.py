"""The comparison as one HTML file that a browser opens offline, and that runs and fetches nothing."""

from __future__ import annotations

from importlib import resources
from xml.etree.ElementTree import Element

from tfhalf.compare.records import Comparison
from tfhalf.compare.report.cells import Grid, artifacts, failures, grid, latencies, names, others, problems, unfinished
from tfhalf.compare.report.pictures.bars import latency, sizes
from tfhalf.compare.report.pictures.curves import learning, scaling
from tfhalf.compare.report.pictures.spread import by_class, generalisation
from tfhalf.compare.report.pictures.styles import COLOURS, DASHES
from tfhalf.compare.report.pictures.tradeoff import tradeoff
from tfhalf.compare.report.wording import headline, method, notes, versions
from tfhalf.verify.html.elements import Child, element, facts, folded, page, section, table

_VERDICTS = {"no loss": "good", "loses": "bad", "not decided": "warn"}
_BADGES = 8  # settings, beyond which the table's colours say it
_PICTURES = (learning, tradeoff, generalisation, by_class, scaling, sizes, latency)


def html(comparison: Comparison) -> str:
    """The page; the same comparison gives the same bytes. Whatever names and reasons hold is text in it."""
    parts = [
        *_head(comparison),
        _table(comparison),
        _pictures(comparison),
        _shipped(comparison),
        _failures(comparison),
        section("Method", element("p", method(comparison))),
        _origin(comparison),
    ]
    return page(comparison.name, style(), [part for part in parts if part is not None])


def style() -> str:
    """A report's own sheet, behind that of a version's page."""
    files = (("tfhalf.verify.html", "style.css"), ("tfhalf.compare.report", "pictures.css"))
    sheets = [(resources.files(package) / name).read_text(encoding="utf-8") for package, name in files]
    colours = [f".c{i} {{ --c: {colour}; }}" for i, colour in enumerate(COLOURS)]
    dashes = [f".d{i} {{ stroke-dasharray: {dash}; }}" for i, dash in enumerate(DASHES)]
    return "\n".join([*sheets, *colours, *dashes, ""])


def _head(comparison: Comparison) -> list[Element]:
    badges = []
    if comparison.facts and len(comparison.rows) <= _BADGES:
        fact = comparison.facts[0]
        for row, name in zip(comparison.rows, names(comparison), strict=True):
            if difference := row.differences.get(fact.name):
                text = f"{name}: {difference.verdict}"
                badges.append(element("span", text, class_=f"verdict {_VERDICTS.get(difference.verdict, 'warn')}"))
    if left := unfinished(comparison):
        badges.append(element("span", left, class_="verdict warn"))
    cells = sum(len(row.seeds) for row in comparison.rows)
    return [
        element("h1", comparison.name, element("span", f" {len(comparison.rows):,} settings, {cells:,} runs")),
        element("p", " ".join(headline(comparison))),
        element("div", *badges),
        element("p", f"{comparison.date}, on {comparison.device or '?'}.", class_="note"),
    ]


def _table(comparison: Comparison) -> Element | None:
    if not comparison.rows:
        return None
    more = others(comparison)
    return section(
        "The settings side by side",
        grid_table(grid(comparison, sizes=False)),  # sizes have a part of their own
        *(element("p", line, class_="note") for line in notes(comparison)),
        *([element("h3", "Other metrics"), grid_table(more)] if more else []),
    )


def grid_table(content: Grid) -> Element:
    """A table; differences have their verdict's colour."""
    rows: list[list[Child]] = [list(cells) for cells in content.rows()]
    for k, column in enumerate(content.columns):
        for row, difference in zip(rows, column.differences, strict=False):
            if difference:
                row[k] = element("span", str(row[k]), class_=_VERDICTS.get(difference.verdict, "warn"))
    numbers = [k for k, column in enumerate(content.columns) if column.number]
    return table([column.name for column in content.columns], rows, numbers)


def _pictures(comparison: Comparison) -> Element | None:
    shown = [picture for draw in _PICTURES if (picture := draw(comparison)) is not None]
    return section("Pictures", *shown) if shown else None


def _shipped(comparison: Comparison) -> Element | None:
    parts: list[Child] = []
    if files := artifacts(comparison):
        parts += [
            element("p", "Sizes of the published artifacts, and their metrics on the test set."),
            grid_table(files),
        ]
    if answers := latencies(comparison):
        parts.append(folded("Latency in figures", grid_table(answers)))
    return section("What ships", *parts) if parts else None


def _failures(comparison: Comparison) -> Element | None:
    parts: list[Child] = []
    for title, cells in (("Failed", failures(comparison)), ("Trained, not published", problems(comparison))):
        if cells:
            rows = [(name, str(seed), why) for name, seed, why in cells]
            parts += [element("h3", title), table(("setting", "seed", "reason"), rows, numbers=(1,))]
    if left := unfinished(comparison):
        parts.append(element("p", f"{left}."))
    return section("Runs that fell short", *parts) if parts else None


def _origin(comparison: Comparison) -> Element:
    known = {"date": comparison.date, "hardware": comparison.device, "versions": versions(comparison.versions)}
    return section(
        "Where and how",
        element("pre", element("code", comparison.command)),
        facts({name: value for name, value in known.items() if value}),
    )
