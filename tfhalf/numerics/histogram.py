"""Numbers counted by their exponents; what half precision makes of them at any scale follows from the counts.

A number is counted by the exponent of its magnitude rounded to float16's 11 significant bits, as if float16 had no end.
So 65519.99 counts as 65504 and 65520 as 65536, which is what rounding to float16 decides by: what overflows is exact.
Multiplying by a power of two moves every count by so many places, and rounds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np

from tfhalf.precision.cast import EMAX, EMIN, SMALLEST

LOW, HIGH = -64, 31
"""The exponents that have a bin of their own; smaller numbers are in the first bin, larger ones in the last."""
BINS = HIGH - LOW + 3
"""One for zeros, one for each exponent, one for infinities and NaN."""


@dataclass(frozen=True)
class Shares:
    """Of the finite numbers of a histogram, times a power of two: the shares in [0, 1], which make 1 together.

    ``below``: not zero, and below 2^-24. Of these ``flushed`` are below 2^-25, which float16 rounds to zero; the others
    become 2^-24. ``subnormal``: from 2^-24, below 2^-14. ``overflowed``: they round to infinity, which is what numbers
    beyond 65504 do from 65520 on.
    """

    zero: float
    below: float
    flushed: float
    subnormal: float
    normal: float
    overflowed: float


class Histogram:
    """Counts of numbers by exponent, int64 [`BINS`], and the largest magnitude among them."""

    def __init__(self, counts: np.ndarray, largest: float = 0.0) -> None:
        """``counts``: zeros, then exponents `LOW` to `HIGH`, then what is not finite."""
        self.counts = np.asarray(counts, np.int64)
        if self.counts.shape != (BINS,):
            raise ValueError(f"counts of shape ({BINS},) are needed, received {self.counts.shape}")
        self.largest = float(largest)

    @property
    def zeros(self) -> int:
        """Numbers that are 0."""
        return int(self.counts[0])

    @property
    def exponents(self) -> np.ndarray:
        """Counts of the exponents `LOW` to `HIGH`, int64."""
        return self.counts[1:-1]

    @property
    def non_finite(self) -> int:
        """Infinities and NaNs."""
        return int(self.counts[-1])

    @property
    def finite(self) -> int:
        """All others."""
        return int(self.counts[:-1].sum())

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(self.counts + other.counts, max(self.largest, other.largest))

    def below(self, exponent: int, shift: int = 0) -> int:
        """How many that are not zero are below 2^exponent, once multiplied by 2^shift."""
        return int(self.exponents[: max(0, exponent - shift - LOW)].sum())

    def from_exponent(self, exponent: int, shift: int = 0) -> int:
        """How many are 2^exponent or more, once multiplied by 2^shift."""
        return int(self.exponents[max(0, exponent - shift - LOW) :].sum())

    def shares(self, shift: int = 0) -> Shares:
        """What float16 makes of the numbers times 2^shift."""
        total = max(self.finite, 1)
        below, small = self.below(SMALLEST, shift), self.below(EMIN, shift)
        over = self.from_exponent(EMAX + 1, shift)
        return Shares(
            zero=self.zeros / total,
            below=below / total,
            flushed=self.below(SMALLEST - 1, shift) / total,
            subnormal=(small - below) / total,
            normal=(int(self.exponents.sum()) - small - over) / total,
            overflowed=over / total,
        )

    def quantile(self, share: float) -> int | None:
        """The exponent that ``share`` of the numbers other than zero stay at or below; None where there is none."""
        total = int(self.exponents.sum())
        if not total:
            return None
        return LOW + int(np.searchsorted(np.cumsum(self.exponents), max(1, int(np.ceil(share * total)))))

    @classmethod
    def of(cls, values: np.ndarray) -> Histogram:
        """Of an array of float32 of any shape; `tfhalf.numerics.count` does the same within a compiled step."""
        values = np.asarray(values, np.float32)
        bits = values.view(np.int32) & 0x7FFFFFFF
        exponents = ((np.minimum(bits, 0x7F800000) + 0x1000) >> 23) - 127
        bins = np.clip(exponents, LOW, HIGH) - LOW + 1
        bins = np.where(bits == 0, 0, np.where(bits >= 0x7F800000, BINS - 1, bins))
        finite = np.abs(values[np.isfinite(values)])
        return cls(np.bincount(bins.reshape(-1), minlength=BINS), finite.max(initial=0.0))


EMPTY = Histogram(np.zeros(BINS, np.int64))


def together(histograms: Iterable[Histogram]) -> Histogram:
    """All of them as one."""
    return reduce(Histogram.__add__, histograms, EMPTY)
