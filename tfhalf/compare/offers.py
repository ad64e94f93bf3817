"""What a comparison of formats holds, as frozen values: each format, the model in other numbers, and the advice."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from tfhalf.artifacts.formats import FORMATS
from tfhalf.compare.records import Latency
from tfhalf.progress import size

ALIKE = 0.1
"""Of two latencies the share by which they may differ and count as the same: medians of one machine vary as much."""


@dataclass(frozen=True)
class Offer:
    """A format as it was compared with the float32 model and benched here.

    ``agreement`` in percent, None without classes. ``metrics`` and ``reference_metrics``, of the float32 model, are of
    the test set, accuracies from 0 to 1; empty where no targets are known. ``largest_difference`` is relative to the
    output's largest magnitude. ``shipped``: it is of the version; else the same model in other ``numbers``, to compare
    with.
    """

    format: str
    numbers: str
    bytes: int
    largest_difference: float
    agreement: float | None
    metrics: dict[str, float]
    reference_metrics: dict[str, float]
    latency: tuple[Latency, ...] = ()
    shipped: bool = True

    @property
    def name(self) -> str:
        """What its row is called: ``onnx``, or ``float32 onnx``."""
        return self.format if self.shipped else f"{self.numbers} {self.format}"

    def fastest(self, batch_size: int) -> Latency | None:
        """The runtime that answers a batch of this size first."""
        return min((one for one in self.latency if one.batch_size == batch_size), key=lambda x: x.p50_ms, default=None)


@dataclass(frozen=True)
class Absent:
    """A row that is not there, and why, with what helps."""

    name: str
    why: str


@dataclass(frozen=True)
class Offers:
    """The formats of a version, then the same model in other numbers; ``absent`` are those that are not to be had.

    ``float32_bytes`` are of the parameters, were each kept in float32; ``basis`` says in a line what differences and
    metrics are measured on, ``versions`` of which packages.
    """

    version: str
    offers: tuple[Offer, ...]
    float32_bytes: int
    device: str
    absent: tuple[Absent, ...] = ()
    basis: str = ""
    command: str = ""
    date: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def shipped(self) -> tuple[Offer, ...]:
        """The version's own formats."""
        return tuple(offer for offer in self.offers if offer.shipped)

    @property
    def batch_sizes(self) -> list[int]:
        """Those that were benched, rising."""
        return sorted({one.batch_size for offer in self.offers for one in offer.latency})

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold, with the advice."""
        return {**asdict(self), "advice": advice(self)}


def advice(table: Offers) -> list[str]:
    """Which format to deploy for what, a sentence each, what it costs, and what it saves beside float32; lines that go
    on with a format begin with blanks."""
    reasons = _reasons(table)
    lines = [f"{name}: {', '.join(why)}" for name, why in reasons.items()]
    chosen = [offer for offer in table.shipped if offer.format in reasons]
    for offer in chosen:
        pairs = {
            metric: (f"{value:.4g}", f"{offer.reference_metrics[metric]:.4g}")
            for metric, value in offer.metrics.items()
            if metric in offer.reference_metrics
        }
        lost = [f"{metric} {own}, float32 {wide}" for metric, (own, wide) in pairs.items() if own != wide]
        if lost:
            lines.append(f"           {offer.format} answers otherwise than float32: {', '.join(lost)}")
    return lines + [f"           {line}" for line in (*_bytes_saved(table, chosen), *_time_beside(table))]


def _reasons(table: Offers) -> dict[str, list[str]]:
    """By format, what it is the best at."""
    smallest = min(table.shipped, key=lambda offer: offer.bytes)
    reasons: dict[str, list[str]] = {smallest.format: [f"the smallest ({size(smallest.bytes)})"]}
    for batch_size in _ends(table.batch_sizes):
        best = _fastest(table.shipped, batch_size)
        if best is not None:
            offer, latency = best
            reasons.setdefault(offer.format, []).append(
                f"the fastest for {_at_a_time(batch_size)} ({latency.computed_by}: {latency.p50_ms:.3g} ms)"
            )
    return reasons


def _bytes_saved(table: Offers, chosen: Iterable[Offer]) -> list[str]:
    """Of each chosen format its bytes beside those of the same file in float32."""
    # int8 is measured by the float32 file of its container: no float32 file is of the format itself.
    wide = {offer.format: offer for offer in table.offers if not offer.shipped and offer.numbers == "float32"}
    lines = []
    for offer in chosen:
        twin = wide.get(offer.format) or wide.get(FORMATS[offer.format].container)
        if twin is not None:
            share = offer.bytes / max(twin.bytes, 1)
            lines.append(f"{offer.format} has {share:.2f} times the bytes of {twin.name} ({size(twin.bytes)})")
    return lines


def _time_beside(table: Offers) -> list[str]:
    """At the smallest and the largest batch the fastest of each other kind of numbers beside what ships in its formats;
    and that a server has float32's speed from float16's bytes, where float32 is the faster."""
    lines, served = [], False
    for numbers in dict.fromkeys(offer.numbers for offer in table.offers if not offer.shipped):
        others = [offer for offer in table.offers if not offer.shipped and offer.numbers == numbers]
        formats = {offer.format for offer in others}
        for batch_size in _ends(table.batch_sizes):
            own = _fastest((offer for offer in table.shipped if offer.format in formats), batch_size)
            other = _fastest(others, batch_size)
            if own is None or other is None:
                continue
            lines.append(f"{_at_a_time(batch_size)}, {numbers} {_beside(own, other)}")
            faster = other[1].p50_ms < (1 - ALIKE) * own[1].p50_ms
            served |= numbers == "float32" and faster and _on_cpu(own) and _on_cpu(other)
    if served:
        lines.append(
            "tfhalf serve brings onnx to float32 when it opens it on a CPU, and computes as float32 onnx does, from "
            "the bytes of float16"
        )
    return lines


def _described(offer: Offer) -> str:
    """``float16 onnx``; a format whose name says its numbers by that."""
    return offer.format if offer.numbers in offer.format else f"{offer.numbers} {offer.format}"


def _on_cpu(best: tuple[Offer, Latency]) -> bool:
    """Whether it is ONNX in onnxruntime on a CPU."""
    return best[0].format == "onnx" and re.match(r"onnxruntime .*, CPU", best[1].computed_by) is not None


def _beside(own: tuple[Offer, Latency], other: tuple[Offer, Latency]) -> str:
    ours, theirs = own[1].p50_ms, other[1].p50_ms
    words = f"({other[0].format} in {other[1].computed_by}: {theirs:.3g} ms; {_described(own[0])}: {ours:.3g} ms)"
    if abs(ours - theirs) <= ALIKE * max(ours, theirs):
        return f"is as fast {words}"
    if theirs < ours:
        return f"is {ours / theirs:.1f} times as fast here {words}"
    return f"takes {theirs / ours:.1f} times as long {words}"


def _fastest(offers: Iterable[Offer], batch_size: int) -> tuple[Offer, Latency] | None:
    ranked = [(offer, one) for offer in offers if (one := offer.fastest(batch_size)) is not None]
    return min(ranked, key=lambda pair: pair[1].p50_ms, default=None)


def _ends(sizes: list[int]) -> list[int]:
    return list(dict.fromkeys([*sizes[:1], *sizes[-1:]]))


def _at_a_time(batch_size: int) -> str:
    return "one at a time" if batch_size == 1 else f"{batch_size} at a time"
