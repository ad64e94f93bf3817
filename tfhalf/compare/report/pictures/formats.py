"""Pictures of a comparison of formats: bytes, latency, and how far answers are from float32 against bytes."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree.ElementTree import Element

from tfhalf.artifacts.formats import FORMATS
from tfhalf.compare.offers import Offer, Offers
from tfhalf.compare.report.pictures import axes
from tfhalf.compare.report.pictures.bars import Bar, latency_figure, panel, unit_of
from tfhalf.compare.report.pictures.styles import MARKERS, Style
from tfhalf.compare.report.pictures.svg import Panel, figure, key
from tfhalf.progress import size

_COLOURS = {"float32": 0, "float16": 1, "bfloat16": 2, "int8": 3}
_LEAST = 1e-9  # a difference below this, as of the same bits, is drawn there: the axis is logarithmic


@dataclass(frozen=True)
class Mark:
    """An offer as pictures show it: a colour for its numbers, a marker for its container."""

    name: str
    style: Style


def sizes(table: Offers) -> Element | None:
    """Bytes of the files, by container."""
    groups: dict[str, list[Bar]] = {}
    divisor, unit = unit_of(max(offer.bytes for offer in table.offers))
    for offer in table.offers:
        groups.setdefault(_container(offer), []).append((offer.numbers, _style(offer), offer.bytes / divisor, None))
    words = f"size of the files ({unit})"
    sized = panel(f"Size ({unit}), by format", words, groups, lambda value: size(value * divisor))
    return figure("How large the files are: shorter is smaller", [sized], "Bars begin at 0.")


def latency(table: Offers) -> Element | None:
    """Milliseconds of an answer by runtime, a panel for each batch size; None where nothing was measured."""
    panels: dict[str, dict[str, list[Bar]]] = {}
    for batch_size in table.batch_sizes:
        groups = panels.setdefault(f"{batch_size:,} sample{'s' * (batch_size != 1)} at a time", {})
        for offer in table.offers:
            for one in offer.latency:
                if one.batch_size == batch_size:
                    bar = (offer.numbers, _style(offer), one.p50_ms, one.p99_ms)
                    groups.setdefault(f"{_container(offer)}: {one.computed_by}", []).append(bar)
    return latency_figure(panels) if panels else None


def tradeoff(table: Offers) -> Element | None:
    """The largest difference against bytes."""
    divisor, unit = unit_of(max(offer.bytes for offer in table.offers))
    differences = [max(offer.largest_difference, _LEAST) for offer in table.offers]
    y = axes.powers_of_ten("largest difference", differences)
    x = axes.linear(f"size of the files ({unit})", [offer.bytes / divisor for offer in table.offers], zero=True)
    plot = Panel("Difference against size (best: bottom left)", x, y)
    for offer, difference in zip(table.offers, differences, strict=True):
        words = f"{offer.name}: {offer.largest_difference:.1e}, {size(offer.bytes)}"
        plot.marker(_style(offer), plot.x(offer.bytes / divisor), plot.y(difference), words, r=5.5)
    caption = (
        "The difference is the largest to the float32 model's answers, relative to the output's largest magnitude. "
        "Colours are the numbers, markers the format."
    )
    marks = [Mark(offer.name, _style(offer)) for offer in table.offers]
    return figure("What bytes buy: lower answers closer to float32", [plot], caption, key(marks))


def _container(offer: Offer) -> str:
    return FORMATS[offer.format].container


def _style(offer: Offer) -> Style:
    containers = ("savedmodel", "onnx", "litert")
    return Style(_COLOURS[offer.numbers], 0, MARKERS[containers.index(_container(offer))])
