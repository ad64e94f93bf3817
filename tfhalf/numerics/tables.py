"""What a person reads of ``tfhalf numerics``: tables, and a proposal to paste."""

from __future__ import annotations

import textwrap

from rich.console import Console
from rich.table import Table

from tfhalf.numerics.histogram import Histogram
from tfhalf.numerics.islands import MARGIN
from tfhalf.numerics.measure import layer_of
from tfhalf.numerics.report import GRADIENTS, Report
from tfhalf.numerics.scale_proposal import HEADROOM
from tfhalf.precision import cast
from tfhalf.progress import Progress, duration
from tfhalf.system.programs import origin_words

_LAYERS = 24
_WIDTH = 110


def show(report: Report, progress: Progress, whole: bool) -> None:
    """Print the report; ``whole`` shows every layer, otherwise those that lose the most.

    Where a terminal is too narrow, lines wrap, but no figure is cut short.
    """
    for line in [*heading(report), ""]:
        progress.line(line)
    _print(kinds(report))
    for line in ["", *notes(report), ""]:
        progress.line(line)
    table, left_out = layers(report, whole)
    _print(table)
    if left_out:
        progress.line(f"{left_out} layers that lose less are left out; --all shows them, --json has every histogram")
    progress.line()
    for line in proposal(report):
        progress.line(line, always=True)


def _print(table: Table) -> None:
    needed = Console(width=1000).measure(table).maximum
    Console(width=max(Console().width, needed)).print(table)


def heading(report: Report) -> list[str]:
    """What was measured, how, and what it cost."""
    measured, timing = report.measured, report.measured.timing
    seconds = f"{1000 * timing.plain:,.3g} ms, measured {1000 * timing.measured:,.3g} ms"
    return [
        f"pipeline   {report.pipeline}: {report.model}, {report.parameters:,} parameters; {report.source}",
        f"device     {report.device}",
        f"state      {report.state}",
        f"steps      {measured.steps} of {measured.batch_size} {report.noun}, every {_nth(report.every)} measured "
        f"({measured.measured_steps} in all); loss {measured.losses[0]:.4f} to {measured.losses[-1]:.4f}",
        "in         float32, with the same weights and batches: in half precision what overflowed is infinite",
        "           already, and small gradients are zero",
        f"overhead   a step takes {seconds}: {report.overhead:.2f} times as long; "
        f"{report.overhead_in_all:.2f} times in all; compiled in {duration(timing.compile)}"
        f"{origin_words(timing.from_cache)}",
    ]


def _nth(every: int) -> str:
    return "one" if every == 1 else f"{every}th" if every > 3 else {2: "2nd", 3: "3rd"}[every]


def kinds(report: Report) -> Table:
    """A row per kind of tensor and scale: all layers together."""
    table = _table(
        *("all layers together", "scale", "numbers", "zero", "below 2^-24", "become 0", "subnormal", "above 65504"),
        *("1 % up to", "median", "99 % up to", "largest"),
    )
    for kind, histogram in report.kinds.items():
        shown: set[int] = set()
        for name, exponent in report.exponents(kind).items():
            if exponent in shown:
                continue
            first = not shown
            shown.add(exponent)
            scale = f"2^{exponent}" if exponent else "1"
            facts = [f"{histogram.finite:,}", percent(histogram.shares().zero)] if first else ["", ""]
            table.add_row(
                kind if first else "",
                f"{scale} {name}".strip() if kind in GRADIENTS else "",
                *facts,
                *_shares(histogram, exponent),
                *(_power(histogram.quantile(q), exponent) for q in (0.01, 0.5, 0.99)),
                f"{histogram.largest * 2.0**exponent:.3g}",
            )
    return table


def _shares(histogram: Histogram, exponent: int) -> list[str]:
    shares = histogram.shares(exponent)
    return [percent(share) for share in (shares.below, shares.flushed, shares.subnormal, shares.overflowed)]


def notes(report: Report) -> list[str]:
    """What becomes of the weights' updates."""
    moved, in_float16, in_bfloat16 = report.measured.lost
    if not moved:
        return ["updates    none: no weight was moved"]
    return [
        f"updates    {percent(in_float16 / moved)} of the weights' updates would change nothing in weights kept in "
        f"float16, {percent(in_bfloat16 / moved)}",
        "           in bfloat16: too small beside the weight. Mixed policies keep weights in float32, and lose none:",
        "           this is what the float32 copy is for",
    ]


def layers(report: Report, whole: bool) -> tuple[Table, int]:
    """A row per layer, in the net's order, and how many were left out; shares at scale 1, and at the proposed one."""
    exponent = report.proposal.exponent
    scale = f"2^{exponent}" if exponent else "1"
    table = _table(
        *("layer", "weights to", "activations to", "below 2^-24"),
        *("gradients to", "below 2^-24", f"at {scale}", "weight gr. to", "below 2^-24", f"at {scale}", "updates lost"),
    )
    histograms: dict[str, dict[str, Histogram]] = {}
    lost: dict[str, list[int]] = {}
    for tensor in report.measured.tensors:
        row = histograms.setdefault(layer_of(tensor), {})
        row[tensor.kind] = row[tensor.kind] + tensor.histogram if tensor.kind in row else tensor.histogram
        if tensor.kind == "weight updates":
            sums = lost.setdefault(layer_of(tensor), [0, 0])
            lost[layer_of(tensor)] = [sums[0] + tensor.lost[0], sums[1] + tensor.lost[1]]
    order = [name for name in report.order if name in histograms]
    kept = {island.path for island in report.islands}
    worst = sorted(order, key=lambda name: (name not in kept, -_weight(histograms[name])))[: None if whole else _LAYERS]
    for name in (name for name in order if name in worst):
        row, moved = histograms[name], lost.get(name)
        table.add_row(
            name,
            _largest(row.get("weights")),
            _largest(row.get("activations")),
            _below(row.get("activations"), 0),
            *_gradient(row.get("activation gradients"), exponent),
            *_gradient(row.get("weight gradients"), exponent),
            percent(moved[1] / moved[0]) if moved and moved[0] else "",
        )
    return table, len(order) - len(worst)


def _weight(row: dict[str, Histogram]) -> float:
    """How much a layer loses at scale 1, its gradients' share and what is beyond."""
    return sum(h.shares().below + 10 * h.shares().overflowed for h in row.values())


def _gradient(histogram: Histogram | None, exponent: int) -> list[str]:
    return [_largest(histogram), _below(histogram, 0), _below(histogram, exponent)]


def _largest(histogram: Histogram | None) -> str:
    return "" if histogram is None else f"{histogram.largest:.3g}"


def _below(histogram: Histogram | None, exponent: int) -> str:
    return "" if histogram is None else percent(histogram.shares(exponent).below)


def proposal(report: Report) -> list[str]:
    """What to do, with what speaks for it; the part to paste is YAML."""
    proposed = report.proposal
    lines = ["proposal", "", *(f"    {line}" for line in paste(report)), ""]
    few = dict.fromkeys((0, report.scale_exponent, proposed.exponent))
    for exponent in few:
        lost = report.loss_at(exponent)
        name = " (proposed)" if exponent == proposed.exponent else ""
        name += " (in force)" if exponent == report.scale_exponent else ""
        lines.append(
            f"scale      2^{exponent}{name}: of the gradients that are not zero {percent(lost.flushed)} become 0, "
            f"{percent(lost.subnormal)} subnormal, {percent(lost.overflowed)} overflow"
        )
    lines.append(
        f"           2^{proposed.exponent} leaves room for gradients {2**HEADROOM} times as large as the largest seen"
        + (f"; with 2^{proposed.lowest} hardly more become 0" if proposed.lowest < proposed.exponent else "")
    )
    if not report.islands:
        lines.append(f"float32    no layer needs it: nothing beyond {cast.MAX:g} / {MARGIN:g}, no long sum")
    return [*lines, *_wrapped("bfloat16", report.bfloat16["verdict"])]


def paste(report: Report) -> list[str]:
    """Lines of a pipeline file, with the evidence as comments."""
    lines = ["precision:", f"  loss_scale: {{initial: {2**report.proposal.exponent}}}"]
    if not report.islands:
        return [*lines, "  keep_float32: []"]
    width = max(len(island.pattern) for island in report.islands)
    lines.append("  keep_float32:")
    for island in report.islands:
        pattern = "'" + island.pattern.replace("'", "''") + "'"
        lines.append(f"    - {pattern:<{width + 2}}  # {'; '.join(island.reasons)}")
    return lines


def _wrapped(label: str, text: str) -> list[str]:
    lines = textwrap.wrap(text, _WIDTH - 11)
    return [f"{label if not i else '':<11}{line}" for i, line in enumerate(lines)]


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table


def _power(exponent: int | None, scale: int) -> str:
    return "-" if exponent is None else f"2^{exponent + scale}"


def percent(share: float) -> str:
    """``12.34 %``; ``0`` for none, and ``<0.01 %`` for few."""
    if not share:
        return "0"
    return f"{share * 100:.2f} %" if share >= 0.0001 else "<0.01 %"
