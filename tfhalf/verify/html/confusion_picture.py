"""A confusion matrix as a picture, by matplotlib: of many classes, the commonest mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf.artifacts.comparison import Confusion
from tfhalf.verify.scores import by_class, matrix, mistakes

PICTURE = "confusion.png"
FEW = 40  # classes whose matrix can be seen
_COUNTED = 20  # classes whose counts fit into the cells
_BARS = 25
_LONG = 18  # characters of a label


def draw(path: Path, name: str, labels: Sequence[str], who: str, cells: Confusion) -> None:
    """Write the picture of what ``who`` confuses to ``path``, a PNG file.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    few = len(labels) <= FEW
    side = min(11.0, 3.2 + 0.42 * len(labels))
    figure = Figure((side + 0.8, side) if few else (9, 7.5), layout="constrained")
    axes = figure.add_subplot()
    shown = _drawable(labels)
    if few:
        _matrix(figure, axes, shown, matrix(cells, len(labels)))
    else:
        _mistakes(axes, shown, cells)
    samples = sum(count for *_, count in cells)
    right = sum(count for true, top, count in cells if true == top)
    title = f"{name}, {who}: {right:,} of {samples:,} right"
    figure.suptitle(title if len(title) <= 70 else f"{title[:67]}...", fontsize=11, parse_math=False)
    figure.savefig(path, dpi=130)


def _matrix(figure: Any, axes: Any, labels: list[str], dense: np.ndarray) -> None:
    """Shares of each row on a logarithmic scale: a single mistake is seen beside thousands of right answers."""
    from matplotlib.colors import LogNorm

    whole = dense.sum(1, keepdims=True)
    share = np.divide(dense, whole, out=np.zeros(dense.shape), where=whole > 0) * 100
    least = min(1.0, float(share[share > 0].min(initial=1.0)))
    image = axes.imshow(np.where(share > 0, share, np.nan), cmap="Blues", norm=LogNorm(least * 0.5, 100))
    bar = figure.colorbar(image, ax=axes, shrink=0.7, label="of the true class, %", format="{x:g}")
    bar.ax.tick_params(labelsize=8)
    small = 9 if len(labels) <= _COUNTED else 6
    places = range(len(labels))
    turned = 90 if max(map(len, labels)) > 2 else 0
    axes.set_xticks(places, labels, rotation=turned, fontsize=small, parse_math=False)
    axes.set_yticks(places, labels, fontsize=small, parse_math=False)
    axes.set_xlabel("taken for")
    axes.set_ylabel("true class")
    if len(labels) <= _COUNTED:
        for true, top in zip(*np.nonzero(dense), strict=True):
            colour = "white" if share[true, top] > 15 else "#222222"
            axes.text(top, true, f"{dense[true, top]}", ha="center", va="center", fontsize=7.5, color=colour)


def _mistakes(axes: Any, labels: list[str], cells: Confusion) -> None:
    """A bar for each of the commonest mistakes."""
    commonest = mistakes(cells, _BARS)
    support = by_class(cells, len(labels)).support
    names = [f"{labels[true]}, taken for {labels[top] if top >= 0 else 'nothing finite'}" for true, top, _ in commonest]
    counts = [count for *_, count in commonest]
    places = range(len(commonest))
    axes.barh(places, counts, color="#4477aa")
    axes.set_yticks(places, names, fontsize=8, parse_math=False)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    for bar, (true, _, count) in enumerate(commonest):
        axes.annotate(
            f"{count:,}: {count / support[true] * 100:.1f} % of its class", (count, bar), (4, 0),
            textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    axes.set_xlim(0, max(counts, default=1) * 1.25)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("test samples" if commonest else "no sample is taken for another class")
    axes.spines[["top", "right"]].set_visible(False)


def _drawable(labels: Sequence[str]) -> list[str]:
    """The labels, short; instead of one with a character that the font does not have, its number."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))
    return [
        f"class {k}"
        if not label or not label.isprintable() or not all(font.get_char_index(ord(one)) for one in label)
        else label if len(label) <= _LONG else f"{label[: _LONG - 1]}…"
        for k, label in enumerate(map(str, labels))
    ]  # fmt: skip
