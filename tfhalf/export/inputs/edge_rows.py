"""Rows at the ends of what a model's inputs may hold, which drawn ones never show: zeros, constants, padding.

Traps of float16 lie there: an epsilon that is 0 divides a row of zeros, a mask value beyond 65504 meets no padding but
real one. They are compared apart from usual inputs (`verify.compare.compare_outputs`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfhalf.artifacts.edges import edge_mask
from tfhalf.artifacts.ports import Port
from tfhalf.artifacts.record import ReferenceFacts
from tfhalf.errors import ExportError
from tfhalf.export.inputs.first_layers import RANGES, Padding
from tfhalf.export.islands.simulator import Arrays, Simulated

LARGE = 8.0
"""Standard deviations from the mean that the largest drawn values lie; no edge row of such an input goes further."""


@dataclass(frozen=True)
class Domain:
    """What the values of an input usually are, in one sample's shape or broadcast to it, float64.

    ``low`` and ``high`` are the ends that edge rows go to; ``inner`` are two values between which most lie. ``spread``:
    the values have no end (a normal distribution), so that a large row keeps their signs. ``unknown_range``: images of
    which nothing says whether they are 0..1, 0..255 or normalised. ``whole``: whole numbers, which end at both.
    """

    low: np.ndarray
    high: np.ndarray
    inner: tuple[np.ndarray, np.ndarray]
    spread: bool = False
    unknown_range: bool = False
    whole: bool = False
    padding: Padding | None = None
    padded_tail: bool = False


def normal(mean: Any, deviation: Any, **more: Any) -> Domain:
    """Of a normal distribution."""
    mean, deviation = np.asarray(mean, np.float64), np.asarray(deviation, np.float64)
    ends = (mean - LARGE * deviation, mean + LARGE * deviation)
    return Domain(*ends, (mean - deviation, mean + deviation), spread=True, **more)


def between(low: Any, high: Any, **more: Any) -> Domain:
    """Of values from ``low`` to ``high``."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    return Domain(low, high, (low, high), **more)


def of_data(x: np.ndarray, padding: Padding | None = None) -> Domain:
    """Of an array [N, ...] of samples: the ends of each feature, which is the last axis. ``padding`` is not a value: a
    quarter of a mask value of -1e6 is a size that nobody's data has."""
    axes = tuple(range(x.ndim - 1)) if x.ndim > 1 else (0,)
    values = x.astype(np.float64)
    if padding is not None:
        padded = padding.steps.any(0) & (x == padding.value)
        values[np.broadcast_to(padded & ~padded.all(axes, keepdims=True), x.shape)] = np.nan
    return between(np.nanmin(values, axes), np.nanmax(values, axes), padding=padding)


def edge_rows(
    ports: Sequence[Port], domains: Mapping[str, Domain], usual: Mapping[str, np.ndarray], seed: int
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The edge rows of all inputs by name [M, ...], and the kind of each; ``usual`` are usual samples [N, ...].

    A row has its edge in every input that has one of that kind; the other inputs are usual. Rows that repeat another
    are left out.
    """
    rng = np.random.default_rng(seed + 1)
    by_port = {port.name: _edges_of(port, domains.get(port.name), usual[port.name], rng) for port in ports}
    rows: list[tuple[str, dict[str, np.ndarray]]] = []
    seen: set[bytes] = set()
    for kind in dict.fromkeys(kind for edges in by_port.values() for kind in edges):
        for k in range(max(len(edges.get(kind, ())) for edges in by_port.values())):
            row = {}
            for name, edges in by_port.items():
                there = edges.get(kind, [])
                row[name] = there[k % len(there)] if there else usual[name][k % len(usual[name])]
            digest = repr([x.tolist() for x in row.values()]).encode() if _text(row) else _bytes(row)
            if digest not in seen:
                seen.add(digest)
                rows.append((kind, row))
    arrays = {p.name: np.stack([row[p.name] for _, row in rows]) if rows else usual[p.name][:0] for p in ports}
    return arrays, tuple(kind for kind, _ in rows)


def answered(
    simulator: Simulated, inputs: Arrays, kinds: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], tuple[str, ...]]:
    """The ``inputs`` with the float32 model's answers and the rows' kinds, without edge rows on which that model itself
    raises: a matrix of zeros has no inverse.

    Raises:
        ExportError: it raises on other rows.
    """
    try:
        return dict(inputs), simulator.reference(inputs), tuple(kinds)
    except ExportError:
        edge = edge_mask(kinds)
        if not edge.any() or simulator.interface.inputs[0].shape[0]:
            raise
    rows = [k for k, is_edge in enumerate(edge) if not is_edge or _runs(simulator, inputs, k)]
    chosen = {name: x[rows] for name, x in inputs.items()}
    return chosen, simulator.reference(chosen), tuple(kinds[k] for k in rows)


def _runs(simulator: Simulated, inputs: Arrays, row: int) -> bool:
    try:
        simulator.reference({name: x[row : row + 1] for name, x in inputs.items()})
    except ExportError:
        return False
    return True


def counted(facts: ReferenceFacts, kinds: Sequence[str]) -> ReferenceFacts:
    """``facts`` with how many rows there are, and how many edge rows of each kind."""
    edge = edge_mask(kinds)
    counts = Counter(kind for kind, is_edge in zip(kinds, edge, strict=True) if is_edge)
    return facts.model_copy(update={"count": len(kinds), "edges": dict(counts)})


def _text(row: Mapping[str, np.ndarray]) -> bool:
    return any(x.dtype.kind in "UO" for x in row.values())


def _bytes(row: Mapping[str, np.ndarray]) -> bytes:
    return b"".join(x.tobytes() for x in row.values())


def _edges_of(port: Port, domain: Domain | None, usual: np.ndarray, rng: Any) -> dict[str, list[np.ndarray]]:
    """By kind, samples of one input in its own dtype."""
    shape, dtype = usual.shape[1:], usual.dtype
    if port.dtype == "string":
        return {"zeros": [np.full(shape, "", dtype)]}
    if port.dtype == "bool":
        return {"zeros": [np.zeros(shape, dtype)], "largest": [np.ones(shape, dtype)]}
    if domain is None:
        return {}

    def filled(value: Any) -> list[np.ndarray]:
        return [np.broadcast_to(value, shape).astype(dtype)]

    if domain.whole:
        edges = {"zeros": filled(domain.low), "largest": filled(domain.high)}
        if domain.padded_tail and len(shape) == 1 and shape[0] > 1:
            tail = usual[0].copy()
            tail[-max(1, shape[0] // 3) :] = 0
            edges["padded tail"] = [tail]
        return edges
    span = np.zeros_like(domain.low) if domain.spread else domain.high - domain.low
    edges = {
        "zeros": filled(np.clip(0.0, domain.low - span, domain.high + span)),
        "constant": filled(_common(domain)),
        "largest": filled(domain.high),
    }
    if domain.spread:
        mean = (domain.low + domain.high) / 2
        edges["largest"] = filled(mean + (domain.high - mean) * np.clip(rng.normal(size=shape), -1, 1))
    elif (domain.low != 0).any():
        edges["smallest"] = filled(domain.low)
    if domain.padding is not None:
        edges |= _padded(domain.padding, usual[0])
    if domain.unknown_range:
        ends = {key: RANGES[key] for key in ("0 to 1", "0 to 255")}
        for key, (low, high) in ends.items():
            drawn = rng.uniform(low, high, shape)
            edges[key] = [(drawn.round() if high > 1 else drawn).astype(dtype), *filled(high)]
    return edges


def _common(domain: Domain) -> np.ndarray:
    """A constant within the inner range of every feature, where there is one; else of each feature."""
    low, high = domain.inner
    if low.max(initial=-np.inf) <= high.min(initial=np.inf):
        low, high = low.max(), high.min()
    return np.asarray(low + 0.75 * (high - low))


def _padded(padding: Padding, usual: np.ndarray) -> dict[str, list[np.ndarray]]:
    count = len(padding.steps)
    tail, whole = usual.copy(), usual.copy()
    tail[padding.steps[count - max(1, count // 3) :].any(0)] = padding.value
    whole[padding.steps.any(0)] = padding.value
    return {"padded tail": [tail], "all padding": [whole]}
