"""How a setting looks in every picture: a colour of the Okabe-Ito palette, a marker, and a dash pattern.

The reference is the palette's black, drawn in the page's ink so that it shows on a dark page too. Yellow is left out:
on white it cannot be seen. Six colours with seven markers tell 42 settings apart; lines have dashes too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tfhalf.compare.records import Comparison, Row
from tfhalf.compare.report.cells import names
from tfhalf.text import printable

COLOURS = ("var(--ink)", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("none", "8 3", "2 2.5", "9 3 2 3", "5 5", "12 3 2 3 2 3")
MARKERS = ("circle", "square", "triangle", "diamond", "cross", "down", "plus", "star")
_LONG = 54


@dataclass(frozen=True)
class Style:
    """Indices into `COLOURS` and `DASHES`, and one of `MARKERS`."""

    colour: int
    dash: int
    marker: str

    def classes(self, *more: str) -> str:
        """Names for the style sheet."""
        return " ".join((f"c{self.colour}", *more))


class Named(Protocol):
    """What a legend shows: a name and its looks."""

    @property
    def name(self) -> str:
        """As the table calls it."""

    @property
    def style(self) -> Style:
        """As pictures draw it."""


@dataclass(frozen=True)
class Series:
    """A row with its name and its looks; ``index``: among the comparison's rows."""

    row: Row
    name: str
    style: Style
    index: int


def series(comparison: Comparison) -> list[Series]:
    """A series for each row.

    A colour is a policy and a marker what was varied, where both differ among the rows and there are enough of each;
    else every row has its own.
    """
    rows = sorted(comparison.rows, key=lambda row: not row.reference)
    policies = list(dict.fromkeys(row.setting.policy for row in rows))
    changes = list(dict.fromkeys(row.setting.changes for row in rows))
    crossed = 1 < len(policies) <= len(COLOURS) and 1 < len(changes) <= len(MARKERS)
    result: list[Series] = []
    others = 0
    for index, (row, name) in enumerate(zip(comparison.rows, names(comparison), strict=True)):
        if crossed:
            change = changes.index(row.setting.changes)
            style = Style(policies.index(row.setting.policy), change % len(DASHES), MARKERS[change])
        elif row is rows[0] and row.reference:
            style = Style(0, 0, MARKERS[0])
        else:
            colour, dash, marker = (1 + others % (len(kinds) - 1) for kinds in (COLOURS, DASHES, MARKERS))
            style = Style(colour, dash, MARKERS[marker])
            others += 1
        result.append(Series(row, printable(name, _LONG), style, index))
    return result


def marker_path(marker: str, x: float, y: float, r: float = 4.5) -> str:
    """The path of a marker around a point, in pixels."""
    if marker == "circle":
        return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z"
    thin = r * 0.38
    shapes: dict[str, Sequence[tuple[float, float]]] = {
        "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        "triangle": ((0, -1.2), (1.15, 0.9), (-1.15, 0.9)),
        "down": ((0, 1.2), (1.15, -0.9), (-1.15, -0.9)),
        "diamond": ((0, -1.35), (1.35, 0), (0, 1.35), (-1.35, 0)),
        "star": ((0, -1.5), (0.4, -0.4), (1.5, 0), (0.4, 0.4), (0, 1.5), (-0.4, 0.4), (-1.5, 0), (-0.4, -0.4)),
    }
    plus = ((-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1))
    if marker in shapes:
        points = [(x + dx * r * 0.9, y + dy * r * 0.9) for dx, dy in shapes[marker]]
    elif marker == "plus":
        points = [(x + dx * thin, y + dy * thin) for dx, dy in plus]
    else:
        points = [(x + (dx - dy) * thin * 0.71, y + (dx + dy) * thin * 0.71) for dx, dy in plus]
    return "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in points) + "z"
