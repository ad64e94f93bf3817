"""The loss scale that loses the fewest gradients at both ends of float16's range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tfhalf.numerics.histogram import Histogram
from tfhalf.precision.cast import EMAX

HEADROOM = 3
"""The largest gradient seen is kept 2^3 below float16's end: others come that were not measured."""
EXPONENTS = range(25)
_TOLERANCE = 1e-4  # a hundredth of a percent of the gradients more or less is no reason for another scale


@dataclass(frozen=True)
class Loss:
    """Shares in [0, 1] of the gradients other than zero at the scale 2^``exponent``, the mean over the kinds of
    gradients, each of which weighs the same: rounded to zero, kept with fewer bits, and beyond what float16 holds."""

    exponent: int
    flushed: float
    subnormal: float
    overflowed: float

    @property
    def total(self) -> float:
        """What is lost at both ends."""
        return self.flushed + self.overflowed


@dataclass(frozen=True)
class Proposal:
    """``exponent`` of the scale, the ``lowest`` exponent that flushes no more to speak of, and what is lost at each of
    `EXPONENTS`."""

    exponent: int
    lowest: int
    losses: tuple[Loss, ...]


def loss(gradients: Sequence[Histogram], exponent: int) -> Loss:
    """What a scale of 2^``exponent`` loses."""
    rows = []
    for histogram in gradients:
        whole = int(histogram.exponents.sum())
        if whole:
            shares, part = histogram.shares(exponent), histogram.finite / whole
            rows.append((shares.flushed * part, shares.subnormal * part, shares.overflowed * part))
    if not rows:
        return Loss(exponent, 0.0, 0.0, 0.0)
    return Loss(exponent, *(sum(values) / len(rows) for values in zip(*rows, strict=True)))


def propose(gradients: Sequence[Histogram]) -> Proposal:
    """The largest scale that leaves room for gradients `HEADROOM` exponents larger than those seen.

    ::

        fits = scales at which no gradient, times 2^HEADROOM, overflows; 2^0 if there is none
        proposal = the largest of fits: what is flushed, and what is subnormal, becomes less with every larger scale
        lowest = the smallest of fits that flushes at most 0.01 % of the gradients more

    A skipped step costs more than a flushed gradient: so overflow is ruled out, not weighed.

    Args:
        gradients: unscaled, of activations and of weights.
    """
    losses = tuple(loss(gradients, exponent) for exponent in EXPONENTS)
    fits = [e for e in EXPONENTS if not any(g.from_exponent(EMAX + 1, e + HEADROOM) for g in gradients)] or [0]
    best = losses[fits[-1]].flushed
    return Proposal(fits[-1], next(e for e in fits if losses[e].flushed <= best + _TOLERANCE), losses)
