"""The formats of a version side by side, and the model in other numbers: for a terminal, as HTML and as Markdown."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from tfhalf.compare.offers import Offer, Offers, advice
from tfhalf.compare.report.cells import NOTHING, Column, Grid, latency_grid
from tfhalf.compare.report.html import grid_table, style
from tfhalf.compare.report.markdown import code, plain, table
from tfhalf.compare.report.pictures.formats import latency, sizes, tradeoff
from tfhalf.compare.report.terminal import table_lines, wrapped
from tfhalf.compare.report.wording import versions
from tfhalf.progress import size
from tfhalf.verify.html.elements import bullets, element, facts, folded, page, section

_FLOAT32 = "float32 model"
_PICTURES = (sizes, latency, tradeoff)


def grid(table: Offers, *, engines: bool = True) -> Grid:
    """A row for each format, the model in other numbers below, and in the end the float32 model itself; latencies with
    the ``engines`` that they are of."""
    offers = table.offers
    metrics = list(dict.fromkeys(name for offer in offers for name in offer.metrics))
    columns = [
        Column("format", (*(offer.name for offer in offers), _FLOAT32), number=False),
        Column("numbers", (*(offer.numbers for offer in offers), "float32"), number=False),
        Column("size", (*(size(offer.bytes) for offer in offers), f"{size(table.float32_bytes)} of weights")),
        Column("of float32", (*(f"{offer.bytes / max(table.float32_bytes, 1):.2f}" for offer in offers), "1")),
        Column("agrees %", (*(NOTHING if o.agreement is None else f"{o.agreement:.2f}" for o in offers), "")),
        Column("largest difference", (*(f"{offer.largest_difference:.1e}" for offer in offers), "")),
    ]
    reference = next((offer.reference_metrics for offer in offers if offer.reference_metrics), {})
    for name in metrics:
        own = [f"{offer.metrics[name]:.4g}" if name in offer.metrics else NOTHING for offer in offers]
        columns.append(Column(name, (*own, f"{reference[name]:.4g}" if name in reference else NOTHING)))
    for batch_size in table.batch_sizes:
        cells = (_answer(offer, batch_size, engines) for offer in offers)
        columns.append(Column(f"batch of {batch_size}", (*cells, "")))
    return Grid(tuple(columns))


def _answer(offer: Offer, batch_size: int, engine: bool) -> str:
    best = offer.fastest(batch_size)
    if best is None:
        return NOTHING
    return f"{best.p50_ms:.3g} ms, {best.computed_by}" if engine else f"{best.p50_ms:.3g} ms"


def lines(table: Offers) -> list[str]:
    """The table, what is not in it, and the advice, for a terminal."""
    said = [f"deploy     {line}" if not line.startswith(" ") else line for line in advice(table)]
    missing = [f"not here   {names}: {why}" for names, why in _absent(table)]
    where = [f"on {table.device}"] if table.device else []
    text = [part for line in (*where, *missing, *said) for part in wrapped(line, " " * 11)]
    return [*table_lines(grid(table)), "", *text]


def _absent(table: Offers) -> list[tuple[str, str]]:
    """The rows that are not there by the reason, each of which is said once."""
    names: dict[str, list[str]] = {}
    for one in table.absent:
        names.setdefault(one.why, []).append(one.name)
    return [(", ".join(each), why) for why, each in names.items()]


def _latencies(table: Offers) -> Grid | None:
    rows = [(offer.name, one) for offer in table.offers for one in offer.latency]
    return latency_grid("format", rows, "samples") if rows else None


def _method(table: Offers) -> str:
    basis = f" ({table.basis})" if table.basis else ""
    sentences = [
        f"Each file was opened in a fresh process and compared with the float32 model{basis}. The largest difference "
        "is relative to the output's largest magnitude."
    ]
    if any(not offer.shipped for offer in table.offers):
        sentences.append(
            "Rows in other numbers are the same model, written in the same formats by the same rules, to compare with; "
            "nothing of them is published."
        )
    if table.batch_sizes:
        sentences.append(
            "Latencies are of the fastest runtime of this machine: the median of calls one after another, from arrays "
            "on the host to answers on the host, each in a process of its own; files take turns in each runtime."
        )
    return " ".join(sentences)


def html(table: Offers) -> str:
    """The page; the same table gives the same bytes. Whatever names and reasons hold is text in it."""
    shown = [picture for draw in _PICTURES if (picture := draw(table)) is not None]
    figures = _latencies(table)
    known = {"date": table.date, "hardware": table.device, "versions": versions(table.versions)}
    parts: list[Element | None] = [
        element("h1", table.version, element("span", f" {len(table.shipped)} formats")),
        element("p", "Which artifact to deploy:"),
        bullets(line.strip() for line in advice(table)),
        section("The formats side by side", grid_table(grid(table, engines=False))),
        section("Not here", bullets(f"{names}: {why}" for names, why in _absent(table))) if table.absent else None,
        section("Pictures", *shown) if shown else None,
        folded("Latency in figures", grid_table(figures)) if figures else None,
        section("Method", element("p", _method(table))),
        section(
            "Where and how",
            *([element("pre", element("code", table.command))] if table.command else []),
            facts({name: value for name, value in known.items() if value}),
        ),
    ]
    return page(table.version, style(), [part for part in parts if part is not None])


def markdown(table_: Offers) -> str:
    """The report for a repository or an issue; whatever names and reasons hold is text in it."""
    parts = [f"# {plain(table_.version)}", "\n".join(f"- {plain(line.strip())}" for line in advice(table_))]
    parts.append(table(grid(table_)))
    if table_.absent:
        parts += ["## Not here", "\n".join(f"- {plain(names)}: {code(why)}" for names, why in _absent(table_))]
    if figures := _latencies(table_):
        parts += ["## Latency", table(figures)]
    where = {
        "command": code(table_.command) if table_.command else "",
        "date": plain(table_.date),
        "hardware": plain(table_.device),
        "versions": plain(versions(table_.versions)),
    }
    parts += ["## Method", plain(_method(table_)), "## Where and how"]
    parts.append("\n".join(f"- {name}: {text}" for name, text in where.items() if text))
    return "\n\n".join(parts) + "\n"
