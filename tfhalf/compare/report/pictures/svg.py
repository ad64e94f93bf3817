"""A panel: axes, and what is drawn between them. Elements of `xml.etree`, so that no text becomes markup."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element, SubElement

from tfhalf.compare.report.pictures.axes import Axis
from tfhalf.compare.report.pictures.styles import Named, Style, marker_path
from tfhalf.text import printable
from tfhalf.verify.html.elements import Child, clean, element

WIDTH = 400
_LETTER = 6.6  # pixels of a letter, about
_TOP, _BOTTOM, _RIGHT = 30, 46, 14
_BESIDE = 18  # letters of a name, beyond which names stand over their rows
_POINTS = 400  # of a line: more cannot be seen

Point = tuple[float, float]


class Canvas:
    """An SVG of `WIDTH` times ``height`` user units, which the page scales; ``title`` stands above and is its label."""

    def __init__(self, title: str, height: float) -> None:
        self.height = height
        self.root = Element(
            "svg",
            {
                "viewBox": f"0 0 {WIDTH} {height:.0f}",
                "role": "img",
                "aria-label": clean(title).replace("<", "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}"),
            },
        )
        self.text(title, 2, 15, "title")

    def text(self, words: str, x: float, y: float, kind: str, **more: str) -> None:
        """Text at its baseline; ``kind`` is a class of the style sheet."""
        node = SubElement(self.root, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "class": kind, **more})
        node.text = clean(words)

    def path(self, d: str, kind: str, words: str = "") -> None:
        """A path; ``words`` are shown where a mouse rests on it."""
        node = SubElement(self.root, "path", {"d": d, "class": kind})
        if words:
            SubElement(node, "title").text = clean(words)

    def marker(
        self, style: Style, x: float, y: float, words: str = "", *, hollow: bool = False, r: float = 4.5
    ) -> None:
        """A marker at a point in pixels."""
        self.path(marker_path(style.marker, x, y, r), style.classes("h" if hollow else "m"), words)


class Panel(Canvas):
    """Two axes with a grid."""

    def __init__(self, title: str, x: Axis, y: Axis, height: float = 300) -> None:
        super().__init__(title, height)
        self.x_axis, self.y_axis = x, y
        self.left = 26 + _LETTER * max((len(words) for _, words in y.ticks), default=1)
        self.right, self.bottom = WIDTH - _RIGHT, height - _BOTTOM
        for value, words in y.ticks:
            at = self.y(value)
            self.path(f"M{self.left:.1f} {at:.1f}H{self.right}", "grid")
            self.text(words, self.left - 6, at + 4, "tick end")
        last = -1e9
        for value, words in x.ticks:
            at, half = self.x(value), _LETTER * len(words) / 2
            self.path(f"M{at:.1f} {self.bottom:.1f}v4", "axis")
            if at - half > last + 4:
                self.text(words, at, self.bottom + 17, "tick mid")
                last = at + half
        self.path(f"M{self.left:.1f} {_TOP}V{self.bottom:.1f}H{self.right}", "axis")
        self.text(printable(x.label, 52), (self.left + self.right) / 2, height - 8, "label mid")
        middle = (_TOP + self.bottom) / 2
        self.text(printable(y.label, 36), 12, middle, "label mid", transform=f"rotate(-90 12 {middle:.1f})")

    def x(self, value: float) -> float:
        """Pixels of a value."""
        return self.left + self.x_axis.share(value) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Pixels of a value."""
        return self.bottom - self.y_axis.share(value) * (self.bottom - _TOP)

    def line(self, points: Sequence[Point | None], style: Style, *, thin: bool = False) -> None:
        """A line; None, and what lies outside the axes at its left, interrupts it. A thick one has markers."""
        runs = [list(run) for shown, run in itertools.groupby(_thinned(points), self._inside) if shown]
        d = "".join("M" + "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in filter(None, run)) for run in runs)
        if not d:
            return
        self.path(d, style.classes("thin" if thin else f"thick d{style.dash}"))
        seen = [point for run in runs for point in run if point]
        if not thin:
            step = max(1, len(seen) // 5)
            for point in seen[(style.colour * step // 7) % step :: step] if len(seen) > 1 else seen:
                self.marker(style, self.x(point[0]), self.y(point[1]), r=3.6)

    def _inside(self, point: Point | None) -> bool:
        if point is None or not all(map(math.isfinite, point)):
            return False
        return all(
            axis.low <= value <= axis.high for axis, value in zip((self.x_axis, self.y_axis), point, strict=True)
        )

    def across(self, y: float) -> None:
        """A dotted line at a value, where the axis has it."""
        if self.y_axis.low <= y <= self.y_axis.high:
            self.path(f"M{self.left:.1f} {self.y(y):.1f}H{self.right}", "target")

    def whiskers(self, x: float, y: float, dx: float, dy: float, style: Style) -> None:
        """Error bars of ``dx`` and ``dy`` to both sides."""
        left, right, low, high = self.x(x - dx), self.x(x + dx), self.y(y - dy), self.y(y + dy)
        d = f"M{left:.1f} {self.y(y):.1f}H{right:.1f}" if dx else ""
        d += f"M{self.x(x):.1f} {low:.1f}V{high:.1f}" if dy else ""
        if d:
            self.path(d, style.classes("whisker"))


def _thinned(points: Sequence[Point | None]) -> Sequence[Point | None]:
    step = math.ceil(len(points) / _POINTS)
    return points if step <= 1 else [*points[:-1:step], points[-1]]


class Lines(Canvas):
    """Rows with a name each, beside or, where one is long, over them, and an axis of numbers below; ``heads`` stand
    above the row of their index."""

    def __init__(
        self, title: str, names: Sequence[str], x: Axis, *, heads: dict[int, str], step: float, end: float
    ) -> None:
        self.tops: list[float] = []
        longest = max(map(len, names), default=0)
        over = 19.0 if longest > _BESIDE else 0.0  # what a name needs that stands over its row
        top = float(_TOP - 4)
        above: dict[int, float] = {}
        for i in range(len(names)):
            if i in heads:
                top += 6 if i else 0
                above[i] = top + 15
                top += 21
            self.tops.append(top + over + step / 2)
            top += over + step
        super().__init__(title, top + _BOTTOM)
        self.x_axis, self.bottom = x, top
        self.left, self.right = 12 if over else 12 + 7.1 * longest, WIDTH - end
        for value, words in x.ticks:
            at = self.x(value)
            self.path(f"M{at:.1f} {_TOP - 4}V{top:.1f}", "grid")
            self.text(words, at, top + 16, "tick mid")
        for i, words in heads.items():
            self.text(words, 2, above[i], "head")
        for i, name in enumerate(names):
            if over:
                self.text(name, self.left, self.tops[i] - step / 2 - 2, "tick")
            else:
                self.text(name, self.left - 7, self.tops[i] + 4, "tick end")
        self.text(printable(x.label, 52), (self.left + self.right) / 2, top + 38, "label mid")

    def x(self, value: float) -> float:
        """Pixels of a value."""
        return self.left + self.x_axis.share(value) * (self.right - self.left)

    def bar(self, row: int, value: float, style: Style, words: str, title: str, *, upto: float | None = None) -> None:
        """A bar from 0, its words at the end, a whisker from its end ``upto`` a larger value."""
        y, end = self.tops[row], self.x(value)
        self.path(f"M{self.x(0):.1f} {y - 6:.1f}H{end:.1f}v12H{self.x(0):.1f}z", style.classes("bar"), title)
        if upto is not None:
            self.path(f"M{end:.1f} {y:.1f}H{self.x(upto):.1f}m0 -4v8", "whisker c0")
        self.text(words, max(end, self.x(upto or 0)) + 6, y + 4, "value")


def key(shown: Iterable[Named], *, lines: bool = False, across: str = "") -> Element:
    """The legend: marker and name of each setting, with its line if ``lines``; what a line ``across`` is."""
    items = []
    for one in shown:
        swatch = Element("svg", {"viewBox": "0 0 44 14", "class": "swatch", "aria-hidden": "true"})
        if lines:
            SubElement(swatch, "path", {"d": "M1 7H43", "class": one.style.classes("thick", f"d{one.style.dash}")})
        SubElement(swatch, "path", {"d": marker_path(one.style.marker, 22, 7), "class": one.style.classes("m")})
        items.append(element("li", swatch, f" {one.name}"))
    if across:
        swatch = Element("svg", {"viewBox": "0 0 44 14", "class": "swatch", "aria-hidden": "true"})
        SubElement(swatch, "path", {"d": "M1 7H43", "class": "target"})
        items.append(element("li", swatch, f" {across}"))
    return element("ul", *items, class_="key")


def figure(title: str, panels: Sequence[Canvas], caption: str, legend: Element | None = None) -> Element:
    """A picture with its title above and its caption below."""
    parts: list[Child] = [element("h3", title)]
    if legend is not None:
        parts.append(legend)
    charts = element("div", *(panel.root for panel in panels), class_="charts")
    return element("figure", *parts, charts, element("figcaption", caption))
