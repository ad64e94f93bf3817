"""The histograms as a picture: exponents of each kind of tensor, over what float16 holds.

After figure 3 of P. Micikevicius et al., "Mixed Precision Training", arXiv:1710.03740: magnitudes on a logarithmic
axis, the share of all values that each exponent has, and the ranges that float16 holds shaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tfhalf.numerics.histogram import HIGH, LOW, Histogram
from tfhalf.numerics.report import GRADIENTS, Report
from tfhalf.precision.cast import EMAX, EMIN, SMALLEST
from tfhalf.system import plotting

_BLUE, _INK, _GREY = "#4477aa", "#222222", "#777777"
_NORMAL, _SUBNORMAL, _LOST = "#e2f0d9", "#fff2cc", "#f8d7da"
_FLOOR = 1e-7  # of all values, the least that is drawn


def draw(report: Report, path: Path | None) -> None:
    """Write the picture to ``path``, PNG or SVG by its suffix; none without a ``path``."""
    if path is None:
        return
    kinds = {kind: histogram for kind, histogram in report.kinds.items() if histogram.finite}
    figure = plotting.figure(9.5, 1.4 + 1.75 * len(kinds))
    rows = figure.subplots(len(kinds), 1, sharex=True, squeeze=False)[:, 0]
    low, high = _ends(report)
    for axes, (kind, histogram) in zip(rows, kinds.items(), strict=True):
        _panel(axes, report, kind, histogram, low, high)
    rows[-1].set_xlabel("exponent: log2 of the magnitude, rounded down")
    rows[0].set_xlim(low - 0.5, high + 0.5)
    measured = report.measured
    figure.suptitle(
        f"{report.pipeline}: {measured.measured_steps} measured of {measured.steps} steps in float32, "
        f"batch {measured.batch_size}\nbars: all layers together; lines: single layers",
        fontsize=11,
    )
    figure.legend(handles=_legend(), loc="outside lower center", ncols=4, frameon=False, fontsize=8.5)
    plotting.save(figure, path, 110)


def _ends(report: Report) -> tuple[int, int]:
    """The exponents to draw: float16's, and all that there are."""
    used = np.flatnonzero(sum(histogram.exponents for histogram in report.kinds.values())) + LOW
    least = min([SMALLEST - 6, SMALLEST - 2 - report.proposal.exponent, *used.tolist()])
    return max(least, -48), min(max([EMAX + 3, *used.tolist()]), HIGH)


def _panel(axes: Any, report: Report, kind: str, histogram: Histogram, low: int, high: int) -> None:
    _shade(axes, low, high)
    places = np.arange(LOW, HIGH + 1)
    for tensor in report.measured.tensors:
        if tensor.kind == kind:
            axes.plot(places, _share(tensor.histogram), color=_INK, linewidth=0.5, alpha=0.25, zorder=3)
    axes.bar(places, _share(histogram), width=0.86, color=_BLUE, alpha=0.9, zorder=2)
    axes.set_yscale("log")
    axes.set_ylim(_FLOOR, 1)
    axes.set_yticks([1e-6, 1e-4, 1e-2, 1], ["0.0001 %", "0.01 %", "1 %", "100 %"], fontsize=8)
    axes.minorticks_off()
    axes.set_ylabel("of all values", fontsize=8, color=_GREY)
    axes.set_title(_title(report, kind, histogram), fontsize=9.5, loc="left", color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    if kind in GRADIENTS and report.proposal.exponent:
        _range(axes, report.proposal.exponent)


def _share(histogram: Histogram) -> np.ndarray:
    """Of each exponent; NaN, which is not drawn, for none."""
    share = histogram.exponents / max(histogram.finite, 1)
    return np.where(share > 0, np.maximum(share, _FLOOR), np.nan)


def _title(report: Report, kind: str, histogram: Histogram) -> str:
    one = histogram.shares()
    parts = [f"zero: {_percent(one.zero)}"]
    if kind in GRADIENTS:
        best = histogram.shares(report.proposal.exponent)
        scale = f"$2^{{{report.proposal.exponent}}}$"
        parts.append(f"below $2^{{-24}}$: {_percent(one.below)} at scale 1, {_percent(best.below)} at scale {scale}")
    else:
        parts.append(f"below $2^{{-24}}$: {_percent(one.below)}")
    if one.overflowed:
        parts.append(f"above 65504: {_percent(one.overflowed)}")
    return f"{kind}   ({'; '.join(parts)})"


def _percent(share: float) -> str:
    return "none" if not share else f"{share * 100:.2g} %" if share >= 1e-5 else "<0.001 %"


def _shade(axes: Any, low: int, high: int) -> None:
    """The ranges of float16, behind the bars of whole exponents."""
    for begin, end, colour in (
        (low - 0.5, SMALLEST - 0.5, _LOST),
        (SMALLEST - 0.5, EMIN - 0.5, _SUBNORMAL),
        (EMIN - 0.5, EMAX + 0.5, _NORMAL),
        (EMAX + 0.5, high + 0.5, _LOST),
    ):
        axes.axvspan(begin, end, color=colour, zorder=0, linewidth=0)


def _range(axes: Any, exponent: int) -> None:
    """What float16 holds of the values as they stand, when they are multiplied by 2^exponent first."""
    left, right = SMALLEST - exponent - 0.5, EMAX - exponent + 0.5
    height = 0.25
    axes.annotate(
        "", (left, height), (right, height), arrowprops={"arrowstyle": "|-|,widthA=0.3,widthB=0.3", "color": _INK}
    )
    axes.text(
        (left + right) / 2,
        height,
        f" held at scale $2^{{{exponent}}}$ ",
        fontsize=8,
        color=_INK,
        ha="center",
        va="center",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.9},
    )


def _legend() -> list[Any]:
    from matplotlib.patches import Patch

    return [
        Patch(color=_NORMAL, label="float16, normal"),
        Patch(color=_SUBNORMAL, label="float16, subnormal: bits go missing"),
        Patch(color=_LOST, label="left: becomes 0 (or $2^{-24}$); right: overflows"),
    ]
