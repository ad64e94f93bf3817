"""The comparison as Markdown, for a repository or an issue."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tfhalf.compare.records import Comparison
from tfhalf.compare.report.cells import SETTING, Column, Grid, artifacts, failures, grid, latencies, others, problems
from tfhalf.compare.report.cells import unfinished as unfinished_words
from tfhalf.compare.report.wording import headline, method, notes, versions
from tfhalf.text import clean

_ACTIVE = re.compile(r"([\\`*_{}\[\]<>|#~$!])")


def markdown(comparison: Comparison) -> str:
    """The whole report; whatever names and reasons hold is text in it."""
    parts = [f"# {plain(comparison.name)}", " ".join(map(plain, headline(comparison)))]
    if comparison.rows:
        parts.append(table(grid(comparison)))
    parts += [plain(line) for line in notes(comparison)]
    for title, more in (
        ("Other metrics", others(comparison)),
        ("Artifacts, on the test set", artifacts(comparison)),
        ("Latency", latencies(comparison)),
    ):
        if more:
            parts += [f"## {title}", table(more)]
    for title, cells in (("Failed", failures(comparison)), ("Trained, not published", problems(comparison))):
        if cells:
            parts += [
                f"## {title}",
                "\n".join(f"- {code(name)}, seed {seed}: {code(why)}" for name, seed, why in cells),
            ]
    if left := unfinished_words(comparison):
        parts.append(f"{left}.")
    facts = [
        f"- command: {code(comparison.command)}",
        f"- date: {plain(comparison.date)}",
        f"- hardware: {plain(comparison.device)}",
        f"- versions: {plain(versions(comparison.versions))}",
    ]
    parts += ["## Method", plain(method(comparison)), "## Where and how", "\n".join(facts)]
    return "\n\n".join(parts) + "\n"


def table(content: Grid) -> str:
    """A table; settings stand as code."""
    columns = content.columns
    rule = ["--:" if column.number else "---" for column in columns]
    head = [plain(column.name) for column in columns]
    body = [[_cell(column, cell) for column, cell in zip(columns, row, strict=True)] for row in content.rows()]
    return "\n".join(_line(cells) for cells in (head, rule, *body))


def plain(text: str) -> str:
    """Text without meaning to Markdown or HTML."""
    return _seen(_ACTIVE.sub(r"\\\1", clean(text).replace("&", "&amp;")).replace("\\<", "&lt;").replace("\\>", "&gt;"))


def code(text: str) -> str:
    """Text in a span of code, in a table too."""
    shown = _seen(clean(text)).replace("`", "'").replace("|", "\\|")
    return f"`{shown}`" if shown.strip() else "-"


def _seen(text: str) -> str:
    """Halves of surrogate pairs cannot be written."""
    return text.encode("utf-8", "replace").decode()


def _cell(column: Column, cell: str) -> str:
    return code(cell) if column.name == SETTING else plain(cell)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
