"""The comparison as lines of a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from tfhalf.compare.records import Comparison
from tfhalf.compare.report.cells import Column, Grid, failures, grid, others, problems, unfinished
from tfhalf.compare.report.wording import headline, notes
from tfhalf.progress import Progress
from tfhalf.text import clean

WIDTH = 110
_GAP = "  "
_WIDEST = 44  # of a column, before its cells take several lines


def show(comparison: Comparison, progress: Progress) -> None:
    """Print the table with what it comes to, and each cell that failed, at most `WIDTH` characters a line."""
    for line in lines(comparison):
        progress.line(line, always=True)


def lines(comparison: Comparison) -> list[str]:
    """What `show` prints."""
    text = table_lines(grid(comparison)) if comparison.rows else []
    if more := others(comparison):
        text += ["", "other metrics", *table_lines(more)]
    text += ["", *(part for line in notes(comparison) for part in wrapped(line, ""))]
    text += [part for sentence in headline(comparison) for part in wrapped(sentence, "")]
    for label, cells in (("failed", failures(comparison)), ("problem", problems(comparison))):
        for name, seed, why in cells:
            text += wrapped(f"{label:<10} {name}, seed {seed}: {why}", " " * 11)
    if left := unfinished(comparison):
        text.append(left)
    return text


def table_lines(table: Grid) -> list[str]:
    """A table in as many blocks as its width needs, each with the first column; long cells take several lines."""
    first, *rest = table.columns
    blocks: list[list[Column]] = []
    left = 0
    for column in rest:
        needed = len(_GAP) + _width(column)
        if not blocks or needed > left:
            blocks.append([first])
            left = WIDTH - _width(first)
        blocks[-1].append(column)
        left -= needed
    text: list[str] = []
    for block in blocks or [[first]]:
        text += [*([""] if text else []), *_block(block)]
    return text


def _block(columns: Sequence[Column]) -> list[str]:
    widths = [_width(column) for column in columns]
    text = []
    for cells in zip(*((column.name, *column.cells) for column in columns), strict=True):
        parts = [textwrap.wrap(clean(cell), width) or [""] for cell, width in zip(cells, widths, strict=True)]
        for i in range(max(map(len, parts))):
            line = _GAP.join(
                f"{part[i] if i < len(part) else '':{'>' if column.number else '<'}{width}}"
                for part, column, width in zip(parts, columns, widths, strict=True)
            )
            text.append(line.rstrip())
    return text


def _width(column: Column) -> int:
    """Of the longest cell; a heading of several words may take several lines."""
    longest = max((len(clean(cell)) for cell in column.cells), default=1)
    word = max(map(len, clean(column.name).split() or [""]))
    return min(max(longest, word, len(column.name) // 2), _WIDEST)


def wrapped(text: str, indent: str) -> list[str]:
    """A text in lines of at most `WIDTH` characters, all but the first behind ``indent``."""
    return textwrap.wrap(clean(text), WIDTH, subsequent_indent=indent, break_on_hyphens=False)  # paths are copied
